"""Somebody sets the wall clock under a running orchestrator."""

from __future__ import annotations

from datetime import timedelta

import pytest

from orchestrator.core.phases import Link
from tests.unit.runtime.world import World, beat, hello, run, seconds


@pytest.mark.parametrize("by", [timedelta(hours=1), timedelta(hours=-1)])
def test_the_fleet_is_loaded_again_so_that_no_silence_counts_as_evidence(by: timedelta) -> None:
    async def main() -> None:
        world = World()
        world.planned.next_wake = lambda now: now + seconds(5)
        async with world.running() as orchestrator:
            link = await orchestrator.open_link(hello("n1"))
            link.heartbeat(beat())
            before = orchestrator.fleet
            world.clock.skew += by
            await world.passes(6)
            planned = len(world.planned.times)
            assert orchestrator.fleet is not before
            assert orchestrator.fleet.link("n1", orchestrator.now()) is Link.UNKNOWN
            await world.passes(6)
            later = world.planned.times[planned:]
            assert later, "it goes on planning"
            assert all(at - orchestrator.now() < seconds(10) for at in later)
            assert orchestrator.ready() == (True, ())

    run(main())


def test_a_clock_that_runs_as_it_should_reloads_nothing() -> None:
    async def main() -> None:
        world = World()
        world.planned.next_wake = lambda now: now + seconds(5)
        async with world.running() as orchestrator:
            before = orchestrator.fleet
            world.clock.skew += seconds(1)
            await world.passes(60)
            assert orchestrator.fleet is before

    run(main())
