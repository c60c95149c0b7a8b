"""A node's clocks over a base that is moved by hand."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from node_agent.kernel.emulated.clock import EmulatedClock, HostBase

NOON = datetime(2026, 1, 5, 12, tzinfo=UTC)


class Base:
    """Time that sleeping moves."""

    def __init__(self, now_s: float) -> None:
        self.now_s = now_s

    def now(self) -> float:
        return self.now_s

    async def sleep(self, seconds: float, /) -> None:
        self.now_s += seconds


async def test_boottime_starts_with_the_kernel_and_the_tsc_with_the_power() -> None:
    base = Base(100.0)
    clock = EmulatedClock(base, kernel_started_s=90.0, powered_on_s=40.0, tsc_hz=1000.0, epoch=NOON)
    assert (clock.boottime_s(), clock.tsc(), clock.tsc_hz) == (10.0, 60_000, 1000.0)
    await clock.sleep(2.5)
    assert (clock.boottime_s(), clock.tsc()) == (12.5, 62_500)
    assert clock.realtime() == NOON + timedelta(seconds=102.5)


def test_the_tsc_is_continuous_over_a_kexec() -> None:
    base = Base(100.0)
    before = EmulatedClock(base, kernel_started_s=0.0, powered_on_s=0.0)
    mark = before.tsc()
    base.now_s = 103.0
    after = EmulatedClock(base, kernel_started_s=102.0, powered_on_s=0.0)
    assert (after.tsc() - mark) / after.tsc_hz == 3.0
    assert after.boottime_s() == 1.0


def test_realtime_comes_back_from_a_coarse_rtc() -> None:
    base = Base(10.75)
    clock = EmulatedClock(base, kernel_started_s=10.75, powered_on_s=0.0, epoch=NOON, rtc_grain_s=1.0)
    assert clock.realtime() == NOON + timedelta(seconds=10)
    base.now_s = 11.0
    assert clock.realtime() == NOON + timedelta(seconds=10.25)


async def test_the_hosts_clock_goes_on() -> None:
    base = HostBase()
    first = base.now()
    await base.sleep(0)
    assert base.now() >= first
    assert base.epoch().tzinfo is UTC
