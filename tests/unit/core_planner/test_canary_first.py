"""Canaries that were planned when the rollout was created: who takes the turn of one that cannot."""

from __future__ import annotations

from datetime import timedelta

import pytest

from orchestrator.core import operations
from orchestrator.core.phases import Outcome, Phase
from orchestrator.core.spec import Amount, FailureBudget
from orchestrator.errors import Retry
from tests.unit.core_planner.builders import World, artifact, node, spec

PAIR = "6.19.0|7.1.0|"


def created(*models: str, **how: object) -> World:
    """A rollout over n0, n1 … of these hardware models, created as an operator does it."""
    luo = frozenset({"luo", "kho"})
    w = World([node(f"n{i}", hardware_model=m, capabilities=luo) for i, m in enumerate(models)])
    budgets = {"failures": FailureBudget(Amount(count=9), halt_on=frozenset())}
    made = operations.create(w.fleet, spec(budgets=budgets, **how), artifact(), "alice", w.now)  # type: ignore[arg-type]
    w.commit(made.change)
    return w


def test_each_pair_has_its_canary_from_the_start() -> None:
    w = created("m1", "m1", "m2", "m2")
    assert w.row().pair_canaries == {f"{PAIR}m1": "n0", f"{PAIR}m2": "n2"}
    w.settle_plans()
    assert w.open_nodes() == ["n0", "n2"]
    assert w.attempt("n0").pair_canary


def test_an_unreachable_canary_of_wave_0_is_replaced_by_another_of_its_pair() -> None:
    w = created("m1", "m1", "m2", "m2")
    w.cut("n0")
    w.tick(timedelta(minutes=2))
    w.settle_plans()
    assert w.row().pair_canaries == {f"{PAIR}m1": "n1", f"{PAIR}m2": "n2"}
    assert w.member("n1").wave == 0
    assert w.open_nodes() == ["n1", "n2"]
    assert any(e.kind == "canary.chosen" and "instead of n0" in e.message for e in w.events)
    assert w.member("n0").wave == len(w.row().wave_names) - 1
    w.mend("n0")
    w.run()
    assert w.state() == "SUCCEEDED"


def test_nobody_of_another_pair_takes_the_place() -> None:
    w = created("m1", "m2", "m2")
    w.cut("n0")
    w.tick(timedelta(minutes=2))
    w.settle_plans()
    assert w.open_nodes() == ["n1"]
    assert w.member("n2").wave == 1


@pytest.mark.parametrize("phase", ["LOADING", "PRESERVING"])
def test_a_canary_of_wave_0_lost_before_its_jump_is_replaced(phase: str) -> None:
    w = created("m1", "m1", "m1")
    w.script("n0", stop_at=phase)
    w.run(until=phase)
    w.cut("n0")
    w.tick(timedelta(minutes=10))
    w.settle_plans()
    assert w.attempt("n0").phase is Phase.LOST
    assert w.member("n0").outcome is Outcome.FAILED
    assert w.row().pair_canaries == {f"{PAIR}m1": "n1"}
    assert w.open_nodes() == ["n1"]


@pytest.mark.parametrize("phase", ["SUSPENDING", "JUMPING", "RETRIEVING", "VERIFYING"])
def test_a_canary_of_wave_0_lost_after_its_jump_never_is(phase: str) -> None:
    w = created("m1", "m1", "m1")
    w.run(until=phase)
    w.cut("n0")
    w.tick(timedelta(minutes=30))
    w.run()
    assert w.attempt("n0").phase is Phase.LOST
    assert w.row().pair_canaries == {f"{PAIR}m1": "n0"}
    assert set(w.phases()) == {"n0"}, "nobody else has begun"


def test_a_canary_that_came_back_and_was_tried_again_in_vain_never_is() -> None:
    w = created("m1", "m1", "m1")
    w.script("n0", end=Phase.AWAITING_ROLLBACK)
    w.run()
    assert w.member("n0").outcome is Outcome.ROLLED_BACK
    w.script("n0", fail_at="DRAINING", retry=Retry.NEVER)
    again = operations.retry_nodes(w.fleet, w.row().rollout_id, ["n0"], "once more", "alice", w.now)
    w.commit(again.change)
    w.run()
    assert w.attempt("n0").phase is Phase.ABORTED
    assert w.member("n0").outcome is Outcome.FAILED
    assert w.row().pair_canaries == {f"{PAIR}m1": "n0"}
    assert set(w.phases()) == {"n0"}, "nobody else has begun"
