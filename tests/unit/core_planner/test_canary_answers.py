"""A canary's answer is final, found by simulation: back on its old kernel it is not replaced."""

from __future__ import annotations

from datetime import timedelta

from orchestrator.core import operations
from orchestrator.core.phases import Kind, Outcome, Phase
from orchestrator.core.spec import Amount, FailureBudget
from tests.unit.core_planner.builders import World, nodes, spec


def test_a_canary_that_was_rolled_back_is_not_replaced_by_the_next_node() -> None:
    w = World(nodes(3))
    w.rollout(spec(budgets={"failures": FailureBudget(Amount(count=3))}))
    w.script("n0", end=Phase.AWAITING_ROLLBACK)
    w.run(until="AWAITING_ROLLBACK")
    w.settle_plans()
    w.scripts.clear()
    w.run()
    assert w.member("n0").outcome is Outcome.ROLLED_BACK
    assert set(w.row().pair_canaries.values()) == {"n0"}
    assert set(w.phases()) == {"n0"}
    w.tick(timedelta(hours=1))
    assert "CANARY_FAILED" in w.reasons()


def test_a_member_that_is_back_stays_so_whatever_its_rollback_ended_in() -> None:
    w = World(nodes(3))
    w.rollout(spec(budgets={"failures": FailureBudget(Amount(count=3))}))
    w.script("n0", end=Phase.AWAITING_ROLLBACK)
    w.run()
    w.set_attempt("n0", phase=Phase.QUARANTINED, failed=True)
    w.run()
    assert (w.attempt("n0").kind, w.member("n0").outcome) == (Kind.ROLLBACK, Outcome.FAILED)
    assert set(w.row().pair_canaries.values()) == {"n0"}
    w.set_node("n0", release=w.attempt("n0").to_release)
    w.commit(operations.retry_nodes(w.fleet, "r1", ["n0"], "", "ann", w.now).change)
    w.run()
    assert w.member("n0").outcome is Outcome.ROLLED_BACK
    assert not w.member("n0").crossed
    assert set(w.row().pair_canaries.values()) == {"n0"}
    assert set(w.phases()) == {"n0"}
