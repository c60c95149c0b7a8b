"""A plan in the making: collects actions so that each stands or falls by itself.

Rules
1. No row is written by two actions, and none is relied upon (guarded) that another writes.
   What does not fit waits for the next plan, which follows the commits of this one.
2. Revisions are those of the rows in the fleet.
3. A rollout whose row changes, or that has just seen a node fail, is `held`: nothing of it
   starts or proceeds in this plan, because its gates may read otherwise afterwards.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime

from orchestrator.core.actions import Action
from orchestrator.core.budgets import Purse
from orchestrator.core.fleet import Fleet
from orchestrator.core.index import RolloutIndex
from orchestrator.core.model import Change, Desired, NewEvent, NodeRow, Row, RowKey, row_key
from orchestrator.core.schedule import Opening, opening


class Draft:
    """Actions so far, and what they touch."""

    def __init__(self, fleet: Fleet, now: datetime) -> None:
        self.fleet = fleet
        self.now = now
        self.purse = Purse(fleet)
        self.actions: list[Action] = []
        self.held: set[str] = set()
        self.awaited: dict[str, set[str]] = {}
        """Rollout → nodes whose attempts it takes in, once the fleet is released (adoption.py)."""
        self.staging = fleet.staging
        self._written: set[RowKey] = set()
        self._guarded: set[RowKey] = set()
        self._openings: dict[str, Opening] = {}

    def add(
        self,
        kind: str,
        rollout_id: str,
        writes: Sequence[Row],
        events: Sequence[NewEvent] = (),
        guards: Sequence[Row] = (),
        hint: Sequence[str] = (),
    ) -> bool:
        """Take the action in, unless rule 1 forbids it now."""
        keys = {row_key(row) for row in writes}
        relied = {row_key(row): row.revision for row in guards if row_key(row) not in keys}
        if not (keys.isdisjoint(self._written) and keys.isdisjoint(self._guarded)):
            return False
        if any(key in self._written for key in relied):
            return False
        self._written |= keys
        self._guarded |= relied.keys()
        change = Change(tuple(writes), tuple(relied.items()), tuple(events))
        self.actions.append(Action(kind, change, tuple(hint), rollout_id))
        return True

    def free(self, row: Row) -> bool:
        """Whether the row is still unwritten in this plan."""
        return row_key(row) not in self._written and row_key(row) not in self._guarded

    def opening(self, index: RolloutIndex) -> Opening:
        """The rollout's windows and embargoes now."""
        rollout_id = index.row.rollout_id
        if rollout_id not in self._openings:
            self._openings[rollout_id] = opening(index.row.spec.schedule, self.now)
        return self._openings[rollout_id]


def desiring(node: NodeRow, desired: Desired | None) -> NodeRow:
    """The node with another desired command, and the serial that makes it a new one."""
    return replace(node, desired=desired, command_serial=node.command_serial + 1)
