"""The tables: keys, the columns that constraints and queries need, a revision, and the row as JSON.

Rules
1. `doc` (codec.py) is the row; every other column repeats a part of it for the database's own
   use and is written together with it. Nothing but the codec reads a row. On the disk it carries
   a checksum (sealed.py).
2. `attempts_one_open` is invariant I14: at most one open attempt a node, whatever its rollout.
3. meta and fence have one row each. meta.event_seq numbers events in commit order; meta.batch
   rises with every transaction, and every row carries the batch that wrote it last, so that
   other replicas can read what is new.
   `batches` has a random token for each of the newest of them: a commit of unknown outcome is
   looked up by it, and a replica knows by it that the store still has the history it has seen.
4. Instants are whole microseconds since 1970 UTC, read from the database's clock.
5. Portable types and Core only: what differs by database is in its own module (sqlite.py).
   A change here needs a migration in migrations/versions; a test compares the two.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from sqlalchemy import BigInteger, Boolean, Column, Index, Integer, MetaData, String, Table, Text

from orchestrator.core.model import (
    AttemptRow,
    CapacityRow,
    FleetRow,
    IdempotencyRow,
    MemberRow,
    NodeRow,
    RolloutRow,
    Row,
)
from orchestrator.errors import CorruptState
from orchestrator.store.admission import is_open
from orchestrator.store.sealed import Sealed

metadata = MetaData()

Big = BigInteger().with_variant(Integer(), "sqlite")
"""64 bits everywhere; SQLite's rowid alias wants the word INTEGER."""


def _document() -> tuple[Column[Any], ...]:
    return (
        Column("revision", Big, nullable=False),
        Column("batch", Big, nullable=False, server_default="0"),
        Column("doc", Sealed, nullable=False),
    )


nodes = Table("nodes", metadata, Column("node_id", String, primary_key=True), *_document())

attempts = Table(
    "attempts",
    metadata,
    Column("node_id", String, primary_key=True),
    Column("generation", Big, primary_key=True, autoincrement=False),
    Column("rollout_id", String, nullable=False),
    Column("open", Boolean, nullable=False),
    *_document(),
)
Index(
    "attempts_one_open",
    attempts.c.node_id,
    unique=True,
    sqlite_where=attempts.c.open,
    postgresql_where=attempts.c.open,
)
Index("attempts_by_rollout", attempts.c.rollout_id)

members = Table(
    "members",
    metadata,
    Column("rollout_id", String, primary_key=True),
    Column("node_id", String, primary_key=True),
    *_document(),
)

rollouts = Table(
    "rollouts",
    metadata,
    Column("rollout_id", String, primary_key=True),
    Column("name", String, nullable=False, unique=True),
    Column("ended", Boolean, nullable=False),
    *_document(),
)

fleet = Table("fleet", metadata, Column("id", String, primary_key=True), *_document())

capacity = Table("capacity", metadata, Column("id", String, primary_key=True), *_document())

idempotency = Table(
    "idempotency",
    metadata,
    Column("actor", String, primary_key=True),
    Column("idempotency_key", String, primary_key=True),
    Column("at_us", Big, nullable=False),
    *_document(),
)
Index("idempotency_by_time", idempotency.c.at_us)

events = Table(
    "events",
    metadata,
    Column("seq", Big, primary_key=True, autoincrement=False),
    Column("at_us", Big, nullable=False),
    Column("kind", String, nullable=False),
    Column("rollout_id", String, nullable=False),
    Column("node_id", String, nullable=False),
    Column("doc", Sealed, nullable=False),
)
Index("events_by_rollout", events.c.rollout_id, events.c.seq)
Index("events_by_node", events.c.node_id, events.c.seq)

fence = Table(
    "fence",
    metadata,
    Column("id", Integer, primary_key=True, autoincrement=False),
    Column("epoch", Big, nullable=False),
    Column("holder", String, nullable=False),
    Column("until_us", Big, nullable=False),
)

replicas = Table(
    "replicas",
    metadata,
    Column("replica", String, primary_key=True),
    Column("until_us", Big, nullable=False),
)

meta = Table(
    "meta",
    metadata,
    Column("id", Integer, primary_key=True, autoincrement=False),
    Column("incarnation", String, nullable=False),
    Column("serial", Big, nullable=False),
    Column("event_seq", Big, nullable=False),
    Column("batch", Big, nullable=False),
    Column("regressed", Text, nullable=False, server_default=""),
)
"""regressed: how the incarnation came to be another one (a sentence), until somebody has written
the fleet's row in it."""

batches = Table(
    "batches",
    metadata,
    Column("slot", Integer, primary_key=True, autoincrement=False),
    Column("number", Big, nullable=False),
    Column("token", String, nullable=False),
)
"""A ring: slot = number % RING."""

RING = 65_536
"""Batches that are remembered: eleven minutes at 100 a second. A replica that was away for longer
cannot tell a forked history from its own by the tokens; revisions and the Hellos remain."""

DOCUMENTED = (nodes, attempts, members, rollouts, fleet, capacity)
"""Tables whose new rows other replicas read."""
for _table in DOCUMENTED:
    Index(f"{_table.name}_by_batch", _table.c.batch)

ONLY = 1
"""id of the one row of fence and meta."""

UNIX_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def instant(us: int) -> datetime:
    """Of a stored instant. CorruptState for one that no calendar has."""
    try:
        return UNIX_EPOCH + timedelta(microseconds=us)
    except OverflowError as error:
        raise CorruptState(
            "a stored instant is beyond all calendars",
            reason="ROW_DAMAGED",
            remedy="the disk, or somebody's hand, has changed the database: restore a backup",
            us=us,
        ) from error


@dataclass(frozen=True, slots=True)
class Shape:
    """How a row type lies in its table."""

    row: type[Row]
    table: Table
    key: tuple[str, ...]
    """Columns in the order of Row.key."""
    typed: Callable[[tuple[str, ...]], tuple[Any, ...]]
    """Row.key as column values."""
    also: Callable[[Any], Mapping[str, Any]]
    """The row's further columns."""


def _same(key: tuple[str, ...]) -> tuple[Any, ...]:
    return key


def _nothing(row: Any) -> Mapping[str, Any]:
    return {}


def _of_attempt(row: AttemptRow) -> Mapping[str, Any]:
    return {"rollout_id": row.rollout_id, "open": is_open(row)}


def _of_rollout(row: RolloutRow) -> Mapping[str, Any]:
    return {"name": row.spec.name, "ended": row.ended_at is not None}


def _of_idempotency(row: IdempotencyRow) -> Mapping[str, Any]:
    return {"at_us": round(row.at.timestamp() * 1_000_000)}


SHAPES: Mapping[str, Shape] = {
    shape.row.table: shape
    for shape in (
        Shape(NodeRow, nodes, ("node_id",), _same, _nothing),
        Shape(
            AttemptRow,
            attempts,
            ("node_id", "generation"),
            lambda key: (key[0], int(key[1])),
            _of_attempt,
        ),
        Shape(MemberRow, members, ("rollout_id", "node_id"), _same, _nothing),
        Shape(RolloutRow, rollouts, ("rollout_id",), _same, _of_rollout),
        Shape(FleetRow, fleet, ("id",), _same, _nothing),
        Shape(CapacityRow, capacity, ("id",), _same, _nothing),
        Shape(IdempotencyRow, idempotency, ("actor", "idempotency_key"), _same, _of_idempotency),
    )
}
"""By Row.table."""
