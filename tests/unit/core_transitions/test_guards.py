"""What a message relied on and does not write: decisions on rows that have moved since do not stand."""

from __future__ import annotations

from orchestrator.core import transitions
from orchestrator.core.messages import NodeStatus
from orchestrator.core.model import FleetRow, guarding
from orchestrator.core.phases import Phase
from tests.unit.core_ops.build import NOW, apply, attempt, fleet, hello, node, ref


def test_a_hello_guards_the_attempt_that_it_says_nothing_of() -> None:
    """LOST is written on the attempt alone: who is back must not stay LOST unseen."""
    under_way = attempt("n00", Phase.PRESERVED, acknowledged=True)
    f = fleet(node("n00", highest_generation=1), node("n01"), under_way)
    status = NodeStatus(ref("n00"), Phase.PRESERVED, seq=0)
    seen = transitions.hello(f, hello("n00", status=status, highest_generation=1), "", NOW)
    assert seen.change.guards == (guarding(under_way),)
    assert not transitions.hello(f, hello("n01"), "", NOW).change.guards


def test_a_difference_guards_the_stop_under_which_it_was_found() -> None:
    """Released meanwhile, the fleet must be stopped again: nobody has accepted this difference."""
    f = fleet(node("n00"), node("n01"))
    first = transitions.hello(f, hello("n00", highest_generation=8), "", NOW)
    assert any(isinstance(row, FleetRow) for row in first.change.writes)
    apply(f, first.change)
    second = transitions.hello(f, hello("n01", highest_generation=3), "", NOW)
    assert not any(isinstance(row, FleetRow) for row in second.change.writes)
    assert guarding(f.row) in second.change.guards


def test_a_refused_difference_guards_the_stop_too() -> None:
    f = fleet(node("n00"), node("n01"))
    newer = {"highest_incarnation_serial": 2, "highest_incarnation": "inc-b"}
    apply(f, transitions.hello(f, hello("n00", **newer), "", NOW).change)
    second = transitions.hello(f, hello("n01", **newer), "", NOW)
    assert second.refusal is not None
    assert not any(isinstance(row, FleetRow) for row in second.change.writes)
    assert guarding(f.row) in second.change.guards
