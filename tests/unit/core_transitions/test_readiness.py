"""What a node says of an attempt that would begin now: its edges are written, and told."""

from __future__ import annotations

from dataclasses import replace

import pytest

from orchestrator.core import transitions
from orchestrator.core.messages import Heartbeat, NodeStatus
from orchestrator.core.model import Change, NodeRow, Problem
from orchestrator.core.phases import Phase
from orchestrator.errors import Retry
from orchestrator.store.codec import decode, encode
from tests.unit.core_transitions.test_report import LATER, apply, hello, made

PREPARED = Problem(
    "LUO_NOT_NORMAL", Retry.FIX_STATE, "LUO is prepared", "Undo it.", {"luo_state": "prepared"}
)
UPDATED = Problem("LUO_NOT_NORMAL", Retry.FIX_STATE, "LUO is updated", "Finish it.", {"luo_state": "updated"})
NO = NodeStatus(not_ready=PREPARED)
YES = NodeStatus()


def test_a_heartbeats_edge_is_written_once() -> None:
    f = made()
    seen = transitions.heartbeat(f, "n00", Heartbeat(NO), 1, LATER)
    apply(f, seen.change)
    assert f.nodes["n00"].refuses == PREPARED
    (event,) = seen.change.events
    assert (event.kind, event.message, event.fields) == (
        "node.not_ready",
        "n00 would refuse an attempt now: LUO is prepared",
        {"problem": "LUO_NOT_NORMAL"},
    )
    assert not transitions.heartbeat(f, "n00", Heartbeat(NO), 1, LATER).change
    other = transitions.heartbeat(f, "n00", Heartbeat(NodeStatus(not_ready=UPDATED)), 1, LATER)
    apply(f, other.change)
    assert [e.kind for e in other.change.events] == ["node.not_ready"]
    back = transitions.heartbeat(f, "n00", Heartbeat(YES), 1, LATER)
    apply(f, back.change)
    assert [e.kind for e in back.change.events] == ["node.ready"]
    assert f.nodes["n00"].refuses is None
    assert f.nodes["n00"].healthy


def test_both_edges_of_one_heartbeat_are_one_row_and_two_events() -> None:
    f = made()
    sick = Heartbeat(NodeStatus(healthy=False, not_ready=PREPARED))
    seen = transitions.heartbeat(f, "n00", sick, 1, LATER)
    (row,) = seen.change.writes
    assert isinstance(row, NodeRow)
    assert (row.healthy, row.refuses) == (False, PREPARED)
    assert [e.kind for e in seen.change.events] == ["node.sickened", "node.not_ready"]


@pytest.mark.parametrize(
    ("before", "said", "told"),
    [
        (None, NO, ["node.not_ready"]),
        (PREPARED, NO, []),
        (PREPARED, YES, ["node.ready"]),
        (None, YES, []),
    ],
)
def test_a_hello_says_it_in_full(before: Problem | None, said: NodeStatus, told: list[str]) -> None:
    f = made(not_ready=before, not_ready_epoch=1)
    seen = transitions.hello(f, hello(status=said), "", LATER)
    apply(f, seen.change)
    assert f.nodes["n00"].refuses == said.not_ready
    assert [e.kind for e in seen.change.events if "ready" in e.kind] == told


def test_a_node_may_be_enrolled_not_ready() -> None:
    f = made()
    seen = transitions.hello(f, hello("n77", status=NO), "", LATER)
    assert [e.kind for e in seen.change.events] == ["node.enrolled", "node.not_ready"]


def test_an_older_agent_says_nothing_and_counts_as_ready() -> None:
    f = made()
    assert not transitions.heartbeat(f, "n00", Heartbeat(NodeStatus(phase=Phase.IDLE)), 1, LATER).change


def test_a_row_of_an_older_release_loads() -> None:
    row = NodeRow("n00", not_ready=PREPARED)
    text = encode(row)
    assert decode(NodeRow, text) == row
    older = text.replace(f'"not_ready":{encode(PREPARED)},', "")
    assert older != text
    assert decode(NodeRow, older) == NodeRow("n00")


def test_a_link_to_an_older_release_ends_what_the_one_before_has_said() -> None:
    """It takes the Hello, keeps what it does not know of the row, and hears nothing of it from then on."""
    f = made()
    apply(f, transitions.heartbeat(f, "n00", Heartbeat(NO), 1, LATER).change)
    n = f.nodes["n00"]
    apply(f, Change((replace(n, link_epoch=n.link_epoch + 1),)))
    assert f.nodes["n00"].refuses is None
    apply(f, transitions.hello(f, hello(status=NO), "", LATER).change)
    assert f.nodes["n00"].refuses == PREPARED, "a newer one hears it again"
