"""Every stall names who must do what, and what it names works."""

from __future__ import annotations

from datetime import timedelta

import pytest

from orchestrator.core import operations
from orchestrator.core.phases import Outcome, Phase
from orchestrator.core.spec import Amount
from tests.unit.core_planner.builders import World, nodes, settled_attempt, spec
from tests.unit.core_planner.test_starts import begun


def baking(w: World) -> World:
    """n1 bakes, and is heard of no more."""
    w.run(until="BAKING")
    w.cut("n1")
    w.tick(timedelta(minutes=10))
    w.settle_plans()
    return w


def test_a_baking_node_that_is_written_off_holds_its_wave_no_longer() -> None:
    w = baking(begun(2, bake=timedelta(minutes=5)))
    assert "BAKING_STUCK" in w.reasons()
    w.commit(operations.write_off(w.fleet, ["n1"], "the rack burnt", "ann", w.now).change)
    w.run()
    assert (w.member("n1").outcome, w.attempt("n1").phase) == (Outcome.WRITTEN_OFF, Phase.BAKING)
    assert w.state() == "SUCCEEDED"


@pytest.mark.parametrize("phase", [Phase.QUARANTINED, Phase.COLD_BOOTED, Phase.LOST])
def test_a_node_that_another_rollout_left_broken_starts_once_it_is_retried_by_name(phase: Phase) -> None:
    w = World(nodes(2))
    w.put(settled_attempt(w.node("n1"), phase))
    w.rollout(spec())
    w.run()
    assert "NEEDS_OPERATOR" in w.reasons()
    w.commit(operations.retry_nodes(w.fleet, "r1", ["n1"], "mended", "ann", w.now).change)
    w.run()
    assert (w.state(), w.member("n1").outcome) == ("SUCCEEDED", Outcome.UPDATED)


def test_so_does_the_only_node_of_a_rollout_that_has_not_begun() -> None:
    w = World(nodes(1))
    w.put(settled_attempt(w.node("n0"), Phase.QUARANTINED))
    w.rollout(spec())
    w.run()
    w.commit(operations.retry_nodes(w.fleet, "r1", ["n0"], "mended", "ann", w.now).change)
    w.run()
    assert w.state() == "SUCCEEDED"


def test_a_budget_that_an_unreachable_baking_node_fills_names_the_node() -> None:
    one = {"max_uncommitted": Amount(count=1)}
    w = baking(begun(4, bake=timedelta(minutes=5), budgets=one))
    stuck = {b.reason: b for b in w.plan().blockers["r1"]}
    assert stuck["BUDGET_UNCOMMITTED"].nodes == ("n2", "n3")
    assert stuck["BAKING_STUCK"].nodes == ("n1",)
    assert "`liveroll write-off n1 -m WHY`" in stuck["BAKING_STUCK"].remedy
    w.commit(operations.write_off(w.fleet, ["n1"], "the rack burnt", "ann", w.now).change)
    w.run()
    assert w.state() == "SUCCEEDED"
