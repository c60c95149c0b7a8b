"""One store, several replicas: each with a Fleet that may be any number of batches behind.

Whatever a replica decides (a plan, an operator's call, what a message means) it decides on its own
fleet, and it is committed on the true rows as a store does: revisions and guards, the planner's
epoch, one open attempt a node. The independent checker follows every commit with no tolerance, and
what an operator was promised is compared with the true rows at the moment of the answer.

As in runtime/: an own commit is applied at once, in front of what others wrote before it; who loses
to another commit reads what is missing and looks again; a new planner begins with everything.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from orchestrator.core import operations, stamps, transitions
from orchestrator.core.actions import Action
from orchestrator.core.capacity import measured, seen_whole
from orchestrator.core.facts import GraceEnds, Replicas
from orchestrator.core.fleet import Fleet
from orchestrator.core.invariants import Checker
from orchestrator.core.messages import Heartbeat
from orchestrator.core.model import (
    CAPACITY,
    Artifact,
    CapacityRow,
    Change,
    DesiredStage,
    Event,
    Maintenance,
    MemberRow,
    RolloutRow,
    Row,
    RowKey,
    Stamp,
    row_key,
)
from orchestrator.core.phases import Goal, Kind, Link, Outcome
from orchestrator.core.planner import plan
from orchestrator.core.policy import FleetPolicy
from orchestrator.core.spec import RolloutSpec
from orchestrator.errors import Conflict, LiverollError
from orchestrator.runtime.known import known
from orchestrator.store.admission import Ledger, fenced, risen
from tests.property.saga import Agent
from tests.unit.core_ops.build import ARTIFACT, INCARNATION, NOW

TRIES = 8
"""As runtime/ingest.py and runtime/calls.py."""

Mutation = Callable[[Change], Change]
"""What a fault in the program would make of every Change: for tests of these tests."""


def unharmed(change: Change) -> Change:
    return change


class Broken(AssertionError):
    """A promise that does not hold, by its name."""

    def __init__(self, promise: str, text: str) -> None:
        super().__init__(f"{promise}: {text}")
        self.promise = promise


class Truth:
    """What is committed: rows, and every batch of them in order."""

    def __init__(self, policy: FleetPolicy, mutate: Mutation) -> None:
        self.rows: dict[RowKey, Row] = {}
        self.batches: list[tuple[Row, ...]] = []
        self.epoch = 0
        self._ledger = Ledger()
        self._seq = 0
        self._mutate = mutate
        self._checker = Checker([], policy=policy, incarnation=INCARNATION, slack=timedelta(0))

    def commit(self, epoch: int | None, change: Change, now: datetime) -> tuple[Row, ...]:
        """The rows as they are once committed. Conflict; Broken if a promise is."""
        change = self._mutate(change)
        if epoch is not None and epoch != self.epoch:
            raise fenced(epoch, self.epoch)
        self._ledger.admit(change)
        rows = risen(change)
        if change.shrinks:
            rows = (*rows, CapacityRow(self._ledger.revisions[CAPACITY]))
        events = [Event(INCARNATION, self._seq + i, now, new) for i, new in enumerate(change.events, 1)]
        self._seq += len(events)
        self.rows |= {row_key(row): row for row in rows}
        self.batches.append(rows)
        for broken in self._checker.committed(rows, events, now):
            raise Broken(broken.invariant, broken.message)
        self._check_failures()
        return rows

    def fleet(self, policy: FleetPolicy) -> Fleet:
        """Everything, for questions."""
        return Fleet.rebuild(policy, INCARNATION, self.rows.values())

    def _check_failures(self) -> None:
        """A rollout that goes forward has no more failures than it may have."""
        for row in self.rows.values():
            if not isinstance(row, RolloutRow) or row.halted or row.ended_at or row.goal is not Goal.FORWARD:
                continue
            failed = sum(member.failed for member in self.members(row.rollout_id))
            if failed - row.failures_forgiven > row.spec.budgets.failures.max.of(row.members):
                raise Broken("FAILURES", f"{failed} failed, {row.failures_forgiven} forgiven, not halted")

    def members(self, rollout_id: str) -> list[MemberRow]:
        return [r for r in self.rows.values() if isinstance(r, MemberRow) and r.rollout_id == rollout_id]


@dataclass
class Replica:
    """One process: its fleet, and how far it has read."""

    name: str
    fleet: Fleet
    batch: int = 0
    pending: list[Action] = field(default_factory=list)
    """Of its plan, not yet committed."""
    epoch: int = 0
    """The newest under which it has led."""

    def take(self, rows: Sequence[Row], *, own: bool) -> None:
        news = []
        for row in rows:
            before = known(self.fleet, row)
            blind = own and isinstance(row, CapacityRow) and not seen_whole(self.fleet.capacity, row)
            if not blind and (before is None or before.revision < row.revision):
                news.append(row)
        self.fleet.take(news)


class World:
    """The store, its replicas, and the nodes, each linked to one of them or to none."""

    def __init__(
        self, nodes: Sequence[Agent], policy: FleetPolicy, replicas: int = 3, mutate: Mutation = unharmed
    ) -> None:
        self.now = NOW
        self.policy = policy
        self.truth = Truth(policy, mutate)
        self.agents = {agent.node_id: agent for agent in nodes}
        self.at: dict[str, str] = {}
        """Node → the replica that has its link."""
        self.replicas: dict[str, Replica] = {}
        self.conflicts = 0
        self.refusals: list[LiverollError] = []
        self._begun = 0
        for _ in range(replicas):
            self.begin()
        self.planner = next(iter(self.replicas))
        self.lead(self.planner)

    # --- replicas ------------------------------------------------------------------------

    def begin(self) -> Replica:
        """A process starts: it has everything, and hears of no link yet."""
        self._begun += 1
        name = f"r{self._begun}"
        fleet = Fleet.rebuild(self.policy, INCARNATION, self.truth.rows.values())
        fleet.incarnation_serial = 1
        fleet.advance(self.now)
        fleet.apply(GraceEnds(self.now + self.policy.restart_grace))
        made = self.replicas[name] = Replica(name, fleet, len(self.truth.batches))
        self._tell_alive()
        return made

    def end(self, name: str) -> None:
        """A process dies: its links are gone, its plan is not carried on."""
        del self.replicas[name]
        for node_id in [n for n, at in self.at.items() if at == name]:
            del self.at[node_id]
        self._tell_alive(name)
        if self.planner == name:
            self.lead(next(iter(self.replicas)))

    def _tell_alive(self, gone: str = "") -> None:
        alive = frozenset(self.replicas)
        for replica in self.replicas.values():
            before = replica.fleet.replicas
            since = dict(before.gone) if before is not None else {}
            if gone:
                since[gone] = self.now
            replica.fleet.apply(Replicas(replica.name, alive, since))

    def lead(self, name: str) -> None:
        """The lease is taken: the epoch rises, and the new planner has everything then."""
        self.truth.epoch += 1
        self.planner = name
        replica = self.replicas[name]
        replica.epoch, replica.pending = self.truth.epoch, []
        self.read(replica)

    def read(self, replica: Replica, most: int = 10**6) -> None:
        """Take in what is committed, so many batches of it."""
        upto = min(len(self.truth.batches), replica.batch + most)
        for rows in self.truth.batches[replica.batch : upto]:
            replica.take(rows, own=False)
        replica.batch = upto

    def commit(self, replica: Replica, change: Change, epoch: int | None = None) -> None:
        """Conflict, after which the replica has everything."""
        if not change:
            return
        try:
            rows = self.truth.commit(epoch, measured(replica.fleet, change, self.now), self.now)
        except Conflict:
            self.conflicts += 1
            self.read(replica)
            raise
        replica.take(rows, own=True)
        if len(self.truth.batches) == replica.batch + 1:
            replica.batch += 1

    # --- the planner -----------------------------------------------------------------------

    def plan(self) -> int:
        """Decide on what the planner knows; nothing is committed yet. How many actions there are."""
        replica = self.replicas[self.planner]
        replica.pending = list(plan(replica.fleet, self.now).actions)
        return len(replica.pending)

    def carry_out(self, replica: Replica, most: int = 10**6) -> None:
        """Commit the next actions, under the epoch that they were planned in."""
        now, replica.pending = replica.pending[:most], replica.pending[most:]
        for action in now:
            try:
                self.commit(replica, action.change, replica.epoch)
            except Conflict:
                continue

    # --- nodes -----------------------------------------------------------------------------

    def link(self, agent: Agent, name: str) -> None:
        replica = self.replicas[name]
        seen = self._take(replica, lambda: transitions.hello(replica.fleet, agent.hello(), "", self.now))
        if seen.welcome is None:
            return
        self.at[agent.node_id] = name
        agent.epoch = seen.welcome.link_epoch
        agent.unsent = tuple(r for r in agent.unsent if r.seq > seen.welcome.acknowledged_seq)

    def cut(self, agent: Agent, told: bool) -> None:
        """The link ends; its replica learns of it now, or once it has been silent for long enough."""
        name = self.at.pop(agent.node_id, None)
        if name is not None and told:
            self._down(self.replicas[name], agent.node_id)

    def _down(self, replica: Replica, node_id: str) -> None:
        self._take(
            replica,
            lambda: transitions.link_down(replica.fleet, node_id, self.agents[node_id].epoch, self.now),
        )

    def end_silent(self, name: str) -> None:
        """A replica looks after its links, as runtime/silence.py."""
        replica = self.replicas[name]
        for node_id, row in list(replica.fleet.nodes.items()):
            mine = row.link_up and row.link_replica == name and self.at.get(node_id) != name
            if mine and replica.fleet.link(node_id, self.now) is Link.DOWN:
                self._down(replica, node_id)

    def talk(self, agent: Agent) -> None:
        """Reports up, a heartbeat, the desired command down, as the link's replica knows it."""
        name = self.at.get(agent.node_id)
        if name is None:
            return
        replica = self.replicas[name]
        fleet, node_id = replica.fleet, agent.node_id
        if agent.unsent:
            told = agent.unsent
            seen = self._take(
                replica, lambda: transitions.reports(fleet, node_id, told, agent.epoch, self.now)
            )
            if seen.acknowledge_seq is None:
                self.at.pop(node_id, None)
                return
            agent.unsent = ()
        beat = Heartbeat(agent.status(), Stamp(agent.boot_id, timedelta(seconds=agent.seq)))
        self._take(replica, lambda: transitions.heartbeat(fleet, node_id, beat, agent.epoch, self.now))
        if name != self.planner:
            self._take(
                replica, lambda: transitions.Observation(stamps.renewal(fleet, node_id, beat.stamp, self.now))
            )
        row = fleet.nodes[node_id]
        if row.desired is not None and not isinstance(row.desired, DesiredStage):
            attempt = fleet.attempts.get((node_id, row.desired.generation))
            kind = attempt.kind if attempt is not None else Kind.FORWARD
            word = attempt is not None and attempt.operator_word
            agent.obey(row.desired, f"{INCARNATION}:{row.command_serial}", kind, word)

    def _take(self, replica: Replica, look: Callable[[], transitions.Observation]) -> transitions.Observation:
        for _ in range(TRIES):
            seen = look()
            try:
                self.commit(replica, seen.change)
            except Conflict:
                continue
            replica.fleet.take(seen.facts)
            return seen
        raise Broken("PROGRESS", "a message only loses to other commits")

    # --- operators -------------------------------------------------------------------------

    def call(self, name: str, operation: str, node_id: str = "", rollout: str = "k") -> None:
        """An operator calls a replica, and has the answer checked against the true rows."""
        replica = self.replicas[name]
        for _ in range(TRIES):
            try:
                change = self._operation(replica.fleet, operation, node_id, rollout)
            except LiverollError as error:
                self.refusals.append(error)
                return
            try:
                self.commit(replica, change)
            except Conflict:
                continue
            self._answered(operation, node_id, rollout, change)
            return
        raise Broken("PROGRESS", "a call only loses to other commits")

    def create(self, name: str, spec: RolloutSpec, artifact: Artifact = ARTIFACT) -> None:
        """An operator begins a rollout."""
        replica = self.replicas[name]
        try:
            created = operations.create(replica.fleet, spec, artifact, "alice", self.now)
            self.commit(replica, created.change)
        except Conflict:
            self.create(name, spec, artifact)
        except LiverollError as error:
            self.refusals.append(error)

    def _operation(self, f: Fleet, operation: str, node: str, rollout: str) -> Change:
        who = ("alice", self.now)
        match operation:
            case "pause":
                return operations.pause(f, rollout, "", *who)
            case "resume":
                return operations.resume(f, rollout, "", True, *who)
            case "approve":
                return operations.approve(f, rollout, "", "", *who)
            case "cancel":
                return operations.cancel(f, rollout, "", False, *who)
            case "cancel and roll back":
                return operations.cancel(f, rollout, "", True, *who)
            case "rollback":
                return operations.roll_back(f, rollout, "", *who)
            case "retry":
                return operations.retry_nodes(f, rollout, [node] if node else [], "", *who).change
            case "commit":
                return operations.commit_nodes(f, rollout, [], "", *who).change
            case "exclude":
                return operations.exclude_nodes(f, rollout, [node], "", *who).change
            case "stop":
                return operations.fleet_stop(f, True, "", *who)
            case "release":
                return operations.fleet_stop(f, False, "", *who)
            case "maintenance":
                return operations.set_maintenance(f, [node], Maintenance("bob", "disk"), *who).change
            case "end maintenance":
                return operations.set_maintenance(f, [node], None, *who).change
            case "write off":
                return operations.write_off(f, [node], "gone", *who).change
            case _:
                raise AssertionError(operation)

    def _answered(self, operation: str, node_id: str, rollout: str, change: Change) -> None:
        """The answer is true at the moment at which it is given."""
        fleet = self.truth.fleet(self.policy)
        row = fleet.rollouts.get(rollout)
        member = fleet.member(rollout, node_id)
        held = True
        match operation:
            case "stop" | "release":
                held = bool(fleet.row.stopped) is (operation == "stop")
            case "pause":
                held = row is not None and bool(row.paused)
            case "resume" if row is not None and any("halt" in e.message for e in change.events):
                held = row.failures_forgiven == fleet.indexes[rollout].failed and not row.halted
            case "retry" if node_id and member is not None:
                held = member.outcome is Outcome.PENDING
            case "exclude" if member is not None:
                attempt = fleet.open_attempt(node_id)
                mine = attempt is not None and attempt.rollout_id == rollout
                held = member.outcome in (Outcome.EXCLUDED, Outcome.WRITTEN_OFF) and not mine
            case "maintenance" | "end maintenance":
                held = (fleet.nodes[node_id].maintenance is None) is (operation == "end maintenance")
                held = held and (operation != "maintenance" or fleet.open_attempt(node_id) is None)
            case "write off":
                held = bool(fleet.nodes[node_id].written_off)
            case _:
                pass
        if not held:
            raise Broken("ANSWER", f"{operation} {node_id} was answered, and is not so")
