"""RealClock: this machine's clocks, and the frequency of the one that a kexec does not stop.

The TSC's frequency is measured against CLOCK_BOOTTIME, from a pair of readings at the start to
one taken when it is asked for: the longer the process lives, the better it is. It belongs to the
old kernel; the new one's first seconds are no base.

Source: lab runs on Linux 7.2: a rate over the first second after a boot is off by up to 1,463 ppm,
the TSC itself goes on through a kexec.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from datetime import UTC, datetime

from node_agent.kernel.tsc import open_tsc

BASE_S = 1.0
"""No frequency is given over a shorter base: a pair is some 10 µs wide on a busy machine, so
this is 10 ppm, as good as what a workload that assumes 100 ppm for it is told."""
LONG_BASE_S = 30.0
"""From then on a new kernel's own clock has settled, and our own measurement beats the old kernel's."""
SAME_COUNTER = 5e-3
"""Frequencies further apart than this are not of one counter: the journal is of another machine. A young
kernel's own rate is off by less than a third of it."""
PAIR_TRIES = 8


class RealClock:
    """ports.Clock. One a process, made early.

    Args:
        read_tsc: raw cycles, or None if this machine has no counter to trust.
        boottime_ns: CLOCK_BOOTTIME.
    """

    def __init__(
        self,
        read_tsc: Callable[[], int] | None = None,
        boottime_ns: Callable[[], int] = lambda: time.clock_gettime_ns(time.CLOCK_BOOTTIME),
    ) -> None:
        self._read_tsc = read_tsc or open_tsc()
        self._boottime_ns = boottime_ns
        self._first = self._pair()
        self._known_hz = 0.0

    def know_hz(self, tsc_hz: float) -> None:
        """What the old kernel measured, which is the better until LONG_BASE_S: the marks of the first
        seconds are reckoned back with it. 0 is nothing."""
        self._known_hz = tsc_hz

    def realtime(self) -> datetime:
        return datetime.now(UTC)

    def boottime_s(self) -> float:
        return self._boottime_ns() / 1e9

    def tsc(self) -> int:
        return self._read_tsc() if self._read_tsc is not None else 0

    @property
    def tsc_hz(self) -> float:
        """Cycles a second; 0.0 without a TSC, and without know_hz() until BASE_S after the start."""
        if self._read_tsc is None:
            return 0.0
        (first_tsc, first_ns), (tsc, now_ns) = self._first, self._pair()
        base_ns = now_ns - first_ns
        if base_ns < BASE_S * 1e9:
            return self._known_hz
        measured_hz = (tsc - first_tsc) * 1e9 / base_ns
        if base_ns < LONG_BASE_S * 1e9 and abs(measured_hz - self._known_hz) <= SAME_COUNTER * measured_hz:
            return self._known_hz
        return measured_hz

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(seconds)

    def _pair(self) -> tuple[int, int]:
        """(TSC, CLOCK_BOOTTIME in ns) of one moment: the narrowest of a few readings, since a
        thread may be put aside between the two."""
        best = (0, 0, 1 << 63)
        for _ in range(PAIR_TRIES):
            before_ns = self._boottime_ns()
            tsc = self.tsc()
            width_ns = self._boottime_ns() - before_ns
            if width_ns < best[2]:
                best = (tsc, before_ns + width_ns // 2, width_ns)
        return best[0], best[1]
