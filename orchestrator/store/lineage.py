"""Which history a handle has seen, and whether the store still has it.

Rules
1. A store's history is its incarnation and the tokens of its batches (schema.py). A handle
   remembers the newest batch that it has written or read, with its token.
2. Every write, inside its transaction and after it has the fence, and every read of changes looks
   whether that batch is there. If not, the database is another one, an older copy, or an older
   copy that has been written to since: Conflict, STORE_REPLACED.
3. load() then begins a new incarnation, once, under the fence; who comes later finds it begun. Its
   sentence stays with the store until somebody has written the fleet's row, so that a crash in
   between loses nothing.
4. Each write and read looks at the schema as well: a release whose schema a newer one has migrated
   must not go on.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from sqlalchemy import String, bindparam, column, select, table, update
from sqlalchemy.ext.asyncio import AsyncConnection

from orchestrator.errors import Conflict
from orchestrator.store.admission import replaced
from orchestrator.store.database import Database
from orchestrator.store.migrate import HEAD, schema_newer
from orchestrator.store.schema import RING, batches, fence, meta

_alembic = table("alembic_version", column("version_num", String))
_newest = batches.alias("newest")


@dataclass(frozen=True, slots=True)
class Seen:
    """The newest batch that a handle knows."""

    incarnation: str
    serial: int
    batch: int
    token: str
    """Empty if it is not known (a batch of an older release, or none yet)."""


@dataclass(frozen=True, slots=True)
class Head:
    """The store's at one moment."""

    seen: Seen
    """As it is seen now."""
    event_seq: int
    regressed: str
    now_us: int
    was: str | None
    """The token of the batch that was asked for, None if it is not there."""


@dataclass(frozen=True, slots=True)
class Fence:
    """The planner lease, as its row has it."""

    epoch: int
    holder: str
    until_us: int


class Lineage:
    """One handle's."""

    def __init__(self, database: Database) -> None:
        self.seen = Seen("", 0, 0, "")
        self.holder = ""
        """Under which this handle has last taken the planner lease."""
        old = (
            select(batches.c.token)
            .where(batches.c.slot == bindparam("seen_slot"), batches.c.number == bindparam("seen_batch"))
            .scalar_subquery()
        )
        newest = select(_newest.c.token).where(
            _newest.c.slot == meta.c.batch % RING, _newest.c.number == meta.c.batch
        )
        self._look = select(
            meta,
            database.now_us().label("now_us"),
            old.label("was"),
            newest.scalar_subquery().label("token"),
            select(_alembic.c.version_num).scalar_subquery().label("schema"),
        )

        self._locked = self._look.add_columns(
            fence.c.epoch, fence.c.holder, fence.c.until_us, database.bound().label("bound")
        ).join(fence, fence.c.id == meta.c.id)
        self._shared = not database.exclusive

    async def look(self, connection: AsyncConnection, seen: Seen) -> Head:
        """In the connection's transaction. Unsupported (SCHEMA_NEWER)."""
        return _head((await connection.execute(self._look, _asked(seen))).one())

    async def lock(self, connection: AsyncConnection, seen: Seen) -> tuple[Fence, Head]:
        """First in every transaction that writes: they are serial over all processes (SQLite's have
        the whole file from their BEGIN IMMEDIATE). The fence is locked by a statement of its own:
        what the statement that waits for a lock reads beside it may be older than the lock."""
        if self._shared:
            await connection.execute(_LOCK)
        found = (await connection.execute(self._locked, _asked(seen))).one()
        return Fence(found.epoch, found.holder, found.until_us), _head(found)

    def epoch(self, fence: Fence, now_us: int) -> int:
        """Under which a plan of this handle may be committed; 0: none. A lease that has run out by the
        store's clock is no leave, though nobody else has taken it: who was stopped with a plan on its
        way would have it committed on what was true before. A fail-over may lose the taking of a
        lease and nothing else: then the next planner, who never heard of it, has the same number."""
        mine = fence.holder == (self.holder or fence.holder)
        return fence.epoch if mine and fence.until_us > now_us else 0

    def advance(self, seen: Seen) -> None:
        """Something newer of the same history was seen; what is older says nothing."""
        if seen.incarnation == self.seen.incarnation and seen.batch > self.seen.batch:
            self.seen = seen


def departed(seen: Seen, head: Head) -> Conflict | None:
    """Is what was seen no part of the store's history? head: looked up for `seen`."""
    now = head.seen
    lost = now.incarnation != seen.incarnation or now.batch < seen.batch
    forked = seen.token and now.batch - seen.batch < RING and head.was != seen.token
    if not lost and not forked:
        return None
    return replaced(
        f"{seen.incarnation} batch {seen.batch} {seen.token}".rstrip(),
        f"{now.incarnation} batch {now.batch} {now.token}".rstrip(),
    )


def went_back(seen: Seen, now: Seen) -> bool:
    """Of a store that is not what was seen: is it an older copy? Of the same life or, if the newer one
    began in between, of the one before; else somebody has begun a newer one."""
    return now.incarnation == seen.incarnation or now.serial < seen.serial


def _asked(seen: Seen) -> dict[str, int]:
    return {"seen_slot": seen.batch % RING, "seen_batch": seen.batch}


def _head(found: Any) -> Head:
    if found.schema != HEAD:
        raise schema_newer(found.schema)
    now = Seen(found.incarnation, found.serial, found.batch, found.token or "")
    return Head(now, found.event_seq, found.regressed, found.now_us, found.was)


async def begin_anew(
    connection: AsyncConnection, head: Head, *, incarnation: str, serial: int, why: str
) -> Seen:
    """The store goes on from here under another name. Within a transaction that has the fence."""
    await connection.execute(update(meta).values(incarnation=incarnation, serial=serial, regressed=why))
    return Seen(incarnation, serial, head.seen.batch, head.seen.token)


_LOCK = select(fence.c.id).with_for_update()
