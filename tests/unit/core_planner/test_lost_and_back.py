"""A LOST node that returns by itself, after a person has asked for its retry."""

from __future__ import annotations

from datetime import timedelta

import pytest

from orchestrator.core import operations
from orchestrator.core.phases import Outcome, Phase, Verdict
from tests.unit.core_planner.builders import NEW, OLD, World, nodes, spec


@pytest.mark.parametrize("phase", [Phase.BAKING, Phase.COMMITTED])
def test_it_is_updated_and_a_rollback_brings_it_back(phase: Phase) -> None:
    w = World(nodes(1))
    w.rollout(spec(bake=timedelta(minutes=5)))
    w.run(until="JUMPING")
    w.cut("n0")
    w.now += timedelta(minutes=30)
    w.settle_plans()
    assert w.attempt("n0").phase is Phase.LOST
    w.commit(operations.retry_nodes(w.fleet, "r1", ["n0"], "", "ann", w.now).change)
    w.commit(operations.resume(w.fleet, "r1", "", True, "ann", w.now))
    # All its reports are taken in between two plans.
    w.set_node("n0", release=NEW, boot_id="n0-boot-2")
    w.set_attempt("n0", phase=phase, phase_at=w.now, healthy_since=w.now, verdict=Verdict.LIVE_UPDATED)
    w.mend("n0")
    w.settle_plans()
    member = w.member("n0")
    assert member.outcome is (Outcome.BAKING if phase is Phase.BAKING else Outcome.UPDATED)
    assert (member.failed, member.operator_word, member.updated_order) == (True, False, 1)
    w.commit(operations.roll_back(w.fleet, "r1", "", "ann", w.now))
    w.run()
    assert w.state() == "ROLLED_BACK"


@pytest.mark.parametrize("phase", [Phase.BAKING, Phase.AWAITING_ROLLBACK, Phase.RETRIEVING])
def test_a_written_off_node_that_returns_on_the_new_kernel_is_rolled_back_too(phase: Phase) -> None:
    w = World(nodes(3))
    w.rollout(spec(bake=timedelta(minutes=5)))
    w.run(until="JUMPING")
    w.cut("n0")
    w.now += timedelta(minutes=30)
    w.settle_plans()
    w.commit(operations.write_off(w.fleet, ["n0"], "the rack burnt", "ann", w.now).change)
    w.settle_plans()
    assert w.member("n0").outcome is Outcome.WRITTEN_OFF
    w.set_node("n0", written_off="", release=NEW, boot_id="n0-boot-2")
    w.set_attempt("n0", phase=phase, healthy_since=w.now, settled_at=w.now, verdict=Verdict.LIVE_UPDATED)
    w.mend("n0")
    w.settle_plans()
    assert w.member("n0").outcome is not Outcome.WRITTEN_OFF
    if not w.row().ended_at:
        w.commit(operations.roll_back(w.fleet, "r1", "", "ann", w.now))
    w.run()
    assert (w.state(), w.node("n0").release) == ("ROLLED_BACK", OLD)
