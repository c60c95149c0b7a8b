"""What becomes of nodes that have lived through a future that the store has lost, case by case."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest

from orchestrator.core import transitions
from orchestrator.core.differences import Difference, in_words, unheard
from orchestrator.core.invariants import Checker
from orchestrator.core.messages import AttemptRef, NodeStatus, Report
from orchestrator.core.model import AttemptRow, Change, DesiredCancel, NodeRow, Problem
from orchestrator.core.operations import fleet_stop, roll_back
from orchestrator.core.phases import Goal, Kind, Outcome, Phase, Verdict
from orchestrator.errors import Blocked, Retry
from tests.unit.core_planner.builders import INCARNATION, NEW, OLD, World, artifact, nodes, spec
from tests.unit.core_planner.lost_future import Restored, backup, gone_back, hello_of


def lost(w: World, **how: Any) -> Restored:
    """Back to the state in which the rollout had just been created; nothing is said yet."""
    v = gone_back(w, w.first_rows, **how)  # type: ignore[attr-defined]
    assert v.row().rollout_id == "r1"
    return v


def world(count: int = 3, **how: Any) -> World:
    w = World(nodes(count))
    w.rollout(spec(**how))
    w.first_rows = backup(w)  # type: ignore[attr-defined]
    return w


def until(w: World, node_id: str, phase: Phase) -> AttemptRow:
    """Plans and steps until the node's attempt is in this phase."""
    for _ in range(400):
        w.settle_plans()
        newest = w.fleet.newest_attempt(node_id)
        if newest is not None and newest.phase is phase:
            return newest
        if not w.agents():
            w.tick(timedelta(seconds=2))
    raise AssertionError(f"{node_id} never came to {phase}: {w.phases()}")


def one(v: Restored, node_id: str) -> Difference:
    return v.differ()[node_id]


@pytest.mark.parametrize("phase", [Phase.BAKING, Phase.COMMITTED])
def test_an_updated_node_counts_as_updated_once_a_person_has_said_so(phase: Phase) -> None:
    w = world()
    until(w, "n0", phase)
    v = lost(w)
    v.hello_all(w)
    assert one(v, "n0").outlook == "COUNTS_AS_UPDATED"
    assert (one(v, "n0").rollout_id, one(v, "n0").remedy) == ("r1", "")
    assert v.attempt("n0").rollout_id == "", "before a person has looked, no rollout takes it in"
    assert "take_in" not in v.kinds()
    v.release()
    v.settle_plans()
    assert v.attempt("n0").rollout_id == "r1"
    assert v.attempt("n0").artifact == artifact(), "with its place to fetch from"
    assert v.member("n0").outcome in (Outcome.BAKING, Outcome.UPDATED)
    assert (v.member("n0").from_release, v.member("n0").from_artifact) == (OLD, f"sha-{OLD}")
    assert v.member("n0").from_command_line == "quiet"
    assert one(v, "n0").outlook == "COUNTS_AS_UPDATED"
    v.run()
    assert v.state() == "SUCCEEDED"
    assert [v.jumped(n) for n in ("n0", "n1", "n2")] == [1, 1, 1]
    assert v.node("n1").beyond is None


def test_what_was_taken_in_can_be_rolled_back() -> None:
    w = world(2)
    until(w, "n0", Phase.BAKING)
    v = lost(w)
    v.hello_all(w)
    v.release()
    v.settle_plans()
    v.commit(roll_back(v.fleet, "r1", "a test", "alice", v.now))
    v.run()
    assert v.state() == "ROLLED_BACK"
    assert (v.node("n0").release, v.jumped("n0")) == (OLD, 2)


@pytest.mark.parametrize("phase", [Phase.LOADING, Phase.DRAINING, Phase.PRESERVING, Phase.PRESERVED])
def test_before_its_jump_an_attempt_is_undone_at_once_and_made_again_in_its_turn(phase: Phase) -> None:
    w = world()
    if phase is Phase.LOADING:
        w.settle_plans()
        w.agents()
        assert w.attempt("n0").acknowledged
    else:
        until(w, "n0", phase)
    v = lost(w)
    v.hello_all(w)
    assert one(v, "n0").outlook == "UNWINDS"
    assert isinstance(v.node("n0").desired, DesiredCancel), "the fleet stands still: it must not wait so"
    assert v.attempt("n0").incarnation == INCARNATION, "by the name that its node knows it by"
    while v.agents():
        v.settle_plans()
    assert (v.attempt("n0").phase, v.node("n0").desired) == (Phase.ABORTED, None)
    assert one(v, "n0").outlook == "NUMBERS_ONLY"
    v.release()
    v.run()
    assert v.state() == "SUCCEEDED"
    assert v.member("n0").tries == {}, "it spent no retry"
    assert v.jumped("n0") == 1
    assert v.attempt("n0").generation == 2, "numbers go on above the node's"


@pytest.mark.parametrize("phase", [Phase.JUMPING, Phase.RETRIEVING, Phase.VERIFYING, Phase.FINISHING])
def test_after_its_jump_an_attempt_settles_and_counts(phase: Phase) -> None:
    w = world()
    until(w, "n0", phase)
    v = lost(w)
    v.hello_all(w)
    assert (one(v, "n0").outlook, v.node("n0").desired) == ("SETTLES", None)
    assert not v.fleet.available("n0", v.now)
    v.release()
    v.run()
    assert v.state() == "SUCCEEDED"
    assert v.jumped("n0") == 1


def test_a_canary_of_the_lost_future_answers_for_its_kind() -> None:
    w = world()
    until(w, "n0", Phase.COMMITTED)
    v = lost(w)
    v.hello_all(w)
    v.release()
    v.run(until="PRESERVED")
    assert v.row().pairs_passed == {(OLD, NEW, "m1")}


def test_a_known_attempt_is_caught_up_with_if_its_reports_are_gone() -> None:
    w = world()
    until(w, "n0", Phase.PRESERVED)
    rows = backup(w)
    until(w, "n0", Phase.COMMITTED)
    v = gone_back(w, rows)
    seen = v.hello(hello_of(w, "n0"))
    assert [e.kind for e in seen.change.events] == [
        "node.linked",
        "node.beyond",
        "attempt.adopted",
        "node.settled",
    ]
    assert (v.attempt("n0").phase, v.attempt("n0").adopted) == (Phase.COMMITTED, False)
    assert one(v, "n0").outlook == "CAUGHT_UP"
    assert "attempt 1 of r1: COMMITTED" in one(v, "n0").message
    v.settle_plans()
    assert v.member("n0").outcome is Outcome.UPDATED


def test_a_known_attempt_whose_reports_still_come_waits_for_them() -> None:
    w = world()
    until(w, "n0", Phase.PRESERVED)
    rows = backup(w)
    until(w, "n0", Phase.COMMITTED)
    v = gone_back(w, rows)
    said = hello_of(w, "n0")
    v.hello(replace(said, acknowledged_seq=said.status.seq - 1))
    assert v.attempt("n0").phase is Phase.PRESERVED
    assert one(v, "n0").outlook == "UNWINDS"


def reported(v: Restored, w: World, seq: int, event: str, phase: Phase, **changes: Any) -> None:
    a, row = w.attempt("n0"), w.node("n0")
    message = Report(
        seq=seq,
        event=event,
        phase=phase,
        attempt=AttemptRef("n0", a.generation, a.incarnation),
        boot_id=row.boot_id,
        release=row.release,
        **changes,
    )
    seen = transitions.report(v.fleet, "n0", message, v.node("n0").link_epoch, v.now)
    assert seen.refusal is None
    v.commit(seen.change)


def test_an_unknown_attempt_whose_reports_still_come_is_believed_as_they_come() -> None:
    w = world()
    until(w, "n0", Phase.BAKING)
    v = lost(w)
    said = hello_of(w, "n0")
    seq = said.status.seq
    seen = v.hello(replace(said, acknowledged_seq=seq - 3))
    assert "attempt.adopted" in [e.kind for e in seen.change.events]
    assert (v.attempt("n0").phase, v.attempt("n0").seq) == (Phase.LOADING, seq - 3)
    assert v.node("n0").desired is None, "it has jumped: there is nothing to undo"
    reported(v, w, seq - 1, "Resumed", Phase.VERIFYING, boot_verdict=Verdict.LIVE_UPDATED)
    reported(v, w, seq, "Finished", Phase.BAKING, boot_verdict=Verdict.LIVE_UPDATED)
    assert v.attempt("n0").phase is Phase.BAKING
    assert one(v, "n0").outlook == "COUNTS_AS_UPDATED"


def test_an_agent_that_remembers_nothing_for_others_is_taken_by_its_release() -> None:
    """Of an older release: it says neither what was acknowledged nor what its attempt was for."""
    w = world()
    until(w, "n0", Phase.BAKING)
    v = lost(w)
    v.hello(replace(hello_of(w, "n0"), acknowledged_seq=0, memory=None))
    assert (v.attempt("n0").phase, v.attempt("n0").to_release) == (Phase.BAKING, NEW)
    assert one(v, "n0").outlook == "COUNTS_AS_UPDATED"


def test_what_is_not_proven_needs_a_word() -> None:
    w = world()
    until(w, "n0", Phase.BAKING)
    v = lost(w)
    said = hello_of(w, "n0")
    assert said.memory is not None
    cold = replace(said, boot_verdict=Verdict.COLD_BOOT, memory=replace(said.memory, verdict=None))
    v.hello(cold)
    assert v.attempt("n0").phase is Phase.QUARANTINED
    found = one(v, "n0")
    assert (found.outlook, found.rollout_id) == ("NEEDS_WORD", "r1")
    assert "liveroll why r1 --node n0" in found.remedy


def test_a_bad_end_that_no_rollout_wants_needs_a_word_too() -> None:
    w = world()
    w.script("n0", end=Phase.QUARANTINED)
    until(w, "n0", Phase.QUARANTINED)
    w.set_attempt("n0", problem=Problem("BROKEN", Retry.NEVER, "it broke"), verdict=None)
    v = gone_back(w, [r for r in w.first_rows if isinstance(r, NodeRow)])  # type: ignore[attr-defined]
    v.hello_all(w)
    found = one(v, "n0")
    assert (found.outlook, found.rollout_id) == ("NEEDS_WORD", "")
    assert "liveroll node n0" in found.remedy


def test_a_node_that_was_rolled_back_is_not_sent_round_again_by_itself() -> None:
    w = world(2)
    until(w, "n0", Phase.COMMITTED)
    w.commit(roll_back(w.fleet, "r1", "it is slow", "alice", w.now))
    w.run()
    assert (w.attempt("n0").kind, w.node("n0").release) == (Kind.ROLLBACK, OLD)
    v = lost(w)
    v.hello_all(w)
    found = one(v, "n0")
    assert (found.outlook, found.rollout_id) == ("ROLLED_BACK", "r1")
    assert "liveroll retry r1 n0" in found.remedy
    v.release()
    v.run()
    assert v.row().goal is Goal.FORWARD, "the wish to go back is lost"
    assert (v.member("n0").outcome, v.node("n0").release, v.jumped("n0")) == (Outcome.ROLLED_BACK, OLD, 2)


def test_a_rollback_of_a_node_that_the_store_has_as_updated() -> None:
    w = world(2)
    until(w, "n0", Phase.COMMITTED)
    w.settle_plans()
    rows = backup(w)
    w.commit(roll_back(w.fleet, "r1", "it is slow", "alice", w.now))
    w.run()
    v = gone_back(w, rows)
    v.hello_all(w)
    assert one(v, "n0").outlook == "ROLLED_BACK"
    v.release()
    v.settle_plans()
    assert (v.member("n0").outcome, v.member("n0").crossed) == (Outcome.ROLLED_BACK, False)


def test_a_rollback_that_no_rollout_knows_of_stays() -> None:
    w = world(2)
    until(w, "n0", Phase.COMMITTED)
    w.commit(roll_back(w.fleet, "r1", "it is slow", "alice", w.now))
    w.run()
    v = gone_back(w, [r for r in w.first_rows if isinstance(r, NodeRow)])  # type: ignore[attr-defined]
    v.hello_all(w)
    assert (one(v, "n0").outlook, one(v, "n0").remedy) == ("ROLLED_BACK", "")


@pytest.mark.parametrize(
    ("phase", "outlook"), [(Phase.BAKING, "UNCLAIMED"), (Phase.COMMITTED, "NUMBERS_ONLY")]
)
def test_an_update_by_a_rollout_that_is_lost_waits_for_one_that_wants_it(phase: Phase, outlook: str) -> None:
    w = world(2)
    until(w, "n0", phase)
    v = gone_back(w, [r for r in w.first_rows if isinstance(r, NodeRow)])  # type: ignore[attr-defined]
    v.hello_all(w)
    assert one(v, "n0").outlook == outlook
    v.release()
    v.settle_plans()
    assert v.attempt("n0").rollout_id == ""
    v.rollout(spec())
    assert one(v, "n0").outlook == "COUNTS_AS_UPDATED"
    v.run()
    assert v.state() == "SUCCEEDED"
    assert (v.attempt("n0").phase, v.jumped("n0"), v.jumped("n1")) == (Phase.COMMITTED, 1, 1)


def test_while_it_waits_for_its_rollout_nobody_is_told_to_commit_it_in_another() -> None:
    w = world(2)
    until(w, "n0", Phase.BAKING)
    v = lost(w)
    v.hello_all(w)
    assert "NODE_UNCOMMITTED" not in v.reasons()
    (stop,) = [b for b in v.plan().blockers["r1"] if b.reason == "FLEET_STOPPED"]
    assert "--accept-differences" in stop.remedy


def test_an_update_to_another_kernel_than_the_rollouts_is_nobodys() -> None:
    w = world(2)
    until(w, "n0", Phase.COMMITTED)
    v = gone_back(w, w.first_rows)  # type: ignore[attr-defined]
    v.set_rollout(artifact=artifact("8.0.0", "sha-8"))
    v.hello_all(w)
    assert one(v, "n0").outlook == "NUMBERS_ONLY"
    assert "no rollout wants it elsewhere" in one(v, "n0").message


def test_a_rollout_that_has_ended_takes_nothing_in() -> None:
    w = world(2)
    until(w, "n0", Phase.BAKING)
    v = gone_back(w, w.first_rows)  # type: ignore[attr-defined]
    v.set_rollout(ended_at=v.now, ended_as="CANCELLED")
    v.hello_all(w)
    assert (one(v, "n0").outlook, one(v, "n0").rollout_id) == ("UNCLAIMED", "")


def test_only_numbers() -> None:
    w = world(2)
    v = lost(w)
    v.hello(hello_of(w, "n0", highest_generation=6))
    found = one(v, "n0")
    assert (found.outlook, found.message, found.phase) == (
        "NUMBERS_ONLY",
        "its next attempt is 7",
        Phase.IDLE,
    )
    v.hello(hello_of(w, "n1"))
    v.release()
    v.settle_plans()
    assert v.attempt("n0").generation == 7


def test_an_older_attempt_that_the_store_has_open_is_over() -> None:
    w = world(2)
    until(w, "n0", Phase.PRESERVED)
    rows = backup(w)
    w.set_attempt("n0", phase=Phase.ABORTED, spares_budget=True)
    w.set_node("n0", desired=None)
    w.run(until="COMMITTED")
    assert w.attempt("n0").generation == 2
    v = gone_back(w, rows)
    v.hello_all(w)
    first = v.fleet.attempts["n0", 1]
    assert first.problem is not None
    assert (first.phase, first.failed, first.problem.reason) == (Phase.ABORTED, False, "ATTEMPT_FORGOTTEN")
    assert v.node("n0").desired is None, "what was wanted of it is of the past"
    v.release()
    v.run()
    assert v.state() == "SUCCEEDED"
    assert v.jumped("n0") == 1


def test_an_attempt_of_the_same_number_is_another_one() -> None:
    w = world(2)
    until(w, "n0", Phase.COMMITTED)
    rows = [replace(r, incarnation="inc-0") if isinstance(r, AttemptRow) else r for r in backup(w)]
    v = gone_back(w, rows)
    v.hello(replace(hello_of(w, "n0"), highest_generation=9))
    assert v.attempt("n0").incarnation == "inc-0"


def test_older_news_than_the_stores_is_no_news() -> None:
    w = world(2)
    until(w, "n0", Phase.COMMITTED)
    rows = [
        replace(r, generation=5) if isinstance(r, AttemptRow) else r
        for r in backup(w)
        if not isinstance(r, NodeRow) or r.node_id == "n0"
    ]
    v = gone_back(w, rows)
    v.hello(replace(hello_of(w, "n0"), highest_generation=9))
    assert v.attempt("n0").generation == 5


def test_a_stranger_is_listed_and_taken_in_once_it_may_link() -> None:
    w = world(2)
    until(w, "n0", Phase.BAKING)
    v = lost(w)
    newer = replace(hello_of(w, "n0"), highest_incarnation="inc-9", highest_incarnation_serial=9)
    theirs = replace(newer, status=replace(newer.status, attempt=AttemptRef("n0", 1, "inc-9")))
    seen = v.hello(theirs)
    assert seen.refusal is not None
    assert one(v, "n0").outlook == "REFUSED"
    assert "inc-9" in one(v, "n0").message
    v.hello(hello_of(w, "n1"))
    assert not list(unheard(v.fleet, v.now)), "it has been heard"
    v.release()
    assert v.hello(theirs).refusal is None
    assert one(v, "n0").outlook == "COUNTS_AS_UPDATED"
    v.run()
    assert v.jumped("n0") == 1


# --- the word ----------------------------------------------------------------------------


def test_the_word_is_asked_for_and_kept() -> None:
    w = world(3)
    until(w, "n0", Phase.BAKING)
    v = lost(w)
    for node_id in ("n0", "n1"):
        v.hello(hello_of(w, node_id))
    assert list(unheard(v.fleet, v.now)) == ["n2"]
    with pytest.raises(Blocked) as refused:
        fleet_stop(v.fleet, False, "x", "alice", v.now)
    assert refused.value.reason == "DIFFERENCES_NOT_ACCEPTED"
    words = "1 nodes differ from the store (COUNTS_AS_UPDATED 1), 1 have not said Hello"
    assert refused.value.message == words
    change = fleet_stop(v.fleet, False, "the disk died", "alice", v.now, accept_differences=True)
    (event,) = change.events
    assert event.actor == "alice"
    assert event.message.endswith(f"the disk died; accepted: {words}")
    assert event.fields == {
        "differences": "1",
        "unheard": "1",
        "COUNTS_AS_UPDATED": "1",
        "nodes": "n0",
        "unheard_nodes": "n2",
    }
    v.commit(change)
    assert v.fleet.row.unheard == {"n2"}


def test_where_nothing_differs_no_word_is_asked_for() -> None:
    w = world(2)
    v = lost(w)
    v.hello_all(w)
    assert in_words(list(v.differ().values()), []) == "0 nodes differ from the store"
    v.commit(fleet_stop(v.fleet, False, "moved to PostgreSQL", "alice", v.now))
    assert not v.fleet.row.stopped


def test_an_operators_own_stop_asks_for_no_word() -> None:
    w = world(2)
    w.commit(fleet_stop(w.fleet, True, "smoke", "alice", w.now))
    w.commit(fleet_stop(w.fleet, False, "", "alice", w.now))
    assert not w.fleet.row.stopped


def test_who_has_not_said_hello() -> None:
    w = World(nodes(5))
    v = gone_back(w, backup(w))
    v.set_node("n0", written_off="burnt")
    v.hello(hello_of(w, "n1"))
    v.hello(hello_of(w, "n2"))
    v.silent |= {"n2", "n3", "n4"}
    v.tick(timedelta(seconds=1))
    v.set_node("n2", link_up=False, link_changed_at=v.now)
    v.set_node("n3", incarnation="inc-2", link_changed_at=v.now - timedelta(hours=1))
    v.fleet._links.down["n3"] = v.fleet._links.down["n2"] = v.now
    assert list(unheard(v.fleet, v.now)) == ["n3", "n4"], "n3 had said Hello before the store went back again"
    v.set_fleet(stopped="", stopped_at=None)
    assert list(unheard(v.fleet, v.now)) == ["n4"]


def test_what_a_late_node_brings_after_the_word_is_taken_in_and_stops_nobody() -> None:
    w = world(3)
    until(w, "n0", Phase.BAKING)
    for same in (False, True):
        how: dict[str, Any] = {"incarnation": INCARNATION, "serial": 1} if same else {}
        v = lost(w, **how)
        v.release()
        v.settle_plans()
        assert not v.open_nodes(), "nobody is linked"
        v.hello_all(w)
        assert v.fleet.row.stopped == ""
        v.run()
        assert v.state() == "SUCCEEDED"
        assert v.jumped("n0") == 1
        w.jumps.clear()
        w.jumps["n0", 1] = 1


def test_a_hello_without_an_attempt_says_nothing_of_one() -> None:
    w = world(2)
    v = lost(w)
    idle = replace(hello_of(w, "n0"), highest_generation=3, status=NodeStatus())
    local = replace(idle, status=NodeStatus(AttemptRef("n0", 2, "local"), Phase.COMMITTED))
    foreign = replace(idle, status=NodeStatus(AttemptRef("n0", 2, "inc-7"), Phase.COMMITTED))
    for said in (idle, local, foreign):
        seen = transitions.hello(v.fleet, said, "", v.now)
        assert not [r for r in seen.change.writes if isinstance(r, AttemptRow)]


def test_the_checker_knows_an_adopted_attempt_from_a_start() -> None:
    w = world(2)
    until(w, "n0", Phase.COMMITTED)
    v = lost(w)
    v.checker = None
    checker = Checker(v.rows.values(), policy=v.policy, incarnation="inc-2")

    def took(change: Change) -> list[Any]:
        v.commit(change)
        rows = [v.rows[(row.table, row.key)] for row in change.writes]
        return checker.committed(rows, (), v.now)

    assert took(transitions.hello(v.fleet, hello_of(w, "n0"), "", v.now).change) == []
    assert took(fleet_stop(v.fleet, False, "", "alice", v.now, accept_differences=True)) == []
    (action,) = [a for a in v.plan().actions if a.kind == "take_in"]
    assert took(action.change) == []
    moved = replace(v.attempt("n0"), rollout_id="r2")
    assert [b.invariant for b in took(Change((moved,)))] == ["I3"], "taken in once, it stays"


def test_a_rollback_that_was_undone_leaves_the_node_where_it_was() -> None:
    w = world(2)
    until(w, "n0", Phase.COMMITTED)
    w.commit(roll_back(w.fleet, "r1", "it is slow", "alice", w.now))
    until(w, "n0", Phase.PRESERVED)
    assert w.attempt("n0").kind is Kind.ROLLBACK
    v = lost(w)
    v.hello_all(w)
    assert one(v, "n0").outlook == "UNWINDS"
    while v.agents():
        v.settle_plans()
    assert one(v, "n0").outlook == "NUMBERS_ONLY"
    v.release()
    v.run()
    assert (v.member("n0").outcome, v.node("n0").release, v.jumped("n0")) == (Outcome.ALREADY, NEW, 1)
    assert (v.state(), v.jumped("n1")) == ("SUCCEEDED", 1)
