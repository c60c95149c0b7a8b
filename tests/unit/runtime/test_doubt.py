"""A commit whose answer was lost, found by simulation: the checker takes it for no gap in the log."""

from __future__ import annotations

import asyncio

from orchestrator.errors import StoreUnavailable
from tests.unit.runtime.world import World, hello, run


def test_a_commit_in_doubt_beside_others_stops_no_fleet() -> None:
    async def main() -> None:
        world = World()
        async with world.running() as orchestrator:
            await orchestrator.open_link(hello("n1"))
            world.faults.delay_s = 0.5
            doubtful = asyncio.ensure_future(orchestrator.open_link(hello("n2")))
            await world.passes(0.2)
            behind = asyncio.ensure_future(orchestrator.open_link(hello("n3")))
            world.faults.lose_answers = StoreUnavailable("lost", reason="COMMIT_IN_DOUBT")
            await world.passes(0.5)
            world.faults.lose_answers = None
            await asyncio.gather(doubtful, behind, return_exceptions=True)
            await world.passes(5)
            assert isinstance(doubtful.exception(), StoreUnavailable)
            assert orchestrator.violations() == ()
            assert not orchestrator.fleet.row.stopped
            assert {"n1", "n2"} <= set(orchestrator.fleet.nodes)

    run(main())
