"""Every stall names who must do what, and what it names works."""

from __future__ import annotations

from datetime import timedelta

from orchestrator.core import operations
from orchestrator.core.phases import Outcome, Phase
from tests.unit.core_planner.builders import World
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
