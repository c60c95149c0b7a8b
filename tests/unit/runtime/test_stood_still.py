"""A process that stood still (SIGSTOP, a machine that slept), for less than its leases last."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack
from datetime import datetime

import pytest

from orchestrator.core.actions import Plan
from orchestrator.core.fleet import Fleet
from orchestrator.core.phases import Link
from orchestrator.runtime.service import Orchestrator
from tests.sim.virtual import Process
from tests.unit.runtime.world import Planned, World, beat, hello, run, seconds


class Seen(Planned):
    """Remembers what it planned on."""

    def __init__(self) -> None:
        super().__init__()
        self.fleets: list[Fleet] = []

    def __call__(self, fleet: Fleet, now: datetime) -> Plan:
        self.fleets.append(fleet)
        return super().__call__(fleet, now)


async def stopped(stands_s: float) -> tuple[bool, bool]:
    """Of an orchestrator that stood still: whether it loaded again, and whether it planned on what it
    had known before."""
    world, process = World(), Process("orchestrator")
    world.planned = seen = Seen()
    world.planned.next_wake = lambda now: now + seconds(1)
    loop = asyncio.get_running_loop()
    up, stack = asyncio.Event(), AsyncExitStack()
    served: list[Orchestrator] = []

    async def serve() -> None:
        async with world.running() as orchestrator:
            served.append(orchestrator)
            link = await orchestrator.open_link(hello("n1"))
            link.heartbeat(beat())
            up.set()
            await loop.create_future()

    task = loop.create_task(serve(), context=process.context())
    stack.callback(task.cancel)
    async with stack:
        await up.wait()
        orchestrator = served[0]
        fleet = orchestrator.fleet
        await asyncio.sleep(7)
        process.stop()
        await asyncio.sleep(stands_s)
        seen.fleets.clear()
        process.go()
        await asyncio.sleep(0.5)
        again = orchestrator.fleet is not fleet
        if again:
            assert orchestrator.fleet.link("n1", orchestrator.now()) is Link.UNKNOWN
        assert seen.fleets, "it plans again"
        return again, any(planned is fleet for planned in seen.fleets)


@pytest.mark.parametrize("stands_s", [11.0, 14.0])
def test_it_loads_again_before_it_plans_for_silence_proves_nothing(stands_s: float) -> None:
    async def main() -> None:
        assert await stopped(stands_s) == (True, False)

    run(main())


def test_a_moment_is_nothing() -> None:
    async def main() -> None:
        assert await stopped(2) == (False, True)

    run(main())
