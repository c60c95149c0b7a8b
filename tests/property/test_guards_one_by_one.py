"""Each guard by the schedule that needs it: with it every promise is kept, without it one breaks.

That a seed of test_stale_replicas.py finds nothing would prove little, did it find nothing in a program
without guards either.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta

import pytest

from orchestrator.core.model import CapacityRow, Change, MemberRow, RolloutRow
from orchestrator.core.phases import Outcome, Phase, WaveState
from orchestrator.core.policy import FleetPolicy
from orchestrator.core.spec import Amount, Bake, Budgets, FailureBudget, WaveSpec
from tests.property import replicas
from tests.property.replicas import Broken, Mutation, World, unharmed
from tests.property.saga import Agent
from tests.unit.core_ops.build import spec

HERE, THERE = "r1", "r2"
"""The planner, with the links of n0 to n2; and another replica, with the other links."""


def world(mutate: Mutation, *, failures: int = 6, waves: int = 1) -> World:
    """Six nodes, of which two may be unavailable; past its canary n0."""
    w = World([Agent(f"n{i}", "m1") for i in range(6)], FleetPolicy(), 2, mutate)
    for i, agent in enumerate(w.agents.values()):
        w.link(agent, HERE if i < 3 else THERE)
    names = [WaveSpec(f"w{i}", Amount(count=2)) for i in range(1, waves)]
    w.read(w.replicas[HERE])
    w.create(
        HERE,
        spec(
            waves=(*names, WaveSpec("rest")),
            budgets=Budgets(Amount(count=2), Amount(count=2), failures=FailureBudget(Amount(count=failures))),
            bake=Bake(timedelta(seconds=5), timedelta(seconds=5)),
        ),
    )
    until(w, lambda row: row.wave == 1)
    return w


def read(w: World) -> None:
    for replica in w.replicas.values():
        w.read(replica)


def until(w: World, reached: Callable[[RolloutRow], bool]) -> None:
    """All replicas read all the time, and nodes do what they are told."""
    for _ in range(300):
        read(w)
        if reached(rollout(w)):
            return
        w.plan()
        w.carry_out(w.replicas[HERE])
        for agent in w.agents.values():
            agent.step()
            w.talk(agent)
        w.now += timedelta(seconds=2)
    raise AssertionError(rollout(w))


def rollout(w: World) -> RolloutRow:
    row = w.truth.rows["rollouts", ("k",)]
    assert isinstance(row, RolloutRow)
    return row


def member(w: World, node_id: str) -> MemberRow:
    return next(m for m in w.truth.members("k") if m.node_id == node_id)


def carry_out(w: World) -> None:
    w.carry_out(w.replicas[HERE])


def starting(w: World) -> None:
    """A plan that begins attempts, not carried out yet."""
    read(w)
    w.plan()
    if not any(a.kind == "prepare" for a in w.replicas[HERE].pending):
        carry_out(w)
        starting(w)


# --- schedules --------------------------------------------------------------------------


def links_end(w: World) -> None:
    """Two nodes are gone before what was planned on their availability is committed."""
    starting(w)
    for node_id in ("n4", "n5"):
        w.cut(w.agents[node_id], told=True)
    carry_out(w)


def a_loss_of_ones_own(w: World) -> None:
    """The planner's own link ends, and it has not read of two that ended elsewhere before."""
    starting(w)
    w.replicas[HERE].pending = []
    for node_id in ("n4", "n5"):
        w.cut(w.agents[node_id], told=True)
    w.cut(w.agents["n2"], told=True)
    for _ in range(3):
        w.plan()
        carry_out(w)


def pause(w: World) -> None:
    starting(w)
    w.call(THERE, "pause")
    carry_out(w)


def stop(w: World) -> None:
    starting(w)
    w.call(THERE, "stop")
    carry_out(w)


def relapse(w: World) -> None:
    """A node falls ill before its member is written down as baking."""
    until(w, lambda _: any(a.phase is Phase.FINISHING for a in w.agents.values()))
    sick = next(a for a in w.agents.values() if a.phase is Phase.FINISHING)
    w.cut(sick, told=False)
    w.link(sick, THERE)
    sick.step()
    w.talk(sick)
    read(w)
    w.plan()
    assert any(a.kind == "settle" for a in w.replicas[HERE].pending)
    sick.fails = "relapse"
    sick.step()
    w.talk(sick)
    carry_out(w)


def red_button(w: World) -> None:
    """Somebody has released the stop since this replica last read."""
    w.call(HERE, "stop")
    read(w)
    w.call(HERE, "release")
    w.call(THERE, "stop")


def forgiven(w: World) -> None:
    """A halt is cleared while one more failure is written down."""

    def jumping() -> list[Agent]:
        return [a for a in w.agents.values() if a.phase is Phase.JUMPING]

    until(w, lambda _: len(jumping()) == 2)
    for agent in jumping():
        agent.fails = "power"
        agent.step()
        w.talk(agent)
        read(w)
        w.plan()
        carry_out(w)
    assert rollout(w).halted
    w.call(THERE, "resume")


def last_moment(w: World) -> None:
    """A person wants a node tried again, and the last wave has just passed."""
    w.agents["n1"].fails = "power"
    until(w, lambda row: row.wave == 3 and row.wave_state is WaveState.PASSED)
    failed = [m.node_id for m in w.truth.members("k") if m.outcome is Outcome.FAILED]
    assert failed == ["n1"]
    w.plan()
    assert w.replicas[HERE].pending
    w.call(THERE, "retry", "n1")
    carry_out(w)


# --- programs that forget -----------------------------------------------------------------


def without(table: str) -> Mutation:
    def mutate(change: Change) -> Change:
        return replace(change, guards=tuple(g for g in change.guards if g[0][0] != table))

    return mutate


def blind(change: Change) -> Change:
    return replace(change, shrinks=False)


def idle_answers(change: Change) -> Change:
    return change if change.writes else Change()


def unwritten(kind: str) -> Mutation:
    """The rollout's row is not written for these events alone."""

    def mutate(change: Change) -> Change:
        if {event.kind for event in change.events} != {kind}:
            return change
        return replace(change, writes=tuple(r for r in change.writes if not isinstance(r, RolloutRow)))

    return mutate


CASES: dict[str, tuple[Callable[[World], None], Mutation, str, dict[str, int]]] = {
    "starts guard the capacity": (links_end, without("capacity"), "I1", {}),
    "losses raise the capacity": (links_end, blind, "I1", {}),
    "starts guard the rollout": (pause, without("rollouts"), "I6", {}),
    "starts guard the fleet stop": (stop, without("fleet"), "I6", {}),
    "settlements guard the attempt": (relapse, without("attempts"), "I11", {}),
    "answers guard what they are of": (red_button, idle_answers, "ANSWER", {}),
    "failures under a halt write the rollout": (
        forgiven,
        unwritten("member.settled"),
        "FAILURES",
        {"failures": 0},
    ),
    "retries write the rollout": (last_moment, unwritten("node.retry_wanted"), "I11", {"waves": 3}),
}


@pytest.mark.parametrize("case", list(CASES))
def test_each_guard_is_needed(case: str) -> None:
    schedule, mutation, promise, how = CASES[case]
    schedule(world(unharmed, **how))
    harmed = world(mutation, **how)
    with pytest.raises(Broken) as caught:
        schedule(harmed)
    assert caught.value.promise == promise


def test_a_revision_of_unseen_losses_is_not_taken_in(monkeypatch: pytest.MonkeyPatch) -> None:
    a_loss_of_ones_own(world(unharmed))

    def trusting(known: CapacityRow, row: CapacityRow) -> bool:
        return True

    monkeypatch.setattr(replicas, "seen_whole", trusting)
    with pytest.raises(Broken) as caught:
        a_loss_of_ones_own(world(unharmed))
    assert caught.value.promise == "I1"
