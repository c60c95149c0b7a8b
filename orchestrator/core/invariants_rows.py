"""The checker's own memory of committed rows: what is open, unavailable or in blackout, by node.

Written apart from fleet.py and index.py on purpose: a mistake there must not hide here.

Rules
1. Unavailable, as rows know it: link ended, not healthy, or the newest attempt in a phase that
   makes it so. Nodes in maintenance or written off are out of every count.
2. A blackout slot is held by an attempt that has not given it back and was never LOST.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from datetime import datetime

from orchestrator.core.model import AttemptRow, FleetRow, MemberRow, NodeRow, RolloutRow, Row
from orchestrator.core.phases import BLACKOUT_SLOT, SETTLED, UNAVAILABLE, Kind


class Rows:
    """Committed rows by key, with the few sets that the promises ask about."""

    def __init__(self) -> None:
        self.nodes: dict[str, NodeRow] = {}
        self.attempts: dict[tuple[str, int], AttemptRow] = {}
        self.rollouts: dict[str, RolloutRow] = {}
        self.members: dict[str, dict[str, MemberRow]] = {}
        self.fleet = FleetRow()
        self.unavailable: set[str] = set()
        self._newest: dict[str, int] = {}
        self._highest: dict[str, int] = {}
        self._open: dict[str, set[int]] = {}
        self._slots: set[str] = set()
        self._out: set[str] = set()
        self._labelled: dict[tuple[str, str], Counter[str]] = {}
        """(rollout, label) → members by value; emptied whenever labels or membership change."""

    def put(self, row: Row) -> None:
        """The row as it is now."""
        match row:
            case NodeRow():
                before = self.nodes.get(row.node_id)
                if before is None or before.labels != row.labels:
                    self._labelled.clear()
                self.nodes[row.node_id] = row
                self._raise(row.node_id, row.highest_generation)
                (self._out.add if row.written_off or row.maintenance else self._out.discard)(row.node_id)
                self._look(row.node_id)
            case AttemptRow():
                self._attempt(row)
                self._look(row.node_id)
            case RolloutRow():
                self.rollouts[row.rollout_id] = row
            case MemberRow():
                of_rollout = self.members.setdefault(row.rollout_id, {})
                if row.node_id not in of_rollout:
                    self._labelled.clear()
                of_rollout[row.node_id] = row
            case FleetRow():
                self.fleet = row
            case _:
                pass

    def highest(self, node_id: str) -> int:
        """The highest generation that any row has named for the node."""
        return self._highest.get(node_id, 0)

    def newest(self, node_id: str) -> AttemptRow | None:
        """The node's attempt with the highest generation."""
        return self.attempts.get((node_id, self._newest.get(node_id, 0)))

    def open_generations(self, node_id: str) -> frozenset[int]:
        """Attempts of the node that have not settled."""
        return frozenset(self._open.get(node_id, ()))

    def freeze(self, node_ids: Iterable[str]) -> Mapping[str, bool]:
        """Whether each of the nodes is unavailable before a commit."""
        return {n: n in self.unavailable for n in node_ids}

    def counted(self, node_id: str, now: datetime) -> bool:
        """Whether the node is in numerator and denominator."""
        if node_id not in self._out:
            return True
        node = self.nodes[node_id]
        if node.written_off or node.maintenance is None:
            return not node.written_off
        expires = node.maintenance.expires_at
        return expires is not None and expires <= now

    def out_of(self, node_ids: Mapping[str, MemberRow], now: datetime) -> int:
        """How many of the nodes are not counted."""
        return sum(1 for n in self._out if n in node_ids and not self.counted(n, now))

    def carrying(self, rollout_id: str, key: str, value: str, now: datetime) -> int:
        """How many counted members carry the label's value."""
        members = self.members.get(rollout_id, {})
        counts = self._labelled.get((rollout_id, key))
        if counts is None:
            counts = Counter(self.nodes[n].labels.get(key, "") for n in members if n in self.nodes)
            self._labelled[rollout_id, key] = counts
        out = [n for n in self._out if n in members and not self.counted(n, now)]
        return counts[value] - sum(1 for n in out if self.nodes[n].labels.get(key, "") == value)

    def unavailable_among(self, node_ids: Mapping[str, object], now: datetime) -> Iterator[str]:
        """Counted nodes that are unavailable."""
        for node_id in self.unavailable:
            if node_id in node_ids and self.counted(node_id, now):
                yield node_id

    def slots(self, rollout_id: str = "") -> Iterator[str]:
        """Nodes whose newest attempt holds a blackout slot, of one rollout or of all."""
        for node_id in self._slots:
            newest = self.newest(node_id)
            if newest is not None and rollout_id in ("", newest.rollout_id):
                yield node_id

    def goes_back(self, node_id: str, rollout_id: str) -> bool:
        """Whether the node's newest attempt is a rollback of that rollout."""
        newest = self.newest(node_id)
        return newest is not None and newest.kind is Kind.ROLLBACK and newest.rollout_id == rollout_id

    def values(self, node_id: str, key: str) -> frozenset[str]:
        """Domain values that the node counts under: the current one, and the one it started with."""
        node, newest = self.nodes[node_id], self.newest(node_id)
        current = node.labels.get(key, "")
        if newest is None or newest.phase not in UNAVAILABLE:
            return frozenset({current})
        return frozenset({current, newest.domains.get(key, current)})

    def _attempt(self, row: AttemptRow) -> None:
        self.attempts[row.node_id, row.generation] = row
        self._raise(row.node_id, row.generation)
        self._newest[row.node_id] = max(self._newest.get(row.node_id, 0), row.generation)
        open_ = self._open.setdefault(row.node_id, set())
        (open_.discard if row.phase in SETTLED else open_.add)(row.generation)

    def _raise(self, node_id: str, generation: int) -> None:
        self._highest[node_id] = max(self._highest.get(node_id, 0), generation)

    def _look(self, node_id: str) -> None:
        node, newest = self.nodes.get(node_id), self.newest(node_id)
        bad = newest is not None and newest.phase in UNAVAILABLE
        if node is not None and (not node.link_up or not node.healthy):
            bad = True
        (self.unavailable.add if bad else self.unavailable.discard)(node_id)
        holds = newest is not None and newest.phase in BLACKOUT_SLOT and not newest.ever_lost
        (self._slots.add if holds else self._slots.discard)(node_id)
