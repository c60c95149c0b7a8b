"""What a fleet has in a row's place."""

from __future__ import annotations

from itertools import chain

from orchestrator.core.fleet import Fleet
from orchestrator.core.model import (
    AttemptRow,
    CapacityRow,
    Change,
    FleetRow,
    MemberRow,
    NodeRow,
    RolloutRow,
    Row,
    RowKey,
    guarding,
    row_key,
)


def known(fleet: Fleet, row: Row) -> Row | None:
    """The fleet's row with the same key."""
    return by_key(fleet, row_key(row))


def revision_of(fleet: Fleet, key: RowKey) -> int:
    """0 for a row that the fleet does not have."""
    row = by_key(fleet, key)
    return row.revision if row is not None else 0


def by_key(fleet: Fleet, key: RowKey) -> Row | None:
    """None, too, for rows that no fleet keeps (idempotency)."""
    table, names = key
    match table:
        case NodeRow.table:
            return fleet.nodes.get(names[0])
        case AttemptRow.table:
            return fleet.attempts.get((names[0], int(names[1])))
        case MemberRow.table:
            return fleet.member(names[0], names[1])
        case RolloutRow.table:
            return fleet.rollouts.get(names[0])
        case FleetRow.table:
            return fleet.row
        case CapacityRow.table:
            return fleet.capacity
        case _:
            return None


def has_moved(fleet: Fleet, change: Change) -> bool:
    """Whether the fleet has gone beyond what the change relied on: that explains its Conflict."""
    relied = (*(guarding(row) for row in change.writes), *change.guards)
    return any(revision_of(fleet, key) > revision for key, revision in relied)


def all_rows(fleet: Fleet) -> list[Row]:
    """All that a fleet keeps."""
    return [
        *fleet.nodes.values(),
        *fleet.attempts.values(),
        *fleet.rollouts.values(),
        *chain.from_iterable(index.members.values() for index in fleet.indexes.values()),
        fleet.row,
        fleet.capacity,
    ]
