"""The virtual loop itself: a day passes in no time, and a stall is an error."""

from __future__ import annotations

import asyncio
from datetime import timedelta

import pytest

from tests.sim.virtual import EPOCH, Stalled, VirtualClock, run


def test_a_day_passes_at_once_and_in_order() -> None:
    seen: list[str] = []

    async def tick(name: str, seconds: float) -> None:
        await asyncio.sleep(seconds)
        seen.append(name)

    async def main() -> None:
        clock = VirtualClock()
        async with asyncio.TaskGroup() as group:
            group.create_task(tick("late", 86_400))
            group.create_task(tick("soon", 1))
        assert clock.now() == EPOCH + timedelta(days=1)
        await clock.sleep_until(EPOCH)
        assert clock.monotonic_s() == 86_400

    run(main())
    assert seen == ["soon", "late"]


def test_timeouts_are_virtual() -> None:
    async def main() -> float:
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(30):
                await asyncio.Event().wait()
        return asyncio.get_running_loop().time()

    assert run(main()) == pytest.approx(30)


def test_waiting_for_nobody_is_an_error() -> None:
    with pytest.raises(Stalled):
        run(asyncio.Event().wait())
