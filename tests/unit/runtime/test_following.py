"""How a replica keeps up: gaps, lost hints, one read at a time, and what it makes of trouble."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from datetime import datetime
from typing import Any

import pytest

from orchestrator.core.actions import Action
from orchestrator.core.fleet import Fleet
from orchestrator.core.model import (
    AttemptRow,
    Change,
    DesiredProceed,
    DesiredStage,
    NewEvent,
    NodeRow,
    Problem,
    Stamp,
)
from orchestrator.core.phases import Kind, Method, Phase
from orchestrator.errors import NotServing, Retry, StaleGeneration, StoreUnavailable
from orchestrator.store.memory import MemoryStore
from tests.unit.core_ops.build import rollout
from tests.unit.runtime.replicas import Replicas, passes
from tests.unit.runtime.test_replicas import ARTIFACT, create, relabel, with_replicas
from tests.unit.runtime.world import beat, hello, seconds


def reads(world: Replicas, name: str) -> int:
    return world.all[name].way.reads.count("changes")


def deaf(orchestrator: Any) -> None:
    """No hint reaches it any more."""
    for loop in orchestrator._loops:
        if "run_hints" in repr(loop):
            loop.cancel()


def test_own_commits_that_follow_each_other_read_nothing() -> None:
    async def work(world: Replicas) -> None:
        a = await world.start("a")
        await passes(1)
        before = reads(world, "a")
        for number in range(20):
            await create(a, f"n{number}")
        await passes(20)
        assert reads(world, "a") == before

    with_replicas(work)


def test_a_commit_that_leaves_a_gap_is_applied_but_its_event_waits_for_those_before_it() -> None:
    async def work(world: Replicas) -> None:
        a = await world.start("a")
        b = await world.start("b")
        deaf(b)
        await create(a, "n1")
        await create(b, "n2")
        assert "n2" in b.fleet.nodes
        assert "n1" not in b.fleet.nodes
        assert b.head_seq == 0
        assert (await b.events_after("")).events == ()
        await passes(0.01)
        assert "n1" in b.fleet.nodes
        assert b.head_seq == 2

    with_replicas(work)


def test_what_a_lost_hint_would_have_told_the_next_beat_brings() -> None:
    async def work(world: Replicas) -> None:
        a = await world.start("a")
        b = await world.start("b")
        deaf(b)
        await create(a, "n1")
        await passes(4)
        assert "n1" not in b.fleet.nodes
        await passes(2)
        assert "n1" in b.fleet.nodes

    with_replicas(work)


def test_who_asks_while_one_reads_shares_the_next_read() -> None:
    async def work(world: Replicas) -> None:
        a = await world.start("a")
        b = await world.start("b")
        deaf(b)
        await create(a, "n1")
        before = reads(world, "b")
        await asyncio.gather(*(b.refresh() for _ in range(10)))
        assert "n1" in b.fleet.nodes
        assert reads(world, "b") - before <= 2

    with_replicas(work)


def test_a_commit_in_flight_is_applied_once_whatever_is_read_before_its_answer() -> None:
    """Metrics count rows that this process committed, once, whether a read showed them first or not."""

    async def work(world: Replicas) -> None:
        a = await world.start("a")
        b = await world.start("b")
        world.all["b"].way.answers_after_s = 1
        call = asyncio.ensure_future(create(b, "n1"))
        await passes(0.1)
        await create(a, "n2")
        await passes(0.1)
        assert {"n1", "n2"} <= set(b.fleet.nodes)
        assert not call.done()
        await call
        rows = [after for _, after in world.all["b"].heard.rows if isinstance(after, NodeRow)]
        assert [row.node_id for row in rows] == ["n1"]
        assert world.all["b"].heard.rows[0][0] is None

    with_replicas(work)


def test_what_cannot_be_applied_is_read_anew_and_links_go_on_elsewhere() -> None:
    async def work(world: Replicas) -> None:
        a = await world.start("a")
        b = await world.start("b")
        link = await b.open_link(hello("n1"))
        fleet = b.fleet

        def broken(*_: object) -> None:
            raise ZeroDivisionError

        fleet.take = broken  # type: ignore[method-assign,assignment]
        await create(a, "n2")
        await passes(2)
        assert b.fleet is not fleet
        assert b.ready() == (True, ())
        assert "n2" in b.fleet.nodes
        with pytest.raises(NotServing) as caught:
            link.heartbeat(beat())
        assert caught.value.reason == "RELOADING"

    with_replicas(work)


def test_two_that_load_a_store_set_back_write_the_stop_once() -> None:
    async def work(world: Replicas) -> None:
        world.disk.regressed = "an older copy"
        names = ("a", "b", "c")
        started = await asyncio.gather(*(world.start(name) for name in names))
        await passes(1)
        assert world.told().count("fleet.stopped") == 1
        assert all(o.fleet.row.stopped == "STORE_REGRESSED" for o in started)

    with_replicas(work)


def test_a_store_that_cannot_be_reached_at_the_start_is_said_so() -> None:
    async def work(world: Replicas) -> None:
        await world.start("a")
        from tests.unit.runtime.replicas import Replica

        late = Replica(world.disk, "b", world.store_clock, seconds(0))
        late.way.cut = True
        with pytest.raises(StoreUnavailable):
            await late.start()
        late.way.cut = False

    with_replicas(work)


def test_a_link_taken_over_before_its_own_hello_was_answered_is_none() -> None:
    async def work(world: Replicas) -> None:
        a = await world.start("a")
        b = await world.start("b")
        world.all["b"].way.answers_after_s = 1
        dialling = asyncio.ensure_future(b.open_link(hello("n1")))
        await passes(0.1)
        link = await a.open_link(hello("n1"))
        assert link.welcome.link_epoch == 2
        with pytest.raises(StaleGeneration) as caught:
            await dialling
        assert caught.value.reason == "LINK_REPLACED"
        assert b.links == 0
        assert a.fleet.nodes["n1"].link_up

    with_replicas(work)


def test_the_end_of_a_link_that_could_not_be_written_is_written_later() -> None:
    async def work(world: Replicas) -> None:
        a = await world.start("a")
        b = await world.start("b")
        for _ in range(7):
            await passes(10)  # beyond the grace
        link = await b.open_link(hello("n1"))
        world.all["b"].way.refuse = StoreUnavailable("full", reason="DISK_FULL")
        await link.close()
        await passes(1)
        world.all["b"].way.refuse = None
        assert a.fleet.nodes["n1"].link_up
        await passes(40)
        assert not a.fleet.nodes["n1"].link_up

    with_replicas(work)


# --- the planner and nodes that are linked elsewhere -------------------------------------


def preserved(fleet: Fleet, stamp: Stamp, now: datetime) -> Change:
    """n1 waits PRESERVED for its PROCEED."""
    row = AttemptRow(
        "n1", 1, fleet.incarnation, "r1", Kind.FORWARD, Method.LIVE, Phase.PRESERVED, ARTIFACT,
        from_release="6.12.0", to_release="6.12.1", hardware_model="", expected_boot_id="boot-1",
        command_line="", opened_at=now, phase_at=now, acknowledged=True, stamp=stamp, stamp_at=now,
    )  # fmt: skip
    node = replace(fleet.nodes["n1"], highest_generation=1, attempt=1)
    return Change((row, node, replace(rollout(0, rollout_id="r1", created_at=now), revision=0)))


async def waiting(world: Replicas) -> tuple[Any, Any, Any]:
    """(a, which plans; b; the link of n1 to b)"""
    a = await world.start("a", make_check=Unchecked)
    b = await world.start("b")
    link = await b.open_link(hello("n1"))
    await passes(0.1)
    change = preserved(a.fleet, Stamp("boot-1", seconds(1)), a.now())
    await a._commits.commit(change)
    await passes(0.1)
    return a, b, link


class Unchecked:
    """The attempt of these tests was never begun, which the checker would report."""

    def __init__(self, *_: object, **__: object) -> None:
        pass

    def committed(self, *_: object) -> tuple[()]:
        return ()

    followed = committed

    def skip_to(self, seq: int) -> None:
        pass


def test_stamps_reach_a_planner_that_does_not_hear_the_node() -> None:
    async def work(world: Replicas) -> None:
        a, _, link = await waiting(world)
        lease = a.fleet.rollouts["r1"].spec.proceed_lease
        head = world.disk.batch
        await passes(lease.total_seconds() / 2 - 1)
        link.heartbeat(beat(stamp=10))
        await passes(0.1)
        assert world.disk.batch == head  # the stored one still is of use
        await passes(1)
        for number in range(3):
            link.heartbeat(beat(stamp=20 + number))
        await passes(0.1)
        assert a.fleet.attempts["n1", 1].stamp == Stamp("boot-1", seconds(20))
        assert world.disk.batch == head + 1

    with_replicas(work)


def test_the_planner_knows_of_a_node_that_is_not_ready_at_another_replica() -> None:
    async def work(world: Replicas) -> None:
        a = await world.start("a")
        b = await world.start("b")
        link = await b.open_link(hello("n1"))
        said = Problem("LUO_NOT_NORMAL", Retry.FIX_STATE, "LUO is prepared", "Undo it.")
        for now in (said, None, said):
            link.heartbeat(beat(not_ready=now))
            await passes(0.1)
            assert (a.role, a.fleet.nodes["n1"].not_ready) == ("planner", now)

    with_replicas(work)


def test_where_it_plans_itself_no_stamp_is_written() -> None:
    async def work(world: Replicas) -> None:
        a, _, _ = await waiting(world)
        here = await a.open_link(hello("n1"))
        await passes(40)
        head = world.disk.batch
        here.heartbeat(beat(stamp=50))
        await passes(0.1)
        assert world.disk.batch == head

    with_replicas(work)


def test_a_proceed_is_looked_up_before_it_leaves_a_replica_that_does_not_plan() -> None:
    """What replaced it was committed a moment ago, and the hint of it was lost."""

    async def work(world: Replicas) -> None:
        a, b, link = await waiting(world)
        sent: list[Any] = []

        async def take() -> None:
            async for command in link.commands():
                sent.append(command.desired)

        taking = asyncio.ensure_future(take())
        deaf(b)

        async def want(desired: Any) -> None:
            node = a.fleet.nodes["n1"]
            wanted = replace(node, desired=desired, command_serial=node.command_serial + 1)
            await a._commits.commit(Change((wanted,)))

        proceed = DesiredProceed(1, Stamp("boot-1", seconds(1)), seconds(30))
        await want(proceed)
        await b.refresh()  # it knows of the PROCEED
        way = world.all["b"].way
        original = way.reading

        async def slow(what: str) -> None:
            await asyncio.sleep(0.5)
            await original(what)

        way.reading = slow  # type: ignore[method-assign]
        await want(DesiredStage(ARTIFACT))  # and of nothing later
        await passes(0.1)
        assert sent == []
        await passes(1)
        assert sent == [DesiredStage(ARTIFACT)]
        way.reading = original  # type: ignore[method-assign]
        await want(proceed)
        await b.refresh()
        await passes(0.1)
        assert sent == [DesiredStage(ARTIFACT), proceed]
        await link.close()
        await taking

    with_replicas(work)


def test_a_proceed_that_cannot_be_looked_up_does_not_leave() -> None:
    async def work(world: Replicas) -> None:
        a, _, link = await waiting(world)
        taking = asyncio.ensure_future(anext(link.commands()))
        node = a.fleet.nodes["n1"]
        proceed = DesiredProceed(1, Stamp("boot-1", seconds(1)), seconds(30))
        change = Change((replace(node, desired=proceed, command_serial=1),))
        original = world.all["b"].way.reading

        async def once(what: str) -> None:
            """The read that tells of it comes through, and none after that."""
            await original(what)
            if what == "changes":
                world.all["b"].way.cut = True

        world.all["b"].way.reading = once  # type: ignore[method-assign]
        await a._commits.commit(change)
        with pytest.raises(StoreUnavailable):
            await taking

    with_replicas(work)


# --- the checker ---------------------------------------------------------------------------


def test_the_planner_s_checker_knows_what_other_replicas_wrote() -> None:
    """A start in a rollout that was paused at another replica is a violation: it is not vacuous."""

    async def work(world: Replicas) -> None:
        a = await world.start("a")
        b = await world.start("b")
        await b.open_link(hello("n1"))
        made = replace(rollout(0, rollout_id="r1", created_at=a.now()), revision=0, paused="lunch")
        await b._commits.commit(Change((made,)))
        await passes(0.1)
        world.all["a"].planned.decide = start
        a.wake()
        await passes(0.5)
        assert a.fleet.row.stopped == "INVARIANT_VIOLATED"
        assert any(told.startswith("I6") for told in a.violations())
        assert b.violations() == ()

    with_replicas(work)


def test_a_pause_that_came_after_the_start_and_was_read_before_its_answer_is_no_violation() -> None:
    async def work(world: Replicas) -> None:
        a = await world.start("a")
        b = await world.start("b")
        await b.open_link(hello("n1"))
        made = replace(rollout(0, rollout_id="r1", created_at=a.now()), revision=0)
        await b._commits.commit(Change((made,)))
        await passes(0.1)
        world.all["a"].way.answers_after_s = 1
        world.all["a"].planned.decide = start
        a.wake()
        await passes(0.1)
        assert world.disk.rows  # the start is written, its answer under way
        row = b.fleet.rollouts["r1"]
        await b._commits.commit(Change((replace(row, paused="lunch"),), events=(NewEvent("x", "y"),)))
        await passes(3)
        assert a.fleet.rollouts["r1"].paused
        assert ("n1", 1) in a.fleet.attempts
        assert a.violations() == b.violations() == ()
        assert a.fleet.row.stopped == ""

    with_replicas(work)


def start(fleet: Fleet, now: datetime) -> list[Action]:
    """An attempt on n1, whatever the gates say."""
    if ("n1", 1) in fleet.attempts or "r1" not in fleet.rollouts:
        return []
    change = preserved(fleet, Stamp("boot-1", seconds(1)), now)
    attempt, node, _ = change.writes
    assert isinstance(attempt, AttemptRow)
    begun = replace(attempt, phase=Phase.LOADING, stamp=None, stamp_at=None, acknowledged=False)
    event = NewEvent("attempt.prepared", "n1", node_id="n1", generation=1)
    return [Action("prepare", Change((begun, node), events=(event,)))]


def test_who_becomes_the_planner_with_answers_under_way_raises_no_alarm() -> None:
    """What it wrote as a follower was read before its answer came, and the checker began in between."""

    async def work(world: Replicas) -> None:
        a = await world.start("a")
        b = await world.start("b")
        world.all["b"].way.answers_after_s = 5
        call = asyncio.ensure_future(create(b, "n1"))
        dialling = asyncio.ensure_future(b.open_link(hello("n4")))
        await passes(0.1)
        await create(a, "n2")
        await a.open_link(hello("n4"))
        await world.all["a"].stop()
        await passes(3)
        assert b.role == "follower"  # first its own is known to have landed, or not
        assert not call.done()
        await call
        await passes(1)
        assert b.role == "planner"
        with pytest.raises(StaleGeneration):
            await dialling
        world.all["b"].way.answers_after_s = 0
        await create(b, "n3")
        assert b.violations() == ()
        assert b.head_seq == world.disk.head_seq == 5

    with_replicas(work)


def test_hours_of_three_replicas_that_write_at_once_raise_no_alarm() -> None:
    async def work(world: Replicas) -> None:
        started = [await world.start(name) for name in "abc"]
        links = [await started[i % 3].open_link(hello(f"n{i}")) for i in range(9)]
        seqs = [0] * 9
        for turn in range(60):
            for i, link in enumerate(links):
                seqs[i] += 1
                link.heartbeat(beat(healthy=(turn + i) % 7 != 0))
            await asyncio.gather(*(relabel(started[turn % 3], f"t{turn % 5}", f"n{i}") for i in range(9)))
            await passes(5)
        assert all(o.violations() == () for o in started)
        await passes(1)
        assert started[0].fleet.nodes == started[1].fleet.nodes == started[2].fleet.nodes
        assert len({o.head_seq for o in started}) == 1

    with_replicas(work)


def test_a_handle_of_its_own_hints_others_and_not_itself() -> None:
    async def work(world: Replicas) -> None:
        store = MemoryStore(world.disk, world.store_clock)
        other = MemoryStore(world.disk, world.store_clock)
        await store.open()
        await other.open()
        told: list[str] = []

        async def listen(name: str, handle: MemoryStore) -> None:
            async for _ in handle.hints():
                told.append(name)

        tasks = [asyncio.ensure_future(listen(*each)) for each in (("own", store), ("other", other))]
        await passes(0.01)
        await store.commit(None, Change((NodeRow("n1"),)))
        await passes(0.01)
        assert told == ["other"]
        await store.close()
        await other.close()
        await asyncio.gather(*tasks)

    with_replicas(work)
