"""What one replica answers is true at the store, whatever it has read of the others."""

from __future__ import annotations

import asyncio
from datetime import datetime

from orchestrator.core import operations
from orchestrator.core.fleet import Fleet
from orchestrator.core.model import Change
from orchestrator.runtime.service import Operated, Orchestrator
from tests.unit.runtime.replicas import Replicas, passes, replicas
from tests.unit.runtime.world import run


async def fleet_stop(orchestrator: Orchestrator, stop: bool) -> Operated:
    def operation(fleet: Fleet, now: datetime) -> tuple[Change, str]:
        return operations.fleet_stop(fleet, stop, "", "alice", now), ""

    return await orchestrator.operate(
        actor="alice", idempotency_key="", method="FleetStop", request_hash="h", operation=operation
    )


def test_the_red_button_is_not_answered_from_a_stop_that_has_been_released() -> None:
    async def work(world: Replicas) -> None:
        a = await world.start("a")
        b = await world.start("b")
        await fleet_stop(a, True)
        await passes(0.1)
        assert b.fleet.row.stopped
        await asyncio.gather(fleet_stop(a, False), fleet_stop(b, True))
        await passes(0.1)
        assert a.fleet.row.stopped
        assert b.fleet.row.stopped

    async def main() -> None:
        async with replicas() as world:
            await work(world)

    run(main())
