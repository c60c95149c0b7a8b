"""Two processes on one PostgreSQL, one stopped before each of its statements in turn.

Every test says what must hold however the statements of two processes fall between each other.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import timedelta

import pytest
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from orchestrator.core.model import (
    CAPACITY,
    AttemptRow,
    CapacityRow,
    Change,
    Event,
    NodeRow,
    Row,
    RowKey,
    row_key,
)
from orchestrator.core.phases import Phase
from orchestrator.errors import Conflict, LiverollError, NotLeader
from orchestrator.ports import Committed, Lease
from tests.contract.store_races import SHORT, Arena, Handle
from tests.contract.test_store_contract import attempt, said
from tests.postgres import Postgres, database

TTL = timedelta(minutes=1)
AT_ONCE = timedelta(0)
"""A lease that has run out when it is given."""
ONE_NAME = "planner"
"""Of two handles: each takes the lease though the other's runs, as a process that was started again does."""


@pytest.fixture
async def arena(postgres_url: str) -> AsyncIterator[Arena]:
    arena = Arena(postgres_url)
    yield arena
    await arena.close()


def stood(*results: object) -> list[Committed]:
    """Those that were committed; the others were refused for good reasons."""
    committed = [result for result in results if isinstance(result, Committed)]
    refused = [result for result in results if not isinstance(result, Committed)]
    assert all(isinstance(result, Conflict) for result in refused), refused
    return committed


async def log_of(handle: Handle) -> list[Event]:
    return list(await handle.store.events(0, limit=10_000))


def gapless(log: list[Event]) -> None:
    assert [event.seq for event in log] == list(range(1, len(log) + 1))


class TestLease:
    async def test_two_take_it_and_one_has_it(self, arena: Arena) -> None:
        a, b = await arena.handle(), await arena.handle()

        async def take(handle: Handle, name: str, ttl: timedelta = TTL) -> Lease:
            return await handle.store.acquire(name, ttl)

        count = await arena.statements(a, lambda: take(a, "a", AT_ONCE))
        epochs: list[int] = []
        for number in range(1, count + 1):
            results = await arena.meet(number, a, lambda: take(a, "a"), lambda: take(b, "b"))
            leases = [result for result in results if isinstance(result, Lease)]
            assert len(leases) == 1
            assert sum(isinstance(result, NotLeader) for result in results) == 1
            epochs.append(leases[0].epoch)
            holder = a if leases[0].holder == "a" else b
            await holder.store.release(leases[0])
        assert epochs == sorted(set(epochs))

    async def test_one_renews_what_has_run_out_as_the_other_takes_it(self, arena: Arena) -> None:
        a, b = await arena.handle(), await arena.handle()
        count = await arena.statements(a, lambda: a.store.acquire("a", AT_ONCE))
        for number in range(1, count + 1):
            old = await a.store.acquire("a", AT_ONCE)
            results = await arena.meet(
                number, a, lambda: a.store.acquire("a", TTL), lambda: b.store.acquire("b", TTL)
            )
            (lease,) = [result for result in results if isinstance(result, Lease)]
            assert lease.epoch > old.epoch
            with pytest.raises(Conflict):
                await a.store.commit(old.epoch, Change(events=(said("never"),)))
            await (a if lease.holder == "a" else b).store.release(lease)


class TestPlanners:
    """I13."""

    async def test_no_commit_under_an_epoch_comes_after_its_successors_first(self, arena: Arena) -> None:
        a, b = await arena.handle(), await arena.handle()

        async def old_plan(epoch: int, name: str) -> Committed:
            change = Change((NodeRow(name),), events=(said(str(epoch)), said(str(epoch))))
            return await a.store.commit(epoch, change)

        async def takeover(name: str) -> Committed:
            lease = await b.store.acquire(ONE_NAME, TTL)
            return await b.store.commit(
                lease.epoch, Change((NodeRow(name),), events=(said(str(lease.epoch)),))
            )

        first = (await a.store.acquire(ONE_NAME, TTL)).epoch
        count = await arena.statements(a, lambda: old_plan(first, "dry"))
        fenced = 0
        for number in range(1, count + 1):
            epoch = (await a.store.acquire(ONE_NAME, TTL)).epoch
            results = await arena.meet(
                number,
                a,
                lambda epoch=epoch, number=number: old_plan(epoch, f"a{number}"),  # type: ignore[misc]
                lambda number=number: takeover(f"b{number}"),  # type: ignore[misc]
            )
            assert isinstance(results[1], Committed)
            fenced += len(stood(*results)) == 1
        log = await log_of(b)
        gapless(log)
        epochs = [int(event.new.message) for event in log]
        assert epochs == sorted(epochs)
        assert 0 < fenced < count  # both orders were seen

    async def test_both_under_epochs_of_their_own_never_write_one_row_twice(self, arena: Arena) -> None:
        a, b = await arena.handle(), await arena.handle()
        node = (await a.store.commit(None, Change((NodeRow("n"),)))).rows[0]
        count = await arena.statements(a, lambda: a.store.commit(None, Change((NodeRow("dry"),))))
        for number in range(1, count + 1):
            change = Change((node,), events=(said("one"),))
            results = await arena.meet(
                number,
                a,
                lambda change=change: a.store.commit(None, change),  # type: ignore[misc]
                lambda change=change: b.store.commit(None, change),  # type: ignore[misc]
            )
            (committed,) = stood(*results)
            (node,) = committed.rows
        assert node.revision == count + 1
        gapless(await log_of(a))


class TestSerial:
    """Write transactions are one after the other, whoever makes them."""

    async def test_batches_and_seqs_are_gapless_and_never_given_twice(self, arena: Arena) -> None:
        """Fails if anything about the store's head is read by the statement that waits for the lock."""
        a, b = await arena.handle(), await arena.handle()

        async def write(handle: Handle, name: str) -> Committed:
            return await handle.store.commit(None, Change((NodeRow(name),), events=(said(name), said(name))))

        count = await arena.statements(a, lambda: write(a, "dry"))
        done: list[Committed] = []
        for number in range(1, count + 1):
            done += stood(
                *await arena.meet(
                    number,
                    a,
                    lambda number=number: write(a, f"a{number}"),  # type: ignore[misc]
                    lambda number=number: write(b, f"b{number}"),  # type: ignore[misc]
                )
            )
        assert sorted(each.batch for each in done) == list(range(2, 2 * count + 2))
        seqs = [event.seq for each in sorted(done, key=lambda each: each.batch) for event in each.events]
        assert seqs == list(range(3, 4 * count + 3))  # in commit order
        log = await log_of(a)
        gapless(log)
        assert all(log[event.seq - 1] == event for each in done for event in each.events)

    async def test_one_open_attempt_whoever_opens_it(self, arena: Arena) -> None:
        """I14."""
        a, b = await arena.handle(), await arena.handle()

        async def start(handle: Handle, node_id: str, generation: int) -> Committed:
            return await handle.store.commit(None, Change((attempt(node_id, generation),)))

        count = await arena.statements(a, lambda: start(a, "dry", 1))
        for number in range(1, count + 1):
            name = f"n{number}"
            results = await arena.meet(
                number,
                a,
                lambda name=name: start(a, name, 1),  # type: ignore[misc]
                lambda name=name: start(b, name, 2),  # type: ignore[misc]
            )
            assert len(stood(*results)) == 1
            (refused,) = [result for result in results if isinstance(result, Conflict)]
            assert refused.reason == "OPEN_ATTEMPT"
        rows = (await a.store.load()).rows
        still = [row.node_id for row in rows if isinstance(row, AttemptRow) and row.phase is Phase.LOADING]
        assert len(still) == len(set(still)) == count + 1

    async def test_what_a_change_relied_on_has_not_moved_before_it(self, arena: Arena) -> None:
        a, b = await arena.handle(), await arena.handle()
        (node,) = (await a.store.commit(None, Change((NodeRow("n"),)))).rows
        dry = Change((NodeRow("dry"),), guards=((row_key(node), node.revision),))
        count = await arena.statements(a, lambda: a.store.commit(None, dry))
        orders = set()
        for number in range(1, count + 1):
            guarded = Change((NodeRow(f"a{number}"),), guards=((row_key(node), node.revision),))
            moved = Change((node,))
            one, other = await arena.meet(
                number,
                a,
                lambda guarded=guarded: a.store.commit(None, guarded),  # type: ignore[misc]
                lambda moved=moved: b.store.commit(None, moved),  # type: ignore[misc]
            )
            assert isinstance(other, Committed)
            (node,) = other.rows
            if isinstance(one, Committed):
                assert one.batch < other.batch
            orders.add(isinstance(one, Committed))
        assert orders == {True, False}

    async def test_shrinking_is_never_refused_and_never_missed(self, arena: Arena) -> None:
        a, b = await arena.handle(), await arena.handle()
        shrink = Change(events=(said("less"),), shrinks=True)
        count = await arena.statements(a, lambda: a.store.commit(None, shrink))
        for _ in range(2):  # the first commit made the row, all others raise it
            await a.store.commit(None, shrink)
        for number in range(1, count + 2):
            results = await arena.meet(
                number, a, lambda: a.store.commit(None, shrink), lambda: b.store.commit(None, shrink)
            )
            assert len(stood(*results)) == 2
            seen = {each.rows[-1].revision for each in stood(*results)}
            assert seen == {2 * number + 2, 2 * number + 3}
        assert CapacityRow(2 * (count + 1) + 3) in (await a.store.load()).rows

    async def test_the_first_shrinking_of_all_may_be_two(self, arena: Arena) -> None:
        a, b = await arena.handle(), await arena.handle()
        shrink = Change(events=(said("less"),), shrinks=True)
        results = await arena.meet(
            4, a, lambda: a.store.commit(None, shrink), lambda: b.store.commit(None, shrink)
        )
        assert {each.rows[-1].revision for each in stood(*results)} == {1, 2}

    async def test_no_start_stands_on_a_capacity_that_has_shrunk(self, arena: Arena) -> None:
        a, b = await arena.handle(), await arena.handle()
        shrink = Change(events=(said("less"),), shrinks=True)
        revision = (await b.store.commit(None, shrink)).rows[-1].revision
        dry = Change((attempt("dry"),), guards=((CAPACITY, revision),))
        count = await arena.statements(a, lambda: a.store.commit(None, dry))
        orders = set()
        for number in range(1, count + 1):
            start = Change((attempt(f"n{number}"),), guards=((CAPACITY, revision),))
            one, other = await arena.meet(
                number,
                a,
                lambda start=start: a.store.commit(None, start),  # type: ignore[misc]
                lambda: b.store.commit(None, shrink),
            )
            assert isinstance(other, Committed)
            revision = other.rows[-1].revision
            if isinstance(one, Committed):
                assert one.batch < other.batch
            orders.add(isinstance(one, Committed))
        assert orders == {True, False}


class Follower:
    """A replica that reads behind hints: what it has seen of events and rows so far."""

    def __init__(self, handle: Handle) -> None:
        self._store = handle.store
        self.batch = 0
        self.log: list[Event] = []
        self.rows: dict[RowKey, Row] = {}

    async def look(self) -> None:
        changes = await self._store.changes(self.batch)
        assert changes.batch >= self.batch
        for row in changes.rows:
            before = self.rows.get(row_key(row))
            assert before is None or before.revision < row.revision
            self.rows[row_key(row)] = row
        page = await self._store.events(len(self.log), limit=1000)
        self.log += page
        gapless(self.log)  # no seq before all below it
        assert len(self.log) >= changes.head_seq
        self.batch = changes.batch


class TestReaders:
    """I12, and nothing is skipped for ever because it was committed late."""

    async def test_a_follower_between_any_two_statements_of_a_writer(self, arena: Arena) -> None:
        a, b, c = await arena.handle(), await arena.handle(), await arena.handle()
        follower = Follower(c)

        async def write(handle: Handle, name: str) -> Committed:
            change = Change((NodeRow(name), attempt(name)), events=(said(name), said(name)), shrinks=True)
            return await handle.store.commit(None, change)

        count = await arena.statements(a, lambda: write(a, "dry"))
        for number in range(1, count + 1):
            results = await arena.meet(
                number,
                a,
                lambda number=number: write(a, f"a{number}"),  # type: ignore[misc]
                lambda number=number: write(b, f"b{number}"),  # type: ignore[misc]
                between=follower.look,
            )
            assert len(stood(*results)) == 2
        snapshot = await c.store.load()
        assert follower.rows == {row_key(row): row for row in snapshot.rows}
        assert (follower.batch, len(follower.log)) == (snapshot.batch, snapshot.head_seq)

    @pytest.mark.parametrize("what", ["changes", "load"])
    async def test_a_reader_is_at_one_moment(self, arena: Arena, what: str) -> None:
        """It is stopped before each of its statements while a commit touches every table."""
        a, b = await arena.handle(), await arena.handle()

        async def write(name: str) -> Committed:
            change = Change((NodeRow(name), attempt(name)), events=(said(name),), shrinks=True)
            return await b.store.commit(None, change)

        async def read() -> tuple[int, int, tuple[Row, ...]]:
            if what == "load":
                snapshot = await a.store.load()
                return snapshot.batch, snapshot.head_seq, snapshot.rows
            changes = await a.store.changes(0)
            return changes.batch, changes.head_seq, changes.rows

        await write("first")
        count = await arena.statements(a, read)
        assert count > 1
        for number in range(1, count + 1):
            result, _ = await arena.meet(
                number,
                a,
                read,
                lambda number=number: write(f"n{number}"),  # type: ignore[misc]
            )
            assert isinstance(result, tuple)
            batch, head_seq, rows = result
            assert batch == head_seq
            by_table = {
                table: sum(row.table == table for row in rows) for table in ("nodes", "attempts", "capacity")
            }
            assert by_table == {"nodes": batch, "attempts": batch, "capacity": 1}
            assert CapacityRow(batch) in rows


class TestOpening:
    async def test_two_make_one_store_wherever_the_first_stands(self, arena: Arena) -> None:
        watched = await arena.handle()
        await watched.store._writer.run(_forget)
        dry = arena.make()
        count = await arena.statements(dry, dry.store.open)
        for number in range(1, count + 1):
            await watched.store._writer.run(_forget)
            await self._meet(arena, number)

    async def test_two_migrate_one_database(self, postgres: Postgres) -> None:
        """Only every seventh statement: a schema has many."""
        number = 1
        while True:
            with database(postgres) as name:
                arena = Arena(postgres.url(name))
                try:
                    passed = await self._meet(arena, number)
                finally:
                    await arena.close()
            if passed < number:
                return
            number += 7

    async def _meet(self, arena: Arena, number: int) -> int:
        """How many statements the first one had."""
        first, second = arena.make(), arena.make()
        results = await arena.meet(number, first, first.store.open, second.store.open)
        assert results == (None, None)
        passed = len(first.gate.passed)
        loaded = [await handle.store.load() for handle in (first, second)]
        assert loaded[0] == loaded[1]
        done = await second.store.commit(None, Change((NodeRow("n"),)))
        assert done.batch == loaded[0].batch + 1
        for handle in (first, second):
            await handle.store.close()
        return passed


async def _forget(connection: AsyncConnection) -> None:
    async with connection.begin():
        for table in ("meta", "fence", "nodes", "batches"):
            await connection.execute(text(f"DELETE FROM {table}"))


class TestFrozen:
    """A process that stops in mid-transaction, for ever or for longer than the server waits."""

    async def test_the_others_go_on_wherever_it_stands(self, arena: Arena) -> None:
        a, b = await arena.handle(frozen=SHORT), await arena.handle(frozen=SHORT)

        async def write(handle: Handle, name: str) -> Committed:
            change = Change((NodeRow(name), attempt(name)), events=(said(name),))
            return await handle.store.commit(None, change)

        count = await arena.statements(a, lambda: write(a, "dry"))
        for number in range(1, count + 1):
            a.gate.close(number)
            frozen = asyncio.ensure_future(write(a, f"a{number}"))
            await a.gate.reached()
            done = await write(b, f"b{number}")  # though the first holds the fence, mostly
            await b.store.beat("b", TTL)
            a.gate.open()  # it wakes, and finds its session gone: nothing of it was written
            late = await frozen
            assert late.batch > done.batch
        gapless(await log_of(a))

    async def test_its_late_commit_is_fenced(self, arena: Arena) -> None:
        a, b = await arena.handle(frozen=SHORT), await arena.handle(frozen=SHORT)
        epoch = (await a.store.acquire(ONE_NAME, TTL)).epoch
        count = await arena.statements(a, lambda: a.store.commit(epoch, Change((NodeRow("dry"),))))
        for number in range(1, count + 1):
            epoch = (await a.store.acquire(ONE_NAME, TTL)).epoch
            a.gate.close(number)
            plan = Change((NodeRow(f"a{number}"),), events=(said("late"),))
            frozen = asyncio.ensure_future(a.store.commit(epoch, plan))
            await a.gate.reached()
            lease = await b.store.acquire(ONE_NAME, TTL)
            await b.store.commit(lease.epoch, Change((NodeRow(f"b{number}"),)))
            a.gate.open()
            with pytest.raises(LiverollError) as caught:
                await frozen
            assert caught.value.reason == "EPOCH_FENCED", caught.value.fields
        assert not await log_of(a)


class TestClock:
    async def test_leases_run_on_the_databases_clock(self, arena: Arena) -> None:
        a, b = await arena.handle(), await arena.handle()
        first = await a.store.beat("a", timedelta(milliseconds=200))
        assert "a" in first.alive
        last = first
        async with asyncio.timeout(20):
            while "a" in last.alive:
                last = await b.store.beat("b", TTL)
        assert last.now - first.now >= timedelta(milliseconds=200)
        lease = await a.store.acquire("a", timedelta(milliseconds=200))
        assert lease.until - (await b.store.beat("b", TTL)).now <= timedelta(milliseconds=200)
        async with asyncio.timeout(20):
            while (await b.store.beat("b", TTL)).planner:
                pass
        assert (await b.store.acquire("b", TTL)).epoch == lease.epoch + 1


class TestHints:
    async def test_one_hears_of_the_others_commits_not_of_its_own(self, arena: Arena) -> None:
        a, b = await arena.handle(), await arena.handle()
        heard = 0
        follower = Follower(b)
        node = NodeRow("n")
        hints = b.store.hints()
        waiting = asyncio.ensure_future(anext(hints))
        async with asyncio.timeout(20):
            while follower.rows.get(("nodes", ("n",))) is None or heard < 3:
                (row,) = (await a.store.commit(None, Change((node,)))).rows
                assert isinstance(row, NodeRow)
                node = replace(row, release=str(row.revision))
                await waiting
                heard += 1
                await follower.look()
                waiting = asyncio.ensure_future(anext(hints))
            await b.store.commit(None, Change((NodeRow("mine"),)))
            await a.store.leave("a")  # comes after, and is heard
            await waiting
