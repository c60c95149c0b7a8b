"""The service as a whole: it starts, links, plans, takes calls, and stops, in virtual time."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import pytest

from orchestrator.core.actions import Action
from orchestrator.core.fleet import Fleet
from orchestrator.core.model import Artifact, Change, DesiredStage, NewEvent, NodeRow, Row
from orchestrator.errors import (
    AlreadyExists,
    Blocked,
    InvalidSpec,
    NotLeader,
    OutOfRange,
    StaleGeneration,
    StoreUnavailable,
)
from orchestrator.runtime.service import Command
from orchestrator.store.memory import MemoryStore
from tests.unit.runtime.world import World, beat, hello, no_store, report, run, seconds

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


class TestOperate:
    async def call(self, orchestrator: Any, key: str = "k", request: str = "h", method: str = "M") -> Any:
        def operation(fleet: Fleet, now: object) -> tuple[Change, str]:
            name = f"made-{len(fleet.nodes)}"
            return Change((NodeRow(name),), events=(NewEvent("made", name),)), name

        return await orchestrator.operate(
            actor="alice", idempotency_key=key, method=method, request_hash=request, operation=operation
        )

    def test_the_same_key_gets_the_first_answer(self) -> None:
        async def main() -> None:
            world = World()
            async with world.running() as orchestrator:
                first = await self.call(orchestrator)
                again = await self.call(orchestrator)
                assert (first.response, first.replayed) == ("made-0", False)
                assert (again.response, again.replayed) == ("made-0", True)
                with pytest.raises(AlreadyExists) as caught:
                    await self.call(orchestrator, request="other")
                assert caught.value.reason == "IDEMPOTENCY_KEY_REUSED"
                with pytest.raises(AlreadyExists):
                    await self.call(orchestrator, method="Other")
                assert list(orchestrator.fleet.nodes) == ["made-0"]
            async with world.running() as orchestrator:  # over a restart too
                assert (await self.call(orchestrator)).replayed

        run(main())

    def test_two_at_once_with_one_key_are_one(self) -> None:
        async def main() -> None:
            world = World()
            async with world.running() as orchestrator:
                answers = await asyncio.gather(*(self.call(orchestrator) for _ in range(5)))
                assert sorted(answer.replayed for answer in answers) == [False] + [True] * 4
                assert list(orchestrator.fleet.nodes) == ["made-0"]

        run(main())

    def test_calls_that_race_are_redone_on_the_fleet_as_it_then_is(self) -> None:
        async def main() -> None:
            world = World()
            async with world.running() as orchestrator:
                await asyncio.gather(*(self.call(orchestrator, key=str(n)) for n in range(5)))
                assert sorted(orchestrator.fleet.nodes) == [f"made-{n}" for n in range(5)]
                assert world.heard.conflicts == 10

        run(main())

    def test_a_call_outlives_its_caller(self) -> None:
        async def main() -> None:
            world = World()
            world.faults.delay_s = 1
            async with world.running() as orchestrator:
                call = asyncio.ensure_future(self.call(orchestrator))
                await world.passes(0.5)
                call.cancel()
                await world.passes(1)
                assert call.cancelled()
                assert list(orchestrator.fleet.nodes) == ["made-0"]
                assert (await self.call(orchestrator)).replayed

        run(main())

    def test_what_the_operation_raises_leaves_the_key_free(self) -> None:
        async def main() -> None:
            world = World()

            def refuse(fleet: Fleet, now: object) -> tuple[Change, str]:
                raise Blocked("not now")

            async with world.running() as orchestrator:
                with pytest.raises(Blocked):
                    await orchestrator.operate(
                        actor="alice", idempotency_key="k", method="M", request_hash="h", operation=refuse
                    )
                assert not (await self.call(orchestrator)).replayed

        run(main())


class TestStoreTrouble:
    def test_nothing_is_lost_and_readiness_says_so(self) -> None:
        async def main() -> None:
            world = World()
            async with world.running() as orchestrator:
                world.planned.decide = lambda fleet, now: (
                    [Action("progress", Change((NodeRow("n1"),)))] if "n1" not in fleet.nodes else []
                )
                world.faults.refuse = no_store()
                orchestrator.wake()
                await world.passes(20)
                assert orchestrator.ready() == (False, ("planner: the disk is full",))
                assert "n1" not in orchestrator.fleet.nodes
                tries = world.heard.failures.count("DISK_FULL")
                assert 4 <= tries <= 12  # backs off
                with pytest.raises(StoreUnavailable):
                    await orchestrator.open_link(hello("n9"))
                world.faults.refuse = None
                await world.passes(6)
                assert orchestrator.ready() == (True, ())
                assert "n1" in orchestrator.fleet.nodes

        run(main())

    def test_a_commit_of_unknown_outcome_makes_it_load_again(self) -> None:
        async def main() -> None:
            world = World()
            async with world.running() as orchestrator:
                link = await orchestrator.open_link(hello("n1"))
                before = orchestrator.fleet
                world.faults.lose_answers = StoreUnavailable("gone", reason="COMMIT_IN_DOUBT")
                with pytest.raises(StoreUnavailable):
                    await link.report(report(3))
                world.faults.lose_answers = None
                assert not orchestrator.ready()[0]
                await world.passes(2)
                assert orchestrator.ready() == (True, ())
                assert orchestrator.fleet is not before
                assert orchestrator.fleet.nodes["n1"].acknowledged_seq == 3
                with pytest.raises(NotLeader):  # the agent dials again
                    await link.report(report(4))
                again = await orchestrator.open_link(hello("n1"))
                assert again.welcome.acknowledged_seq == 3

        run(main())

    def test_the_lease_lost_it_stands_down_and_leads_again_later(self) -> None:
        async def main() -> None:
            world = World()
            async with world.running() as orchestrator:
                link = await orchestrator.open_link(hello("n1"))
                other = MemoryStore(world.disk, world.clock)
                await other.open()
                world.disk.until = world.clock.now()
                lease = await other.acquire("b", seconds(20))
                await other.commit(lease.epoch, Change((NodeRow("theirs"),), events=(NewEvent("x", "y"),)))
                with pytest.raises(NotLeader):
                    await link.report(report(1))
                await world.passes(6)
                ready, reasons = orchestrator.ready()
                assert not ready
                assert "b holds" in reasons[0]
                with pytest.raises(NotLeader):
                    _ = orchestrator.fleet
                with pytest.raises(NotLeader):
                    await orchestrator.open_link(hello("n1"))
                plans = len(world.planned.times)
                await world.passes(5)
                assert len(world.planned.times) == plans
                await world.passes(15)
                assert orchestrator.ready() == (True, ())
                assert "theirs" in orchestrator.fleet.nodes
                assert world.disk.epoch == lease.epoch + 1

        run(main())

    def test_a_lease_that_cannot_be_renewed_runs_out(self) -> None:
        async def main() -> None:
            world = World()
            async with world.running() as orchestrator:
                world.faults.refuse_reading = no_store()
                await world.passes(10)
                assert not orchestrator.ready()[0]
                assert orchestrator.fleet.nodes == {}  # still led
                await world.passes(10)
                with pytest.raises(NotLeader):
                    _ = orchestrator.fleet
                world.faults.refuse_reading = None
                await world.passes(3)
                assert orchestrator.ready() == (True, ())

        run(main())

    def test_a_second_one_does_not_start(self) -> None:
        async def main() -> None:
            world = World()
            async with world.running("a"):
                with pytest.raises(NotLeader) as caught:
                    async with world.running("b"):
                        pass
                assert caught.value.fields["holder"] == "a"

        run(main())


class TestPlannerTrouble:
    def test_a_planner_that_raises_does_not_end_the_service(self) -> None:
        async def main() -> None:
            world = World()

            def fail(fleet: Fleet, now: object) -> list[Action]:
                raise ZeroDivisionError

            async with world.running() as orchestrator:
                world.planned.decide = fail
                orchestrator.wake()
                await world.passes(10)
                assert orchestrator.ready() == (False, ("planner: planning failed; see the log",))
                link = await orchestrator.open_link(hello("n1"))
                assert await link.report(report(1)) == 1
                world.planned.decide = lambda fleet, now: ()
                await world.passes(6)
                assert orchestrator.ready() == (True, ())

        run(main())

    def test_plans_that_only_lose_make_it_load_again(self) -> None:
        async def main() -> None:
            world = World()
            async with world.running() as orchestrator:
                world.planned.decide = lambda fleet, now: (
                    [Action("progress", Change((NodeRow("n1", revision=5),)))] if lost else []
                )
                lost = True
                before = orchestrator.fleet
                orchestrator.wake()
                await world.passes(0.5)
                lost = False
                await world.passes(2)
                assert orchestrator.fleet is not before

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


class Check:
    """Finds what the test says."""

    def __init__(self, find: Callable[[Sequence[Row]], list[Any]]) -> None:
        self.find = find

    def begin(self, rows: object, **_: object) -> Check:
        return self

    def committed(self, rows: Sequence[Row], events: object, now: object) -> list[Any]:
        return self.find(rows)


class TestChecker:
    def test_a_violation_stops_the_fleet_once_and_ends_nothing(self) -> None:
        class Broken:
            invariant = "I1"
            message = "a budget is overrun"

        async def main() -> None:
            world = World()
            check = Check(lambda rows: [Broken()] if any(row.key == ("n1",) for row in rows) else [])
            async with world.running(make_check=check.begin) as orchestrator:
                await orchestrator.open_link(hello("n1"))
                await world.passes(1)
                assert orchestrator.fleet.row.stopped == "INVARIANT_VIOLATED"
                assert orchestrator.fleet.row.stop_message == "I1: a budget is overrun"
                await orchestrator.open_link(hello("n2"))
                await world.passes(1)
                assert world.heard.violations == ["I1"]
                assert world.told().count("fleet.stopped") == 1
                assert orchestrator.violations() == ("I1: a budget is overrun",)

        run(main())

    def test_a_checker_that_fails_is_a_violation_of_its_own(self) -> None:
        def fail(rows: object) -> list[object]:
            raise ZeroDivisionError

        async def main() -> None:
            world = World()
            async with world.running(make_check=Check(fail).begin) as orchestrator:
                link = await orchestrator.open_link(hello("n1"))
                await world.passes(1)
                assert world.heard.violations == ["CHECKER"]
                assert orchestrator.fleet.row.stopped == "INVARIANT_VIOLATED"
                assert await link.report(report(1)) == 1

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
