"""The whole fleet's state: committed rows, what was heard of links, and aggregates kept up to date.

`apply` takes one fact and touches only the node (or rollout) that it is about; `advance` lets
what falls due by itself fall due. Both together always give what `rebuild` gives from the same
facts. Nothing here decides, reads a clock or does I/O.

Rules
1. Rows of higher layers win by being applied later: facts come in commit order.
2. Time never goes back: an instant before the newest one seen counts as the newest one.
3. A node's standing (standing.py) is asked for when a fact about it arrives, and when the
   standing's own end is reached; hearing of a node that is already UP costs nothing.
4. What is known of links: link_states.py.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime, timedelta
from typing import assert_never

from orchestrator.core.facts import Deleted, Fact, GraceEnds, Heard, LinkDown, Replicas
from orchestrator.core.index import RolloutIndex
from orchestrator.core.link_gap import heard_after
from orchestrator.core.link_states import LinkStates
from orchestrator.core.model import (
    AttemptRow,
    CapacityRow,
    FleetRow,
    IdempotencyRow,
    MemberRow,
    NodeRow,
    RolloutRow,
)
from orchestrator.core.phases import Kind, Link, Phase
from orchestrator.core.policy import FleetPolicy
from orchestrator.core.settlement import BACK, is_forgotten
from orchestrator.core.standing import (
    Flag,
    Membership,
    Standing,
    Surroundings,
    is_open,
    is_unavailable,
    lost_at,
    stand,
)

BEGINNING = datetime(1970, 1, 1, tzinfo=UTC)


class Fleet:
    """Rows, links and aggregates. Mutated by apply and advance only."""

    def __init__(self, policy: FleetPolicy, incarnation: str) -> None:
        self.policy = policy
        self.incarnation = incarnation
        self.incarnation_serial = 0
        """Of the store's incarnation; set by whoever loads the fleet from a snapshot."""
        self.row = FleetRow()
        self.capacity = CapacityRow()
        self.nodes: dict[str, NodeRow] = {}
        self.attempts: dict[tuple[str, int], AttemptRow] = {}
        self.rollouts: dict[str, RolloutRow] = {}
        self.indexes: dict[str, RolloutIndex] = {}
        """By rollout id; all rollouts that are stored, ended ones too."""
        self._links = LinkStates(policy)
        self.heard = self._links.heard
        """The newest sign of life of each node since this process began."""
        self.now = BEGINNING
        self.uncounted = 0
        self.unavailable = 0
        self.blackout = 0
        self.staging = 0
        self.stale_desires: set[str] = set()
        self.incarnations: set[str] = set()
        """That rows are known to be of: this store's, and those that it was before it went back in
        time. They are forgotten no sooner than the process ends; a node's row names its own."""
        self.unclaimed: set[str] = set()
        """Nodes whose newest attempt was adopted, and is of no rollout yet (adoption.py)."""
        self.standings: dict[str, Standing] = {}
        self._generations: dict[str, list[int]] = {}
        self._rollouts_of: dict[str, set[str]] = {}
        self._names: dict[str, str] = {}
        self._early: dict[str, dict[str, MemberRow]] = {}
        """Members whose rollout has not come yet: rows of one commit come in any order."""
        self._wakes: list[tuple[datetime, str]] = []
        self._wake_of: dict[str, datetime] = {}
        self._touched: dict[str, None] | None = None

    # --- reading ---------------------------------------------------------------------

    def rollout_named(self, name: str) -> RolloutRow | None:
        """By name, or by id."""
        rollout_id = self._names.get(name, name)
        return self.rollouts.get(rollout_id)

    def members(self, rollout_id: str) -> Mapping[str, MemberRow]:
        """By node id; empty if there is no such rollout."""
        index = self.indexes.get(rollout_id)
        return index.members if index is not None else {}

    def member(self, rollout_id: str, node_id: str) -> MemberRow | None:
        return self.members(rollout_id).get(node_id)

    def rollouts_of(self, node_id: str) -> tuple[str, ...]:
        """Ids of all stored rollouts that the node is a member of."""
        return tuple(sorted(self._rollouts_of.get(node_id, ())))

    def newest_attempt(self, node_id: str) -> AttemptRow | None:
        """The node's attempt with the highest generation."""
        generations = self._generations.get(node_id)
        return self.attempts[node_id, max(generations)] if generations else None

    def attempts_at(self, node_id: str) -> tuple[AttemptRow, ...]:
        """Every stored attempt at the node, oldest first."""
        return tuple(self.attempts[node_id, g] for g in sorted(self._generations.get(node_id, ())))

    def open_attempt(self, node_id: str) -> AttemptRow | None:
        """The node's one attempt that has not settled."""
        newest = self.newest_attempt(node_id)
        return newest if is_open(newest) else None

    def forward_attempt(self, node_id: str, rollout_id: str) -> AttemptRow | None:
        """The node's newest forward attempt in one rollout."""
        for generation in sorted(self._generations.get(node_id, ()), reverse=True):
            attempt = self.attempts[node_id, generation]
            if attempt.rollout_id == rollout_id and attempt.kind is Kind.FORWARD:
                return attempt
        return None

    def last_attempt(self, member: MemberRow) -> AttemptRow | None:
        """The member's own newest, or the newest since that may have taken its node elsewhere."""
        own = self.attempts.get((member.node_id, member.generation))
        generations = self._generations.get(member.node_id, ())
        for generation in sorted((g for g in generations if g > member.generation), reverse=True):
            attempt = self.attempts[member.node_id, generation]
            if attempt.kind is Kind.ROLLBACK and attempt.phase in BACK:
                there = self.rollouts[member.rollout_id].artifact.release
                return own if attempt.to_release == there else attempt
            if attempt.phase is not Phase.ABORTED or is_forgotten(attempt):
                return attempt
        return own

    def enrolled_after(self, at: datetime) -> list[NodeRow]:
        """Nodes that were enrolled later than at, in the order of their names."""
        late = (n for n in self.nodes.values() if n.enrolled_at is not None and n.enrolled_at > at)
        return sorted(late, key=lambda n: n.node_id)

    @property
    def grace_ends_at(self) -> datetime | None:
        """Until then links of which nothing is known are UNKNOWN."""
        return self._links.grace_ends_at

    @property
    def replicas(self) -> Replicas | None:
        """As this process knows them; None: it is the only one there ever was."""
        return self._links.replicas

    def unvouched_until(self, replica: str) -> datetime | None:
        """When the links of a replica whose lease has run out count as down; None: never yet."""
        return self._links.unvouched_until(replica)

    def last_heard(self, node_id: str) -> Heard | None:
        """Newest sign of life since this process began, whatever became of the link since."""
        return self.heard.get(node_id)

    def link(self, node_id: str, now: datetime) -> Link:
        """What is known of the node's link at now."""
        return self._link(node_id, max(now, self.now))[0]

    def unknown_until(self, node_id: str) -> datetime | None:
        """When a link that is UNKNOWN counts as down; None if it is not UNKNOWN, or for ever."""
        link, until = self._link(node_id, self.now)
        return until if link is Link.UNKNOWN else None

    def available(self, node_id: str, now: datetime) -> bool:
        """Linked, serving and in no phase that makes it unavailable. Maintenance and write-off
        are another matter (standing.in_maintenance): they take it out of the count."""
        node = self.nodes.get(node_id)
        if node is None:
            return False
        return not is_unavailable(node, self.newest_attempt(node_id), self.link(node_id, now))

    def unavailable_members(self, rollout_id: str) -> int:
        """Members that spend max_unavailable now: a rollback's baseline."""
        index = self.indexes.get(rollout_id)
        return index.unavailable if index is not None else 0

    def idle_interval(self) -> timedelta:
        """How often an idle node should beat so that the fleet stays under its rate."""
        by_rate = timedelta(seconds=len(self.nodes) / self.policy.idle_heartbeat_rate)
        return max(self.policy.min_idle_heartbeat, by_rate)

    def lost_at(self, node_id: str) -> datetime | None:
        """When the node's open attempt counts as lost if the node stays silent."""
        return lost_at(self._surroundings(node_id), self.policy)

    def next_wake(self) -> datetime | None:
        """The next instant at which a node's standing changes by itself."""
        while self._wakes:
            at, node_id = self._wakes[0]
            if self._wake_of.get(node_id) != at:
                heapq.heappop(self._wakes)
                continue
            later = self._look(node_id)[1]
            if later == at:
                return at
            heapq.heappop(self._wakes)
            del self._wake_of[node_id]
            self._schedule(node_id, later)
        return None

    # --- facts -----------------------------------------------------------------------

    @classmethod
    def rebuild(cls, policy: FleetPolicy, incarnation: str, facts: Iterable[Fact]) -> Fleet:
        """From scratch: what applying the facts one by one gives, faster."""
        return cls(policy, incarnation).take(facts)

    def take(self, facts: Iterable[Fact]) -> Fleet:
        """Apply facts in order, looking at each node they touch once, at the end."""
        self._touched = touched = dict[str, None]()
        try:
            for fact in facts:
                self.apply(fact)
        finally:
            self._touched = None
        for node_id in touched:
            self._reindex(node_id)
        return self

    def apply(self, fact: Fact) -> Fleet:
        """Take in one committed row or one thing heard. Returns the fleet itself."""
        match fact:
            case NodeRow():
                self.nodes[fact.node_id] = fact
                self.incarnations.add(fact.incarnation)
                self._reindex(fact.node_id)
            case AttemptRow():
                self._attempt(fact)
            case MemberRow():
                self._member(fact)
            case RolloutRow():
                self._rollout(fact)
            case FleetRow():
                self.row = fact
            case CapacityRow():
                self.capacity = fact
            case IdempotencyRow():
                pass
            case Heard():
                self._hear(fact)
            case LinkDown():
                self._links.end(fact)
                self._reindex(fact.node_id)
            case GraceEnds():
                self._links.grace_ends_at = fact.at
                for node_id in self.nodes:
                    self._reindex(node_id)
            case Replicas():
                self._replicas(fact)
            case Deleted():
                self._delete(fact)
            case _:
                assert_never(fact)
        return self

    def advance(self, now: datetime) -> None:
        """Let everything fall due that does so by itself until now."""
        self.now = max(self.now, now)
        while self._wakes and self._wakes[0][0] <= self.now:
            at, node_id = heapq.heappop(self._wakes)
            if self._wake_of.get(node_id) == at:
                del self._wake_of[node_id]
                self._reindex(node_id)

    def _attempt(self, row: AttemptRow) -> None:
        known = (row.node_id, row.generation) in self.attempts
        self.attempts[row.node_id, row.generation] = row
        if not known:
            self._generations.setdefault(row.node_id, []).append(row.generation)
        self.incarnations.add(row.incarnation)
        newest = self.newest_attempt(row.node_id)
        unclaimed = newest is not None and newest.adopted and not newest.rollout_id
        (self.unclaimed.add if unclaimed else self.unclaimed.discard)(row.node_id)
        self._reindex(row.node_id)

    def _member(self, row: MemberRow) -> None:
        index = self.indexes.get(row.rollout_id)
        if index is None:
            self._early.setdefault(row.rollout_id, {})[row.node_id] = row
            return
        index.members[row.node_id] = row
        self._rollouts_of.setdefault(row.node_id, set()).add(row.rollout_id)
        self._reindex(row.node_id)

    def _rollout(self, row: RolloutRow) -> None:
        old = self.rollouts.get(row.rollout_id)
        self.rollouts[row.rollout_id] = row
        self._names[row.spec.name] = row.rollout_id
        index = self.indexes.setdefault(row.rollout_id, RolloutIndex(row))
        index.row = row
        index.version += 1
        for member in self._early.pop(row.rollout_id, {}).values():
            self._member(member)
        if old is None or (old.goal, old.ended_at, old.spec, old.artifact) != (
            row.goal,
            row.ended_at,
            row.spec,
            row.artifact,
        ):
            for node_id in index.members:
                self._reindex(node_id)

    def _hear(self, fact: Heard) -> None:
        known = self.heard.get(fact.node_id)
        if known is not None and known.at > fact.at:
            return
        self.heard[fact.node_id] = heard_after(known, fact, self.open_attempt(fact.node_id))
        standing = self.standings.get(fact.node_id)
        if standing is None or standing.link is not Link.UP or _is_silent(standing):
            self._reindex(fact.node_id)

    def _replicas(self, fact: Replicas) -> None:
        moved = self._links.hear_of(fact)
        for node_id, node in self.nodes.items():
            if moved is None or node.link_replica in moved:
                self._reindex(node_id)

    def _delete(self, fact: Deleted) -> None:
        match fact.table:
            case "rollouts":
                (rollout_id,) = fact.key
                index = self.indexes.pop(rollout_id, None)
                row = self.rollouts.pop(rollout_id, None)
                if row is not None and self._names.get(row.spec.name) == rollout_id:
                    del self._names[row.spec.name]
                for node_id in index.members if index is not None else ():
                    self._rollouts_of[node_id].discard(rollout_id)
                    self._reindex(node_id)
            case "members":
                rollout_id, node_id = fact.key
                index = self.indexes.get(rollout_id)
                if index is not None and index.members.pop(node_id, None) is not None:
                    index.remove(node_id)
                    self._rollouts_of[node_id].discard(rollout_id)
                    self._reindex(node_id)
            case "attempts":
                node_id, generation = fact.key[0], int(fact.key[1])
                if self.attempts.pop((node_id, generation), None) is not None:
                    self._generations[node_id].remove(generation)
                    self._reindex(node_id)
            case "nodes":
                (node_id,) = fact.key
                self._withdraw(node_id)
                self.nodes.pop(node_id, None)
                self._links.forget(node_id)
                self._wake_of.pop(node_id, None)
            case _:
                pass

    # --- links -----------------------------------------------------------------------

    def _link(self, node_id: str, now: datetime) -> tuple[Link, datetime | None]:
        """The link's state, and when it changes unless something is heard."""
        newest = self.newest_attempt(node_id)
        return self._links.state(node_id, self.nodes.get(node_id), newest, self.idle_interval(), now)

    # --- indexes ---------------------------------------------------------------------

    def _surroundings(self, node_id: str) -> Surroundings:
        node = self.nodes[node_id]
        link, until = self._link(node_id, self.now)
        memberships = []
        for rollout_id in self._rollouts_of.get(node_id, ()):
            index = self.indexes[rollout_id]
            member = index.members[node_id]
            own = self.attempts.get((node_id, member.generation))
            last = self.last_attempt(member) if index.row.ended_at is None else own
            memberships.append(Membership(index.row, member, own, last))
        return Surroundings(
            node=node,
            newest=self.newest_attempt(node_id),
            memberships=tuple(memberships),
            link=link,
            link_until=until,
            alive_at=self._links.alive_at(node_id, node, link),
        )

    def _look(self, node_id: str) -> tuple[Standing, datetime | None]:
        return stand(self._surroundings(node_id), self.policy, self.now)

    def _reindex(self, node_id: str) -> None:
        if self._touched is not None:
            self._touched[node_id] = None
            return
        if node_id not in self.nodes:
            return
        standing, until = self._look(node_id)
        if standing != self.standings.get(node_id):
            self._withdraw(node_id)
            self.standings[node_id] = standing
            self._count(standing, 1)
            if standing.stale_desire:
                self.stale_desires.add(node_id)
            for rollout_id, member in standing.members.items():
                self.indexes[rollout_id].add(node_id, member)
        self._schedule(node_id, until)

    def _withdraw(self, node_id: str) -> None:
        standing = self.standings.pop(node_id, None)
        if standing is None:
            return
        self._count(standing, -1)
        self.stale_desires.discard(node_id)
        for rollout_id in standing.members:
            index = self.indexes.get(rollout_id)
            if index is not None:
                index.remove(node_id)

    def _count(self, standing: Standing, by: int) -> None:
        self.uncounted += by * (not standing.counted)
        self.unavailable += by * standing.unavailable
        self.blackout += by * standing.blackout
        self.staging += by * standing.staging

    def _schedule(self, node_id: str, until: datetime | None) -> None:
        """One wake a node: the earliest known. A later one is found when it is reached."""
        known = self._wake_of.get(node_id)
        if until is None or (known is not None and known <= until):
            return
        self._wake_of[node_id] = until
        heapq.heappush(self._wakes, (until, node_id))


def _is_silent(standing: Standing) -> bool:
    return any(Flag.SILENT in member.flags for member in standing.members.values())
