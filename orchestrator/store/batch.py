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

from sqlalchemy import bindparam, insert, select, tuple_, update
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


def prepare(epoch: int | None, change: Change, done: asyncio.Future[Committed]) -> Entry:
    """TypeError if a row holds what rows must not."""
    rows = risen(change)
    return Entry(
        epoch,
        change,
        rows,
        [(row_key(row), _row_params(row)) for row in rows],
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


async def write(connection: AsyncConnection, entries: Sequence[Entry], *, epoch: int, batch: int) -> Outcome:
    """Within transaction number `batch`, which holds the fence. Refused (make them one by one)."""
    outcome = Outcome(entries)
    live = [entry for entry in entries if entry.epoch in (None, epoch)]
    ledger = await _ledger(connection, live)
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
                final[CAPACITY] = _row_params(capacity)
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


def _row_params(row: Row) -> Params:
    shape = SHAPES[row.table]
    params = dict(zip(_KEY_NAMES[row.table], shape.typed(row.key), strict=True))
    params["p_revision"] = row.revision
    params["p_doc"] = codec.encode(row)
    for name, value in shape.also(row).items():
        params["p_" + name] = value
    return params


async def _ledger(connection: AsyncConnection, entries: Sequence[Entry]) -> Ledger:
    """What the entries' changes rely on, read within the transaction."""
    wanted: dict[str, set[tuple[str, ...]]] = {}
    nodes: set[str] = set()
    names: set[str] = set()
    for entry in entries:
        for (table, key), _ in entry.params:
            wanted.setdefault(table, set()).add(key)
        for (table, key), _revision in entry.change.guards:
            wanted.setdefault(table, set()).add(key)
        if entry.change.shrinks:
            wanted.setdefault(CAPACITY[0], set()).add(CAPACITY[1])
        for row in entry.change.writes:
            if isinstance(row, AttemptRow):
                nodes.add(row.node_id)
            elif isinstance(row, RolloutRow) and row.revision == 0:
                names.add(row.spec.name)
    ledger = Ledger()
    for table, keys in wanted.items():
        typed = SHAPES[table].typed
        for chunk in _chunks(sorted(keys)):
            single = len(chunk[0]) == 1
            values = [typed(key)[0] if single else typed(key) for key in chunk]
            for *columns, revision in await connection.execute(_REVISIONS[table], {"keys": values}):
                ledger.revisions[table, tuple(map(str, columns))] = revision
    for chunk in _chunks(sorted(nodes)):
        for node_id, generation in await connection.execute(_OPEN, {"nodes": chunk}):
            ledger.open_attempts[node_id] = generation
    for chunk in _chunks(sorted(names)):
        for name, rollout_id in await connection.execute(_NAMES, {"names": chunk}):
            ledger.names[name] = rollout_id
    return ledger


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


def _chunks(items: list[Any]) -> Iterable[list[Any]]:
    return (items[start : start + KEYS_IN_ONE_QUERY] for start in range(0, len(items), KEYS_IN_ONE_QUERY))


_KEY_NAMES = {table: tuple("p_" + name for name in shape.key) for table, shape in SHAPES.items()}

_REVISIONS = {
    table: select(*(shape.table.c[name] for name in shape.key), shape.table.c.revision).where(
        (
            shape.table.c[shape.key[0]]
            if len(shape.key) == 1
            else tuple_(*(shape.table.c[name] for name in shape.key))
        ).in_(bindparam("keys", expanding=True))
    )
    for table, shape in SHAPES.items()
}
_OPEN = select(attempts.c.node_id, attempts.c.generation).where(
    attempts.c.open, attempts.c.node_id.in_(bindparam("nodes", expanding=True))
)
_NAMES = select(rollouts.c.name, rollouts.c.rollout_id).where(
    rollouts.c.name.in_(bindparam("names", expanding=True))
)
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
