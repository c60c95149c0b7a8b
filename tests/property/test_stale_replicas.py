"""Whatever a replica decides on a stale fleet, what is committed keeps every promise; and once all is
read and healed, everything ends.

Seeded, not drawn by hypothesis: a schedule that breaks a promise is rare, and a hundred seeds of this
cost what ten examples do. REPLICA_SEEDS=5000 (and --timeout=0) searches longer.
test_guards_one_by_one.py shows that what it looks for can be found.
"""

from __future__ import annotations

import os
import random
from datetime import timedelta

import pytest

from orchestrator.core.model import Artifact
from orchestrator.core.policy import FleetPolicy
from orchestrator.core.spec import (
    Amount,
    Bake,
    Budgets,
    DomainBudget,
    FailureBudget,
    Promotion,
    RolloutSpec,
    WaveSpec,
)
from orchestrator.core.standing import NEEDS_WORD
from tests.property.replicas import Broken, Mutation, World, unharmed
from tests.property.saga import Agent
from tests.unit.core_ops.build import ARTIFACT, spec

SEEDS = int(os.environ.get("REPLICA_SEEDS", "96"))
SHARDS = 16
STEPS = 140
OTHER = Artifact("kernel-6.20.1", "e" * 64, "6.20.1", "http://127.0.0.1/artifacts", emulated=True)
BOTH = frozenset({ARTIFACT.digest, OTHER.digest})
CALLS = (
    *("pause", "resume", "resume", "resume", "stop", "release", "release"),
    *("approve", "approve", "retry", "retry", "exclude", "commit", "cancel", "rollback"),
    *("maintenance", "end maintenance", "end maintenance", "write off", "write off"),
)
FAULTS = ("freeze", "unhealthy", "power", "memory", "relapse", "relapse")


def wanted(rng: random.Random, name: str = "k") -> RolloutSpec:
    some = rng.choice([Amount(count=2), Amount(count=3), Amount(percent=34)])
    return spec(
        name,
        waves=(WaveSpec("some", Amount(count=3)), WaveSpec("rest")),
        budgets=Budgets(
            some,
            rng.choice([some, Amount(count=2)]),
            domain=rng.choice([None, DomainBudget("zone", Amount(percent=34))]),
            failures=FailureBudget(Amount(count=rng.randint(0, 2)), frozenset({"lost"})),
        ),
        bake=Bake(timedelta(seconds=5), timedelta(seconds=5)),
        promotion=rng.choice([Promotion.AUTOMATIC, Promotion.AUTOMATIC, Promotion.MANUAL]),
        silence_lease=timedelta(seconds=60),
    )


def world(rng: random.Random, mutate: Mutation) -> World:
    nodes = [Agent(f"n{i}", "m1" if i % 4 else "m2", staged=BOTH) for i in range(9)]
    shared = rng.choice([None, Amount(count=3)])
    w = World(nodes, FleetPolicy(max_unavailable=shared, max_in_blackout=shared), mutate=mutate)
    for agent in nodes:
        w.link(agent, rng.choice(list(w.replicas)))
    w.create(w.planner, wanted(rng))
    return w


class Schedule:
    """Steps drawn from one seed."""

    def __init__(self, seed: int, mutate: Mutation = unharmed) -> None:
        self.rng = random.Random(seed)
        self.world = world(self.rng, mutate)
        self.story: list[str] = []

    def run(self) -> None:
        for _ in range(STEPS):
            self.step()
        self.end()

    def step(self) -> None:
        rng, w = self.rng, self.world
        agent = rng.choice(list(w.agents.values()))
        name = rng.choice(list(w.replicas))
        replica = w.replicas[name]
        what = rng.choices(list(WEIGHTS), list(WEIGHTS.values()))[0]
        self.story.append(f"{what} {agent.node_id} {name}")
        match what:
            case "read":
                w.read(replica, rng.randint(0, 6))
            case "plan":
                w.plan()
            case "carry out":
                w.carry_out(replica, rng.choice([1, 2, 3, 1000]))
            case "agents":
                for one in rng.sample(list(w.agents.values()), 4):
                    for _ in range(rng.randint(1, 3)):
                        one.step()
                    w.talk(one)
            case "wait":
                w.now += timedelta(seconds=rng.choice([1, 4, 7, 20]))
                for one in w.agents.values():
                    w.talk(one)
                for each in list(w.replicas):
                    w.end_silent(each)
            case "cut":
                w.cut(agent, told=rng.random() < 0.7)
            case "link":
                w.link(agent, name)
            case "relabel":
                agent.zone = rng.choice("ab")
                w.link(agent, name)
            case "sick":
                agent.well = rng.random() < 0.5
                w.talk(agent)
            case "fault":
                agent.fails = rng.choice(FAULTS)
            case "call":
                w.call(name, rng.choice(CALLS), agent.node_id)
            case "lead":
                w.lead(name)
            case "restart":
                w.begin()
                w.end(name)
            case "create":
                w.create(name, wanted(rng, "j"), OTHER)
            case _:
                raise AssertionError(what)

    def end(self) -> None:
        """Faults heal, replicas read, a fair operator answers: everything ends (I7)."""
        w = self.world
        for agent in w.agents.values():
            agent.fails, agent.well = "", True
            w.link(agent, w.planner)
        for turn in range(160):
            rollouts = w.truth.fleet(w.policy).rollouts.values()
            if all(row.ended_at is not None for row in rollouts):
                return
            if turn % 10 == 9:
                self._answer([row.rollout_id for row in rollouts], turn)
            w.now += timedelta(seconds=7)
            for _ in range(3):
                for replica in w.replicas.values():
                    w.read(replica)
                w.plan()
                w.carry_out(w.replicas[w.planner])
                for agent in w.agents.values():
                    agent.step()
                    w.talk(agent)
        raise Broken("I7", "it does not end")

    def _answer(self, rollouts: list[str], turn: int) -> None:
        """What the blockers' remedies say: a word, then maintenance for what cannot be mended, and
        a cancel in the end."""
        w = self.world
        fleet = w.truth.fleet(w.policy)
        w.call(w.planner, "release")
        for node_id in w.agents:
            newest = fleet.newest_attempt(node_id)
            broken = newest is not None and newest.phase in NEEDS_WORD
            w.call(w.planner, "maintenance" if broken and turn > 40 else "end maintenance", node_id)
        for rollout in rollouts:
            w.call(w.planner, "resume", rollout=rollout)
            w.call(w.planner, "approve" if turn < 100 else "cancel", rollout=rollout)
            for node_id in w.agents:
                w.call(w.planner, "retry", node_id, rollout)


WEIGHTS = {
    "read": 14,
    "plan": 14,
    "carry out": 14,
    "agents": 22,
    "wait": 8,
    "cut": 4,
    "link": 6,
    "relabel": 1,
    "sick": 3,
    "fault": 3,
    "call": 9,
    "lead": 1,
    "restart": 1,
    "create": 1,
}


@pytest.mark.parametrize("shard", range(SHARDS))
def test_no_decision_on_a_stale_fleet_breaks_a_promise(shard: int) -> None:
    for seed in range(shard, SEEDS, SHARDS):
        made = Schedule(seed)
        try:
            made.run()
        except Broken as broken:
            raise AssertionError(f"seed {seed}: {broken}\n" + "\n".join(made.story[-30:])) from broken
