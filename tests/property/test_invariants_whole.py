"""Operations, transitions and the planner together, every commit under the checker's eyes.

Nodes are small honest agents that do what the desired command on their row says; links break,
nodes fail, freeze, lose power or memory, operators call whatever comes to mind, the
orchestrator restarts. No commit may ever break a promise; and once the faults heal and a fair
operator answers the blockers, every rollout ends.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import datetime, timedelta

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from orchestrator.core import operations, transitions, views
from orchestrator.core.facts import GraceEnds
from orchestrator.core.fleet import Fleet
from orchestrator.core.invariants import Checker
from orchestrator.core.messages import (
    AttemptRef,
    CommandRefusal,
    Heartbeat,
    Hello,
    MemoryCheck,
    NodeStatus,
    Report,
)
from orchestrator.core.model import (
    Change,
    DesiredCancel,
    DesiredCommit,
    DesiredPrepare,
    DesiredProceed,
    DesiredStage,
    Event,
    Problem,
    Row,
    RowKey,
    Stamp,
    row_key,
)
from orchestrator.core.phases import SETTLED, Kind, Outcome, Phase, RolloutState, Verdict
from orchestrator.core.planner import plan
from orchestrator.core.policy import FleetPolicy
from orchestrator.core.spec import (
    Amount,
    Bake,
    Budgets,
    DomainBudget,
    FailureBudget,
    Promotion,
    WaveSpec,
)
from orchestrator.errors import LiverollError, Retry
from tests.unit.core_ops.build import ARTIFACT, INCARNATION, NEW, NOW, OLD, spec

IDS = tuple(f"n{i}" for i in range(6))
AFTER = {
    Phase.LOADING: ("Loaded", Phase.DRAINING),
    Phase.DRAINING: ("Drained", Phase.PRESERVING),
    Phase.PRESERVING: ("Preserved", Phase.PRESERVED),
    Phase.SUSPENDING: ("Suspended", Phase.JUMPING),
    Phase.JUMPING: ("BootClassified", Phase.RETRIEVING),
    Phase.RETRIEVING: ("Retrieved", Phase.RESUMING),
    Phase.RESUMING: ("Resumed", Phase.VERIFYING),
    Phase.VERIFYING: ("Healthy", Phase.FINISHING),
    Phase.FINISHING: ("Finished", Phase.BAKING),
    Phase.UNWINDING: ("Unwound", Phase.ABORTED),
}
REFUSED = Problem("FREEZE_REFUSED", Retry.REPLAN, "a file refuses to freeze")


@dataclass
class Agent:
    """One node: a saga without effects."""

    node_id: str
    model: str
    release: str = OLD
    boot: int = 1
    seq: int = 0
    epoch: int = 0
    linked: bool = False
    highest: int = 0
    ref: AttemptRef | None = None
    phase: Phase = Phase.IDLE
    kind: Kind = Kind.FORWARD
    to: str = NEW
    problem: Problem | None = None
    fails: str = ""
    """What goes wrong next: freeze, unhealthy, power, memory, wrong."""
    unsent: tuple[Report, ...] = ()

    @property
    def boot_id(self) -> str:
        return f"{self.node_id}-{self.boot}"

    def status(self) -> NodeStatus:
        return NodeStatus(self.ref, self.phase, self.seq, healthy=self.phase is not Phase.AWAITING_ROLLBACK)

    def hello(self) -> Hello:
        return Hello(
            self.node_id,
            f"inst-{self.node_id}",
            self.boot_id,
            self.release,
            self.model,
            frozenset({"luo"}),
            {"zone": "ab"[int(self.node_id[1:]) % 2]},
            self.highest,
            INCARNATION,
            1,
            self.status(),
            staged_artifacts=frozenset({ARTIFACT.digest}),
            rollback_artifact="r" * 64,
            command_line="root=/dev/vda1",
        )

    def say(self, event: str, phase: Phase, **fields: object) -> None:
        self.seq += 1
        self.phase = phase
        told = Report(
            self.seq,
            event,
            phase,
            self.ref,
            boot_id=self.boot_id,
            release=self.release,
            problem=self.problem,
            healthy=phase not in (Phase.AWAITING_ROLLBACK, Phase.QUARANTINED, Phase.COLD_BOOTED),
            stamp=Stamp(self.boot_id, timedelta(seconds=self.seq)),
            **fields,  # type: ignore[arg-type]
        )
        self.unsent = (*self.unsent, told)

    def step(self) -> None:
        """One effect of the saga."""
        if self.phase not in AFTER:
            return
        event, phase = AFTER[self.phase]
        wrong, self.fails = self.fails, ""
        if self.phase is Phase.JUMPING:
            self.boot += 1
            if wrong == "power":
                self.say("BootClassified", Phase.COLD_BOOTED, boot_verdict=Verdict.COLD_BOOT)
                return
            self.release = self.to
            if wrong == "memory":
                self.say("BootClassified", Phase.COLD_BOOTED, boot_verdict=Verdict.STATE_LOST)
                return
            self.say(event, phase, boot_verdict=Verdict.LIVE_UPDATED)
        elif self.phase is Phase.SUSPENDING and wrong == "freeze":
            self.problem = REFUSED
            self.say("StepFailed", Phase.UNWINDING)
        elif self.phase is Phase.RESUMING:
            self.say(event, phase, memory_check=MemoryCheck(1, 1, 8))
        elif self.phase is Phase.FINISHING and wrong == "unhealthy":
            self.say(event, Phase.AWAITING_ROLLBACK if self.kind is Kind.FORWARD else Phase.QUARANTINED)
        else:
            self.fails = wrong if wrong in ("freeze", "power", "memory", "unhealthy") else ""
            self.say(event, phase)

    def obey(self, command: object, command_id: str, kind: Kind, word: bool) -> None:
        """Classify the desired command as the real agent would."""
        match command:
            case DesiredPrepare(generation=generation, artifact=artifact):
                if self.ref is not None and self.ref.generation == generation:
                    return
                if generation <= self.highest or self.phase not in SETTLED:
                    self.refuse(command_id, "STALE_GENERATION")
                    return
                self.highest, self.kind, self.to, self.problem = generation, kind, artifact.release, None
                self.ref = AttemptRef(self.node_id, generation, INCARNATION)
                self.say("Prepared", Phase.LOADING)
            case DesiredProceed(generation=generation, stamp=stamp):
                if self.ref is None or self.ref.generation != generation:
                    return
                if self.phase is Phase.PRESERVED and stamp.boot_id == self.boot_id:
                    self.say("Proceeded", Phase.SUSPENDING)
            case DesiredCancel(generation=generation, reason=reason):
                if self.ref is None or self.ref.generation != generation:
                    self.highest = max(self.highest, generation)
                    mine, self.ref = self.ref, AttemptRef(self.node_id, generation, INCARNATION)
                    self.problem = Problem("CANCELLED", Retry.REPLAN, reason)
                    before = self.phase
                    self.say("Unwound", Phase.ABORTED)
                    self.ref, self.phase = mine, before
                elif self.phase in list(AFTER)[:4] or self.phase is Phase.PRESERVED:
                    self.problem = Problem("CANCELLED", Retry.REPLAN, reason)
                    self.say("CancelRequested", Phase.UNWINDING)
            case DesiredCommit(generation=generation):
                if self.ref is not None and self.ref.generation == generation and self.phase is Phase.BAKING:
                    self.say("Committed", Phase.COMMITTED)
            case _:
                pass

    def refuse(self, command_id: str, reason: str) -> None:
        self.seq += 1
        problem = Problem(reason, Retry.REPLAN, "no")
        told = Report(self.seq, "CommandRefused", self.phase, refusal=CommandRefusal(command_id, problem))
        self.unsent = (*self.unsent, told)


class World:
    """A store, a fleet, its agents, and the checker beside them."""

    def __init__(self, promotion: Promotion) -> None:
        self.now: datetime = NOW
        self.rows: dict[RowKey, Row] = {}
        self.seq = 0
        self.refusals: list[LiverollError] = []
        self.policy = FleetPolicy()
        self.checker = Checker([], policy=self.policy, incarnation=INCARNATION, tolerance=timedelta(0))
        self.fleet = self.restart()
        self.agents = {n: Agent(n, "m1" if i % 3 else "m2") for i, n in enumerate(IDS)}
        for agent in self.agents.values():
            self.link(agent)
        wanted = spec(
            waves=(WaveSpec("some", Amount(count=2)), WaveSpec("rest")),
            budgets=Budgets(
                Amount(count=2),
                Amount(count=2),
                domain=DomainBudget("zone", Amount(count=1)),
                failures=FailureBudget(Amount(count=2), frozenset({"lost"})),
            ),
            bake=Bake(timedelta(seconds=5), timedelta(seconds=5)),
            promotion=promotion,
        )
        self.commit(operations.create(self.fleet, wanted, ARTIFACT, "alice", self.now).change)

    def restart(self) -> Fleet:
        """The orchestrator's memory, from the store alone."""
        self.fleet = Fleet.rebuild(self.policy, INCARNATION, self.rows.values())
        self.fleet.incarnation_serial = 1
        self.fleet.advance(self.now)
        self.fleet.apply(GraceEnds(self.now + self.policy.restart_grace))
        return self.fleet

    def commit(self, change: Change) -> bool:
        """As a store does: all or nothing, guarded by revisions."""
        for row in change.writes:
            held = self.rows.get(row_key(row))
            if (held.revision if held is not None else 0) != row.revision:
                return False
        for key, revision in change.guards:
            held = self.rows.get(key)
            if (held.revision if held is not None else 0) != revision:
                return False
        rows = [replace(row, revision=row.revision + 1) for row in change.writes]
        events = []
        for new in change.events:
            self.seq += 1
            events.append(Event(INCARNATION, self.seq, self.now, new))
        for row in rows:
            self.rows[row_key(row)] = row
        broken = self.checker.committed(rows, events, self.now)
        assert broken == [], broken
        for row in rows:
            self.fleet.apply(row)
        return True

    def take(self, seen: transitions.Observation) -> transitions.Observation:
        assert self.commit(seen.change)
        for fact in seen.facts:
            self.fleet.apply(fact)
        return seen

    def link(self, agent: Agent) -> None:
        seen = self.take(transitions.hello(self.fleet, agent.hello(), "", self.now))
        assert seen.welcome is not None, seen.refusal
        agent.epoch, agent.linked = seen.welcome.link_epoch, True
        agent.unsent = tuple(r for r in agent.unsent if r.seq > seen.welcome.acknowledged_seq)

    def cut(self, agent: Agent, told: bool) -> None:
        if agent.linked and told:
            self.take(transitions.link_down(self.fleet, agent.node_id, agent.epoch, self.now))
        agent.linked = False

    def talk(self, agent: Agent, duplicate: bool = False) -> None:
        """Reports up, a heartbeat, the desired command down."""
        if not agent.linked:
            return
        for message in agent.unsent:
            for _ in range(1 + duplicate):
                told = transitions.report(self.fleet, agent.node_id, message, agent.epoch, self.now)
                assert told.acknowledge_seq is not None, told.refusal
                self.take(told)
        agent.unsent = ()
        stamp = Stamp(agent.boot_id, timedelta(seconds=agent.seq))
        beat = Heartbeat(agent.status(), stamp)
        self.take(transitions.heartbeat(self.fleet, agent.node_id, beat, agent.epoch, self.now))
        node = self.fleet.nodes[agent.node_id]
        if node.desired is not None and not isinstance(node.desired, DesiredStage):
            row = self.fleet.attempts.get((agent.node_id, node.desired.generation))
            kind = row.kind if row is not None else Kind.FORWARD
            agent.obey(node.desired, f"{INCARNATION}:{node.command_serial}", kind, False)

    def plan(self, most: int = 1000) -> None:
        for _ in range(3):
            made = plan(self.fleet, self.now)
            for action in made.actions[:most]:
                self.commit(action.change)

    def call(self, operation: str) -> None:
        """Whatever an operator may call; refusals are fine."""
        f, now, who = self.fleet, self.now, ("alice", self.now)
        try:
            match operation:
                case "pause":
                    change = operations.pause(f, "k", "", *who)
                case "resume":
                    change = operations.resume(f, "k", "", True, *who)
                case "approve":
                    change = operations.approve(f, "k", "", "", *who)
                case "cancel":
                    change = operations.cancel(f, "k", "", False, *who)
                case "cancel and roll back":
                    change = operations.cancel(f, "k", "", True, *who)
                case "rollback":
                    change = operations.roll_back(f, "k", "", *who)
                case "retry":
                    change = operations.retry_nodes(f, "k", [], "", *who).change
                case "commit":
                    change = operations.commit_nodes(f, "k", [], "", *who).change
                case "exclude":
                    change = operations.exclude_nodes(f, "k", ["n5"], "", *who).change
                case "stop":
                    change = operations.fleet_stop(f, True, "", *who)
                case "release":
                    change = operations.fleet_stop(f, False, "", *who)
                case _:
                    raise AssertionError(operation)
        except LiverollError as error:
            self.refusals.append(error)
            return
        assert self.commit(change)
        assert now == self.now


OPERATIONS = (
    "pause",
    "resume",
    "approve",
    "cancel",
    "cancel and roll back",
    "rollback",
    "retry",
    "commit",
    "exclude",
    "stop",
    "release",
)
STEPS = st.one_of(
    st.tuples(st.just("agents"), st.integers(1, 4)),
    st.tuples(st.just("agents"), st.integers(1, 4)),
    st.tuples(st.just("plan"), st.integers(0, 3)),
    st.tuples(st.just("plan"), st.just(1000)),
    st.tuples(st.just("wait"), st.sampled_from([1, 6, 40, 400])),
    st.tuples(st.just("cut"), st.integers(0, len(IDS) - 1)),
    st.tuples(st.just("vanish"), st.integers(0, len(IDS) - 1)),
    st.tuples(st.just("link"), st.integers(0, len(IDS) - 1)),
    st.tuples(st.sampled_from(["freeze", "unhealthy", "power", "memory"]), st.integers(0, len(IDS) - 1)),
    st.tuples(st.just("restart"), st.just(0)),
    st.tuples(st.just("call"), st.sampled_from(OPERATIONS)),
)


def do(world: World, what: str, how: object) -> None:
    agents = list(world.agents.values())
    match what, how:
        case "agents", int(count):
            for _ in range(count):
                for agent in agents:
                    agent.step()
                    world.talk(agent, duplicate=count == 2)
        case "plan", int(most):
            world.plan(most)
        case "wait", int(seconds):
            world.now += timedelta(seconds=seconds)
        case "cut", int(i):
            world.cut(agents[i], told=True)
        case "vanish", int(i):
            world.cut(agents[i], told=False)
        case "link", int(i):
            world.link(agents[i])
        case "restart", _:
            world.restart()
        case "call", str(operation):
            world.call(operation)
        case str(fault), int(i):
            agents[i].fails = fault


@pytest.mark.parametrize("promotion", list(Promotion))
@given(steps=st.lists(STEPS, max_size=40))
@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_no_commit_breaks_a_promise_and_everything_ends(
    promotion: Promotion, steps: list[tuple[str, object]]
) -> None:
    world = World(promotion)
    for what, how in steps:
        do(world, what, how)
        views.rollout_view(world.fleet, "k", plan(world.fleet, world.now), world.now)
        for node_id in IDS:
            assert views.explain(world.fleet, "k", node_id, None, world.now).summary
    for agent in world.agents.values():
        agent.fails = ""
        world.link(agent)
    for turn in range(120):
        if world.fleet.rollouts["k"].ended_at is not None:
            break
        if turn % 10 == 9:
            for operation in ("release", "resume", "retry", "approve"):
                world.call(operation)
        world.now += timedelta(seconds=7)
        world.plan()
        do(world, "agents", 3)
        world.plan()
    assert all(error.remedy for error in world.refusals), "a refusal says what to do"
    row = world.fleet.rollouts["k"]
    view = views.rollout_view(world.fleet, "k", plan(world.fleet, world.now), world.now)
    assert row.ended_at is not None, (view.state, view.blockers, world.fleet.members("k"))
    if row.ended_as == RolloutState.SUCCEEDED:
        good = {Outcome.UPDATED, Outcome.ALREADY}
        assert any(m.outcome in good for m in world.fleet.members("k").values())


def test_a_quiet_rollout_succeeds() -> None:
    world = World(Promotion.AUTOMATIC)
    for _ in range(60):
        world.now += timedelta(seconds=3)
        world.plan()
        do(world, "agents", 2)
    view = views.rollout_view(world.fleet, "k", plan(world.fleet, world.now), world.now)
    assert view.state is RolloutState.SUCCEEDED
    assert [w.updated for w in view.waves] == [2, 2, 2]
    assert (view.memory_checks_passed, view.memory_checks_failed) == (6, 0)
