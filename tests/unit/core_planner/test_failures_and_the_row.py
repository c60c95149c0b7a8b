"""Failures and the rollout's row: who forgives what has failed must have counted all of it."""

from __future__ import annotations

from orchestrator.core.actions import Action
from orchestrator.core.fleet import Fleet
from orchestrator.core.model import RolloutRow, guarding
from orchestrator.core.phases import Outcome, Phase
from orchestrator.core.planner import plan
from orchestrator.core.spec import Amount, Budgets, FailureBudget
from tests.unit.core_ops.build import NOW, attempt, fleet, member, nodes, rollout, spec

LENIENT = Budgets(Amount(count=4), Amount(count=4), failures=FailureBudget(Amount(count=4)))


def failing(halted: str) -> Fleet:
    """n00 and n01 have failed, which their members do not say yet."""
    rows = [rollout(3, spec=spec(budgets=LENIENT), halted=halted)]
    members = [member(f"n0{i}", Outcome.OPEN, generation=1, position=i) for i in range(2)]
    broken = [attempt(f"n0{i}", Phase.QUARANTINED, failed=True, failure="quarantined") for i in range(2)]
    return fleet(*rows, *nodes(3), *members, member("n02", position=2), *broken)


def settling(f: Fleet) -> list[Action]:
    return [action for action in plan(f, NOW).actions if action.kind == "settle"]


def test_failures_within_the_budget_rely_on_the_row() -> None:
    f = failing("")
    found = settling(f)
    assert len(found) == 2, "each stands by itself"
    assert all(guarding(f.rollouts["k"]) in action.change.guards for action in found)


def test_failures_under_a_halt_write_the_row() -> None:
    f = failing("FAILURE_BUDGET")
    (found,) = settling(f)
    assert [row for row in found.change.writes if isinstance(row, RolloutRow)] == [f.rollouts["k"]]
    assert {event.node_id for event in found.change.events} == {"n00", "n01"}
