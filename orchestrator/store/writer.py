"""The one task that writes: all that waits goes into one transaction, each commit by itself.

Rules
1. commit() encodes, queues and waits. The writer takes all that wait (up to a bound), in order,
   into one transaction: lock the fence, look whether the store is still the one that was seen
   (lineage.py), read the revisions they rely on, admit each by itself (admission.py), write what
   stands, number the events, commit.
2. A commit that is refused leaves no trace and does not disturb its neighbours. If the database
   itself refuses a row that was admitted, the batch is rolled back and made again one by one.
3. A failure before COMMIT: nothing was written. A failure *of* COMMIT is looked up on a new
   connection: the fence is locked, which waits for the lost transaction's end, then its batch's
   token is compared (another process's batch may have got its number). If nothing was written
   because the connection was lost, it is tried once more (the server may be back already), else
   StoreUnavailable. If it cannot be looked up it is COMMIT_IN_DOUBT, after which the caller must
   load again before it plans.
4. Cancelling a waiting commit(): before its transaction began it is dropped, after that it may
   be committed. The caller cannot tell, so it must not cancel without loading again
   (runtime/tasks.py carries such work to its end).
5. Everything that writes goes through the writer, so nobody's cancellation reaches its
   connection. Reads use their own connections and see only what is committed.
6. The queue is bounded: Capacity, nothing queued. Jobs (leases, beats) are few and go over the
   bound: an overload must not look like a death.
"""

from __future__ import annotations

import asyncio
import contextlib
import copy
import secrets
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from sqlalchemy import insert
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from orchestrator.core.model import Change
from orchestrator.errors import Capacity, Conflict, LiverollError, StoreUnavailable
from orchestrator.ports import Committed
from orchestrator.store import batch
from orchestrator.store.database import Database
from orchestrator.store.foreign import Foreign
from orchestrator.store.lineage import Lineage, Seen, departed
from orchestrator.store.schema import RING, events, instant

T = TypeVar("T")

QUEUE_BOUND = 4096
"""Commits that may wait. At 5,000 a second this is under a second's worth."""

BATCH_BOUND = 512
"""Commits in one transaction: bounds how long the first waits for the last."""


@dataclass(slots=True)
class _Job(Generic[T]):
    """Something else than a commit that needs the writer's connection."""

    work: Callable[[AsyncConnection], Awaitable[T]]
    done: asyncio.Future[T]


class Writer:
    """Owns the write connection. connect() first; start() once the store may be written."""

    def __init__(
        self,
        database: Database,
        lineage: Lineage,
        foreign: Foreign,
        *,
        queue_bound: int,
        batch_bound: int,
        on_batch: Callable[[int], None],
    ) -> None:
        self._database = database
        self._lineage = lineage
        self._foreign = foreign
        self._reads = batch.Reads(database)
        self._queue: asyncio.Queue[batch.Entry | _Job[Any] | None] = asyncio.Queue()
        self._queue_bound = queue_bound
        self._batch_bound = batch_bound
        self._on_batch = on_batch
        self._engine: AsyncEngine | None = None
        self._connection: AsyncConnection | None = None
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        self._task = asyncio.create_task(self._write(), name="store-writer")

    async def close(self) -> None:
        """What waits is still committed."""
        if self._task is not None:
            await self._queue.put(None)
            await self._task
            self._task = None
        await self._disconnect()
        if self._engine is not None:
            await self._engine.dispose()
            self._engine = None

    async def commit(self, epoch: int | None, change: Change) -> Committed:
        """See SqlStore.commit."""
        entry = batch.prepare(self._foreign, epoch, change, asyncio.get_running_loop().create_future())
        self._enqueue(entry)
        return await entry.done

    def _enqueue(self, item: batch.Entry | _Job[Any]) -> None:
        if self._task is None or self._task.done():
            raise StoreUnavailable("the store is not open", remedy="start the orchestrator again")
        if isinstance(item, batch.Entry) and self._queue.qsize() >= self._queue_bound:
            raise Capacity(
                "too many writes wait for the database",
                reason="STORE_QUEUE_FULL",
                remedy="try again shortly; if it lasts, the disk is too slow for this fleet",
                bound=self._queue_bound,
            )
        self._queue.put_nowait(item)

    async def run(self, work: Callable[[AsyncConnection], Awaitable[T]]) -> T:
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

    async def _settle_job(self, job: _Job[Any], *, again: bool = True) -> None:
        if job.done.done():
            return
        try:
            result = await job.work(await self.connect())
        except LiverollError as error:
            _fail(job.done, error)
        except Exception as error:  # noqa: BLE001  whatever it is, the waiter must hear it and the writer go on
            await self._disconnect()
            if again and self._database.lost(error):
                await self._settle_job(job, again=False)
            else:
                _fail(job.done, self._trouble(error))
        else:
            _resolve(job.done, result)

    async def _settle(self, entries: Sequence[batch.Entry], *, again: bool = True) -> None:
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
            if again and self._database.lost(error):
                await self._settle(entries, again=False)
                return
            for entry in entries:
                _fail(entry.done, self._trouble(error))
            return
        self._on_batch(len(entries))
        for entry, result in zip(entries, results, strict=True):
            if isinstance(result, Conflict):
                _fail(entry.done, result)
            else:
                _resolve(entry.done, result)

    async def _transaction(self, entries: Sequence[batch.Entry]) -> list[Committed | Conflict]:
        connection = await self.connect()
        transaction = await connection.begin()
        token = secrets.token_hex(8)
        try:
            seen = self._lineage.seen
            fence, head = await self._lineage.lock(connection, seen)
            if (other := departed(seen, head)) is not None:
                await transaction.rollback()
                return [copy.copy(other) for _ in entries]
            number = head.seen.batch + 1
            epoch = self._lineage.epoch(fence, head.now_us)
            outcome = await batch.write(connection, self._reads, entries, epoch=epoch, batch=number)
            first_seq = head.event_seq + 1
            if outcome.events:
                await connection.execute(
                    insert(events), batch.event_params(outcome.events, first_seq, head.now_us)
                )
            end = {
                "slot": number % RING,
                "number": number,
                "token": token,
                "event_seq": head.event_seq + len(outcome.events),
                "regressed": "" if outcome.fleet else head.regressed,
            }
            for statement in self._database.numbering:
                await connection.execute(statement, end)
        except BaseException:
            with contextlib.suppress(*self._database.errors):
                await transaction.rollback()
            raise
        try:
            await transaction.commit()
        except Exception as error:  # any failure of COMMIT leaves it open whether it happened
            await self._disconnect()
            if not await self._happened(number, token, error):
                raise
        outcome.remember(self._foreign)
        self._lineage.advance(Seen(head.seen.incarnation, head.seen.serial, number, token))
        return outcome.results(head.seen.incarnation, number, first_seq, instant(head.now_us))

    async def _happened(self, number: int, token: str, cause: Exception) -> bool:
        """Did this transaction commit, although COMMIT failed?"""
        try:
            connection = await self.connect()
            async with connection.begin():
                _, head = await self._lineage.lock(connection, Seen("", 0, number, token))
                return head.was == token
        except Exception as error:
            raise StoreUnavailable(
                "it is not known whether a write was made",
                reason="COMMIT_IN_DOUBT",
                remedy="mend the database; the orchestrator then reads everything again by itself",
                detail=cause,
            ) from error

    def _trouble(self, error: Exception) -> LiverollError:
        """One for each waiter: an exception that several raise would carry all their tracebacks."""
        trouble = self._database.trouble(error)
        trouble.__cause__ = error
        return trouble

    async def connect(self) -> AsyncConnection:
        if self._connection is None:
            if self._engine is None:
                self._engine = self._database.writer()
            self._connection = await self._engine.connect()
        return self._connection

    async def _disconnect(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            # It is being thrown away because it does not work.
            with contextlib.suppress(*self._database.errors):
                await connection.invalidate()
                await connection.close()


def _resolve(future: asyncio.Future[T], result: T) -> None:
    if not future.done():
        future.set_result(result)


def _fail(future: asyncio.Future[Any], error: Exception) -> None:
    if not future.done():
        future.set_exception(error)
