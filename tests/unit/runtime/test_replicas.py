"""Several orchestrators of one store: any takes links, calls and watches, one plans."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import replace
from datetime import datetime
from typing import Any

from orchestrator.core.actions import Action
from orchestrator.core.fleet import Fleet
from orchestrator.core.model import Artifact, Change, DesiredStage, NewEvent
from orchestrator.core.phases import Link
from tests.unit.runtime.replicas import Replicas, passes, replicas
from tests.unit.runtime.world import hello, report, run

ARTIFACT = Artifact("kernel", "digest", "6.12.1", "http://artifacts")


def stage_all(fleet: Fleet, now: datetime) -> Sequence[Action]:
    """Every node is to stage, once."""
    return [
        Action(
            "stage",
            Change(
                (replace(n, desired=DesiredStage(ARTIFACT), command_serial=n.command_serial + 1),),
                events=(NewEvent("node.staging", "x", node_id=n.node_id),),
            ),
            hint=(n.node_id,),
        )
        for n in fleet.nodes.values()
        if n.desired is None
    ]


def with_replicas(work: Callable[[Replicas], Coroutine[Any, Any, None]]) -> None:
    async def main() -> None:
        async with replicas() as world:
            await work(world)

    run(main())


def test_a_node_linked_to_one_replica_follows_the_plan_of_another() -> None:
    async def work(world: Replicas) -> None:
        a = await world.start("a")
        b = await world.start("b")
        assert world.planner() == "a"
        world.all["a"].planned.decide = stage_all
        link = await b.open_link(hello("n1"))
        command = await asyncio.wait_for(anext(link.commands()), 1)
        assert command.desired == DesiredStage(ARTIFACT)
        assert a.fleet.nodes["n1"].link_replica == "b"
        assert a.fleet.link("n1", a.now()) is Link.UP
        assert await link.report(report(1)) == 1
        await passes(0.1)
        assert a.fleet.nodes["n1"].acknowledged_seq == 1
        assert a.fleet.nodes == b.fleet.nodes
        assert a.head_seq == b.head_seq == world.disk.head_seq
        await link.close()
        await passes(0.1)
        assert a.fleet.link("n1", a.now()) is Link.DOWN
        assert a.violations() == b.violations() == ()

    with_replicas(work)


def test_the_planner_dies_and_another_plans_within_the_lease() -> None:
    async def work(world: Replicas) -> None:
        await world.start("a")
        b = await world.start("b")
        world.all["b"].planned.decide = stage_all
        await b.open_link(hello("n1"))
        await passes(5)
        assert not world.all["b"].planned.times
        await world.all["a"].kill()
        await passes(17)
        assert b.role == "planner"
        assert world.told().count("node.staging") == 1
        assert b.violations() == ()

    with_replicas(work)


def test_a_planner_that_stops_is_followed_within_a_second() -> None:
    async def work(world: Replicas) -> None:
        await world.start("a")
        b = await world.start("b")
        await passes(3)
        await world.all["a"].stop()
        await passes(1.1)
        assert b.role == "planner"
        assert world.disk.replicas.keys() == {"b"}

    with_replicas(work)
