"""A node that one rollout left updated and uncommitted, in the next rollout to the same kernel."""

from __future__ import annotations

import pytest

from orchestrator.core import dryrun, operations
from orchestrator.core.blockers import Blocker
from orchestrator.core.phases import Goal, Kind, Outcome, Phase
from tests.unit.core_planner.builders import NEW, World, artifact, nodes, settled_attempt, spec

TWO = [["n0"], ["n1"]]


def left() -> World:
    """Rollout a was cancelled while its canary n0 baked; b has the same artifact."""
    w = World(nodes(2))
    w.rollout(spec(name="a"), waves=TWO)
    w.run(until="BAKING")
    w.set_rollout("a", goal=Goal.CANCEL)
    w.run()
    assert w.state("a") == "CANCELLED"
    assert w.member("n0", "a").outcome is Outcome.UNCOMMITTED
    w.rollout(spec(name="b"), waves=TWO)
    w.run()
    return w


def waits(w: World) -> Blocker:
    (blocker,) = (b for b in w.plan().blockers["b"] if b.reason == "NODE_UNCOMMITTED")
    return blocker


def test_it_is_not_already_there_and_a_person_is_told_what_to_do() -> None:
    w = left()
    assert w.member("n0", "b").outcome is Outcome.PENDING
    assert w.open_nodes() == []
    blocker = waits(w)
    assert (blocker.nodes, blocker.node_count, blocker.wave) == (("n0",), 1, "canary")
    assert blocker.remedy == (
        "An operator must decide: `liveroll commit a n0` keeps the new kernel, or `liveroll rollback a` "
        "goes back, or `liveroll exclude b n0 -m WHY` goes on without."
    )


def test_once_committed_it_is_already_there_and_the_rollout_goes_on() -> None:
    w = left()
    w.commit(operations.commit_nodes(w.fleet, "a", ["n0"], "", "alice", w.now).change)
    w.run()
    assert w.member("n0", "b").outcome is Outcome.ALREADY
    assert w.member("n0", "a").outcome is Outcome.UPDATED
    assert w.state("b") == "SUCCEEDED"


def test_once_rolled_back_it_has_its_turn() -> None:
    w = left()
    w.commit(operations.roll_back(w.fleet, "a", "no", "alice", w.now))
    w.run()
    assert w.state("a") == "ROLLED_BACK"
    assert (w.member("n0", "b").outcome, w.attempt("n0").rollout_id) == (Outcome.UPDATED, "b")
    assert w.state("b") == "SUCCEEDED"


def test_it_may_be_left_out() -> None:
    w = left()
    w.commit(operations.exclude_nodes(w.fleet, "b", ["n0"], "later", "alice", w.now).change)
    w.run()
    assert w.state("b") == "SUCCEEDED"


def test_a_cold_boot_takes_it_off_the_target_and_it_is_not_counted_as_there() -> None:
    w = left()
    w.set_node("n0", release="6.19.0", boot_id="cold")
    w.set_attempt("n0", phase=Phase.COLD_BOOTED)
    assert "NEEDS_OPERATOR" in w.reasons("b")
    assert w.member("n0", "b").outcome is Outcome.PENDING


@pytest.mark.parametrize("kind", list(Kind))
def test_a_rollout_that_is_forgotten_or_went_back_is_not_asked(kind: Kind) -> None:
    """It cannot be committed by a call: what is left is to wait for it, or to leave it out."""
    w = World(nodes(2))
    w.put(settled_attempt(w.set_node("n0", release=NEW), Phase.BAKING, kind=kind))
    w.rollout(spec(name="b"), waves=TWO)
    w.settle_plans()
    assert waits(w).remedy == (
        "It goes on once the node is committed (`liveroll why elsewhere`), "
        "or `liveroll exclude b n0 -m WHY` goes on without."
    )


def test_the_dry_run_says_that_it_waits_and_for_what() -> None:
    w = left()
    found = dryrun.dry_run(w.fleet, spec(name="c"), artifact(), w.now)
    (said,) = found.skipped
    assert (said.node_id, said.reason, said.waits) == ("n0", "NODE_UNCOMMITTED", True)
    assert said.message == (
        f"it runs {NEW}, but a has left it uncommitted: `liveroll commit a n0` keeps the new kernel, "
        "or `liveroll rollback a` goes back"
    )


def test_the_dry_run_says_who_watches_it_bake() -> None:
    w = World(nodes(2))
    w.rollout(spec(name="a"), waves=TWO)
    w.run(until="BAKING")
    w.settle_plans()
    (said,) = dryrun.dry_run(w.fleet, spec(name="c"), artifact(), w.now).skipped
    assert (said.node_id, said.reason, said.message) == ("n0", "OTHER_ROLLOUT", "a watches it bake")
    assert said.waits
