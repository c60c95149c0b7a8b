"""Decides which Changes of a batch stand: revisions, guards, one open attempt a node, names.

Pure, and the same for every store; the database's own constraints stand behind it. Changes are
admitted in order, each seeing those admitted before it; one that is refused leaves no trace.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, fields
from operator import attrgetter
from typing import get_args

from orchestrator.core.model import CAPACITY, AttemptRow, Change, RolloutRow, Row, RowKey, row_key
from orchestrator.core.phases import SETTLED
from orchestrator.errors import Conflict


def is_open(row: AttemptRow) -> bool:
    """Not settled: I14 allows one of these a node."""
    return row.phase not in SETTLED


def risen(change: Change) -> tuple[Row, ...]:
    """The change's rows as they are once committed: one revision on."""
    return tuple([_RISE[type(row)](row) for row in change.writes])


def _rise(cls: type[Row]) -> Callable[[Row], Row]:
    """dataclasses.replace(row, revision=row.revision + 1), at a third of its time: every commit
    of every row pays for it."""
    names = [each.name for each in fields(cls)]
    place = names.index("revision")
    read = attrgetter(*names)

    def rise(row: Row) -> Row:
        values = list(read(row))
        values[place] += 1
        return cls(*values)

    return rise


_RISE = {cls: _rise(cls) for cls in get_args(Row)}


def fenced(epoch: int, current: int) -> Conflict:
    """The refusal of a commit under an epoch that is not the store's, or whose lease has run out."""
    return Conflict(
        "the planner lease has run out, or another planner has taken over",
        reason="EPOCH_FENCED",
        remedy="nothing to do: this process stops planning and asks for the lease again",
        epoch=epoch,
        current=current,
    )


def replaced(expected: str, actual: str) -> Conflict:
    """The refusal of a write to, or a read from, another store than the one that was loaded.

    Both name an incarnation, with its batch where that is what differs."""
    return Conflict(
        "the database is not as this process has known it",
        reason="STORE_REPLACED",
        remedy="nothing to do: this process reads everything again; if the database has gone back in "
        "time the fleet stops until a person has looked",
        expected=expected,
        actual=actual,
    )


@dataclass(slots=True)
class Ledger:
    """What the batch's rows stand at. Must know every row that its Changes write or guard (CAPACITY,
    if one shrinks), the open attempts of every node whose attempts they write, and the names they take."""

    revisions: dict[RowKey, int] = field(default_factory=dict)
    """0 or absent: no such row."""
    open_attempts: dict[str, int] = field(default_factory=dict)
    """node id → generation"""
    names: dict[str, str] = field(default_factory=dict)
    """rollout's name → rollout id"""

    def admit(self, change: Change) -> None:
        """Count the change as made. Conflict (fields table, key; reason CONFLICT, OPEN_ATTEMPT
        or NAME_TAKEN) if it does not stand."""
        for key, revision in change.guards:
            self._check(key, revision)
        seen: set[RowKey] = set()
        for row in change.writes:
            key = row_key(row)
            if key in seen:
                raise Conflict("a change writes one row twice", table=key[0], key=":".join(key[1]))
            seen.add(key)
            self._check(key, row.revision)
        opened = self._attempts(change)
        for row in change.writes:
            if isinstance(row, RolloutRow):
                self._name(row)
        for row in change.writes:
            self.revisions[row_key(row)] = row.revision + 1
            if isinstance(row, RolloutRow):
                self.names[row.spec.name] = row.rollout_id
        if change.shrinks:
            self.revisions[CAPACITY] = self.revisions.get(CAPACITY, 0) + 1
        for node_id, generation in opened.items():
            if generation:
                self.open_attempts[node_id] = generation
            else:
                self.open_attempts.pop(node_id, None)

    def _check(self, key: RowKey, revision: int) -> None:
        actual = self.revisions.get(key, 0)
        if actual != revision:
            raise Conflict(
                "a row has changed since it was read",
                table=key[0],
                key=":".join(key[1]),
                expected=revision,
                actual=actual,
            )

    def _attempts(self, change: Change) -> dict[str, int]:
        """node id → generation that is open after the change (0: none), where it touches one."""
        opened: dict[str, int] = {}
        attempts = [row for row in change.writes if isinstance(row, AttemptRow)]
        for row in attempts:
            if not is_open(row) and self.open_attempts.get(row.node_id) == row.generation:
                opened[row.node_id] = 0
        for row in attempts:
            if is_open(row):
                other = opened.get(row.node_id, self.open_attempts.get(row.node_id, 0))
                if other not in (0, row.generation):
                    raise Conflict(
                        "the node has an open attempt",
                        reason="OPEN_ATTEMPT",
                        table="attempts",
                        key=f"{row.node_id}:{row.generation}",
                        open=other,
                    )
                opened[row.node_id] = row.generation
        return opened

    def _name(self, row: RolloutRow) -> None:
        holder = self.names.get(row.spec.name, row.rollout_id)
        if holder != row.rollout_id:
            raise Conflict(
                "a rollout of this name exists",
                reason="NAME_TAKEN",
                table="rollouts",
                key=row.rollout_id,
                holder=holder,
            )
