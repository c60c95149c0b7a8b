"""What is forgotten, and that a rollout which still runs keeps its whole story."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta

from orchestrator.core.model import Artifact, Change, IdempotencyRow, NewEvent, RolloutRow
from orchestrator.core.spec import RolloutSpec, Target
from orchestrator.errors import StoreUnavailable
from orchestrator.runtime.retention import Retention
from orchestrator.runtime.service import Orchestrator
from tests.unit.runtime.world import World, run, seconds

RULES = Retention(age=seconds(100), count=20, answers=seconds(50), every=seconds(30))
ARTIFACT = Artifact("kernel", "digest", "6.12.1", "http://artifacts")


async def tell(orchestrator: Orchestrator, number: int, rollout_id: str = "") -> None:
    for _ in range(number):
        event = NewEvent("told", "x", rollout_id=rollout_id)
        await orchestrator._commits.commit(Change(events=(event,)))


def kept(world: World) -> list[int]:
    return [event.seq for event in world.disk.events]


def test_by_age() -> None:
    async def main() -> None:
        world = World()
        async with world.running(retention=RULES) as orchestrator:
            await tell(orchestrator, 3)
            await world.passes(95)
            await tell(orchestrator, 4)
            assert kept(world) == [1, 2, 3, 4, 5, 6, 7]
            await world.passes(30)
            assert kept(world) == [4, 5, 6, 7]

    run(main())


def test_by_count() -> None:
    async def main() -> None:
        world = World()
        async with world.running(retention=RULES) as orchestrator:
            await tell(orchestrator, 50)
            await world.passes(31)
            assert kept(world) == list(range(31, 51))

    run(main())


def test_a_running_rollout_is_never_cut() -> None:
    async def main() -> None:
        world = World()
        async with world.running(retention=RULES) as orchestrator:
            await tell(orchestrator, 5)
            row = RolloutRow(
                "spring", RolloutSpec("spring", Target("k")), ARTIFACT, world.clock.now(), "alice"
            )
            event = NewEvent("rollout.created", "spring", rollout_id="spring")
            committed = await orchestrator._commits.commit(Change((row,), events=(event,)))
            await tell(orchestrator, 50)
            await world.passes(200)
            assert kept(world) == list(range(6, 57))
            ended = committed.rows[0]
            assert isinstance(ended, RolloutRow)
            now = world.clock.now()
            ended = replace(ended, ended_at=now, ended_as="SUCCEEDED")
            await orchestrator._commits.commit(Change((ended,)))
            await world.passes(31)
            assert kept(world) == []

    run(main())


def test_answers_are_kept_for_their_time() -> None:
    async def main() -> None:
        world = World()
        async with world.running(retention=RULES) as orchestrator:
            row = IdempotencyRow("k", "M", "alice", "h", "", world.clock.now())
            await orchestrator._commits.commit(Change((row,)))
            await world.passes(45)
            assert ("idempotency", ("alice", "k")) in world.disk.rows
            await world.passes(20)
            assert ("idempotency", ("alice", "k")) not in world.disk.rows

    run(main())


def test_a_store_in_trouble_is_trimmed_later() -> None:
    async def main() -> None:
        world = World()
        async with world.running(retention=RULES, lease_ttl=timedelta(hours=3)) as orchestrator:
            await tell(orchestrator, 50)
            world.faults.refuse_reading = StoreUnavailable("no disk")
            await world.passes(31)
            assert len(kept(world)) == 50
            world.faults.refuse_reading = None
            await world.passes(30)
            assert len(kept(world)) == 20

    run(main())
