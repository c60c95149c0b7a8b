from __future__ import annotations

from dataclasses import replace
from datetime import timedelta

import pytest

from orchestrator.core import transitions
from orchestrator.core.messages import AttemptRef, Hello, NodeStatus
from orchestrator.core.model import AttemptRow, DesiredPrepare, NodeRow, Problem
from orchestrator.core.phases import Phase, Verdict
from orchestrator.errors import NodeIdConflict, Retry
from tests.unit.core_ops.build import ARTIFACT, LATER, NOW, apply, attempt, fleet, hello, node, ref


def row(observed: transitions.Observation, kind: type) -> object:
    (found,) = [r for r in observed.change.writes if isinstance(r, kind)]
    return found


def test_a_new_node_is_enrolled_and_welcomed() -> None:
    made = fleet()
    seen = transitions.hello(made, hello(highest_generation=0), "CN=n00", NOW)
    enrolled = row(seen, NodeRow)
    assert isinstance(enrolled, NodeRow)
    assert enrolled.enrolled_at == NOW
    assert enrolled.link_up
    assert seen.welcome is not None
    assert seen.welcome.link_epoch == 1
    assert seen.welcome.incarnation_serial == 1
    assert seen.welcome.idle_heartbeat == timedelta(seconds=10)
    assert [e.kind for e in seen.change.events] == ["node.enrolled"]


def test_the_newest_link_wins() -> None:
    made = fleet(node("n00"))
    seen = transitions.hello(made, hello(boot_id="boot-x", labels={"zone": "b"}), "", NOW)
    apply(made, seen.change)
    assert made.nodes["n00"].link_epoch == 2
    assert made.nodes["n00"].boot_id == "boot-x"
    assert made.nodes["n00"].labels == {"zone": "b"}
    assert transitions.link_down(made, "n00", 1, LATER) == transitions.Observation()
    down = transitions.link_down(made, "n00", 2, LATER, "silent")
    assert [(e.kind, e.cause) for e in down.change.events] == [("node.unlinked", "silent")]
    apply(made, down.change)
    assert not made.nodes["n00"].link_up
    assert transitions.link_down(made, "n00", 2, LATER) == transitions.Observation()


def test_another_installation_is_refused_and_changes_nothing() -> None:
    seen = transitions.hello(fleet(node("n00")), hello(installation_id="clone"), "", NOW)
    assert isinstance(seen.refusal, NodeIdConflict)
    assert "write-off n00" in seen.refusal.remedy
    assert not seen.change


def test_a_written_off_id_may_be_taken_anew() -> None:
    made = fleet(node("n00", written_off="burnt", acknowledged_seq=9, link_up=False))
    seen = transitions.hello(made, hello(installation_id="fresh"), "", NOW)
    assert seen.welcome is not None
    assert seen.welcome.acknowledged_seq == 0
    assert row(seen, NodeRow).written_off == ""  # type: ignore[attr-defined]


def test_a_node_installed_afresh_knows_nothing_of_the_update_that_it_was_baking() -> None:
    gone = node("n00", installation_id="before", written_off="the disk died", highest_generation=1)
    made = fleet(gone, attempt(phase=Phase.BAKING, acknowledged=True, healthy_since=NOW))
    seen = transitions.hello(made, hello(), "", NOW)
    assert row(seen, AttemptRow).phase is Phase.QUARANTINED  # type: ignore[attr-defined]
    assert seen.welcome is not None


def test_a_written_off_node_that_returns_counts_again() -> None:
    made = fleet(node("n00", written_off="lost in the fire", link_up=False))
    seen = transitions.hello(made, hello(), "", NOW)
    assert row(seen, NodeRow).written_off == ""  # type: ignore[attr-defined]
    assert [e.kind for e in seen.change.events] == ["node.linked", "node.returned"]


@pytest.mark.parametrize(
    "said",
    [
        hello(highest_generation=9, status=NodeStatus(ref(generation=9, incarnation="local"), Phase.LOADING)),
        hello(highest_incarnation="inc-0", highest_generation=8),
        hello(
            status=NodeStatus(ref(generation=8, incarnation="inc-0"), Phase.BAKING),
            highest_incarnation="inc-0",
        ),
        hello(status=NodeStatus(ref(generation=3), Phase.BAKING)),
    ],
    ids=["luoctl's attempt", "an older incarnation", "a settled foreign attempt", "a trimmed attempt"],
)
def test_what_proves_nothing(said: Hello) -> None:
    seen = transitions.hello(fleet(node("n00", highest_generation=7)), said, "", NOW)
    assert seen.welcome is not None
    assert row(seen, NodeRow).highest_generation >= 7  # type: ignore[attr-defined]


def test_a_cancelled_prepare_that_never_started_is_aborted() -> None:
    made = fleet(
        node("n00", highest_generation=1),
        attempt(cancel_cause="pause", spares_budget=True),
    )
    seen = transitions.hello(made, hello(highest_generation=1), "", NOW)
    aborted = row(seen, AttemptRow)
    assert isinstance(aborted, AttemptRow)
    assert (aborted.phase, aborted.failed, aborted.spares_budget) == (Phase.ABORTED, False, True)


def test_a_prepare_still_on_its_way_stays_open() -> None:
    made = fleet(node("n00", highest_generation=1), attempt())
    seen = transitions.hello(made, hello(highest_generation=0), "", NOW)
    assert len(seen.change.writes) == 1


def test_a_lost_node_without_news_is_believed_at_its_hello() -> None:
    lost = attempt(phase=Phase.LOST, settled_at=NOW, ever_lost=True, failed=True, failure="lost", seq=4)
    made = fleet(node("n00", highest_generation=1, acknowledged_seq=4), lost)
    status = NodeStatus(ref(), Phase.RETRIEVING, seq=4)
    seen = transitions.hello(made, hello(highest_generation=1, status=status, boot_id="b2"), "", NOW)
    back = row(seen, AttemptRow)
    assert isinstance(back, AttemptRow)
    assert (back.phase, back.settled_at, back.ever_lost, back.failed) == (Phase.RETRIEVING, None, True, True)
    assert back.seq == 4, "the next report is still news"


def test_an_attempt_that_ended_under_numbers_that_another_machine_has_used_is_over() -> None:
    """A machine with a copy of the node's journal was here, and its reports were acknowledged."""
    under_way = attempt(phase=Phase.LOADING, seq=0)
    made = fleet(node("n00", highest_generation=1, acknowledged_seq=9), under_way)
    problem = Problem(
        "DEVICE_MISSING", Retry.FIX_STATE, "/dev/liveupdate is not there", "Boot another kernel."
    )
    status = NodeStatus(ref(), Phase.ABORTED, seq=9, problem=problem)
    over = row(transitions.hello(made, hello(highest_generation=1, status=status), "", NOW), AttemptRow)
    assert isinstance(over, AttemptRow)
    assert (over.phase, over.settled_at, over.problem) == (Phase.ABORTED, NOW, problem)
    on_its_way = replace(status, seq=10)
    seen = transitions.hello(made, hello(highest_generation=1, status=on_its_way), "", NOW)
    assert len(seen.change.writes) == 1, "a report of it is on its way"


def test_a_node_that_can_write_nothing_down_keeps_its_slot() -> None:
    """It stands still, says QUARANTINED, and undoes the attempt once its disk has room."""
    under_way = attempt(phase=Phase.PRESERVING, seq=4)
    made = fleet(node("n00", highest_generation=1, acknowledged_seq=4), under_way)
    problem = Problem("JOURNAL_FULL", Retry.FIX_STATE, "the disk with the journal is full", "Free 2 MiB.")
    status = NodeStatus(ref(), Phase.QUARANTINED, seq=4, problem=problem)
    seen = transitions.hello(made, hello(highest_generation=1, status=status), "", NOW)
    assert not [write for write in seen.change.writes if isinstance(write, AttemptRow)]


def test_a_lost_node_with_news_waits_for_its_reports() -> None:
    lost = attempt(phase=Phase.LOST, settled_at=NOW, ever_lost=True, failed=True, seq=4)
    made = fleet(node("n00", highest_generation=1, acknowledged_seq=4), lost)
    status = NodeStatus(ref(), Phase.BAKING, seq=9)
    verdict = Verdict.LIVE_UPDATED
    seen = transitions.hello(made, hello(highest_generation=1, status=status, boot_verdict=verdict), "", NOW)
    assert len(seen.change.writes) == 1


def test_a_node_that_was_lost_before_its_prepare_came_has_not_started() -> None:
    lost = attempt(phase=Phase.LOST, settled_at=NOW, ever_lost=True, failed=True, failure="lost")
    wanted = DesiredPrepare(1, ARTIFACT, "")
    made = fleet(node("n00", highest_generation=1, desired=wanted, command_serial=1), lost)
    seen = transitions.hello(made, hello(), "", NOW)
    back, told = row(seen, AttemptRow), row(seen, NodeRow)
    assert isinstance(back, AttemptRow)
    assert (back.phase, back.failed, back.failure, back.ever_lost) == (Phase.ABORTED, True, "lost", True)
    assert isinstance(told, NodeRow)
    assert (told.desired, told.command_serial) == (None, 2), "the PREPARE is not sent any more"


@pytest.mark.parametrize("phase", [Phase.PRESERVED, Phase.JUMPING, Phase.VERIFYING, Phase.BAKING])
def test_a_node_that_lost_its_journal_ends_the_attempt_that_it_knows_nothing_of(phase: Phase) -> None:
    made = fleet(node("n00"), attempt(phase=phase, acknowledged=True, seq=9))
    lost = Problem("JOURNAL_CORRUPT", Retry.FIX_STATE, "the journal was corrupt", "Look at the node.")
    said = NodeStatus(phase=Phase.QUARANTINED, healthy=False, problem=lost)
    seen = transitions.hello(made, hello(status=said, boot_id="boot-x"), "", NOW)
    ended = row(seen, AttemptRow)
    assert isinstance(ended, AttemptRow)
    assert (ended.phase, ended.problem, ended.failed) == (Phase.QUARANTINED, lost, True)
    assert ended.seq == 9
    assert [e.kind for e in seen.change.events][-2:] == ["attempt.journal_lost", "node.settled"]


@pytest.mark.parametrize("older", [None, ref(generation=3)], ids=["of no attempt", "of an older attempt"])
def test_a_node_whose_journal_is_older_than_what_it_has_told_is_not_waited_for(
    older: AttemptRef | None,
) -> None:
    """Its disk was restored, or a double with a copy of it has carried the attempt, and is gone."""
    made = fleet(
        node("n00", highest_generation=4),
        attempt(generation=4, phase=Phase.RESUMING, acknowledged=True, seq=9),
    )
    phase = Phase.IDLE if older is None else Phase.COMMITTED
    said = hello(highest_generation=3, status=NodeStatus(older, phase, seq=2))
    ended = row(transitions.hello(made, said, "", NOW), AttemptRow)
    assert isinstance(ended, AttemptRow)
    assert (ended.phase, ended.failed) == (Phase.QUARANTINED, True)
    assert ended.problem is not None
    assert ended.problem.reason == "JOURNAL_REWOUND"
    assert "one machine" in ended.problem.remedy


@pytest.mark.parametrize("phase", [Phase.COMMITTED, Phase.ABORTED])
def test_a_lost_journal_does_not_undo_what_had_ended(phase: Phase) -> None:
    made = fleet(node("n00"), attempt(phase=phase, acknowledged=True, seq=9))
    seen = transitions.hello(made, hello(status=NodeStatus(phase=Phase.QUARANTINED, healthy=False)), "", NOW)
    assert not [r for r in seen.change.writes if isinstance(r, AttemptRow)]
