"""A node's clocks, made from one base clock that never jumps.

Rules: boottime is 0 when a kernel starts; the TSC counts on over a kexec and starts again at
power-on; realtime comes back from an RTC of coarse grain at every boot. The only reading of a
real clock is HostBase.
"""

from __future__ import annotations

import math
import time
from collections.abc import Awaitable
from datetime import UTC, datetime, timedelta
from typing import Protocol

TSC_HZ = 1_000_000_000.0
"""One cycle a nanosecond: round numbers are easier to read in a story."""

EPOCH = datetime(2026, 1, 1, tzinfo=UTC)
"""realtime at base 0 unless told otherwise."""


class BaseClock(Protocol):
    """Seconds since some moment, and a way to wait. Virtual in simulation."""

    def now(self) -> float: ...
    def sleep(self, seconds: float, /) -> Awaitable[None]: ...


class HostBase:
    """The host's CLOCK_BOOTTIME, and asyncio's sleep: the same for all processes of the host."""

    def now(self) -> float:
        return time.clock_gettime(time.CLOCK_BOOTTIME)

    async def sleep(self, seconds: float, /) -> None:
        from asyncio import sleep  # here, because a kernel process never waits so and starts sooner

        await sleep(seconds)

    def epoch(self) -> datetime:
        """Realtime at base 0."""
        return datetime.fromtimestamp(time.time() - self.now(), UTC)


class EmulatedClock:
    """ports.Clock of one boot.

    Args:
        base: where time comes from.
        kernel_started_s: the base's time when this kernel started.
        powered_on_s: the base's time when the node was last powered on.
        tsc_hz: cycles a second.
        epoch: realtime at base 0, aware.
        rtc_grain_s: realtime after a boot is rounded down to this at kernel start; 0 is exact.
    """

    __slots__ = ("_base", "_epoch", "_kernel_started_s", "_powered_on_s", "_tsc_hz")

    def __init__(
        self,
        base: BaseClock,
        *,
        kernel_started_s: float,
        powered_on_s: float,
        tsc_hz: float = TSC_HZ,
        epoch: datetime = EPOCH,
        rtc_grain_s: float = 0.0,
    ) -> None:
        self._base = base
        self._kernel_started_s = kernel_started_s
        self._powered_on_s = powered_on_s
        self._tsc_hz = tsc_hz
        late_s = math.fmod(epoch.timestamp() + kernel_started_s, rtc_grain_s) if rtc_grain_s else 0.0
        self._epoch = epoch - timedelta(seconds=late_s)

    def realtime(self) -> datetime:
        return self._epoch + timedelta(seconds=self._base.now())

    def boottime_s(self) -> float:
        return self._base.now() - self._kernel_started_s

    def tsc(self) -> int:
        return int((self._base.now() - self._powered_on_s) * self._tsc_hz)

    @property
    def tsc_hz(self) -> float:
        return self._tsc_hz

    async def sleep(self, seconds: float) -> None:
        await self._base.sleep(seconds)
