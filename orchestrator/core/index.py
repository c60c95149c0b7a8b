"""A rollout's aggregates: what is spent, who may be started next, what must be looked at.

Rules
1. Every number is a sum over members' standings; add and remove are exact opposites, so the
   index after any sequence of facts equals one built from scratch (the property tests' oracle).
2. Members due for an attempt lie in lanes: ready ones by (domain value, pair) in their order,
   so that a blocked bucket is skipped whole; waiting ones by what they wait for.
3. Nothing here decides.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field

from orchestrator.core.model import GateVerdict, MemberRow, RolloutRow
from orchestrator.core.phases import Outcome
from orchestrator.core.standing import Bucket, Flag, Lane, MemberStanding, Place

Order = tuple[int, str]
"""(position within the rollout, or the reverse of the order of updates; node id)"""


def _drop(ordered: list[Order], item: Order) -> None:
    at = bisect_left(ordered, item)
    del ordered[at]


@dataclass(slots=True)
class Queue:
    """Members of one wave (or of the way back) that are due for an attempt."""

    ready: dict[Bucket, list[Order]] = field(default_factory=dict)
    waiting: dict[Place, list[Order]] = field(default_factory=dict)

    def add(self, m: MemberStanding) -> None:
        if m.place is Place.READY:
            insort(self.ready.setdefault(m.bucket, []), m.order)
        else:
            assert m.place is not None, "whoever is in a lane has a place"
            insort(self.waiting.setdefault(m.place, []), m.order)

    def remove(self, m: MemberStanding) -> None:
        if m.place is Place.READY:
            _drop(self.ready[m.bucket], m.order)
            if not self.ready[m.bucket]:
                del self.ready[m.bucket]
        else:
            assert m.place is not None, "whoever is in a lane has a place"
            _drop(self.waiting[m.place], m.order)
            if not self.waiting[m.place]:
                del self.waiting[m.place]

    def __bool__(self) -> bool:
        return bool(self.ready or self.waiting)


def _bump(counter: Counter[str], key: str, by: int) -> None:
    """A counter without zeros, so that equal sums are equal counters."""
    counter[key] += by
    if not counter[key]:
        del counter[key]


@dataclass(slots=True)
class RolloutIndex:
    """One rollout with everything that the planner asks of its members."""

    row: RolloutRow
    members: dict[str, MemberRow] = field(default_factory=dict)
    standings: dict[str, MemberStanding] = field(default_factory=dict)
    outcomes: dict[int, Counter[str]] = field(default_factory=dict)
    """By wave, then outcome."""
    uncounted: int = 0
    """Members in maintenance or written off: out of numerator and denominator."""
    unavailable: int = 0
    blackout: int = 0
    uncommitted: int = 0
    failed: int = 0
    silent: set[str] = field(default_factory=set)
    """Open attempts of this rollout on nodes without a link."""
    baking: dict[str, None] = field(default_factory=dict)
    """Members that bake, in the order in which they began to."""
    domain_members: Counter[str] = field(default_factory=Counter)
    domain_unavailable: Counter[str] = field(default_factory=Counter)
    domain_returning: Counter[str] = field(default_factory=Counter)
    """Unavailable because of a rollback's attempt."""
    queues: dict[tuple[Lane, int], Queue] = field(default_factory=dict)
    """By lane and wave; the way back has one queue, wave 0."""
    flagged: dict[Flag, set[str]] = field(default_factory=lambda: {flag: set() for flag in Flag})
    last_order: int = 0
    """Highest updated_order given so far."""
    version: int = field(default=0, compare=False)
    """Rises with every change of a member's standing; memos of gates go by it."""
    judged: tuple[int, int, tuple[GateVerdict, ...]] | None = field(default=None, compare=False)
    """Memo: (version, wave, verdicts)."""

    def add(self, node_id: str, m: MemberStanding) -> None:
        self.standings[node_id] = m
        self._count(m, 1)
        for flag in m.flags:
            self.flagged[flag].add(node_id)
        if m.silent:
            self.silent.add(node_id)
        if m.uncommitted:
            self.baking[node_id] = None
        if m.lane is not None:
            self.queues.setdefault(self._queue_key(m), Queue()).add(m)
        self.last_order = max(self.last_order, m.updated_order)

    def remove(self, node_id: str) -> None:
        m = self.standings.pop(node_id, None)
        if m is None:
            return
        self._count(m, -1)
        for flag in m.flags:
            self.flagged[flag].discard(node_id)
        self.silent.discard(node_id)
        self.baking.pop(node_id, None)
        if m.lane is not None:
            key = self._queue_key(m)
            self.queues[key].remove(m)
            if not self.queues[key]:
                del self.queues[key]

    def _queue_key(self, m: MemberStanding) -> tuple[Lane, int]:
        assert m.lane is not None
        return (m.lane, m.wave if m.lane is Lane.FORWARD else 0)

    def _count(self, m: MemberStanding, by: int) -> None:
        self.version += 1
        wave = self.outcomes.setdefault(m.wave, Counter())
        _bump(wave, m.outcome.value, by)
        if not wave:
            del self.outcomes[m.wave]
        self.uncounted += by * (not m.counted)
        self.unavailable += by * m.unavailable
        self.blackout += by * m.blackout
        self.uncommitted += by * m.uncommitted
        self.failed += by * m.failed
        if m.counted:
            _bump(self.domain_members, m.value, by)
        if m.unavailable:
            for value in m.values:
                _bump(self.domain_unavailable, value, by)
                if m.returning:
                    _bump(self.domain_returning, value, by)

    def count(self, *outcomes: Outcome, upto: int | None = None, wave: int | None = None) -> int:
        """Members with one of the outcomes: in one wave, in the waves up to one, or in all."""
        total = 0
        for index, counter in self.outcomes.items():
            if (wave is None or index == wave) and (upto is None or index <= upto):
                total += sum(counter[outcome.value] for outcome in outcomes if outcome.value in counter)
        return total

    def queue(self, lane: Lane, wave: int = 0) -> Queue:
        """The queue, empty if nobody is in it."""
        return self.queues.get((lane, wave)) or Queue()

    def due_queues(self) -> Iterator[tuple[int, Queue]]:
        """Forward queues whose turn has come: waves up to the current one, in order."""
        for lane, wave in sorted(self.queues):
            if lane is Lane.FORWARD and wave <= self.row.wave:
                yield wave, self.queues[lane, wave]

    def flagged_nodes(self, flag: Flag) -> list[str]:
        """In a stable order."""
        return sorted(self.flagged[flag])

    def denominator(self) -> int:
        """What percentages are of: the members fixed at the start, less those taken out."""
        return max(0, self.row.members - self.uncounted)
