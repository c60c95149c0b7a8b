"""The Store port over SQLAlchemy Core: one writer task, one transaction for many commits.

Rules
1. commit() encodes, queues and waits. The writer takes all that wait (up to a bound), in order,
   into one transaction: lock and check the fence, read the revisions they rely on, admit each
   by itself (admission.py), write what stands, number the events, commit.
2. A commit that is refused leaves no trace and does not disturb its neighbours. If the database
   itself refuses a row that was admitted, the batch is rolled back and made again one by one.
3. A failure before COMMIT: nothing was written, StoreUnavailable. A failure *of* COMMIT is looked
   up on a new connection (meta.batch); only if that fails too is it COMMIT_IN_DOUBT, after
   which the caller must load again before it plans.
4. Cancelling a waiting commit(): before its transaction began it is dropped, after that it may
   be committed. The caller cannot tell, so it must not cancel without loading again
   (runtime/commits.py shields it).
5. Everything that writes goes through the writer, so nobody's cancellation reaches its
   connection. Reads use their own connections and see only what is committed.
6. The queue is bounded: Capacity, nothing queued.
"""

from __future__ import annotations

import asyncio
import copy
import uuid
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Generic, TypeVar

from sqlalchemy import Row as Record
from sqlalchemy import delete, func, insert, select, update
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from orchestrator.core.model import Change, Event, IdempotencyRow, NewEvent, Row
from orchestrator.errors import (
    Capacity,
    Conflict,
    LiverollError,
    NotLeader,
    StoreUnavailable,
)
from orchestrator.ports import Committed, Lease, Snapshot
from orchestrator.store import batch, codec
from orchestrator.store.database import Database, Past
from orchestrator.store.migrate import migrate
from orchestrator.store.schema import ONLY, SHAPES, events, fence, idempotency, meta

T = TypeVar("T")

QUEUE_BOUND = 4096
"""Commits that may wait. At 5,000 a second this is under a second's worth."""

BATCH_BOUND = 512
"""Commits in one transaction: bounds how long the first waits for the last."""

TRIM_CHUNK = 2000
"""Events deleted in one transaction, so that commits are not held up."""

LOAD_CHUNK = 500
"""Rows decoded before the event loop gets its turn."""

UNIX_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


@dataclass(slots=True)
class _Job(Generic[T]):
    """Something else than a commit that needs the writer's connection."""

    work: Callable[[AsyncConnection], Awaitable[T]]
    done: asyncio.Future[T]


class SqlStore:
    """See the module. Made by `open_sqlite(path)` in app.py or tests; `await open()` before use."""

    def __init__(
        self,
        database: Database,
        *,
        make_incarnation: Callable[[], str] = lambda: uuid.uuid4().hex[:12],
        queue_bound: int = QUEUE_BOUND,
        batch_bound: int = BATCH_BOUND,
        on_batch: Callable[[int], None] = lambda size: None,
    ) -> None:
        self._database = database
        self._make_incarnation = make_incarnation
        self._queue: asyncio.Queue[batch.Entry | _Job[Any] | None] = asyncio.Queue(queue_bound)
        self._batch_bound = batch_bound
        self._on_batch = on_batch
        self._task: asyncio.Task[None] | None = None
        self._write_engine: AsyncEngine | None = None
        self._read_engine: AsyncEngine | None = None
        self._connection: AsyncConnection | None = None
        self._incarnation = ""
        self._serial = 0
        self._regressed = ""
        self._held_epoch = 0

    # --- open and close ------------------------------------------------------------------

    async def open(self) -> None:
        """Lock, migrate, check. StoreUnavailable, CorruptState, Unsupported (SCHEMA_NEWER)."""
        past = self._database.lock()
        self._write_engine = self._database.writer()
        self._read_engine = self._database.reader()
        try:
            connection = await self._connect()
            async with connection.begin():
                await self._database.check(connection)
                await connection.run_sync(migrate)
                epoch = await self._begin_incarnation(connection, past)
            self._database.remember(Past(self._incarnation, self._serial, epoch))
        except SQLAlchemyError as error:
            await self._dispose()
            raise self._database.trouble(error) from error
        except BaseException:
            await self._dispose()
            raise
        self._task = asyncio.create_task(self._write(), name="store-writer")

    async def close(self) -> None:
        """What waits is still committed."""
        if self._task is not None:
            await self._queue.put(None)
            await self._task
            self._task = None
        await self._dispose()

    async def _dispose(self) -> None:
        await self._disconnect()
        for engine in (self._write_engine, self._read_engine):
            if engine is not None:
                await engine.dispose()
        self._write_engine = self._read_engine = None
        self._database.unlock()

    async def _begin_incarnation(self, connection: AsyncConnection, past: Past) -> int:
        """Find out which store this is, or make it one. The newest epoch."""
        now_us: int = (await connection.execute(select(self._database.now_us()))).scalar_one()
        known = (
            await connection.execute(
                select(meta.c.incarnation, meta.c.serial, fence.c.epoch).join(fence, meta.c.id == fence.c.id)
            )
        ).one_or_none()
        # Seconds, so that a later store has the higher serial even if nothing is left of the first.
        serial = max(past.serial + 1, now_us // 1_000_000)
        if known is None:
            self._incarnation, self._serial = self._make_incarnation(), serial
            await connection.execute(
                insert(meta).values(
                    id=ONLY, incarnation=self._incarnation, serial=serial, event_seq=0, batch=0
                )
            )
            await connection.execute(insert(fence).values(id=ONLY, epoch=0, holder="", until_us=0))
            return 0
        self._incarnation, self._serial = known.incarnation, known.serial
        older = (
            known.epoch < past.epoch if known.incarnation == past.incarnation else known.serial < past.serial
        )
        if older:
            self._regressed = (
                f"{self._database} is an older copy: it was at epoch {known.epoch} of {known.incarnation}, "
                f"and epoch {past.epoch} of {past.incarnation} has been seen here"
            )
            self._incarnation, self._serial = self._make_incarnation(), max(serial, known.serial + 1)
            await connection.execute(update(meta).values(incarnation=self._incarnation, serial=self._serial))
        # Epochs rise over the lost future's too, so that its planner stays fenced.
        epoch: int = max(past.epoch, known.epoch) if older else known.epoch
        free = {"holder": "", "until_us": 0} if self._database.exclusive else {}
        await connection.execute(update(fence).values(epoch=epoch, **free))
        return epoch

    # --- the lease -----------------------------------------------------------------------

    async def acquire(self, holder: str, ttl: timedelta) -> Lease:
        ttl_us = ttl // timedelta(microseconds=1)

        async def take(connection: AsyncConnection) -> Lease:
            async with connection.begin():
                found = (
                    await connection.execute(
                        select(fence, self._database.now_us().label("now_us")).with_for_update(of=fence)
                    )
                ).one()
                current = found.until_us > found.now_us
                if current and found.holder != holder:
                    raise NotLeader(
                        f"{found.holder} holds the planner lease",
                        remedy="nothing to do: this process stands by",
                        holder=found.holder,
                        until=_instant(found.until_us).isoformat(),
                    )
                renews = current and found.epoch == self._held_epoch
                epoch: int = found.epoch if renews else found.epoch + 1
                until_us: int = found.now_us + ttl_us
                await connection.execute(update(fence).values(epoch=epoch, holder=holder, until_us=until_us))
            if not renews:
                self._database.remember(Past(self._incarnation, self._serial, epoch))
            self._held_epoch = epoch
            return Lease(epoch, holder, _instant(until_us))

        return await self._run(take)

    async def release(self, lease: Lease) -> None:
        async def give_back(connection: AsyncConnection) -> None:
            async with connection.begin():
                await connection.execute(
                    update(fence).where(fence.c.epoch == lease.epoch).values(holder="", until_us=0)
                )

        await self._run(give_back)
        if self._held_epoch == lease.epoch:
            self._held_epoch = 0

    # --- the one write -------------------------------------------------------------------

    async def commit(self, epoch: int, change: Change) -> Committed:
        entry = batch.prepare(epoch, change, asyncio.get_running_loop().create_future())
        self._enqueue(entry)
        return await entry.done

    def _enqueue(self, item: batch.Entry | _Job[Any]) -> None:
        if self._task is None or self._task.done():
            raise StoreUnavailable("the store is not open", remedy="start the orchestrator again")
        try:
            self._queue.put_nowait(item)
        except asyncio.QueueFull:
            raise Capacity(
                "too many writes wait for the database",
                reason="STORE_QUEUE_FULL",
                remedy="try again shortly; if it lasts, the disk is too slow for this fleet",
                bound=self._queue.maxsize,
            ) from None

    async def _run(self, work: Callable[[AsyncConnection], Awaitable[T]]) -> T:
        job: _Job[T] = _Job(work, asyncio.get_running_loop().create_future())
        self._enqueue(job)
        return await job.done

    async def _write(self) -> None:
        """The writer task. Ends at the None that close() queues."""
        while True:
            item = await self._queue.get()
            entries: list[batch.Entry] = []
            while isinstance(item, batch.Entry):
                entries.append(item)
                if len(entries) >= self._batch_bound or self._queue.empty():
                    break
                item = self._queue.get_nowait()
            if entries:
                await self._settle(entries)
            if item is None:
                return
            if isinstance(item, _Job):
                await self._settle_job(item)

    async def _settle_job(self, job: _Job[Any]) -> None:
        if job.done.done():
            return
        try:
            result = await job.work(await self._connect())
        except LiverollError as error:
            _fail(job.done, error)
        except Exception as error:  # noqa: BLE001  whatever it is, the waiter must hear it and the writer go on
            await self._disconnect()
            _fail(job.done, self._database.trouble(error))
        else:
            _resolve(job.done, result)

    async def _settle(self, entries: Sequence[batch.Entry]) -> None:
        """Every entry's future is done when this returns."""
        entries = [entry for entry in entries if not entry.done.done()]
        if not entries:
            return
        try:
            results = await self._transaction(entries)
        except batch.Refused as refused:
            if len(entries) == 1:
                _fail(entries[0].done, refused.conflict)
                return
            for entry in entries:
                await self._settle([entry])
            return
        except LiverollError as error:
            await self._disconnect()
            for entry in entries:
                _fail(entry.done, copy.copy(error))
            return
        except Exception as error:  # noqa: BLE001  see _settle_job
            await self._disconnect()
            for entry in entries:
                _fail(entry.done, self._database.trouble(error))
            return
        self._on_batch(len(entries))
        for entry, result in zip(entries, results, strict=True):
            if isinstance(result, Conflict):
                _fail(entry.done, result)
            else:
                _resolve(entry.done, result)

    async def _transaction(self, entries: Sequence[batch.Entry]) -> list[Committed | Conflict]:
        connection = await self._connect()
        transaction = await connection.begin()
        try:
            found = (
                await connection.execute(
                    select(fence.c.epoch, self._database.now_us().label("now_us")).with_for_update(of=fence)
                )
            ).one()
            outcome = await batch.write(connection, entries, epoch=found.epoch)
            numbered = (
                await connection.execute(
                    update(meta)
                    .values(event_seq=meta.c.event_seq + len(outcome.events), batch=meta.c.batch + 1)
                    .returning(meta.c.event_seq, meta.c.batch)
                )
            ).one()
            first_seq = numbered.event_seq - len(outcome.events) + 1
            if outcome.events:
                await connection.execute(
                    insert(events), batch.event_params(outcome.events, first_seq, found.now_us)
                )
        except BaseException:
            await transaction.rollback()
            raise
        try:
            await transaction.commit()
        except Exception as error:  # any failure of COMMIT leaves it open whether it happened
            await self._disconnect()
            if not await self._happened(numbered.batch, error):
                raise self._database.trouble(error) from error
        return outcome.results(self._incarnation, first_seq, _instant(found.now_us))

    async def _happened(self, number: int, cause: Exception) -> bool:
        """Did the transaction of this number commit, although COMMIT failed?"""
        try:
            connection = await self._connect()
            newest: int = (await connection.execute(select(meta.c.batch))).scalar_one()
            await connection.rollback()
        except Exception as error:
            raise StoreUnavailable(
                "it is not known whether a write was made",
                reason="COMMIT_IN_DOUBT",
                remedy="mend the database; the orchestrator then reads everything again by itself",
                detail=cause,
            ) from error
        return newest >= number

    async def _connect(self) -> AsyncConnection:
        if self._connection is None:
            assert self._write_engine is not None
            self._connection = await self._write_engine.connect()
        return self._connection

    async def _disconnect(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            try:
                await connection.invalidate()
                await connection.close()
            except SQLAlchemyError:
                pass  # it is being thrown away because it does not work

    # --- reads ---------------------------------------------------------------------------

    async def _read(self, work: Callable[[AsyncConnection], Awaitable[T]]) -> T:
        if self._read_engine is None:
            raise StoreUnavailable("the store is not open", remedy="start the orchestrator again")
        try:
            async with self._read_engine.connect() as connection:
                return await work(connection)
        except SQLAlchemyError as error:
            raise self._database.trouble(error) from error

    async def load(self) -> Snapshot:
        async def read(connection: AsyncConnection) -> Snapshot:
            head = (await connection.execute(select(meta))).one()
            rows: list[Row] = []
            for shape in SHAPES.values():
                if shape.row is IdempotencyRow:
                    continue
                documents = (
                    (
                        await connection.execute(
                            select(shape.table.c.doc).order_by(*(shape.table.c[name] for name in shape.key))
                        )
                    )
                    .scalars()
                    .all()
                )
                for start in range(0, len(documents), LOAD_CHUNK):
                    rows.extend(
                        codec.decode(shape.row, text) for text in documents[start : start + LOAD_CHUNK]
                    )
                    await asyncio.sleep(0)
            return Snapshot(head.incarnation, head.serial, head.event_seq, tuple(rows), self._regressed)

        return await self._read(read)

    async def events(
        self, after_seq: int, *, limit: int, rollout_id: str = "", node_id: str = ""
    ) -> Sequence[Event]:
        query = select(events.c.seq, events.c.at_us, events.c.doc).where(events.c.seq > after_seq)
        if rollout_id:
            query = query.where(events.c.rollout_id == rollout_id)
        if node_id:
            query = query.where(events.c.node_id == node_id)

        async def read(connection: AsyncConnection) -> Sequence[Record[int, int, str]]:
            return (await connection.execute(query.order_by(events.c.seq).limit(limit))).all()

        return [
            Event(self._incarnation, seq, _instant(at_us), codec.decode(NewEvent, doc))
            for seq, at_us, doc in await self._read(read)
        ]

    async def first_seq(self) -> int:
        async def read(connection: AsyncConnection) -> int:
            first = func.coalesce(select(func.min(events.c.seq)).scalar_subquery(), meta.c.event_seq + 1)
            seq: int = (await connection.execute(select(first).select_from(meta))).scalar_one()
            return seq

        return await self._read(read)

    async def recall(self, actor: str, idempotency_key: str) -> IdempotencyRow | None:
        async def read(connection: AsyncConnection) -> str | None:
            return (
                await connection.execute(
                    select(idempotency.c.doc).where(
                        idempotency.c.actor == actor,
                        idempotency.c.idempotency_key == idempotency_key,
                    )
                )
            ).scalar_one_or_none()

        document = await self._read(read)
        return None if document is None else codec.decode(IdempotencyRow, document)

    async def trim(self, *, keep_events_after: int, idempotency_before: datetime) -> None:
        """Deletes events up to and including keep_events_after, in several short transactions."""
        before_us = (idempotency_before - UNIX_EPOCH) // timedelta(microseconds=1)
        while True:
            first = await self.first_seq()
            last = min(keep_events_after, first + TRIM_CHUNK - 1)

            async def drop(connection: AsyncConnection, last: int = last) -> None:
                async with connection.begin():
                    await connection.execute(delete(events).where(events.c.seq <= last))
                    await connection.execute(delete(idempotency).where(idempotency.c.at_us < before_us))

            await self._run(drop)
            if last >= keep_events_after:
                return


def _instant(us: int) -> datetime:
    return UNIX_EPOCH + timedelta(microseconds=us)


def _resolve(future: asyncio.Future[T], result: T) -> None:
    if not future.done():
        future.set_result(result)


def _fail(future: asyncio.Future[Any], error: Exception) -> None:
    if not future.done():
        future.set_exception(error)
