"""Several orchestrators of one store: any takes links, calls and watches, one plans."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import replace
from datetime import datetime
from typing import Any

import pytest

from orchestrator.core.actions import Action
from orchestrator.core.fleet import Fleet
from orchestrator.core.model import Artifact, Change, DesiredStage, NewEvent, NodeRow
from orchestrator.core.phases import Link
from orchestrator.errors import LiverollError, NotFound, NotServing, StaleGeneration, StoreUnavailable
from orchestrator.runtime.service import Operated, Orchestrator
from tests.unit.runtime.replicas import Replicas, passes, replicas
from tests.unit.runtime.world import beat, hello, report, run, seconds

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


async def create(orchestrator: Orchestrator, node_id: str) -> Operated:
    """Enrols a node by an operator's call."""

    def operation(fleet: Fleet, now: datetime) -> tuple[Change, str]:
        event = NewEvent("made", node_id, node_id=node_id)
        return Change((NodeRow(node_id),), events=(event,)), node_id

    return await orchestrator.operate(
        actor="alice", idempotency_key=node_id, method="M", request_hash="h", operation=operation
    )


async def relabel(orchestrator: Orchestrator, label: str, node_id: str = "n1") -> Operated:
    """Adds a label, as a read, changed and written row does."""

    def operation(fleet: Fleet, now: datetime) -> tuple[Change, str]:
        node = fleet.nodes.get(node_id)
        if node is None:
            raise NotFound(node_id)
        return Change((replace(node, labels={**node.labels, label: "x"}),)), label

    return await orchestrator.operate(
        actor="alice", idempotency_key="", method="M", request_hash="h", operation=operation
    )


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


def test_a_replica_cut_off_from_the_store_ends_its_links_and_refuses_calls() -> None:
    async def work(world: Replicas) -> None:
        await world.start("a")
        b = await world.start("b")
        link = await b.open_link(hello("n1"))
        ended = asyncio.ensure_future(anext(link.commands()))
        world.all["b"].way.cut = True
        for _ in range(13):
            await passes(1)
            link.heartbeat(beat())
        assert not ended.done()
        assert not b.ready()[0]
        await passes(3)
        with pytest.raises(StoreUnavailable) as caught:
            await ended
        assert caught.value.reason == "CUT_OFF"
        assert (b.role, b.links) == ("none", 0)
        with pytest.raises(NotServing):
            await b.open_link(hello("n1"))
        with pytest.raises(NotServing):
            await relabel(b, "x")
        with pytest.raises(StoreUnavailable):  # it cannot know whether the call is a repetition
            await create(b, "n9")
        with pytest.raises(StoreUnavailable):
            link.heartbeat(beat())
        world.all["b"].way.cut = False
        await passes(2)
        assert b.ready() == (True, ())
        assert b.role == "follower"
        await b.open_link(hello("n1"))

    with_replicas(work)


def test_nobody_vouches_for_the_links_of_a_lost_replica() -> None:
    """UNKNOWN once its lease has run out, DOWN when the grace is over: then the planner writes it."""

    async def work(world: Replicas) -> None:
        a = await world.start("a")
        b = await world.start("b")
        links = [await b.open_link(hello(name)) for name in ("n1", "n2")]
        for _ in range(7):  # beyond a's own grace
            await passes(10)
            for link in links:
                link.heartbeat(beat())
        assert a.fleet.link("n1", a.now()) is Link.UP
        await world.all["b"].kill()
        await passes(9)
        assert a.fleet.link("n1", a.now()) is Link.UP
        await passes(12)
        assert a.fleet.link("n1", a.now()) is Link.UNKNOWN
        assert a.fleet.nodes["n1"].link_up
        link = await a.open_link(hello("n2"))  # n2 finds its way
        assert a.fleet.link("n2", a.now()) is Link.UP
        for _ in range(65):
            await passes(1)
            link.heartbeat(beat())
        assert a.fleet.link("n1", a.now()) is Link.DOWN
        assert not a.fleet.nodes["n1"].link_up
        assert a.fleet.link("n2", a.now()) is Link.UP
        ended = [event.new for event in world.disk.events if event.new.kind == "node.unlinked"]
        assert [(event.node_id, event.cause) for event in ended] == [("n1", "replica_lost")]
        assert a.violations() == ()

    with_replicas(work)


def test_a_link_that_another_replica_took_over_ends_here() -> None:
    async def work(world: Replicas) -> None:
        a = await world.start("a")
        b = await world.start("b")
        old = await a.open_link(hello("n1"))
        ended = asyncio.ensure_future(anext(old.commands()))
        new = await b.open_link(hello("n1"))
        with pytest.raises(StaleGeneration) as caught:
            await asyncio.wait_for(ended, 1)
        assert caught.value.reason == "LINK_REPLACED"
        with pytest.raises(StaleGeneration):
            await old.report(report(1))
        await old.close()
        await passes(1)
        assert a.fleet.nodes["n1"].link_up
        assert a.links == 0
        assert world.all["a"].heard.closed == ["replaced"]
        assert await new.report(report(1)) == 1

    with_replicas(work)


def test_a_report_on_an_old_link_loses_even_before_its_replica_has_heard_of_the_new_one() -> None:
    async def work(world: Replicas) -> None:
        a = await world.start("a")
        b = await world.start("b")
        old = await a.open_link(hello("n1"))
        await passes(1)
        world.all["b"].way.delay_s = 0.0
        world.all["a"].way.delay_s = 0.5
        late = asyncio.ensure_future(old.report(report(1)))
        await passes(0.1)
        await b.open_link(hello("n1"))
        with pytest.raises(StaleGeneration):
            await late
        assert b.fleet.nodes["n1"].acknowledged_seq == 0

    with_replicas(work)


class TestStopped:
    """SIGSTOP beyond its leases, then SIGCONT."""

    def test_a_planner_that_wakes_plans_nothing_and_tells_its_nodes_nothing(self) -> None:
        async def work(world: Replicas) -> None:
            a = await world.start("a")
            b = await world.start("b")
            link = await a.open_link(hello("n1"))
            told = asyncio.ensure_future(anext(link.commands()))
            await passes(1)
            world.all["a"].process.stop()
            world.all["b"].planned.decide = stage_all
            await passes(20)
            assert world.planner() == "b" or world.planner() == "a,b"  # a cannot say otherwise yet
            assert b.role == "planner"
            assert world.told().count("node.staging") == 1
            world.all["a"].planned.decide = stage_all
            times = len(world.all["a"].planned.times)
            world.all["a"].process.go()
            # Nothing of it has run yet: whatever comes first finds that its time is over.
            assert a.role == "none"
            with pytest.raises(NotServing):
                link.heartbeat(beat())
            with pytest.raises(LiverollError):
                await told
            await passes(3)
            assert len(world.all["a"].planned.times) == times
            assert (a.role, b.role) == ("follower", "planner")
            assert a.fleet.nodes == b.fleet.nodes
            assert world.told().count("node.staging") == 1
            assert a.violations() == b.violations() == ()

        with_replicas(work)

    def test_what_it_had_under_way_is_fenced(self) -> None:
        async def work(world: Replicas) -> None:
            a = await world.start("a")
            b = await world.start("b")
            await b.open_link(hello("n1"))
            await passes(1)
            world.all["a"].planned.decide = stage_all
            world.all["a"].way.delay_s = 1.0
            a.wake()
            await passes(0.5)
            world.all["a"].process.stop()
            await passes(20)
            assert b.role == "planner"
            world.all["a"].process.go()
            await passes(5)
            assert "node.staging" not in world.told()
            assert world.all["a"].heard.conflicts >= 1
            assert a.role == "follower"

        with_replicas(work)


class TestCalls:
    def test_any_replica_takes_a_call_and_all_see_it(self) -> None:
        async def work(world: Replicas) -> None:
            a = await world.start("a")
            b = await world.start("b")
            c = await world.start("c")
            assert not (await create(b, "n1")).replayed
            await passes(0.1)
            assert "n1" in a.fleet.nodes
            assert "n1" in c.fleet.nodes

        with_replicas(work)

    def test_a_repetition_at_another_replica_gets_the_first_answer(self) -> None:
        async def work(world: Replicas) -> None:
            await world.start("a")
            b = await world.start("b")
            c = await world.start("c")
            first, second = await asyncio.gather(create(b, "n1"), create(c, "n1"))
            assert sorted((first.replayed, second.replayed)) == [False, True]
            assert (await create(b, "n1")).replayed
            assert world.told().count("made") == 1

        with_replicas(work)

    def test_calls_that_race_at_two_replicas_are_redone_on_what_the_other_wrote(self) -> None:
        async def work(world: Replicas) -> None:
            a = await world.start("a")
            b = await world.start("b")
            await create(a, "n1")
            await asyncio.gather(*(relabel(o, str(i)) for i, o in enumerate((a, b) * 3)))
            await passes(0.1)
            assert a.fleet.nodes["n1"].labels == b.fleet.nodes["n1"].labels
            assert len(a.fleet.nodes["n1"].labels) == 6

        with_replicas(work)

    def test_what_another_replica_has_just_made_is_found(self) -> None:
        """A pipeline that calls a load balancer reads its own writes."""

        async def work(world: Replicas) -> None:
            a = await world.start("a")
            b = await world.start("b")
            for number in range(10):
                await create(a, f"n{number}")
                await relabel(b, "x", f"n{number}")

        with_replicas(work)


class TestWatches:
    def test_a_watch_at_a_follower_sees_every_event_once_and_none_before_its_rows(self) -> None:
        async def work(world: Replicas) -> None:
            a = await world.start("a")
            b = await world.start("b")
            c = await world.start("c")
            seen: list[int] = []

            async def watch() -> None:
                cursor = ""
                async for _ in c.feed.subscribe():
                    while True:
                        page = await c.events_after(cursor, limit=3)
                        for event in page.events:
                            seen.append(event.seq)
                            if event.new.kind == "made":
                                assert event.new.node_id in c.fleet.nodes
                        if page.cursor == cursor:
                            break
                        cursor = page.cursor

            watching = asyncio.ensure_future(watch())
            await asyncio.sleep(0)
            for number in range(15):
                await asyncio.gather(
                    *(create(o, f"{name}-{number}") for name, o in (("a", a), ("b", b), ("c", c)))
                )
            await world.all["a"].stop()
            await passes(2)
            for number in range(5):
                await asyncio.gather(*(create(o, f"{o.replica}+{number}") for o in (b, c)))
            await passes(0.2)
            assert seen == list(range(1, world.disk.head_seq + 1))
            assert c.cursor() == f"memory-1:{world.disk.head_seq}"
            await world.all["c"].stop()
            await watching

        with_replicas(work)


class TestStoreClock:
    def test_instants_are_the_store_s_whatever_the_hosts_say(self) -> None:
        async def work(world: Replicas) -> None:
            a = await world.start("a", skew=seconds(3600))
            b = await world.start("b", skew=seconds(-7200))
            for o in (a, b):
                assert abs(o.now() - world.store_clock.now()) < seconds(0.01)
            await b.open_link(hello("n1"))
            await passes(0.1)
            at = a.fleet.nodes["n1"].link_changed_at
            assert at is not None
            assert abs(at - world.store_clock.now()) < seconds(1)
            fleet = a.fleet
            world.all["a"].clock.skew += seconds(1e6)
            await passes(20)
            assert a.fleet is fleet  # a host's clock is nobody's

        with_replicas(work)

    def test_the_store_s_own_clock_that_is_set_makes_all_load_again(self) -> None:
        async def work(world: Replicas) -> None:
            a = await world.start("a")
            b = await world.start("b")
            fleets = (a.fleet, b.fleet)
            world.store_clock.skew += seconds(600)
            await passes(6)
            assert a.fleet is not fleets[0]
            assert b.fleet is not fleets[1]
            assert abs(a.now() - world.store_clock.now()) < seconds(0.01)
            await passes(20)
            assert world.planner() in ("a", "b")

        with_replicas(work)


def test_a_store_set_back_under_running_replicas_stops_the_fleet_once() -> None:
    async def work(world: Replicas) -> None:
        a = await world.start("a")
        b = await world.start("b")
        await create(a, "n1")
        backup = world.disk.copy()
        for number in range(3):
            await create(b, f"later-{number}")
        await passes(1)
        for name in ("rows", "events", "head_seq", "ledger", "batch", "batches", "tokens"):
            setattr(world.disk, name, getattr(backup, name))
        await passes(12)
        assert world.told().count("fleet.stopped") == 1
        for o in (a, b):
            assert o.fleet.row.stopped == "STORE_REGRESSED"
            assert o.incarnation == "memory-2"
            assert sorted(o.fleet.nodes) == ["n1"]
            assert o.ready() == (True, ())
        assert world.planner() in ("a", "b")

    with_replicas(work)
