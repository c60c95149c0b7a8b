"""A canary's answer is final, found by simulation: back on its old kernel it is not replaced."""

from __future__ import annotations

from datetime import timedelta

from orchestrator.core import operations
from orchestrator.core.phases import Kind, Outcome, Phase
from orchestrator.core.spec import Amount, Canary, FailureBudget
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


def test_a_canary_that_is_tried_again_from_the_new_kernel_does_not_wait_for_its_own_turn() -> None:
    """It is of another pair by then, and the only canary that may go is the old pair's: itself."""
    w = World([*nodes(1, hardware_model="m1"), *nodes(3, hardware_model="m2")[1:]])
    failures = FailureBudget(Amount(percent=100), frozenset())
    w.rollout(spec(canary=Canary(max_nodes=1), budgets={"failures": failures}), [["n0"], ["n1", "n2"]])
    w.script("n1", stop_at="RETRIEVING")
    w.run()
    assert w.attempt("n1").phase is Phase.RETRIEVING
    w.set_attempt("n1", phase=Phase.QUARANTINED, failed=True, failure="foreign_kexec", settled_at=w.now)
    w.set_node("n1", release=w.attempt("n1").to_release)
    w.settle_plans()
    w.set_member("n1", jumped=True)
    assert w.member("n1").outcome is Outcome.FAILED
    w.scripts.clear()
    w.commit(operations.retry_nodes(w.fleet, "r1", ["n1"], "", "ann", w.now).change)
    w.run()
    assert w.attempt("n1").generation == 2
    assert "PAIR_WAITS" not in w.reasons()
