"""What the orchestrator's own links saw of a blackout, through the running service."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from datetime import datetime, timedelta

import pytest

from orchestrator.core.actions import Action
from orchestrator.core.fleet import Fleet
from orchestrator.core.messages import AttemptRef, Hello, Report
from orchestrator.core.model import Artifact, AttemptRow, Change, Event, NewEvent, Row, Sample
from orchestrator.core.phases import Kind, Method, Phase, Verdict
from orchestrator.runtime.service import Orchestrator
from orchestrator.web.metrics import Metrics
from tests.unit.runtime.world import World, beat, hello, run, seconds

COMMIT = seconds(0.002)
"""jump() waits for the commit of what it reports."""
ARTIFACT = Artifact("kernel", "digest", "6.12.1", "http://artifacts")


def one_attempt(fleet: Fleet, now: datetime) -> Sequence[Action]:
    """One attempt at the node, once."""
    if "n1" not in fleet.nodes or fleet.attempts:
        return ()
    row = AttemptRow(
        "n1",
        1,
        fleet.incarnation,
        "k",
        Kind.FORWARD,
        Method.LIVE,
        Phase.LOADING,
        ARTIFACT,
        from_release="6.12.0",
        to_release="6.12.1",
        hardware_model="",
        expected_boot_id="boot-1",
        command_line="",
        opened_at=now,
        phase_at=now,
    )
    node = replace(fleet.nodes["n1"], highest_generation=1, attempt=1)
    event = NewEvent("attempt.prepared", "n1", node_id="n1", generation=1)
    return [Action("prepare", Change((row, node), events=(event,)))]


def jumps(fleet: Fleet) -> Report:
    ref = AttemptRef("n1", 1, fleet.incarnation)
    return Report(3, "JumpIntentRecorded", Phase.JUMPING, ref, boot_id="boot-1", release="6.12.0")


def back() -> Hello:
    """The first Hello of the new boot."""
    said = hello("n1", boot_verdict=Verdict.LIVE_UPDATED, highest_generation=1)
    return replace(said, boot_id="boot-2", release="6.12.1")


def seen(orchestrator: Orchestrator) -> tuple[Sample, ...]:
    return orchestrator.fleet.attempts["n1", 1].samples


async def jump(world: World, orchestrator: Orchestrator) -> None:
    """The node beats, says that it jumps, and is not heard of again."""
    link = await orchestrator.open_link(hello("n1"))
    await world.passes(1)
    for _ in range(3):
        await world.passes(5)
        link.heartbeat(beat())
    await world.passes(2)
    await link.report(jumps(orchestrator.fleet))
    await world.passes(0.5)
    await link.close("cut")


class Unchecked:
    """The rollout that the attempt is for does not exist here, which the checker would report."""

    def __init__(self, rows: Iterable[Row], **_told: object) -> None:
        pass

    def committed(self, rows: Sequence[Row], events: Sequence[Event], now: datetime) -> tuple[()]:
        return ()


def jumping_world() -> World:
    world = World()
    world.planned.decide = one_attempt
    world.planned.next_wake = lambda now: now + seconds(1)
    return world


def test_from_the_last_word_of_the_old_boot_to_the_first_hello_of_the_new_one() -> None:
    async def main() -> None:
        world = jumping_world()
        async with world.running(make_check=Unchecked) as orchestrator:
            await jump(world, orchestrator)
            await world.passes(2.5)
            await orchestrator.open_link(back())
            (sample,) = seen(orchestrator)
            # Beats come 5 s apart, so the node may have died at any time within the silence.
            assert sample == Sample("link", sample.duration, sample.duration, "link")
            assert sample.duration == pytest.approx(seconds(3), abs=COMMIT)
            await orchestrator.open_link(back())
            assert seen(orchestrator) == (sample,)
        metrics = Metrics()
        for before, after in world.heard.rows:
            metrics.row_applied(before, after)
        count = metrics.registry.get_sample_value("liveroll_blackout_seconds_count", {"vantage": "link"})
        total = metrics.registry.get_sample_value("liveroll_blackout_seconds_sum", {"vantage": "link"})
        assert count == 1
        assert total == pytest.approx(3, abs=0.002)

    run(main())


def test_an_orchestrator_that_was_restarted_in_the_blackout_rejects_its_own_sample() -> None:
    async def main() -> None:
        world = jumping_world()
        async with world.running(make_check=Unchecked) as orchestrator:
            await jump(world, orchestrator)
        await world.passes(10)
        async with world.running(make_check=Unchecked) as orchestrator:
            await world.passes(1)
            await orchestrator.open_link(back())
            (sample,) = seen(orchestrator)
            assert "began to listen" in sample.rejected
        metrics = Metrics()
        for before, after in world.heard.rows:
            metrics.row_applied(before, after)
        rejected = metrics.registry.get_sample_value(
            "liveroll_blackout_samples_rejected_total", {"vantage": "link"}
        )
        counted = metrics.registry.get_sample_value("liveroll_blackout_seconds_count", {"vantage": "link"})
        assert (rejected, counted) == (1, 0)

    run(main())


@pytest.mark.parametrize("by", [timedelta(hours=1), timedelta(seconds=-3)])
def test_a_wall_clock_that_is_set_in_the_blackout_measures_nothing(by: timedelta) -> None:
    """By an hour the fleet is loaded again, which forgets what was heard; by seconds it is not."""

    async def main() -> None:
        world = jumping_world()
        async with world.running(make_check=Unchecked) as orchestrator:
            await jump(world, orchestrator)
            world.clock.skew += by
            await world.passes(6)
            await orchestrator.open_link(back())
            (sample,) = seen(orchestrator)
            assert sample.rejected

    run(main())


def test_a_slow_store_has_no_part_in_it() -> None:
    async def main() -> None:
        world = jumping_world()
        async with world.running(make_check=Unchecked) as orchestrator:
            await jump(world, orchestrator)
            world.faults.delay_s = 4.0
            await world.passes(2.5)
            await orchestrator.open_link(back())
            (sample,) = seen(orchestrator)
            assert sample.duration == pytest.approx(seconds(3), abs=COMMIT)
            assert sample.rejected == ""

    run(main())
