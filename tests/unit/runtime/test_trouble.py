"""A store, a lease, a planner or a promise in trouble: said, survived, mended."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import pytest

from orchestrator.core.actions import Action
from orchestrator.core.fleet import Fleet
from orchestrator.core.model import Change, NewEvent, NodeRow, Row
from orchestrator.errors import (
    NotLeader,
    StoreUnavailable,
)
from orchestrator.store.memory import MemoryStore
from tests.unit.runtime.world import World, hello, no_store, report, run, seconds


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
                assert await link.report(report(1)) == 1
                await world.passes(6)
                assert orchestrator.ready() == (True, ())
                assert orchestrator.role == "follower"
                assert orchestrator.planner == "b"
                assert "theirs" in orchestrator.fleet.nodes
                assert await link.report(report(2)) == 2
                assert orchestrator.last_plan is None
                plans = len(world.planned.times)
                await world.passes(5)
                assert len(world.planned.times) == plans
                await world.passes(10)
                assert orchestrator.role == "planner"
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

    def test_a_second_one_follows(self) -> None:
        async def main() -> None:
            world = World()
            async with world.running("a") as first, world.running("b") as second:
                assert (first.role, second.role) == ("planner", "follower")
                assert second.ready() == (True, ())
                assert second.planner == "a"

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


class Check:
    """Finds what the test says."""

    def __init__(self, find: Callable[[Sequence[Row]], list[Any]]) -> None:
        self.find = find

    def begin(self, rows: object, **_: object) -> Check:
        return self

    def committed(self, rows: Sequence[Row], events: object, now: object) -> list[Any]:
        return self.find(rows)

    def followed(self, rows: Sequence[Row], now: object) -> list[Any]:
        return self.find(rows)

    def skip_to(self, seq: int) -> None:
        pass


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
