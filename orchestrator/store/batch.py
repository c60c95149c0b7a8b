"""One transaction's worth of commits: what they need read, what is written for those that stand.

The statements are a fixed number, however many commits share them: a read of revisions for each
table touched, then for each table at most one update and one insert with many parameter sets.
A row that several commits of the batch write is written once, as the last left it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from sqlalchemy import Select, bindparam, insert, select, update
from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import AsyncConnection

from orchestrator.core.model import (
    CAPACITY,
    AttemptRow,
    CapacityRow,
    Change,
    Event,
    FleetRow,
    NewEvent,
    RolloutRow,
    Row,
    RowKey,
    row_key,
)
from orchestrator.errors import Conflict
from orchestrator.ports import Committed
from orchestrator.store import codec
from orchestrator.store.admission import Ledger, fenced, risen
from orchestrator.store.database import Among, Database
from orchestrator.store.foreign import Foreign
from orchestrator.store.schema import SHAPES, attempts, rollouts

KEYS_IN_ONE_QUERY = 400
"""Keys of two columns in one IN: far below every database's bound on parameters."""

Params = dict[str, Any]


@dataclass(slots=True)
class Entry:
    """A commit that waits, encoded."""

    epoch: int | None
    change: Change
    rows: tuple[Row, ...]
    """As they are once committed; the CapacityRow of one that shrinks comes on top (Outcome)."""
    params: Sequence[tuple[RowKey, Params]]
    event_docs: Sequence[str]
    done: asyncio.Future[Committed]


class Refused(Exception):
    """The database refused a row that had been admitted: some commit of the batch is at fault."""

    def __init__(self, conflict: Conflict) -> None:
        super().__init__(conflict.message)
        self.conflict = conflict


@dataclass(slots=True)
class Outcome:
    """What became of each entry, in order: its Conflict, or None."""

    entries: Sequence[Entry]
    conflicts: list[Conflict | None] = field(default_factory=list)
    events: list[tuple[NewEvent, str]] = field(default_factory=list)
    """Of those that stand, with their documents."""
    capacities: list[CapacityRow | None] = field(default_factory=list)
    """As each left it; None if it does not shrink, or does not stand."""
    fleet: bool = False
    """One that stands has written the fleet's row."""

    def remember(self, foreign: Foreign) -> None:
        """It is committed."""
        for entry, conflict in zip(self.entries, self.conflicts, strict=True):
            if conflict is None:
                for row, (_, params) in zip(entry.rows, entry.params, strict=True):
                    foreign.written(row, params["p_doc"])

    def results(
        self, incarnation: str, batch: int, first_seq: int, at: datetime
    ) -> list[Committed | Conflict]:
        seq = first_seq
        results: list[Committed | Conflict] = []
        for entry, conflict, capacity in zip(self.entries, self.conflicts, self.capacities, strict=True):
            if conflict is not None:
                results.append(conflict)
                continue
            numbered = tuple(
                Event(incarnation, seq + index, at, new) for index, new in enumerate(entry.change.events)
            )
            seq += len(numbered)
            rows = entry.rows if capacity is None else (*entry.rows, capacity)
            results.append(Committed(rows, numbered, batch))
        return results


def prepare(foreign: Foreign, epoch: int | None, change: Change, done: asyncio.Future[Committed]) -> Entry:
    """TypeError if a row holds what rows must not."""
    rows = risen(change)
    return Entry(
        epoch,
        change,
        rows,
        [(row_key(row), _row_params(row, foreign.encode(row))) for row in rows],
        [codec.encode(new) for new in change.events],
        done,
    )


def event_params(new: Iterable[tuple[NewEvent, str]], first_seq: int, at_us: int) -> list[Params]:
    return [
        {
            "seq": seq,
            "at_us": at_us,
            "kind": event.kind,
            "rollout_id": event.rollout_id,
            "node_id": event.node_id,
            "doc": document,
        }
        for seq, (event, document) in enumerate(new, first_seq)
    ]


class Reads:
    """The statements that find out what a batch relies on, for one kind of database."""

    def __init__(self, database: Database) -> None:
        self._revisions: dict[str, tuple[Select[Any], Among]] = {}
        for table, shape in SHAPES.items():
            key = [shape.table.c[name] for name in shape.key]
            among = database.among(key)
            self._revisions[table] = (select(*key, shape.table.c.revision).where(among.where), among)
        self._nodes = database.among([attempts.c.node_id])
        self._open = select(attempts.c.node_id, attempts.c.generation).where(
            attempts.c.open, self._nodes.where
        )
        self._named = database.among([rollouts.c.name])
        self._names = select(rollouts.c.name, rollouts.c.rollout_id).where(self._named.where)

    async def ledger(self, connection: AsyncConnection, entries: Sequence[Entry]) -> Ledger:
        """What the entries' changes rely on, read within the transaction."""
        wanted: dict[str, set[tuple[Any, ...]]] = {}
        nodes: set[tuple[str]] = set()
        names: set[tuple[str]] = set()
        for entry in entries:
            for (table, key), _ in entry.params:
                wanted.setdefault(table, set()).add(key)
            for (table, key), _revision in entry.change.guards:
                wanted.setdefault(table, set()).add(key)
            if entry.change.shrinks:
                wanted.setdefault(CAPACITY[0], set()).add(CAPACITY[1])
            for row in entry.change.writes:
                if isinstance(row, AttemptRow):
                    nodes.add((row.node_id,))
                elif isinstance(row, RolloutRow) and row.revision == 0:
                    names.add((row.spec.name,))
        ledger = Ledger()
        for table, keys in wanted.items():
            typed = [SHAPES[table].typed(key) for key in sorted(keys)]
            for *columns, revision in await _among(connection, *self._revisions[table], typed):
                ledger.revisions[table, tuple(map(str, columns))] = revision
        for node_id, generation in await _among(connection, self._open, self._nodes, sorted(nodes)):
            ledger.open_attempts[node_id] = generation
        for name, rollout_id in await _among(connection, self._names, self._named, sorted(names)):
            ledger.names[name] = rollout_id
        return ledger


async def _among(
    connection: AsyncConnection, query: Select[Any], among: Among, keys: Sequence[tuple[Any, ...]]
) -> list[Any]:
    found: list[Any] = []
    for start in range(0, len(keys), KEYS_IN_ONE_QUERY):
        params = among.params(keys[start : start + KEYS_IN_ONE_QUERY])
        found += (await connection.execute(query, params)).all()
    return found


async def write(
    connection: AsyncConnection, reads: Reads, entries: Sequence[Entry], *, epoch: int, batch: int
) -> Outcome:
    """Within transaction number `batch`, which holds the fence. Refused (make them one by one)."""
    outcome = Outcome(entries)
    live = [entry for entry in entries if entry.epoch in (None, epoch)]
    ledger = await reads.ledger(connection, live)
    before = dict(ledger.revisions)
    final: dict[RowKey, Params] = {}
    for entry in entries:
        conflict: Conflict | None = None
        capacity: CapacityRow | None = None
        if entry.epoch is not None and entry.epoch != epoch:
            conflict = fenced(entry.epoch, epoch)
        else:
            try:
                ledger.admit(entry.change)
            except Conflict as refused:
                conflict = refused
        if conflict is None:
            final.update(entry.params)
            if entry.change.shrinks:
                capacity = CapacityRow(ledger.revisions[CAPACITY])
                final[CAPACITY] = _row_params(capacity, codec.encode(capacity))
        outcome.conflicts.append(conflict)
        outcome.capacities.append(capacity)
        if conflict is None:
            outcome.events.extend(zip(entry.change.events, entry.event_docs, strict=True))
    try:
        for params in final.values():
            params["p_batch"] = batch
        outcome.fleet = any(table == FleetRow.table for table, _ in final)
        await _write_rows(connection, final, before)
    except IntegrityError as error:
        conflict = Conflict("the database refused a row", reason="CONSTRAINT", detail=error.orig)
        raise Refused(conflict) from error
    return outcome


def _row_params(row: Row, document: str) -> Params:
    shape = SHAPES[row.table]
    params = dict(zip(_KEY_NAMES[row.table], shape.typed(row.key), strict=True))
    params["p_revision"] = row.revision
    params["p_doc"] = document
    for name, value in shape.also(row).items():
        params["p_" + name] = value
    return params


async def _write_rows(
    connection: AsyncConnection, final: Mapping[RowKey, Params], before: Mapping[RowKey, int]
) -> None:
    inserts: dict[str, list[Params]] = {}
    updates: dict[str, list[Params]] = {}
    for (table, key), params in final.items():
        group = updates if before.get((table, key)) else inserts
        group.setdefault(table, []).append(params)
    if "attempts" in updates:
        # The unique index is checked row by row: what closes goes before what opens.
        updates["attempts"].sort(key=lambda params: bool(params["p_open"]))
    for table, many in updates.items():
        await connection.execute(_UPDATES[table], many)
    for table, many in inserts.items():
        await connection.execute(_INSERTS[table], many)


_KEY_NAMES = {table: tuple("p_" + name for name in shape.key) for table, shape in SHAPES.items()}

_INSERTS = {
    table: insert(shape.table).values({name: bindparam("p_" + name) for name in shape.table.c.keys()})  # noqa: SIM118
    for table, shape in SHAPES.items()
}
_UPDATES = {
    table: update(shape.table)
    .where(*(shape.table.c[name] == bindparam("p_" + name) for name in shape.key))
    .values({name: bindparam("p_" + name) for name in shape.table.c.keys() if name not in shape.key})  # noqa: SIM118
    for table, shape in SHAPES.items()
}
