"""The store's clock between two looks at it."""

from __future__ import annotations

import asyncio
from datetime import timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.runtime.store_clock import StoreClock
from tests.sim.virtual import EPOCH, VirtualClock, run
from tests.unit.runtime.world import seconds


class Host:
    """A clock that the test winds."""

    def __init__(self) -> None:
        self.wall = EPOCH
        self.monotonic = 100.0

    def now(self) -> object:
        return self.wall

    def monotonic_s(self) -> float:
        return self.monotonic


def clock(host: Host) -> StoreClock:
    return StoreClock(host)  # type: ignore[arg-type]


def test_before_it_was_asked_it_is_the_host_s() -> None:
    host = Host()
    assert clock(host).now() == EPOCH
    assert clock(host).error(EPOCH + seconds(99), 0.0, 1.0) == seconds(0)


def test_the_first_look_takes_the_middle_of_the_span() -> None:
    host = Host()
    made = clock(host)
    host.monotonic = 102.0
    made.learn(EPOCH + seconds(50), 100.0, 102.0)
    assert made.now() == EPOCH + seconds(51)
    assert made.uncertainty == seconds(1)
    host.monotonic = 112.0
    host.wall += seconds(1e6)
    assert made.now() == EPOCH + seconds(61)


@pytest.mark.parametrize(
    ("told", "moved"),
    [(10.0, 0.0), (9.5, 0.0), (9.0, 0.0), (8.0, -1.0), (11.0, 1.0), (-90.0, -99.0)],
)
def test_what_was_believed_stands_while_it_is_possible(told: float, moved: float) -> None:
    """Asked at 10 s after the first look, answered a second later; 10 s is what was believed then."""
    host = Host()
    made = clock(host)
    made.learn(EPOCH, 100.0, 100.0)
    host.monotonic = 110.0
    error = made.error(EPOCH + seconds(told), 109.0, 110.0)
    assert error == seconds(moved)
    made.learn(EPOCH + seconds(told), 109.0, 110.0)
    assert made.now() == EPOCH + seconds(10 + moved)


def test_a_sleep_ends_by_the_store_s_clock() -> None:
    async def main() -> None:
        made = StoreClock(VirtualClock(seconds(-7200)))
        now_s = made.monotonic_s()
        made.learn(EPOCH, now_s, now_s)
        await made.sleep_until(EPOCH + seconds(100))
        assert made.monotonic_s() == pytest.approx(now_s + 100)
        await made.sleep_until(EPOCH)  # past
        sleeping = asyncio.ensure_future(made.sleep_until(EPOCH + seconds(1000)))
        await made.sleep(seconds(50))
        made.learn(EPOCH + seconds(950), made.monotonic_s(), made.monotonic_s())  # it was set
        await sleeping
        assert made.monotonic_s() - now_s < 300

    run(main())


@given(
    looks=st.lists(
        st.tuples(st.floats(0.001, 30), st.floats(0, 3), st.floats(0, 1)), min_size=1, max_size=20
    ),
    drift=st.floats(-1e-4, 1e-4),
)
def test_it_is_never_further_from_the_truth_than_the_last_call_was_long(
    looks: list[tuple[float, float, float]], drift: float
) -> None:
    """A store whose clock is of another speed, asked over a way of any length."""
    host = Host()
    made = clock(host)

    def truth(monotonic_s: float) -> float:
        return (monotonic_s - 100.0) * (1 + drift)

    for pause_s, way_s, part in looks:
        host.monotonic += pause_s
        asked_s = host.monotonic
        told = EPOCH + seconds(truth(asked_s + part * way_s))
        host.monotonic += way_s
        made.learn(told, asked_s, host.monotonic)
        off = abs(made.now() - (EPOCH + seconds(truth(host.monotonic))))
        assert off <= seconds(way_s * 1.001) + timedelta(microseconds=20)
