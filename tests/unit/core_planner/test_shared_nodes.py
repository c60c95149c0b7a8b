"""Two rollouts over the same nodes: what one of them starts, the other's budgets feel in the same plan."""

from __future__ import annotations

from typing import Any

from orchestrator.core.model import DesiredStage, row_key
from orchestrator.core.phases import Outcome, Phase, WaveState
from orchestrator.core.spec import Amount, DomainBudget
from orchestrator.core.standing import Place
from tests.unit.core_planner.builders import NEW, OLD, World, artifact, nodes, spec


def both(**how: Any) -> World:
    """r1 and r2, past their canary, over the same nodes in opposite order."""
    w = World(nodes(4, zone="ab"))
    for name, wave in (("r1", ["n1", "n2", "n3"]), ("r2", ["n3", "n2", "n1"])):
        w.rollout(spec(name=name, **how), waves=[["n0"], wave])
        passed = frozenset({(OLD, NEW, "m1")})
        w.set_rollout(name, wave=1, wave_state=WaveState.RUNNING, pairs_passed=passed)
        w.set_member("n0", name, outcome=Outcome.ALREADY)
    return w


def test_a_start_of_one_rollout_is_spent_in_the_others_budget() -> None:
    w = both(unavailable=1)
    w.settle_plans()
    assert w.open_nodes() == ["n1"]


def test_a_start_of_one_rollout_is_spent_in_the_others_domain() -> None:
    cap = DomainBudget("zone", Amount(count=1))
    w = both(budgets={"domain": cap})
    w.settle_plans()
    zones = [w.node(n).labels["zone"] for n in w.open_nodes()]
    assert sorted(zones) == ["a", "b"]


def test_a_node_that_has_begun_to_bake_is_not_taken_before_its_member_says_so() -> None:
    """Found by tests/property/test_stale_replicas.py: the first rollout waited for its bake for ever."""
    w = both(unavailable=1)
    w.settle_plans()
    while w.step("n1"):
        w.settle_plans()
    assert w.attempt("n1").phase is Phase.BAKING
    w.set_member("n1", "r1", outcome=Outcome.OPEN)
    w.set_member("n1", "r2", outcome=Outcome.PENDING)
    w.set_node("n1", release="6.18.0")
    starts = [a for a in w.plan().actions if a.kind == "prepare" and a.rollout_id == "r2"]
    assert not any(row_key(r) == ("nodes", ("n1",)) for a in starts for r in a.change.writes)
    assert w.fleet.indexes["r2"].standings["n1"].place is Place.OTHER_ROLLOUT


def test_a_node_that_stages_for_one_rollout_is_not_told_to_stage_for_the_other() -> None:
    w = World(nodes(1, staged=frozenset()))
    w.rollout(spec(name="r1"))
    w.rollout(spec(name="r2"), artifact=artifact("7.2.0", "sha-2"))
    w.settle_plans()
    desired = w.node("n0").desired
    assert isinstance(desired, DesiredStage)
    assert desired.artifact.digest == "sha-new"
    assert not [a for a in w.plan().actions if a.kind == "stage"]
