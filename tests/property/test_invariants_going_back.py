"""What the checker must let pass on the way back; found by simulation as false alarms."""

from __future__ import annotations

from dataclasses import replace

from orchestrator.core.invariants import check
from orchestrator.core.model import Row
from orchestrator.core.phases import Goal, Kind, Phase
from orchestrator.core.policy import FleetPolicy
from orchestrator.core.spec import Amount, Budgets, DomainBudget, RollbackPolicy
from tests.property.test_invariants import base, prepare
from tests.unit.core_ops.build import INCARNATION, NOW, attempt, rollout, spec


def broken(before: list[Row], rows: list[Row]) -> list[str]:
    found = check(before, rows, policy=FleetPolicy(), incarnation=INCARNATION, now=NOW)
    return [b.invariant for b in found]


def test_an_unhealthy_node_is_rolled_back_under_a_cancel() -> None:
    before = [*base(goal=Goal.CANCEL), attempt("n02", Phase.AWAITING_ROLLBACK)]
    assert broken(before, prepare("n02", 2, kind=Kind.ROLLBACK)) == []
    assert broken(before, prepare("n03", 1)) == ["I6"]


def test_a_domains_cap_counts_the_rollbacks_own_attempts_not_another_rollouts() -> None:
    budgets = Budgets(Amount(count=6), Amount(count=6), domain=DomainBudget("zone", Amount(count=1)))
    back = RollbackPolicy(max_unavailable=Amount(count=6), max_in_blackout=Amount(count=6))
    before = base(goal=Goal.BACK, spec=spec(budgets=budgets, rollback=back))
    other = replace(rollout(6), rollout_id="other")
    theirs = attempt("n02", Phase.PRESERVED, kind=Kind.ROLLBACK, rollout_id="other")
    assert broken([*before, other, theirs], prepare("n04", kind=Kind.ROLLBACK)) == []
    ours = replace(theirs, rollout_id=before[0].rollout_id)  # type: ignore[union-attr]
    assert "I1" in broken([*before, ours], prepare("n04", kind=Kind.ROLLBACK))
