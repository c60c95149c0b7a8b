"""The Store port over SQLAlchemy Core: identity, leases, commits through the writer, reads.

Everything that writes goes through the writer task (writer.py), so nobody's cancellation reaches
its connection. Reads use connections of their own and see only what is committed.
"""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from datetime import datetime, timedelta
from typing import Any, TypeVar

from sqlalchemy import bindparam, delete, func, insert, literal, select, union_all, update
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from orchestrator.core.model import Change, Event, IdempotencyRow, NewEvent, Row
from orchestrator.errors import CorruptState, StoreUnavailable
from orchestrator.ports import Beat, Changes, Committed, Lease, Snapshot
from orchestrator.store import codec
from orchestrator.store.admission import replaced
from orchestrator.store.database import Database, Past
from orchestrator.store.foreign import Foreign
from orchestrator.store.hints import Hints
from orchestrator.store.leases import REPLICAS_KEPT_US, Leases
from orchestrator.store.lineage import Lineage, Seen, begin_anew, departed, went_back
from orchestrator.store.migrate import migrate
from orchestrator.store.schema import (
    DOCUMENTED,
    ONLY,
    SHAPES,
    UNIX_EPOCH,
    events,
    fence,
    idempotency,
    instant,
    meta,
    replicas,
)
from orchestrator.store.writer import BATCH_BOUND, QUEUE_BOUND, Writer

T = TypeVar("T")

MICROSECOND = timedelta(microseconds=1)

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
        self._lineage = Lineage(database)
        self._foreign = Foreign()
        self._hints = Hints()
        self._writer = Writer(
            database,
            self._lineage,
            self._foreign,
            queue_bound=queue_bound,
            batch_bound=batch_bound,
            on_batch=on_batch,
        )
        self._read_engine: AsyncEngine | None = None
        self._listener: asyncio.Task[None] | None = None
        self._leases = Leases(database, self._lineage, self._writer)

    # --- open and close ------------------------------------------------------------------

    async def open(self) -> None:
        """Lock, migrate, check. StoreUnavailable, CorruptState, Unsupported (SCHEMA_NEWER)."""
        past = self._database.lock()
        self._read_engine = self._database.reader()
        try:
            connection = await self._writer.connect()
            async with connection.begin():
                await self._database.check(connection)
                await self._database.alone(connection)
                await connection.run_sync(migrate)
                await self._make(connection, past)
            async with connection.begin():
                await self._know(connection, past)
            seen = self._lineage.seen
            self._database.remember(Past(seen.incarnation, seen.serial, self._leases.newest_epoch))
        except self._database.errors as error:
            await self.close()
            raise self._database.trouble(error) from error
        except BaseException:
            await self.close()
            raise
        self._writer.start()
        self._hints.open()
        self._listener = asyncio.create_task(self._database.listen(self._hints.tell), name="store-hints")

    async def close(self) -> None:
        """What waits is still committed."""
        await self._writer.close()
        if self._listener is not None:
            self._listener.cancel()
            await asyncio.wait([self._listener])
            self._listener = None
        self._hints.close()
        if self._read_engine is not None:
            await self._read_engine.dispose()
            self._read_engine = None
        self._database.unlock()

    async def _make(self, connection: AsyncConnection, past: Past) -> None:
        """A store, if there is none. As alone as a migration."""
        if (await connection.execute(select(meta.c.id))).one_or_none() is None:
            now_us: int = (await connection.execute(select(self._database.now_us()))).scalar_one()
            serial = _serial(past.serial, now_us)
            incarnation = self._make_incarnation()
            await connection.execute(
                insert(meta).values(id=ONLY, incarnation=incarnation, serial=serial, event_seq=0, batch=0)
            )
            await connection.execute(insert(fence).values(id=ONLY, epoch=0, holder="", until_us=0))

    async def _know(self, connection: AsyncConnection, past: Past) -> None:
        """Find out which store this is, and whether it is older than what is known of it."""
        found, head = await self._lineage.lock(connection, self._lineage.seen)
        self._lineage.seen = known = head.seen
        older = (
            found.epoch < past.epoch if known.incarnation == past.incarnation else known.serial < past.serial
        )
        if older:
            self._lineage.seen = await begin_anew(
                connection,
                head,
                incarnation=self._make_incarnation(),
                serial=_serial(max(past.serial, known.serial), head.now_us),
                why=f"{self._database} is an older copy: it was at epoch {found.epoch} of "
                f"{known.incarnation}, and epoch {past.epoch} of {past.incarnation} has been seen here",
            )
        # Epochs rise over the lost future's too, so that its planner stays fenced.
        self._leases.newest_epoch = max(past.epoch, found.epoch) if older else found.epoch
        if self._database.exclusive:
            # Whoever had it before is dead, whatever its leases say: it vouches for no link.
            await connection.execute(delete(replicas))
            await connection.execute(
                update(fence).values(epoch=self._leases.newest_epoch, holder="", until_us=0)
            )

    # --- leases --------------------------------------------------------------------------

    async def acquire(self, holder: str, ttl: timedelta) -> Lease:
        return await self._leases.acquire(holder, ttl)

    async def release(self, lease: Lease) -> None:
        await self._leases.release(lease)

    async def beat(self, replica: str, ttl: timedelta) -> Beat:
        return await self._leases.beat(replica, ttl)

    async def leave(self, replica: str) -> None:
        await self._leases.leave(replica)

    def hints(self) -> AsyncIterator[None]:
        """Of what other processes commit; this one's commits return what they wrote."""
        return self._hints.listen()

    # --- the one write -------------------------------------------------------------------

    async def commit(self, epoch: int | None, change: Change) -> Committed:
        """As the port says. Cancelling it drops a commit that still waits; one that has begun may
        be made (writer.py rule 4)."""
        return await self._writer.commit(epoch, change)

    # --- reads ---------------------------------------------------------------------------

    async def _read(self, work: Callable[[AsyncConnection], Awaitable[T]], *, again: bool = True) -> T:
        if self._read_engine is None:
            raise StoreUnavailable("the store is not open", remedy="start the orchestrator again")
        try:
            async with self._read_engine.connect() as connection:
                return await work(connection)
        except self._database.errors as error:
            if not (again and self._database.lost(error)):
                raise self._database.trouble(error) from error
        return await self._read(work, again=False)

    async def _decoded(self, documents: Sequence[tuple[type[Row], str]]) -> list[Row]:
        decode = self._foreign.decode
        rows: list[Row] = []
        for start in range(0, len(documents), LOAD_CHUNK):
            rows.extend(decode(kind, document) for kind, document in documents[start : start + LOAD_CHUNK])
            await asyncio.sleep(0)
        return rows

    async def load(self) -> Snapshot:
        seen = self._lineage.seen

        async def read(connection: AsyncConnection) -> Snapshot | None:
            head = await self._lineage.look(connection, seen)
            now = head.seen
            if departed(seen, head) is not None:
                if went_back(seen, now):
                    return None
                self._lineage.seen = now
                self._foreign.forget()
            rows: list[Row] = []
            for shape in SHAPES.values():
                if shape.row is not IdempotencyRow:
                    keys = [shape.table.c[name] for name in shape.key]
                    query = select(shape.table.c.doc, shape.table.c.revision, *keys).order_by(*keys)
                    found = (await connection.execute(query)).all()
                    some = await self._decoded([(shape.row, document) for document, *_ in found])
                    _agree(some, found)
                    rows.extend(some)
            self._lineage.advance(now)
            return Snapshot(
                now.incarnation, now.serial, head.event_seq, tuple(rows), now.batch, head.regressed
            )

        while (snapshot := await self._read(read)) is None:
            seen = await self._regress(seen)
        return snapshot

    async def _regress(self, seen: Seen) -> Seen:
        """The store has gone back in time: begin a new incarnation, unless somebody has. What is
        known of it now."""

        async def begin(connection: AsyncConnection) -> Seen:
            async with connection.begin():
                found, head = await self._lineage.lock(connection, seen)
                now = head.seen
                if departed(seen, head) is None or not went_back(seen, now):
                    return now
                # Epochs rise over the lost future's too, so that its planner stays fenced.
                epoch = max(found.epoch, self._leases.newest_epoch)
                await connection.execute(update(fence).values(epoch=epoch))
                await self._database.notify(connection)
                return await begin_anew(
                    connection,
                    head,
                    incarnation=self._make_incarnation(),
                    serial=_serial(max(now.serial, seen.serial), head.now_us),
                    why=f"{self._database} is an older copy: it was at batch {now.batch} of "
                    f"{now.incarnation} without the batch {seen.batch} that has been seen here",
                )

        self._lineage.seen = await self._writer.run(begin)
        self._foreign.forget()
        return self._lineage.seen

    async def changes(self, after_batch: int) -> Changes:
        seen = self._lineage.seen

        async def read(connection: AsyncConnection) -> Changes:
            head = await self._lineage.look(connection, seen)
            if (other := departed(seen, head)) is not None:
                raise other
            found = (await connection.execute(_CHANGES, {"after": after_batch})).all()
            rows = await self._decoded([(SHAPES[table].row, document) for table, document in found])
            self._lineage.advance(head.seen)
            return Changes(head.seen.batch, head.event_seq, tuple(rows))

        return await self._read(read)

    async def events(
        self, after_seq: int, *, limit: int, rollout_id: str = "", node_id: str = ""
    ) -> Sequence[Event]:
        of = select(meta.c.incarnation).scalar_subquery()
        query = select(of, events.c.seq, events.c.at_us, events.c.doc).where(events.c.seq > after_seq)
        if rollout_id:
            query = query.where(events.c.rollout_id == rollout_id)
        if node_id:
            query = query.where(events.c.node_id == node_id)

        async def read(connection: AsyncConnection) -> Sequence[Event]:
            found = (await connection.execute(query.order_by(events.c.seq).limit(limit))).all()
            return [
                Event(incarnation, seq, instant(at_us), codec.decode(NewEvent, doc))
                for incarnation, seq, at_us, doc in found
            ]

        known = self._lineage.seen.incarnation
        page = await self._read(read)
        if page and page[0].incarnation != known:
            raise replaced(known, page[0].incarnation)
        return page

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
        before_us = (idempotency_before - UNIX_EPOCH) // MICROSECOND
        while True:
            first = await self.first_seq()
            last = min(keep_events_after, first + TRIM_CHUNK - 1)

            async def drop(connection: AsyncConnection, last: int = last) -> None:
                async with connection.begin():
                    _, head = await self._lineage.lock(connection, self._lineage.seen)
                    gone_us = head.now_us - REPLICAS_KEPT_US
                    await connection.execute(delete(events).where(events.c.seq <= last))
                    await connection.execute(delete(idempotency).where(idempotency.c.at_us < before_us))
                    await connection.execute(delete(replicas).where(replicas.c.until_us < gone_us))

            await self._writer.run(drop)
            if last >= keep_events_after:
                return


def _serial(past: int, now_us: int) -> int:
    """Seconds, so that a later store has the higher serial even if nothing is left of the first."""
    return max(past + 1, now_us // 1_000_000)


def _agree(rows: Sequence[Row], found: Sequence[Any]) -> None:
    """Each column beside a document says what the document says. CorruptState."""
    for row, (_, revision, *key) in zip(rows, found, strict=True):
        if row.revision != revision or row.key != tuple(map(str, key)):
            raise CorruptState(
                f"a row of {row.table} is stored under another's key or revision",
                reason="ROW_DAMAGED",
                remedy="the disk, or somebody's hand, has changed the database: restore a backup",
                row=",".join(row.key),
            )


_CHANGES = union_all(
    *(
        select(literal(table.name), table.c.doc).where(table.c.batch > bindparam("after"))
        for table in DOCUMENTED
    )
)
