"""The virtual loop itself: a day passes in no time, and a stall is an error."""

from __future__ import annotations

import asyncio
from datetime import timedelta

import pytest

from tests.sim.virtual import EPOCH, Process, Stalled, VirtualClock, run


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


def test_a_stopped_process_does_nothing_and_goes_on_late() -> None:
    told: list[tuple[float, str]] = []

    async def beat(name: str) -> None:
        loop = asyncio.get_running_loop()
        for _ in range(3):
            await asyncio.sleep(1)
            told.append((round(loop.time(), 3), name))

    async def main() -> None:
        process = Process("one")
        loop = asyncio.get_running_loop()
        mine = loop.create_task(beat("mine"), context=process.context())
        other = loop.create_task(beat("other"))
        await asyncio.sleep(1.5)
        process.stop()
        await asyncio.sleep(8.5)
        process.stop()
        process.go()
        await asyncio.gather(mine, other)

    run(main())
    mine = [at for at, name in told if name == "mine"]
    other = [at for at, name in told if name == "other"]
    assert mine == [1.0, 10.0, 11.0]
    assert other == [1.0, 2.0, 3.0]


def test_what_reaches_a_stopped_process_waits_for_it() -> None:
    async def main() -> float:
        process = Process("one")
        loop = asyncio.get_running_loop()
        news = asyncio.Event()

        async def wait() -> float:
            await news.wait()
            return loop.time()

        waiting = loop.create_task(wait(), context=process.context())
        await asyncio.sleep(1)
        process.stop()
        news.set()
        waiting_too = loop.create_task(asyncio.sleep(2))
        await waiting_too
        assert not waiting.done()
        process.go()
        return await waiting

    assert run(main()) == 3


def test_a_stopped_process_can_be_killed_once_it_goes_on() -> None:
    async def main() -> None:
        process = Process("one")
        loop = asyncio.get_running_loop()
        task = loop.create_task(asyncio.sleep(5), context=process.context())
        await asyncio.sleep(1)
        process.stop()
        task.cancel()
        await asyncio.sleep(1)
        assert not task.done()
        process.go()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert loop.time() == 2

    run(main())
