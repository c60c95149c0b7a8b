"""The clocks that a workload's process can read: of this machine, or of its emulated node.

An instant (CLOCK_BOOTTIME of the machine, ns) is cheap and taken where it matters; stamp() makes
all of it later, the TSC included, by going back from a reading made then.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Protocol

from node_agent.kernel.emulated import syncclient
from node_agent.workloads.pause import Stamp

PAIR_TRIES = 4
PAIR_WIDTH_NS = 50_000
"""Two clocks cannot be read at once. Readings further apart than that met a preemption and are made again:
pause.READ_UNCERTAINTY_S has room for twice as much."""

CALIBRATION_BASE_NS = 100_000_000
"""A TSC frequency over a shorter base is not given: it would be worse than the 100 ppm assumed."""


def instant() -> int:
    return time.clock_gettime_ns(time.CLOCK_BOOTTIME)


class NodeClock(Protocol):
    """Stamps of one boot."""

    emulated: bool

    def stamp(self, at: int, tsc_hz: float = 0.0) -> Stamp:
        """Everything as it was at instant `at`. tsc_hz: a frequency better than our own, if known."""
        ...


def open_clock(root: str) -> NodeClock:
    """root: of an emulated node; "" is this machine. Raises OSError if that node's boot is over."""
    return EmulatedClock(root) if root else MachineClock()


class EmulatedClock:
    """Of an emulated node: what its kernel says of its start, over the machine's clock."""

    emulated = True

    def __init__(self, root: str) -> None:
        facts = syncclient.facts(root)
        self._boot_id = facts["boot_id"]
        self._kernel_started_ns = int(float(facts["kernel_started_s"]) * 1e9)
        self._powered_on_ns = int(float(facts["powered_on_s"]) * 1e9)
        self._tsc_hz = float(facts["tsc_hz"])

    def stamp(self, at: int, tsc_hz: float = 0.0) -> Stamp:
        return Stamp(
            realtime_ns=time.time_ns() - (instant() - at),
            boottime_ns=at - self._kernel_started_ns,
            tsc=int((at - self._powered_on_ns) * self._tsc_hz / 1e9),
            tsc_hz=self._tsc_hz,
            boot_id=self._boot_id,
        )


class MachineClock:
    """Of this machine. The TSC is opened at the first stamp, not before: see tsc.py."""

    emulated = False

    def __init__(self) -> None:
        with open("/proc/sys/kernel/random/boot_id", encoding="ascii") as file:
            self._boot_id = file.read().strip()
        self._read_tsc: Callable[[], int] | None = None
        self._first: tuple[int, int] | None = None

    def stamp(self, at: int, tsc_hz: float = 0.0) -> Stamp:
        now, tsc = self._pair()
        hz = self._calibrated(now, tsc) or tsc_hz
        return Stamp(
            realtime_ns=time.time_ns() - (now - at),
            boottime_ns=at,
            tsc=tsc - int((now - at) * hz / 1e9) if tsc and hz else 0,
            tsc_hz=hz,
            boot_id=self._boot_id,
        )

    def _pair(self) -> tuple[int, int]:
        """(instant, TSC or 0), as close together as Python reads them."""
        if self._first is None:
            from node_agent.kernel.tsc import open_tsc

            self._read_tsc = open_tsc()
        if self._read_tsc is None:
            now, tsc = instant(), 0
        else:
            now, tsc = _read_together(self._read_tsc)
        self._first = self._first or (now, tsc)
        return now, tsc

    def _calibrated(self, now: int, tsc: int) -> float:
        """Cycles a second since the first pair; 0 while the base is too short."""
        first_ns, first_tsc = self._first or (now, tsc)
        if not tsc or now - first_ns < CALIBRATION_BASE_NS:
            return 0.0
        return (tsc - first_tsc) * 1e9 / (now - first_ns)


def _read_together(read_tsc: Callable[[], int]) -> tuple[int, int]:
    """(instant, TSC): the narrowest pair of a few."""
    best = (1 << 63, 0, 0)
    for _ in range(PAIR_TRIES):
        before = instant()
        tsc = read_tsc()
        width = instant() - before
        best = min(best, (width, before + width // 2, tsc))
        if width <= PAIR_WIDTH_NS:
            break
    return best[1], best[2]
