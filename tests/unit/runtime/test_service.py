"""The service as a whole: it starts, links, plans, takes calls, and stops, in virtual time."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import Any

import pytest

from orchestrator.core.actions import Action
from orchestrator.core.fleet import Fleet
from orchestrator.core.model import Artifact, Change, DesiredStage, NewEvent, NodeRow, Problem
from orchestrator.errors import (
    InvalidSpec,
    NotLeader,
    OutOfRange,
    Retry,
    StaleGeneration,
)
from orchestrator.runtime.service import Command
from orchestrator.store.memory import MemoryStore
from tests.unit.runtime.world import World, beat, hello, report, run, seconds

ARTIFACT = Artifact("kernel", "digest", "6.12.1", "http://artifacts")


def stage(fleet: Fleet, node_id: str, name: str = "kernel") -> Action:
    node = fleet.nodes[node_id]
    wanted = replace(
        node,
        desired=DesiredStage(replace(ARTIFACT, name=name)),
        command_serial=node.command_serial + 1,
    )
    event = NewEvent("node.staging", name, node_id=node_id)
    return Action("stage", Change((wanted,), events=(event,)), hint=(node_id,))


def test_a_node_links_is_told_what_is_wanted_and_its_reports_are_acknowledged() -> None:
    async def main() -> None:
        world = World()
        world.planned.decide = lambda fleet, now: [
            stage(fleet, node.node_id) for node in fleet.nodes.values() if node.desired is None
        ]
        async with world.running() as orchestrator:
            assert orchestrator.ready() == (True, ())
            link = await orchestrator.open_link(hello("n1"), actor="agent:n1")
            assert link.welcome.incarnation == orchestrator.incarnation == "memory-1"
            assert link.welcome.incarnation_serial == 1
            assert link.welcome.link_epoch == 1
            command = await anext(link.commands())
            assert isinstance(command, Command)
            assert command.command_id == "memory-1:1"
            assert command.desired == DesiredStage(ARTIFACT)
            assert await link.report(report(7)) == 7
            assert orchestrator.fleet.nodes["n1"].acknowledged_seq == 7
            assert await link.report(report(5)) == 7
            await link.close()
            await world.passes(1)
            assert not orchestrator.fleet.nodes["n1"].link_up
            assert world.heard.closed == ["closed"]
        assert "node.staging" in world.told()
        assert world.disk.holder == ""

    run(main())


def test_the_newest_link_wins_and_the_old_one_is_told() -> None:
    async def main() -> None:
        world = World()
        async with world.running() as orchestrator:
            old = await orchestrator.open_link(hello("n1"))
            commands = asyncio.ensure_future(anext(old.commands()))
            await asyncio.sleep(0)
            new = await orchestrator.open_link(hello("n1"))
            assert new.welcome.link_epoch == old.welcome.link_epoch + 1
            with pytest.raises(StaleGeneration) as caught:
                await commands
            assert caught.value.reason == "LINK_REPLACED"
            with pytest.raises(StaleGeneration):
                await old.report(report(1))
            with pytest.raises(StaleGeneration):
                old.heartbeat(beat())
            await old.close()
            await world.passes(1)
            assert orchestrator.fleet.nodes["n1"].link_up
            assert orchestrator.links == 1
            assert await new.report(report(1)) == 1

    run(main())


def test_only_the_newest_command_is_delivered_and_again_if_it_stands_for_long() -> None:
    async def main() -> None:
        world = World()
        async with world.running() as orchestrator:
            link = await orchestrator.open_link(hello("n1"))
            for name in ("one", "two", "three"):
                await want(orchestrator.fleet, name, orchestrator)
            commands = link.commands()
            first = await anext(commands)
            assert isinstance(first.desired, DesiredStage)
            assert first.desired.artifact.name == "three"
            again = asyncio.ensure_future(anext(commands))
            for _ in range(3):
                await world.passes(9)
                link.heartbeat(beat())
            await asyncio.sleep(0)
            assert not again.done()
            await world.passes(9)
            link.heartbeat(beat())
            assert (await again).command_id == first.command_id
            await link.close()
            assert [command async for command in commands] == []

    async def want(fleet: Fleet, name: str, orchestrator: Any) -> None:
        action = stage(fleet, "n1", name)
        await orchestrator._commits.commit(action.change)

    run(main())


def test_a_link_that_carries_nothing_is_ended() -> None:
    async def main() -> None:
        world = World()
        async with world.running() as orchestrator:
            link = await orchestrator.open_link(hello("n1"))
            other = await orchestrator.open_link(hello("n2"))
            waiting = asyncio.ensure_future(anext(link.commands()))
            for _ in range(6):
                await world.passes(10)
                other.heartbeat(beat())
            with pytest.raises(StaleGeneration) as caught:
                await waiting
            assert caught.value.reason == "LINK_SILENT"
            assert not orchestrator.fleet.nodes["n1"].link_up
            assert orchestrator.fleet.nodes["n2"].link_up
            assert world.heard.closed == ["silent"]

    run(main())


def test_links_of_an_earlier_life_are_found_down_after_the_grace() -> None:
    async def main() -> None:
        world = World()
        async with world.running() as orchestrator:
            for name in ("n1", "n2"):
                await orchestrator.open_link(hello(name))
        async with world.running() as orchestrator:
            link = await orchestrator.open_link(hello("n2"))
            for _ in range(5):
                await world.passes(10)
                link.heartbeat(beat())
            assert orchestrator.fleet.nodes["n1"].link_up
            await world.passes(11)
            assert not orchestrator.fleet.nodes["n1"].link_up
            assert orchestrator.fleet.nodes["n2"].link_up

    run(main())


def test_a_turn_of_health_is_written_and_beats_are_not() -> None:
    async def main() -> None:
        world = World()
        async with world.running() as orchestrator:
            link = await orchestrator.open_link(hello("n1"))
            head = orchestrator.head_seq
            for number in range(20):
                link.heartbeat(beat(stamp=number))
            await world.passes(1)
            assert orchestrator.head_seq == head
            link.heartbeat(beat(healthy=False))
            link.heartbeat(beat(healthy=False))
            await world.passes(1)
            assert not orchestrator.fleet.nodes["n1"].healthy
            assert world.told().count("node.sickened") == 1

    run(main())


PREPARED = Problem("LUO_NOT_NORMAL", Retry.FIX_STATE, "LUO is prepared", "Undo it.")


@pytest.mark.parametrize("beats", [(PREPARED, None), (PREPARED, None, PREPARED), (PREPARED, PREPARED, None)])
def test_of_turns_while_one_is_written_the_last_stands(beats: tuple[Problem | None, ...]) -> None:
    """A node says at once that it has turned, and says it once: its next beat may be minutes away."""

    async def main() -> None:
        world = World()
        async with world.running() as orchestrator:
            link = await orchestrator.open_link(hello("n1"))
            for said in beats:
                link.heartbeat(beat(not_ready=said))
            await world.passes(1)
            assert orchestrator.fleet.nodes["n1"].not_ready == beats[-1]
            assert world.told().count("node.not_ready") in (0, 1)

    run(main())


def test_a_node_that_is_ready_again_is_planned_for_at_once() -> None:
    async def main() -> None:
        world = World()
        async with world.running() as orchestrator:
            link = await orchestrator.open_link(hello("n1"))
            link.heartbeat(beat(not_ready=PREPARED))
            await world.passes(1)
            before = len(world.planned.times)
            link.heartbeat(beat())
            await world.passes(0.01)
            assert len(world.planned.times) > before
            assert world.told()[-1] == "node.ready"

    run(main())


def test_ten_thousand_beats_are_a_few_plans() -> None:
    async def main() -> None:
        world = World()
        async with world.running() as orchestrator:
            links = [await orchestrator.open_link(hello(f"n{number}")) for number in range(10)]
            await world.passes(1)
            before = len(world.planned.times)
            for _ in range(100):
                for link in links:
                    for _ in range(10):
                        link.heartbeat(beat())
                await world.passes(0.001)
            assert 1 <= len(world.planned.times) - before <= 15

    run(main())


def test_it_plans_again_at_next_wake_and_after_its_own_commits() -> None:
    async def main() -> None:
        world = World()
        world.planned.next_wake = lambda now: now + seconds(100)
        async with world.running() as orchestrator:
            await world.passes(1)
            assert len(world.planned.times) == 1
            await world.passes(100)
            assert len(world.planned.times) == 2
            world.planned.decide = lambda fleet, now: (
                [Action("progress", Change((NodeRow("n1"),)))] if "n1" not in fleet.nodes else []
            )
            orchestrator.wake()
            await world.passes(1)
            assert "n1" in orchestrator.fleet.nodes
            assert len(world.planned.times) == 4
            assert orchestrator.last_plan is not None

    run(main())


class TestEvents:
    def test_pages_follow_a_cursor_and_never_run_ahead(self) -> None:
        async def main() -> None:
            world = World()
            async with world.running() as orchestrator:
                for number in range(5):
                    event = NewEvent("made", str(number), rollout_id=f"r{number % 2}")
                    await orchestrator._commits.commit(Change(events=(event,)))
                first = await orchestrator.events_after("", limit=3)
                assert [event.new.message for event in first.events] == ["0", "1", "2"]
                assert first.cursor == "memory-1:3"
                rest = await orchestrator.events_after(first.cursor, limit=3)
                assert [event.new.message for event in rest.events] == ["3", "4"]
                assert rest.cursor == orchestrator.cursor() == "memory-1:5"
                odd = await orchestrator.events_after("", rollout_id="r1")
                assert [event.new.message for event in odd.events] == ["1", "3"]
                assert odd.cursor == "memory-1:5"
                nothing = await orchestrator.events_after(rest.cursor)
                assert (nothing.events, nothing.cursor) == ((), rest.cursor)

        run(main())

    @pytest.mark.parametrize("cursor", ["x", "memory-1:", ":3", "memory-1:-1", "memory-1:²"])
    def test_a_malformed_cursor_is_refused(self, cursor: str) -> None:
        async def main() -> None:
            async with World().running() as orchestrator:
                with pytest.raises(InvalidSpec):
                    await orchestrator.events_after(cursor)

        run(main())

    def test_a_cursor_out_of_range_says_why(self) -> None:
        async def main() -> None:
            world = World()
            async with world.running() as orchestrator:
                await orchestrator._commits.commit(Change(events=(NewEvent("a", "b"),) * 5))
                for cursor in ("memory-0:1", "memory-1:6"):
                    with pytest.raises(OutOfRange):
                        await orchestrator.events_after(cursor)
                world.disk.events = world.disk.events[3:]
                with pytest.raises(OutOfRange):
                    await orchestrator.events_after("memory-1:2")
                page = await orchestrator.events_after("memory-1:3")
                assert [event.seq for event in page.events] == [4, 5]

        run(main())

    def test_the_feed_wakes_watchers_and_ends_with_the_service(self) -> None:
        async def main() -> None:
            world = World()
            seen: list[int] = []

            async def watch(orchestrator: Any) -> None:
                async for seq in orchestrator.feed.subscribe():
                    seen.append(seq)

            async with world.running() as orchestrator:
                task = asyncio.ensure_future(watch(orchestrator))
                await asyncio.sleep(0)
                await orchestrator._commits.commit(Change(events=(NewEvent("a", "b"),) * 2))
                await asyncio.sleep(0)
                await orchestrator._commits.commit(Change(events=(NewEvent("a", "b"),)))
                await asyncio.sleep(0)
            await task
            assert seen == [2, 3]

        run(main())


def test_a_store_that_went_back_stops_the_fleet_at_start() -> None:
    async def main() -> None:
        world = World()
        store = MemoryStore(world.disk, world.clock)
        original = store.load

        async def load() -> object:
            return replace(await original(), regressed="an older copy")

        store.load = load  # type: ignore[method-assign,assignment]
        from orchestrator.runtime.service import Orchestrator
        from tests.unit.runtime.world import POLICY, Catalogue

        async with Orchestrator(
            store=store,
            clock=world.clock,
            catalogue=Catalogue(),
            policy=POLICY,
            holder="a",
            planner=world.planned,
        ) as orchestrator:
            assert orchestrator.fleet.row.stopped == "STORE_REGRESSED"
            assert orchestrator.head_seq == 1

    run(main())


def test_calls_after_the_end_are_told_so() -> None:
    async def main() -> None:
        world = World()
        async with world.running() as orchestrator:
            link = await orchestrator.open_link(hello("n1"))
            waiting = asyncio.ensure_future(anext(link.commands()))
            await asyncio.sleep(0)
        with pytest.raises(NotLeader) as caught:
            await waiting
        assert caught.value.reason == "SHUTTING_DOWN"
        with pytest.raises(NotLeader):
            await orchestrator.open_link(hello("n1"))
        with pytest.raises(NotLeader):
            await link.report(report(1))
        await link.close()

    run(main())
