"""A node that was rolled back is committed: until then a cold boot starts the kernel it came from."""

from __future__ import annotations

from orchestrator.core import operations
from orchestrator.core.phases import Kind, Outcome, Phase
from tests.unit.core_planner.builders import World, nodes, spec


def rolled_back() -> World:
    """Every node is back, and the rollout has ended."""
    w = World(nodes(3))
    w.rollout(spec())
    w.run()
    w.commit(operations.roll_back(w.fleet, "r1", "", "ann", w.now))
    w.run()
    assert w.state() == "ROLLED_BACK"
    return w


def commits(w: World) -> World:
    for _ in range(5):
        w.settle_plans()
        w.agents()
    return w


def test_the_last_one_too_although_the_rollout_has_ended() -> None:
    w = commits(rolled_back())
    assert {(a.kind, a.phase) for n in w.fleet.nodes if (a := w.attempt(n))} == {
        (Kind.ROLLBACK, Phase.COMMITTED)
    }
    assert {w.member(n).outcome for n in w.fleet.nodes} == {Outcome.ROLLED_BACK}
    assert w.state() == "ROLLED_BACK"


def test_not_while_the_fleet_is_stopped() -> None:
    w = commits(rolled_back())
    w.set_attempt("n0", phase=Phase.BAKING, healthy_since=w.now)
    w.set_fleet(stopped="OPERATOR")
    assert "commit" not in w.kinds()
    w.set_fleet(stopped="")
    assert "commit" in w.kinds()


def test_nodes_that_a_cancel_left_updated_are_not_committed_after_it() -> None:
    w = World(nodes(3))
    w.rollout(spec())
    w.run(until="BAKING")
    w.commit(operations.cancel(w.fleet, "r1", "", False, "ann", w.now))
    commits(w)
    assert (w.state(), w.member("n0").outcome) == ("CANCELLED", Outcome.UNCOMMITTED)
    w.tick()
    w.tick()
    assert w.attempt("n0").phase is Phase.BAKING
    assert "commit" not in w.kinds()
