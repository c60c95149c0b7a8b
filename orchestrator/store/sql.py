"""The Store port over SQLAlchemy Core: identity, lease, commits through the writer, reads.

Everything that writes goes through the writer task (writer.py), so nobody's cancellation reaches
its connection. Reads use connections of their own and see only what is committed.
"""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Awaitable, Callable, Sequence
from datetime import datetime, timedelta
from typing import TypeVar

from sqlalchemy import Row as Record
from sqlalchemy import delete, func, insert, select, update
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from orchestrator.core.model import Change, Event, IdempotencyRow, NewEvent, Row
from orchestrator.errors import NotLeader, StoreUnavailable
from orchestrator.ports import Committed, Lease, Snapshot
from orchestrator.store import codec
from orchestrator.store.database import Database, Past
from orchestrator.store.migrate import migrate
from orchestrator.store.schema import ONLY, SHAPES, UNIX_EPOCH, events, fence, idempotency, instant, meta
from orchestrator.store.writer import BATCH_BOUND, QUEUE_BOUND, Writer

T = TypeVar("T")

TRIM_CHUNK = 2000
"""Events deleted in one transaction, so that commits are not held up."""

LOAD_CHUNK = 500
"""Rows decoded before the event loop gets its turn."""


class SqlStore:
    """See the module. Made by factory.make_store; `await open()` before use."""

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
        self._writer = Writer(database, queue_bound=queue_bound, batch_bound=batch_bound, on_batch=on_batch)
        self._read_engine: AsyncEngine | None = None
        self._incarnation = ""
        self._serial = 0
        self._regressed = ""
        self._held_epoch = 0

    # --- open and close ------------------------------------------------------------------

    async def open(self) -> None:
        """Lock, migrate, check. StoreUnavailable, CorruptState, Unsupported (SCHEMA_NEWER)."""
        past = self._database.lock()
        self._read_engine = self._database.reader()
        try:
            connection = await self._writer.connect()
            async with connection.begin():
                await self._database.check(connection)
                await connection.run_sync(migrate)
                epoch = await self._begin_incarnation(connection, past)
            self._database.remember(Past(self._incarnation, self._serial, epoch))
        except SQLAlchemyError as error:
            await self.close()
            raise self._database.trouble(error) from error
        except BaseException:
            await self.close()
            raise
        self._writer.start(self._incarnation)

    async def close(self) -> None:
        """What waits is still committed."""
        await self._writer.close()
        if self._read_engine is not None:
            await self._read_engine.dispose()
            self._read_engine = None
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
                        until=instant(found.until_us).isoformat(),
                    )
                renews = current and found.epoch == self._held_epoch
                epoch: int = found.epoch if renews else found.epoch + 1
                until_us: int = found.now_us + ttl_us
                await connection.execute(update(fence).values(epoch=epoch, holder=holder, until_us=until_us))
            if not renews:
                self._database.remember(Past(self._incarnation, self._serial, epoch))
            self._held_epoch = epoch
            return Lease(epoch, holder, instant(until_us))

        return await self._writer.run(take)

    async def release(self, lease: Lease) -> None:
        async def give_back(connection: AsyncConnection) -> None:
            async with connection.begin():
                await connection.execute(
                    update(fence).where(fence.c.epoch == lease.epoch).values(holder="", until_us=0)
                )

        await self._writer.run(give_back)
        if self._held_epoch == lease.epoch:
            self._held_epoch = 0

    # --- the one write -------------------------------------------------------------------

    async def commit(self, epoch: int | None, change: Change) -> Committed:
        """As the port says. Cancelling it drops a commit that still waits; one that has begun may
        be made (writer.py rule 4)."""
        return await self._writer.commit(epoch, change)

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
            return Snapshot(
                head.incarnation, head.serial, head.event_seq, tuple(rows), head.batch, self._regressed
            )

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
            Event(self._incarnation, seq, instant(at_us), codec.decode(NewEvent, doc))
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

            await self._writer.run(drop)
            if last >= keep_events_after:
                return
