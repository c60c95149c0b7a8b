"""A rollback's own budget holds, whatever was unavailable when it began and whoever asks for it again."""

from __future__ import annotations

from datetime import timedelta

from orchestrator.core import operations
from orchestrator.core.phases import Kind, Phase
from orchestrator.core.spec import Amount, RollbackPolicy
from tests.unit.core_planner.builders import World, nodes, spec
from tests.unit.core_planner.test_starts import begun

ONE = RollbackPolicy(max_unavailable=Amount(count=1), max_in_blackout=Amount(count=6))


def going_back(w: World) -> list[str]:
    return [n for n in w.open_nodes() if w.attempt(n).kind is Kind.ROLLBACK]


def test_asking_again_during_a_pause_makes_no_room() -> None:
    w = World(nodes(6))
    w.rollout(spec(rollback=ONE))
    w.run()
    w.commit(operations.roll_back(w.fleet, "r1", "", "ann", w.now))
    w.settle_plans()
    assert len(going_back(w)) == 1
    w.commit(operations.pause(w.fleet, "r1", "", "ann", w.now))
    baseline = w.row().rollback_baseline
    w.commit(operations.roll_back(w.fleet, "r1", "", "ann", w.now))
    w.settle_plans()
    assert w.row().rollback_baseline == baseline
    assert len(going_back(w)) == 1


def test_attempts_that_unwind_make_no_room() -> None:
    w = begun(10, unavailable=3, bake=timedelta(hours=5), rollback=ONE)
    w.settle_plans()
    first = w.open_nodes()
    while any(w.attempt(n).phase is not Phase.BAKING for n in first):
        for node_id in first:
            w.step(node_id)
        w.execute(action for action in w.plan().actions if action.kind != "prepare")
    w.settle_plans()
    assert len(w.open_nodes()) == 3
    w.commit(operations.roll_back(w.fleet, "r1", "", "ann", w.now))
    most = 0
    for _ in range(200):
        moved = w.settle_plans()
        most = max(most, len(going_back(w)))
        if not w.agents() and not moved:
            break
    assert most == 1
    assert w.state() == "ROLLED_BACK"
