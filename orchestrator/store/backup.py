"""A store's backup and its way back: a consistent snapshot out, all of it or nothing in.

Rules
1. A backup is one read transaction: the store as it was at one moment, whoever writes meanwhile.
2. A restore is one transaction under the fence, and refused while an orchestrator has the store: a
   process that runs would go on from what it remembers. What the store has now is gone with it.
3. A restored store is a new incarnation with a higher serial, a newer batch and a newer epoch than
   anything that is known of, so that cursors, links, planners and replicas of before are told from
   those after. meta.regressed says what happened: who loads it stops the fleet.
4. Rows and events are restored as they were. Leases are not: nobody has the store.
5. A backup of an older schema is restored into this one, by the codec's rule 4. A migration that
   changes documents must teach `_known_schemas` what to do about older backups.
"""

from __future__ import annotations

import uuid
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from alembic.runtime.migration import MigrationContext
from sqlalchemy import Connection, Table, delete, func, insert, inspect, literal, select
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from orchestrator.core.model import NewEvent, RolloutRow
from orchestrator.errors import CorruptState, NotFound, StoreUnavailable
from orchestrator.store import codec
from orchestrator.store.backup_file import EVENTS, BackupReader, BackupWriter, Header, Line, Progress, corrupt
from orchestrator.store.database import Database, Past
from orchestrator.store.migrate import HEAD, migrate, schema_newer
from orchestrator.store.schema import (
    ONLY,
    RING,
    SHAPES,
    attempts,
    batches,
    events,
    fence,
    instant,
    meta,
    metadata,
    replicas,
    rollouts,
)
from orchestrator.store.sqlite import Sqlite

CHUNK = 500
"""Rows in one statement, and in memory."""

RESTORED = "store.restored"
"""Kind of the event that a restore leaves, after those of the backup."""

Counts = Mapping[str, int]


@dataclass(frozen=True, slots=True)
class Lost:
    """What a store has now and would not have any more."""

    incarnation: str
    """Empty if there is no store."""
    event_seq: int
    event_at: str
    rollouts: tuple[str, ...]
    """Names of rollouts that the backup does not know."""
    attempts: int
    """Attempts that the backup does not know."""
    nodes: tuple[str, ...]
    """Nodes with such attempts."""

    @property
    def anything(self) -> bool:
        """Is there a store at all?"""
        return bool(self.incarnation)


NOTHING = Lost("", 0, "", (), 0, ())


@dataclass(frozen=True, slots=True)
class Restored:
    """What the store has become."""

    header: Header
    incarnation: str
    serial: int
    epoch: int
    lost: Lost


async def back_up(
    database: Database, path: Path, *, release: str, progress: Progress = lambda done, total: None
) -> Header:
    """Write the store to `path`, beside a running orchestrator or without one.

    NotFound (NO_STORE), StoreUnavailable, CorruptState, Unsupported (SCHEMA_NEWER); what
    BackupWriter raises.
    """
    if _absent(database):
        raise _no_store(database)
    async with _reading(database) as connection:
        schema = await connection.run_sync(_schema)
        if schema is None:
            raise _no_store(database)
        if schema not in _known_schemas():
            raise schema_newer(schema)
        present = await connection.run_sync(lambda c: set(inspect(c).get_table_names()))
        header = await _header(connection, database, schema, present, release)
        with BackupWriter(path, header, progress) as out:
            for table, query in _documents(present).items():
                async for number, at_us, doc in _streamed(connection, query):
                    out.add(Line(table, number, at_us, doc))
    return header


async def verify(path: Path, progress: Progress = lambda done, total: None) -> Header:
    """Read a backup to its end, every row too. What BackupReader raises; CorruptState."""
    reader = BackupReader(path, progress)
    header = _restorable(reader)
    for line in reader.lines():
        _params(line, 0, path)
    return header


async def lost_by(database: Database, path: Path) -> Lost:
    """What restoring the backup would take from the store. The store is only read."""
    reader = BackupReader(path)
    _restorable(reader)
    if _absent(database):
        return NOTHING
    async with _reading(database) as connection:
        if await connection.run_sync(_schema) is None:
            return NOTHING
        return await _lost(connection, reader)


async def restore(
    database: Database,
    path: Path,
    *,
    actor: str,
    progress: Progress = lambda done, total: None,
    make_incarnation: Callable[[], str] = lambda: uuid.uuid4().hex[:12],
) -> Restored:
    """Make the store what the backup says, whatever it was.

    Nothing is touched if it raises: StoreUnavailable (STORE_IN_USE), what BackupReader raises.
    """
    reader = BackupReader(path, progress)
    header = _restorable(reader)
    past = _locked(database)
    try:
        engine = database.writer()
        try:
            async with engine.connect() as connection, connection.begin():
                await database.check(connection)
                await database.alone(connection, at_leisure=True)  # it reads a large file in between
                await connection.run_sync(migrate)
                restored = await _restore(
                    connection, database, reader, header, past, actor, make_incarnation()
                )
        except database.errors as error:
            raise database.trouble(error) from error
        finally:
            await engine.dispose()
        database.remember(Past(restored.incarnation, restored.serial, restored.epoch))
    finally:
        database.unlock()
    return restored


# --- out ---------------------------------------------------------------------------------


@asynccontextmanager
async def _reading(database: Database) -> AsyncIterator[AsyncConnection]:
    """One transaction that sees one moment."""
    engine: AsyncEngine = database.reader()
    try:
        async with engine.connect() as connection:
            if connection.dialect.name == "postgresql":
                await connection.execution_options(isolation_level="REPEATABLE READ")
            yield connection
    except database.errors as error:
        raise database.trouble(error) from error
    finally:
        await engine.dispose()


def _absent(database: Database) -> bool:
    """A file that is not there: to look into it would make it."""
    return isinstance(database, Sqlite) and not database.path.exists()


def _schema(connection: Connection) -> str | None:
    """The migration that the database has; None if it is empty."""
    return MigrationContext.configure(connection).get_current_revision()


def _known_schemas() -> frozenset[str]:
    """Schemas that a backup may be of."""
    return frozenset({"0001", HEAD})


def _documents(present: set[str]) -> dict[str, Any]:
    """table → (number, at_us, doc) in the order of the keys. An older schema lacks some tables."""
    found: dict[str, Any] = {}
    for name, shape in SHAPES.items():
        if name in present:
            table = shape.table
            keys = [table.c[key] for key in shape.key]
            found[name] = select(table.c.revision, literal(0), table.c.doc).order_by(*keys)
    found[EVENTS] = select(events.c.seq, events.c.at_us, events.c.doc).order_by(events.c.seq)
    return found


async def _header(
    connection: AsyncConnection, database: Database, schema: str, present: set[str], release: str
) -> Header:
    query = select(
        meta.c.incarnation, meta.c.serial, meta.c.event_seq, meta.c.batch, fence.c.epoch, database.now_us()
    )
    *head, now_us = (await connection.execute(query.join(fence, fence.c.id == meta.c.id))).one()
    incarnation, serial, event_seq, batch, epoch = head
    counts: dict[str, int] = {}
    for name in _documents(present):
        table = events if name == EVENTS else SHAPES[name].table
        counts[name] = (await connection.execute(select(func.count()).select_from(table))).scalar_one()
    return Header(
        release=release,
        schema=schema,
        incarnation=incarnation,
        serial=serial,
        epoch=epoch,
        batch=batch,
        event_seq=event_seq,
        event_at=await _newest_event_at(connection),
        created_at=instant(now_us).isoformat(),
        counts=counts,
    )


async def _newest_event_at(connection: AsyncConnection) -> str:
    newest = select(events.c.at_us).order_by(events.c.seq.desc()).limit(1)
    at_us: int | None = (await connection.execute(newest)).scalar_one_or_none()
    return instant(at_us).isoformat() if at_us is not None else ""


async def _streamed(connection: AsyncConnection, query: Any) -> AsyncIterator[Any]:
    result = await connection.stream(query.execution_options(yield_per=CHUNK))
    async for row in result:
        yield row


def _no_store(database: Database) -> NotFound:
    return NotFound(
        f"there is no store in {database}",
        reason="NO_STORE",
        remedy="name the settings that the orchestrator runs with: --config, --state-dir or --store",
    )


# --- in ----------------------------------------------------------------------------------


def _restorable(reader: BackupReader) -> Header:
    header = reader.check()
    if header.schema not in _known_schemas():
        raise schema_newer(header.schema)
    return header


def _locked(database: Database) -> Past:
    try:
        return database.lock()
    except StoreUnavailable as error:
        if error.reason != "STORE_IN_USE":
            raise
        raise _in_use(error.message, error.fields.get("pid", "")) from error


def _in_use(message: str, who: str) -> StoreUnavailable:
    return StoreUnavailable(
        message,
        reason="STORE_IN_USE",
        remedy="stop every orchestrator of this store, then restore; nothing was touched. The lease of one "
        "that was killed runs out by itself",
        holder=who,
    )


async def _restore(
    connection: AsyncConnection,
    database: Database,
    reader: BackupReader,
    header: Header,
    past: Past,
    actor: str,
    incarnation: str,
) -> Restored:
    """In the connection's transaction."""
    now_us: int = (await connection.execute(select(database.now_us()))).scalar_one()
    known = (
        await connection.execute(select(meta, fence).join(fence, fence.c.id == meta.c.id).with_for_update())
    ).one_or_none()
    if known is not None and not database.exclusive:
        await _nobody_has_it(connection, known, now_us)
    lost = await _lost(connection, reader)
    for table in reversed(metadata.sorted_tables):
        await connection.execute(delete(table))
    serial = max(header.serial, past.serial, known.serial if known else 0) + 1
    serial = max(serial, now_us // 1_000_000)
    epoch = max(header.epoch, past.epoch, known.epoch if known else 0) + 1
    batch = max(header.batch, known.batch if known else 0) + 1
    for table, chunk in _chunks(reader, batch):
        await connection.execute(insert(table), chunk)
    why = (
        f"restored from the backup of {header.created_at} ({header.incarnation}, event {header.event_seq}): "
        "nodes may have lived through more than it knows"
    )
    told = NewEvent(RESTORED, why, actor=actor, fields=_audit(header, lost))
    await connection.execute(insert(events), _event(header.event_seq + 1, now_us, told, codec.encode(told)))
    await connection.execute(
        insert(meta),
        {
            "id": ONLY,
            "incarnation": incarnation,
            "serial": serial,
            "event_seq": header.event_seq + 1,
            "batch": batch,
            "regressed": why,
        },
    )
    await connection.execute(insert(fence), {"id": ONLY, "epoch": epoch, "holder": "", "until_us": 0})
    await connection.execute(
        insert(batches), {"slot": batch % RING, "number": batch, "token": uuid.uuid4().hex[:12]}
    )
    await database.notify(connection)
    return Restored(header, incarnation, serial, epoch, lost)


def _audit(header: Header, lost: Lost) -> dict[str, str]:
    return {
        "backup_incarnation": header.incarnation,
        "backup_event": str(header.event_seq),
        "backup_created_at": header.created_at,
        "lost_incarnation": lost.incarnation,
        "lost_event": str(lost.event_seq),
        "lost_attempts": str(lost.attempts),
        "lost_rollouts": ",".join(lost.rollouts),
    }


async def _nobody_has_it(connection: AsyncConnection, known: Any, now_us: int) -> None:
    query = select(replicas.c.replica, replicas.c.until_us).where(replicas.c.until_us > now_us)
    leases: dict[str, int] = {row.replica: row.until_us for row in await connection.execute(query)}
    if known.until_us > now_us:
        leases.setdefault(known.holder, known.until_us)
    if leases:
        told = ", ".join(sorted(leases))
        left_s = (max(leases.values()) - now_us) / 1_000_000
        verb = "has" if len(leases) == 1 else "have"
        raise _in_use(f"{told} {verb} this store, for {left_s:.0f} s unless renewed", told)


def _chunks(reader: BackupReader, batch: int) -> Iterator[tuple[Table, Sequence[Mapping[str, Any]]]]:
    """Rows as their tables want them, up to CHUNK of one table."""
    made = (_params(line, batch, reader.path) for line in reader.lines())
    waiting = next(made, None)
    while waiting is not None:
        table, first = waiting
        chunk, waiting = [first], None
        for other, params in islice(made, CHUNK - 1):
            if other is not table:
                waiting = (other, params)
                break
            chunk.append(params)
        else:
            waiting = next(made, None)
        yield table, chunk


def _params(line: Line, batch: int, path: Path) -> tuple[Table, Mapping[str, Any]]:
    """A row's columns. CorruptState for one that no release of this schema has written."""
    try:
        if line.table == EVENTS:
            new = codec.decode(NewEvent, line.doc)
            return events, _event(line.number, line.at_us, new, line.doc)
        shape = SHAPES.get(line.table)
        if shape is None:
            raise corrupt(path, f"it has rows of a table {line.table}, which this release does not know")
        row = codec.decode(shape.row, line.doc)
    except CorruptState as error:
        if error.reason == "BACKUP_CORRUPT":
            raise
        raise corrupt(path, f"{error.message} (in {line.table})") from error
    return shape.table, {
        **dict(zip(shape.key, shape.typed(row.key), strict=True)),
        **shape.also(row),
        "revision": line.number,
        "batch": batch,
        "doc": line.doc,
    }


def _event(seq: int, at_us: int, new: NewEvent, doc: str) -> dict[str, Any]:
    return {
        "seq": seq,
        "at_us": at_us,
        "kind": new.kind,
        "rollout_id": new.rollout_id,
        "node_id": new.node_id,
        "doc": doc,
    }


async def _lost(connection: AsyncConnection, reader: BackupReader) -> Lost:
    """Compared with the store as the connection sees it. Holds the names of nodes and rollouts."""
    head = (await connection.execute(select(meta.c.incarnation, meta.c.event_seq))).one_or_none()
    if head is None:
        return NOTHING
    known: dict[str, set[int]] = {}
    names: set[str] = set()
    for line in reader.lines():
        if line.table == attempts.name:
            *_, row = _params(line, 0, reader.path)
            known.setdefault(row["node_id"], set()).add(row["generation"])
        elif line.table == rollouts.name:
            names.add(codec.decode(RolloutRow, line.doc).spec.name)
    new: dict[str, int] = {}
    query = select(attempts.c.node_id, attempts.c.generation)
    async for node_id, generation in _streamed(connection, query):
        if generation not in known.get(node_id, ()):
            new[node_id] = new.get(node_id, 0) + 1
    here = set((await connection.execute(select(rollouts.c.name))).scalars())
    return Lost(
        incarnation=head.incarnation,
        event_seq=head.event_seq,
        event_at=await _newest_event_at(connection),
        rollouts=tuple(sorted(here - names)),
        attempts=sum(new.values()),
        nodes=tuple(sorted(new)),
    )
