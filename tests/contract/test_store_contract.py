"""What every store promises; see orchestrator/ports.py."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest

from orchestrator.core.model import (
    CAPACITY,
    Artifact,
    AttemptRow,
    CapacityRow,
    Change,
    DesiredProceed,
    FleetRow,
    IdempotencyRow,
    MemberRow,
    NewEvent,
    NodeRow,
    RolloutRow,
    Row,
    Stamp,
    row_key,
)
from orchestrator.core.phases import Kind, Method, Phase
from orchestrator.core.spec import BlackoutGate, HealthGate, RolloutSpec, Target
from orchestrator.errors import Capacity, Conflict, NotLeader, StoreUnavailable
from orchestrator.ports import Store
from tests.contract.store_backends import START, STORES, Backend, chosen, opened

TTL = timedelta(seconds=10)
ARTIFACT = Artifact("kernel", "d" * 64, "6.12.1", "http://artifacts/kernel")


@pytest.fixture(params=STORES)
def backend(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Backend]:
    with chosen(request, tmp_path) as backend:
        yield backend


@pytest.fixture
async def store(backend: Backend) -> AsyncIterator[Store]:
    async with opened(backend) as store:
        yield store


@pytest.fixture
async def epoch(store: Store) -> int:
    return (await store.acquire("a", TTL)).epoch


def attempt(node_id: str, generation: int = 1, phase: Phase = Phase.LOADING, revision: int = 0) -> AttemptRow:
    return AttemptRow(
        node_id,
        generation,
        "incarnation",
        "rollout",
        Kind.FORWARD,
        Method.LIVE,
        phase,
        ARTIFACT,
        from_release="6.12.0",
        to_release="6.12.1",
        hardware_model="box",
        expected_boot_id="boot-1",
        command_line="quiet",
        opened_at=START,
        phase_at=START,
        revision=revision,
    )


def rollout(name: str) -> RolloutRow:
    gates = (BlackoutGate(0.99, timedelta(seconds=2)), HealthGate(99.5))
    return RolloutRow(name, RolloutSpec(name, Target("kernel"), gates=gates), ARTIFACT, START, "alice")


def said(message: str, **where: str) -> NewEvent:
    return NewEvent("test.said", message, **where)


async def put(store: Store, epoch: int, *rows: Row, events: tuple[NewEvent, ...] = ()) -> tuple[Row, ...]:
    return (await store.commit(epoch, Change(rows, events=events))).rows


class TestCommit:
    async def test_rows_come_back_with_their_new_revision(self, store: Store, epoch: int) -> None:
        (first,) = await put(store, epoch, NodeRow("n1", release="6.12.0"))
        assert first == NodeRow("n1", revision=1, release="6.12.0")
        (second,) = await put(store, epoch, replace(first, release="6.12.1"))
        assert second == NodeRow("n1", revision=2, release="6.12.1")
        assert (await store.load()).rows == (second,)

    async def test_every_row_type_survives_a_reopen(self, backend: Backend) -> None:
        rows: tuple[Row, ...] = (
            NodeRow(
                "n1",
                labels={"zone": "a"},
                desired=DesiredProceed(1, Stamp("boot-1", timedelta(seconds=3)), timedelta(seconds=30)),
            ),
            attempt("n1"),
            MemberRow("rollout", "n1", 0, 0, tries={"CALL": 2}),
            rollout("rollout"),
            FleetRow(stopped="OPERATOR", stopped_at=START),
            IdempotencyRow("key", "PauseRollout", "alice", "hash", "response", START),
        )
        async with opened(backend) as store:
            lease = await store.acquire("a", TTL)
            written = await put(store, lease.epoch, *rows)
        async with opened(backend) as store:
            found = {row_key(row): row for row in (await store.load()).rows}
            assert found == {row_key(row): row for row in written if not isinstance(row, IdempotencyRow)}
            assert await store.recall("alice", "key") == written[-1]

    async def test_a_change_is_written_wholly_or_not_at_all(self, store: Store, epoch: int) -> None:
        (node,) = await put(store, epoch, NodeRow("n1"))
        head = (await store.load()).head_seq
        stale = replace(node, revision=7)
        with pytest.raises(Conflict) as caught:
            await put(store, epoch, NodeRow("n2"), stale, events=(said("never"),))
        assert caught.value.fields["table"] == "nodes"
        assert caught.value.fields["key"] == "n1"
        assert caught.value.fields["expected"] == "7"
        assert caught.value.fields["actual"] == "1"
        snapshot = await store.load()
        assert snapshot.rows == (node,)
        assert snapshot.head_seq == head

    @pytest.mark.parametrize("revision", [0, 2])
    async def test_a_row_that_moved_conflicts(self, store: Store, epoch: int, revision: int) -> None:
        await put(store, epoch, NodeRow("n1"))
        with pytest.raises(Conflict):
            await put(store, epoch, NodeRow("n1", revision=revision))

    async def test_a_row_that_should_exist_but_does_not_conflicts(self, store: Store, epoch: int) -> None:
        with pytest.raises(Conflict):
            await put(store, epoch, NodeRow("n1", revision=1))

    async def test_one_row_twice_in_a_change_conflicts(self, store: Store, epoch: int) -> None:
        with pytest.raises(Conflict):
            await put(store, epoch, NodeRow("n1"), NodeRow("n1", revision=1))
        assert (await store.load()).rows == ()

    async def test_a_guard_that_moved_conflicts(self, store: Store, epoch: int) -> None:
        (node,) = await put(store, epoch, NodeRow("n1"))
        guarded = Change((NodeRow("n2"),), guards=((row_key(node), 1), (("nodes", ("n3",)), 0)))
        await store.commit(epoch, guarded)
        await put(store, epoch, node)
        with pytest.raises(Conflict) as caught:
            await store.commit(epoch, replace(guarded, writes=(NodeRow("n4"),)))
        assert caught.value.fields["key"] == "n1"

    async def test_what_shrinks_voids_what_guards_the_capacity(self, store: Store, epoch: int) -> None:
        for revision in (1, 2):
            lost = await store.commit(None, Change((NodeRow(f"n{revision}"),), shrinks=True))
            assert CapacityRow(revision) in lost.rows
        with pytest.raises(Conflict):
            await store.commit(epoch, Change((NodeRow("n3"),), guards=((CAPACITY, 1),)))
        await store.commit(epoch, Change((NodeRow("n3"),), guards=((CAPACITY, 2),)))

    async def test_a_change_of_many_rows(self, store: Store, epoch: int) -> None:
        members = tuple(MemberRow("rollout", f"n{index:04}", 0, index) for index in range(1500))
        written = await put(store, epoch, *members)
        again = await put(store, epoch, *written)
        assert {row.revision for row in again} == {2}
        assert len((await store.load()).rows) == 1500

    async def test_events_alone(self, store: Store, epoch: int) -> None:
        committed = await store.commit(epoch, Change(events=(said("one"), said("two"))))
        assert [event.seq for event in committed.events] == [1, 2]


class TestOneOpenAttempt:
    """I14."""

    async def test_a_second_open_attempt_conflicts(self, store: Store, epoch: int) -> None:
        await put(store, epoch, attempt("n1", 1))
        with pytest.raises(Conflict) as caught:
            await put(store, epoch, attempt("n1", 2))
        assert caught.value.reason == "OPEN_ATTEMPT"
        await put(store, epoch, attempt("n2", 1))

    async def test_two_in_one_change_conflict(self, store: Store, epoch: int) -> None:
        with pytest.raises(Conflict):
            await put(store, epoch, attempt("n1", 1), attempt("n1", 2))

    async def test_a_settled_one_makes_way(self, store: Store, epoch: int) -> None:
        (first,) = await put(store, epoch, attempt("n1", 1))
        assert isinstance(first, AttemptRow)
        await put(store, epoch, replace(first, phase=Phase.ABORTED))
        await put(store, epoch, attempt("n1", 2))

    async def test_settled_and_opened_in_one_change_in_any_order(self, store: Store, epoch: int) -> None:
        (first,) = await put(store, epoch, attempt("n1", 1))
        assert isinstance(first, AttemptRow)
        _, settled = await put(store, epoch, attempt("n1", 2), replace(first, phase=Phase.ABORTED))
        assert isinstance(settled, AttemptRow)
        with pytest.raises(Conflict):  # generation 2 is the open one now
            await put(store, epoch, replace(settled, phase=Phase.LOADING))

    async def test_an_old_one_opens_again_as_another_closes(self, store: Store, epoch: int) -> None:
        first, second = await put(store, epoch, attempt("n1", 1, Phase.LOST), attempt("n1", 2))
        assert isinstance(first, AttemptRow)
        assert isinstance(second, AttemptRow)
        await put(store, epoch, replace(first, phase=Phase.RETRIEVING), replace(second, phase=Phase.ABORTED))
        with pytest.raises(Conflict):
            await put(store, epoch, attempt("n1", 3))

    async def test_many_at_once_let_one_through(self, store: Store, epoch: int) -> None:
        results = await asyncio.gather(
            *(put(store, epoch, attempt("n1", generation)) for generation in range(1, 9)),
            return_exceptions=True,
        )
        assert [isinstance(result, Conflict) for result in results] == [False] + [True] * 7

    async def test_a_name_is_taken_once(self, store: Store, epoch: int) -> None:
        await put(store, epoch, rollout("spring"))
        with pytest.raises(Conflict) as caught:
            await put(store, epoch, replace(rollout("spring"), rollout_id="other"))
        assert caught.value.reason == "NAME_TAKEN"


class TestGroupCommit:
    async def test_each_stands_or_falls_by_itself_in_call_order(self, store: Store, epoch: int) -> None:
        async def write(number: int) -> int:
            change = Change((NodeRow(f"n{number // 2}"),), events=(said(str(number)),))
            return (await store.commit(epoch, change)).events[0].seq

        results = await asyncio.gather(*(write(number) for number in range(40)), return_exceptions=True)
        assert results[::2] == list(range(1, 21))
        assert all(isinstance(result, Conflict) for result in results[1::2])
        told = [event.new.message for event in await store.events(0, limit=100)]
        assert told == [str(number) for number in range(0, 40, 2)]

    async def test_later_ones_see_earlier_ones_of_the_batch(self, store: Store, epoch: int) -> None:
        rows = [NodeRow("n1", revision=revision, release=str(revision)) for revision in range(5)]
        await asyncio.gather(*(put(store, epoch, row) for row in rows))
        assert (await store.load()).rows == (NodeRow("n1", revision=5, release="4"),)

    async def test_a_fenced_one_does_not_disturb_its_neighbours(self, store: Store, epoch: int) -> None:
        good, fenced = await asyncio.gather(
            put(store, epoch, NodeRow("n1")), put(store, epoch - 1, NodeRow("n2")), return_exceptions=True
        )
        assert not isinstance(good, BaseException)
        assert isinstance(fenced, Conflict)
        assert fenced.reason == "EPOCH_FENCED"

    async def test_a_full_queue_is_told_and_nothing_is_queued(self, store: Store, epoch: int) -> None:
        results = await asyncio.gather(
            *(put(store, epoch, NodeRow(f"n{number}")) for number in range(200)), return_exceptions=True
        )
        refused = [result for result in results if isinstance(result, Capacity)]
        written = [result for result in results if isinstance(result, tuple)]
        assert refused
        assert len(refused) + len(written) == 200
        assert len((await store.load()).rows) == len(written)

    async def test_cancelling_a_waiter_leaves_the_others(self, store: Store, epoch: int) -> None:
        tasks = [asyncio.create_task(put(store, epoch, NodeRow(f"n{number}"))) for number in range(10)]
        await asyncio.sleep(0)
        tasks[0].cancel()
        tasks[5].cancel()
        results = await asyncio.gather(*tasks, return_exceptions=True)
        assert sum(isinstance(result, asyncio.CancelledError) for result in results) == 2
        found = {row.key[0] for row in (await store.load()).rows}
        assert found >= {f"n{number}" for number in range(10) if number not in (0, 5)}
        (row,) = await put(store, epoch, NodeRow("after"))
        assert row.revision == 1

    async def test_reads_that_are_cancelled_leave_the_store_as_it_was(self, store: Store, epoch: int) -> None:
        """Wherever they are: more of them than there are connections to read with."""
        (node,) = await put(store, epoch, NodeRow("n1"))
        for turns in range(30):
            task = asyncio.create_task(store.load() if turns % 2 else store.changes(0))
            for _ in range(turns):
                await asyncio.sleep(0)
            task.cancel()
            await asyncio.wait([task])
        for _ in range(8):
            assert (await store.load()).rows == (node,)
        assert (await store.changes(0)).rows == (node,)

    async def test_close_commits_what_waits(self, backend: Backend) -> None:
        async with opened(backend) as store:
            lease = await store.acquire("a", TTL)
            tasks = [asyncio.create_task(put(store, lease.epoch, NodeRow(f"n{n}"))) for n in range(10)]
            await asyncio.sleep(0)
        await asyncio.gather(*tasks)
        async with opened(backend) as store:
            assert len((await store.load()).rows) == 10

    async def test_a_closed_store_says_so(self, backend: Backend) -> None:
        store = backend.store()
        with pytest.raises(StoreUnavailable):
            await store.commit(1, Change((NodeRow("n1"),)))
        with pytest.raises(StoreUnavailable):
            await store.load()


class TestFence:
    """I13."""

    async def test_taking_raises_the_epoch_renewing_does_not(self, store: Store, backend: Backend) -> None:
        first = await store.acquire("a", TTL)
        backend.clock.at += TTL / 2
        renewed = await store.acquire("a", TTL)
        assert renewed.epoch == first.epoch
        assert renewed.until == first.until + TTL / 2
        backend.clock.at += TTL * 2
        assert (await store.acquire("a", TTL)).epoch == first.epoch + 1

    async def test_once_it_has_run_out_it_is_no_leave_to_plan(self, store: Store, backend: Backend) -> None:
        """Though nobody else has taken it: who was stopped wakes with a plan on its way."""
        lease = await store.acquire("a", TTL)
        backend.clock.at += TTL
        with pytest.raises(Conflict) as fenced:
            await put(store, lease.epoch, NodeRow("n1"))
        assert fenced.value.reason == "EPOCH_FENCED"
        assert not (await store.load()).rows
        again = await store.acquire("a", TTL)
        await put(store, again.epoch, NodeRow("n1"))

    async def test_once_it_is_released_it_is_no_leave_to_plan(self, store: Store) -> None:
        lease = await store.acquire("a", TTL)
        await store.release(lease)
        with pytest.raises(Conflict) as fenced:
            await put(store, lease.epoch, NodeRow("n1"))
        assert fenced.value.reason == "EPOCH_FENCED"

    async def test_another_waits_until_it_expires(self, store: Store, backend: Backend) -> None:
        first = await store.acquire("a", TTL)
        with pytest.raises(NotLeader) as caught:
            await store.acquire("b", TTL)
        assert caught.value.fields["holder"] == "a"
        backend.clock.at += TTL
        second = await store.acquire("b", TTL)
        assert second.epoch == first.epoch + 1
        with pytest.raises(Conflict) as fenced:
            await put(store, first.epoch, NodeRow("n1"))
        assert fenced.value.reason == "EPOCH_FENCED"
        assert (await store.load()).rows == ()
        with pytest.raises(NotLeader):
            await store.acquire("a", TTL)

    async def test_a_released_lease_is_free_at_once(self, store: Store) -> None:
        first = await store.acquire("a", TTL)
        await store.release(first)
        second = await store.acquire("b", TTL)
        assert second.epoch > first.epoch
        await store.release(first)  # no longer its to give back
        with pytest.raises(NotLeader):
            await store.acquire("a", TTL)

    async def test_a_restarted_process_of_the_same_name_takes_a_new_epoch(self, backend: Backend) -> None:
        async with opened(backend) as store:
            first = await store.acquire("a", TTL)
        async with opened(backend) as store:
            second = await store.acquire("a", TTL)
            assert second.epoch > first.epoch
            with pytest.raises(Conflict):
                await put(store, first.epoch, NodeRow("n1"))


class TestEvents:
    """I12."""

    async def test_they_are_gapless_in_commit_order_and_carry_their_place(
        self, store: Store, epoch: int
    ) -> None:
        incarnation = (await store.load()).incarnation
        committed = await asyncio.gather(
            *(
                store.commit(epoch, Change((NodeRow(f"n{n}"),), events=(said(f"{n}a"), said(f"{n}b"))))
                for n in range(20)
            )
        )
        log = await store.events(0, limit=1000)
        assert [event.seq for event in log] == list(range(1, 41))
        assert {event.incarnation for event in log} == {incarnation}
        assert {event.at for event in log} == {START}
        assert list(log) == [event for one in committed for event in one.events]
        assert (await store.load()).head_seq == 40

    async def test_reading_on_from_a_cursor_repeats_and_loses_nothing(self, store: Store, epoch: int) -> None:
        for n in range(7):
            await store.commit(epoch, Change(events=(said(str(n)),)))
        seen: list[str] = []
        after = 0
        while page := await store.events(after, limit=3):
            seen += [event.new.message for event in page]
            after = page[-1].seq
        assert seen == [str(n) for n in range(7)]

    async def test_filters(self, store: Store, epoch: int) -> None:
        both = said("both", rollout_id="r1", node_id="n1")
        events = (said("r", rollout_id="r1"), said("n", node_id="n1"), both, said("none"))
        await store.commit(epoch, Change(events=events))
        by_rollout = await store.events(0, limit=9, rollout_id="r1")
        by_node = await store.events(0, limit=9, node_id="n1")
        by_both = await store.events(0, limit=9, rollout_id="r1", node_id="n1")
        assert [event.seq for event in by_rollout] == [1, 3]
        assert [event.seq for event in by_node] == [2, 3]
        assert [event.new for event in by_both] == [both]

    async def test_trim_keeps_the_numbering(self, store: Store, epoch: int) -> None:
        assert await store.first_seq() == 1
        await store.commit(epoch, Change(events=tuple(said(str(n)) for n in range(10))))
        old = IdempotencyRow("old", "m", "alice", "h", "", START - timedelta(days=2))
        new = IdempotencyRow("new", "m", "alice", "h", "", START)
        await put(store, epoch, old, new)
        await store.trim(keep_events_after=4, idempotency_before=START - timedelta(days=1))
        assert await store.first_seq() == 5
        assert [event.seq for event in await store.events(0, limit=3)] == [5, 6, 7]
        assert await store.recall("alice", "old") is None
        assert await store.recall("alice", "new") is not None
        await store.trim(keep_events_after=10, idempotency_before=START - timedelta(days=1))
        assert await store.first_seq() == 11
        assert await store.events(0, limit=3) == []
        committed = await store.commit(epoch, Change(events=(said("next"),)))
        assert committed.events[0].seq == 11
        await put(store, epoch, replace(old, at=START))  # its key is free again


class TestIdempotency:
    async def test_the_row_is_committed_with_its_effect_or_not_at_all(self, store: Store, epoch: int) -> None:
        row = IdempotencyRow("key", "PauseRollout", "alice", "hash", "response", START)
        with pytest.raises(Conflict):
            await put(store, epoch, row, NodeRow("n1", revision=3))
        assert await store.recall("alice", "key") is None
        await put(store, epoch, row, NodeRow("n1"))
        assert await store.recall("alice", "key") == replace(row, revision=1)
        assert await store.recall("bob", "key") is None
        with pytest.raises(Conflict):
            await put(store, epoch, row, NodeRow("n2"))
        assert len((await store.load()).rows) == 1


class TestIncarnation:
    async def test_it_stays_over_a_reopen_and_rises_when_recreated(self, backend: Backend) -> None:
        async with opened(backend) as store:
            first = await store.load()
        async with opened(backend) as store:
            again = await store.load()
        assert (again.incarnation, again.incarnation_serial) == (first.incarnation, first.incarnation_serial)
        backend.recreate()
        async with opened(backend) as store:
            other = await store.load()
        assert other.incarnation != first.incarnation
        assert other.incarnation_serial > first.incarnation_serial


class TestReplicas:
    async def test_a_beat_tells_who_lives_on_the_stores_clock(self, store: Store, backend: Backend) -> None:
        first = await store.beat("a", TTL)
        assert (first.now, first.alive, first.planner) == (START, frozenset("a"), "")
        lease = await store.acquire("b", TTL)
        backend.clock.at += TTL / 2
        second = await store.beat("b", TTL)
        assert (second.now, second.alive, second.planner) == (START + TTL / 2, frozenset("ab"), "b")
        backend.clock.at += TTL / 2  # the first beat's lease and the planner's end now
        third = await store.beat("b", TTL)
        assert (third.alive, third.planner) == (frozenset("b"), "")
        assert (await store.beat("a", TTL)).alive == frozenset("ab")  # it was only slow
        await store.leave("a")
        assert (await store.beat("b", TTL)).alive == frozenset("b")
        await store.release(lease)

    async def test_a_beat_tells_the_newest_batch(self, store: Store, epoch: int) -> None:
        before = (await store.beat("a", TTL)).batch
        committed = await store.commit(epoch, Change((NodeRow("n1"),)))
        assert (await store.beat("a", TTL)).batch == committed.batch == before + 1

    async def test_a_commit_without_an_epoch_stands_on_its_revisions(self, store: Store, epoch: int) -> None:
        committed = await store.commit(None, Change((NodeRow("n1"),)))
        await store.commit(epoch, Change(committed.rows))
        with pytest.raises(Conflict) as caught:
            await store.commit(None, Change(committed.rows))
        assert caught.value.reason == "CONFLICT"


class TestChanges:
    async def test_each_row_once_as_it_is_now(self, store: Store, epoch: int) -> None:
        base = (await store.load()).batch
        (one,) = await put(store, epoch, NodeRow("n1"), events=(said("one"),))
        await put(store, epoch, one)
        last = await store.commit(
            None,
            Change(
                (
                    attempt("n1"),
                    MemberRow("rollout", "n1", 0, 0),
                    rollout("rollout"),
                    FleetRow(),
                    IdempotencyRow("key", "m", "alice", "h", "", START),
                ),
                events=(said("two"),),
                shrinks=True,
            ),
        )
        found = await store.changes(base)
        assert (found.batch, found.head_seq) == (last.batch, 2)
        assert sorted(row.table for row in found.rows) == sorted(
            ["nodes", "attempts", "members", "rollouts", "fleet", "capacity"]
        )
        snapshot = await store.load()
        assert set(map(repr, found.rows)) == set(map(repr, snapshot.rows))
        assert (snapshot.batch, snapshot.head_seq) == (found.batch, found.head_seq)
        only = await store.changes(base + 1)
        assert [row.key for row in only.rows if row.table == "nodes"] == [("n1",)]
        assert await store.changes(last.batch) == replace(found, rows=())

    async def test_batches_are_numbered_without_gaps(self, store: Store, epoch: int) -> None:
        base = (await store.load()).batch
        one = await store.commit(epoch, Change((NodeRow("n1"),)))
        with pytest.raises(Conflict):
            await put(store, epoch, NodeRow("n1"))
        three = await store.commit(epoch, Change((NodeRow("n2"),)))
        together = await asyncio.gather(
            *(store.commit(epoch, Change((NodeRow(f"m{number}"),))) for number in range(10))
        )
        assert (one.batch, three.batch) == (base + 1, base + 3)
        assert sorted({each.batch for each in together}) == list(range(base + 4, together[-1].batch + 1))
        assert (await store.changes(0)).batch == together[-1].batch

    async def test_hints_end_with_the_store(self, backend: Backend) -> None:
        async with opened(backend) as store:
            waiting = asyncio.create_task(anext(store.hints(), None))  # type: ignore[arg-type]
            await asyncio.sleep(0)
        assert await asyncio.wait_for(waiting, 10) is None
