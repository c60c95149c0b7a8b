"""Mistakes of the store: what it lets through, and what a refusal leaves behind."""

from __future__ import annotations

from collections.abc import Iterator
from unittest.mock import patch

from orchestrator.core import standing
from orchestrator.core.model import Change, row_key
from orchestrator.errors import Conflict, LiverollError
from orchestrator.ports import Committed
from orchestrator.store.admission import Ledger
from orchestrator.store.memory import MemoryStore, _Entry
from tests.sim import provocations as worlds
from tests.sim.mutant import mutant


@mutant("store", "I12", worlds.contended)
def refused_change_takes_a_number() -> Iterator[None]:
    """an event gets its number with its commit: a change that is refused leaves no gap"""
    real = MemoryStore._apply

    def mistaken(self: MemoryStore, entry: _Entry, now: object) -> Committed | LiverollError:
        outcome = real(self, entry, now)  # type: ignore[arg-type]
        if not isinstance(outcome, Committed) and entry.change.events:
            self.disk.head_seq += 1
        return outcome

    with patch.object(MemoryStore, "_apply", mistaken):
        yield


@mutant("store", "I7", worlds.contended)
def refused_change_leaves_a_trace() -> Iterator[None]:
    """a change stands or falls as a whole"""
    real = Ledger.admit

    def mistaken(self: Ledger, change: Change) -> None:
        try:
            real(self, change)
        except Conflict:
            for row in change.writes:
                self.revisions[row_key(row)] = self.revisions.get(row_key(row), 0) + 1
            raise

    with patch.object(Ledger, "admit", mistaken):
        yield


@mutant("store", "I14", worlds.lasting_conflict)
def node_has_two_open_attempts() -> Iterator[None]:
    """a node has one open attempt, whatever its rollout: neither the planner nor the index asks"""
    with (
        patch.object(standing, "_taken", lambda surroundings, membership: False),
        patch.object(Ledger, "_attempts", lambda self, change: {}),
    ):
        yield
