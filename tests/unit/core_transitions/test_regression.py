"""Hellos that prove that the store went back in time: what they stop, what is kept, who is refused."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from orchestrator.core import transitions
from orchestrator.core.fleet import Fleet
from orchestrator.core.messages import Hello, NodeStatus
from orchestrator.core.model import AttemptRow, FleetRow, NodeRow
from orchestrator.core.phases import Phase
from orchestrator.errors import StoreRegressed
from tests.unit.core_ops.build import INCARNATION, LATER, NOW, apply, attempt, fleet, hello, node, ref

NEWER: dict[str, Any] = {"highest_incarnation_serial": 2, "highest_incarnation": "inc-b"}


def row(observed: transitions.Observation, kind: type) -> Any:
    (found,) = [r for r in observed.change.writes if isinstance(r, kind)]
    return found


def kinds(observed: transitions.Observation) -> list[str]:
    return [event.kind for event in observed.change.events]


LIVED_LONGER = pytest.mark.parametrize(
    "said",
    [
        hello(highest_generation=8),
        hello(status=NodeStatus(ref(generation=8), Phase.BAKING)),
        hello(highest_generation=8, status=NodeStatus(ref(generation=8), Phase.PRESERVED)),
        hello(acknowledged_seq=11),
    ],
    ids=["higher generation", "unknown attempt", "under way in an unknown attempt", "acknowledged reports"],
)
FOREIGN = pytest.mark.parametrize(
    "said",
    [
        hello(**NEWER),
        hello(status=NodeStatus(ref(generation=8, incarnation="inc-0"), Phase.PRESERVED)),
        hello(
            status=NodeStatus(ref(generation=8, incarnation="inc-0"), Phase.PRESERVED),
            highest_incarnation="inc-0",
        ),
    ],
    ids=["newer incarnation", "driven by another store", "never of this store"],
)


@LIVED_LONGER
def test_a_node_that_has_lived_longer_stops_the_fleet_and_is_linked(said: Hello) -> None:
    made = fleet(node("n00", highest_generation=7, acknowledged_seq=9))
    seen = transitions.hello(made, said, "", NOW)
    assert seen.refusal is None
    assert seen.welcome is not None, "its reports are needed, and nothing is asked of it"
    stopped = row(seen, FleetRow)
    assert (stopped.stopped, stopped.stopped_at, stopped.stopped_by) == (
        "STORE_REGRESSED",
        NOW,
        "orchestrator",
    )
    assert "fleet.stopped" in kinds(seen)
    beyond = row(seen, NodeRow).beyond
    assert beyond.evidence == stopped.stop_message
    assert (beyond.store.generation, beyond.store.release) == (7, "6.18.9")
    assert beyond.node.generation == said.highest_generation
    apply(made, seen.change)
    again = transitions.hello(made, said, "", LATER)
    assert not [r for r in again.change.writes if isinstance(r, FleetRow)]
    assert kinds(again) == ["node.linked"], "what is kept is not held against the store again"
    assert row(again, NodeRow).beyond == beyond, "what was noticed first stays"


@FOREIGN
def test_a_node_that_somebody_else_drives_stops_the_fleet_and_is_refused(said: Hello) -> None:
    made = fleet(node("n00", highest_generation=7))
    seen = transitions.hello(made, said, "", NOW)
    assert isinstance(seen.refusal, StoreRegressed)
    assert seen.welcome is None
    assert row(seen, FleetRow).stopped == "STORE_REGRESSED"
    kept = row(seen, NodeRow)
    assert kept.beyond.refused
    assert not kept.link_epoch > 1
    assert not [r for r in seen.change.writes if isinstance(r, AttemptRow)]
    apply(made, seen.change)
    made.apply(replace(made.row, stopped=""))
    after = transitions.hello(made, said, "", LATER)
    assert after.welcome is not None, "once a person has looked, it may link"
    apply(made, after.change)
    assert made.nodes["n00"].beyond is not None
    assert not made.nodes["n00"].beyond.refused
    assert made.row.stopped == ""


def test_a_node_that_the_store_has_forgotten_is_enrolled_and_held_against_it_once() -> None:
    made = fleet()
    said = hello(highest_generation=8)
    seen = transitions.hello(made, said, "", NOW)
    assert kinds(seen) == ["node.enrolled", "fleet.stopped"]
    apply(made, seen.change)
    made.apply(replace(made.row, stopped=""))
    again = transitions.hello(made, said, "", LATER)
    apply(made, again.change)
    assert (made.nodes["n00"].highest_generation, made.row.stopped) == (8, "")
    assert made.nodes["n00"].beyond is not None
    assert made.nodes["n00"].beyond.store.release == "", "it was not there"


def test_a_forgotten_node_that_is_refused_is_kept_without_a_link() -> None:
    seen = transitions.hello(fleet(), hello(**NEWER), "", NOW)
    assert [type(r) for r in seen.change.writes] == [NodeRow, FleetRow]
    assert not row(seen, NodeRow).link_up
    assert row(seen, NodeRow).incarnation == ""
    assert kinds(seen) == ["node.enrolled", "fleet.stopped"]


def test_a_fleet_that_has_stopped_for_it_is_not_written_again_by_every_node_that_dials() -> None:
    made = fleet(node("n00"), node("n01"))
    other = replace(hello(**NEWER), node_id="n01", installation_id="inst-n01")
    apply(made, transitions.hello(made, hello(**NEWER), "", NOW).change)
    assert made.row.stopped == "STORE_REGRESSED"
    first = transitions.hello(made, other, "", NOW)
    assert [type(w) for w in first.change.writes] == [NodeRow], "the fleet's one row is left alone"
    assert kinds(first) == ["node.beyond"]
    apply(made, first.change)
    for said in (hello(**NEWER), other):
        seen = transitions.hello(made, said, "", LATER)
        assert isinstance(seen.refusal, StoreRegressed)
        assert seen.change == transitions.NOTHING
    longer = transitions.hello(made, hello(highest_generation=9), "", NOW)
    assert [type(w) for w in longer.change.writes] == [NodeRow]


def test_the_serial_of_a_newer_store_is_remembered_though_the_node_is_known_to_differ() -> None:
    made = fleet(node("n00"))
    apply(made, transitions.hello(made, hello(**NEWER), "", NOW).change)
    newest = hello(highest_incarnation_serial=5, highest_incarnation="inc-c")
    seen = transitions.hello(made, newest, "", LATER)
    assert [type(w) for w in seen.change.writes] == [FleetRow]
    assert (row(seen, FleetRow).regressed_serial, row(seen, FleetRow).stopped_at) == (5, NOW)
    assert seen.change.guards[0][0] == ("nodes", ("n00",)), "of the node's row as it was read"


def test_an_operators_stop_becomes_a_stop_for_it() -> None:
    made = fleet(node("n00"))
    made.apply(FleetRow(stopped="OPERATOR", stop_message="smoke", unheard=frozenset({"n07"})))
    stopped = row(transitions.hello(made, hello(highest_generation=3), "", NOW), FleetRow)
    assert (stopped.stopped, stopped.unheard) == ("STORE_REGRESSED", frozenset())


def ancestor(**fields: Any) -> Fleet:
    """A store that was inc-0 before it went back, with the node as it was then."""
    return fleet(node("n00", highest_generation=7, acknowledged_seq=9, incarnation="inc-0", **fields))


@pytest.mark.parametrize("known", [True, False], ids=["a node of the store", "a node that it has forgotten"])
def test_what_is_known_of_the_store_before_it_began_anew_stops_nobody_again(known: bool) -> None:
    made = ancestor()
    said = hello(highest_incarnation="inc-0", highest_generation=8)
    if not known:
        said = replace(said, node_id="n01", installation_id="inst-n01")
    seen = transitions.hello(made, said, "", NOW)
    assert seen.welcome is not None
    assert not [r for r in seen.change.writes if isinstance(r, FleetRow)], (
        "it has stopped for that when it began"
    )
    assert row(seen, NodeRow).beyond is not None
    assert row(seen, NodeRow).incarnation == INCARNATION
    assert kinds(seen)[-1] == "node.beyond"


def test_what_is_brought_by_nodes_that_had_not_said_hello_is_accepted() -> None:
    made = fleet(node("n00", highest_generation=7))
    made.apply(FleetRow(unheard=frozenset({"n00"})))
    seen = transitions.hello(made, hello(highest_generation=8), "", NOW)
    assert [type(w) for w in seen.change.writes] == [NodeRow]
    assert row(seen, NodeRow).beyond is not None


@pytest.mark.parametrize(
    "said",
    [
        hello(highest_generation=9, status=NodeStatus(ref(generation=9, incarnation="local"), Phase.LOADING)),
        hello(highest_incarnation="inc-0", highest_generation=8),
        hello(highest_incarnation="inc-0", acknowledged_seq=500),
        hello(highest_incarnation="", highest_generation=8),
        hello(
            status=NodeStatus(ref(generation=8, incarnation="inc-0"), Phase.BAKING),
            highest_incarnation="inc-0",
        ),
        hello(status=NodeStatus(ref(generation=3), Phase.BAKING)),
        hello(acknowledged_seq=9),
        hello(highest_generation=7),
    ],
    ids=[
        "luoctl's attempt",
        "an older incarnation",
        "another store's acknowledgement",
        "never linked",
        "a settled foreign attempt",
        "a trimmed attempt",
        "what the store has acknowledged itself",
        "what the store has given out itself",
    ],
)
def test_what_proves_nothing(said: Hello) -> None:
    seen = transitions.hello(fleet(node("n00", highest_generation=7, acknowledged_seq=9)), said, "", NOW)
    assert seen.welcome is not None
    assert [type(w) for w in seen.change.writes] == [NodeRow]
    assert row(seen, NodeRow).beyond is None
    assert row(seen, NodeRow).highest_generation >= 7


@pytest.mark.parametrize("seq", [13, 12], ids=["and is further", "and is no further"])
def test_an_attempt_that_went_on_under_an_incarnation_between_is_caught_up_with(seq: int) -> None:
    """The store went back twice, and of what it was in between it knows nothing (simulation, seed 27)."""
    known = node("n00", highest_generation=1, acknowledged_seq=12)
    made = fleet(known, attempt(phase=Phase.JUMPING, seq=12))
    said = hello(
        status=NodeStatus(ref(), Phase.COLD_BOOTED, seq=seq),
        acknowledged_seq=18,
        highest_generation=1,
        highest_incarnation="inc-between",
    )
    seen = transitions.hello(made, said, "", NOW)
    assert seen.welcome is not None
    assert not [r for r in seen.change.writes if isinstance(r, FleetRow)], "it has stopped when it began anew"
    if seq > 12:
        assert row(seen, AttemptRow).phase is Phase.COLD_BOOTED
        assert "node.settled" in kinds(seen)
    else:
        assert row(seen, NodeRow).beyond is None


def test_a_node_that_moved_here_is_not_held_against_the_store_when_it_dials_again() -> None:
    """Its former orchestrator acknowledged reports; this one never saw them."""
    made = fleet()
    moved = hello(highest_incarnation="inc-0", acknowledged_seq=500)
    seen = transitions.hello(made, moved, "", NOW)
    assert seen.welcome is not None
    assert seen.welcome.acknowledged_seq == 500, "what it does not send again is not waited for"
    apply(made, seen.change)
    again = transitions.hello(made, replace(moved, highest_incarnation=INCARNATION), "", LATER)
    assert kinds(again) == ["node.linked"]


def test_a_node_installed_afresh_was_acknowledged_by_nobody_here() -> None:
    made = fleet(node("n00", written_off="burnt", acknowledged_seq=9, link_up=False))
    seen = transitions.hello(made, hello(installation_id="fresh", acknowledged_seq=4), "", NOW)
    assert seen.welcome is not None
    assert not [r for r in seen.change.writes if isinstance(r, FleetRow)]
    assert seen.welcome.acknowledged_seq == 4


def test_a_lost_attempt_is_guarded_where_the_hello_says_nothing_of_it() -> None:
    made = fleet(node("n00", highest_generation=1), attempt(phase=Phase.COMMITTED))
    seen = transitions.hello(made, hello(highest_generation=1), "", NOW)
    assert seen.change.guards == ((("attempts", ("n00", "1")), 0),)
