"""A command that a node refuses is not sent again and again at the speed of its link."""

from __future__ import annotations

from datetime import timedelta

from orchestrator.core import transitions
from orchestrator.core.messages import AttemptRef, CommandRefusal, Report
from orchestrator.core.model import Problem
from orchestrator.core.phases import Phase
from orchestrator.errors import Retry
from tests.unit.core_planner.builders import INCARNATION, World, nodes, planned, spec

NO = Problem("UNKNOWN_ATTEMPT", Retry.REPLAN, "not this node's attempt")


def refuse(w: World, seq: int) -> None:
    """The node refuses what is wanted of it."""
    row, a = w.node("n0"), w.attempt("n0")
    said = CommandRefusal(f"{INCARNATION}:{row.command_serial}", NO)
    ref = AttemptRef("n0", a.generation, INCARNATION)
    told = Report(seq, "Refused", a.phase, ref, refusal=said, boot_id=row.boot_id, release=row.release)
    w.commit(transitions.report(w.fleet, "n0", told, row.link_epoch, w.now).change)


def test_proceed_waits_for_a_newer_stamp() -> None:
    w = World(nodes(1))
    w.rollout(spec())
    w.run(until="PRESERVED")
    w.settle_plans()
    refuse(w, 100)
    assert planned(w, "proceed") == []
    w.tick(timedelta(seconds=5))
    assert planned(w, "proceed") == ["n0"]


def test_commit_waits_for_the_node_to_change_and_says_so() -> None:
    w = World(nodes(1))
    w.rollout(spec(bake=timedelta(0)))
    w.run(until="BAKING")
    w.settle_plans()
    refuse(w, 100)
    w.settle_plans()
    assert planned(w, "commit") == []
    w.tick(timedelta(minutes=10))
    assert planned(w, "commit") == []
    assert w.attempt("n0").phase is Phase.BAKING
    assert "BAKING_STUCK" in w.reasons()
