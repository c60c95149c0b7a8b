"""Operations, transitions and the planner together, every commit under the checker's eyes.

Nodes are small honest agents that do what the desired command on their row says; links break,
nodes fail, freeze, lose power or memory, operators call whatever comes to mind, the
orchestrator restarts. No commit may ever break a promise; and once the faults heal and a fair
operator answers the blockers, every rollout ends.
"""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime, timedelta

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from orchestrator.core import operations, transitions, views
from orchestrator.core.facts import GraceEnds
from orchestrator.core.fleet import Fleet
from orchestrator.core.invariants import Checker
from orchestrator.core.messages import (
    Heartbeat,
)
from orchestrator.core.model import (
    Change,
    DesiredStage,
    Event,
    Row,
    RowKey,
    Stamp,
    row_key,
)
from orchestrator.core.phases import Kind, Outcome, RolloutState
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
from orchestrator.errors import LiverollError
from tests.property.saga import Agent
from tests.unit.core_ops.build import ARTIFACT, INCARNATION, NOW, spec

IDS = tuple(f"n{i}" for i in range(6))


class World:
    """A store, a fleet, its agents, and the checker beside them."""

    def __init__(self, promotion: Promotion) -> None:
        self.now: datetime = NOW
        self.rows: dict[RowKey, Row] = {}
        self.seq = 0
        self.refusals: list[LiverollError] = []
        self.policy = FleetPolicy()
        self.checker = Checker([], policy=self.policy, incarnation=INCARNATION, slack=timedelta(0))
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
