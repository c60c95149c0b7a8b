from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from orchestrator.core import transitions
from orchestrator.core.fleet import Fleet
from orchestrator.core.messages import CommandRefusal, Heartbeat, MemoryCheck, NodeStatus, Report, StageResult
from orchestrator.core.model import (
    AttemptRow,
    Change,
    DesiredCancel,
    DesiredCommit,
    DesiredPrepare,
    DesiredProceed,
    DesiredStage,
    FleetRow,
    Mark,
    NodeRow,
    Problem,
    Sample,
    Stamp,
)
from orchestrator.core.phases import SETTLED, Kind, Method, Phase, Verdict
from orchestrator.core.transitions_tables import FOLLOWS, NEVER_REPORTED
from orchestrator.core.views import node_view
from orchestrator.errors import Retry, StaleGeneration, StoreRegressed
from tests.unit.core_ops.build import (
    ARTIFACT,
    LATER,
    NEW,
    NOW,
    apply,
    attempt,
    fleet,
    hello,
    node,
    ref,
    report,
)

STAMP = Stamp("boot-n00", timedelta(seconds=100))
REFUSED = Problem("FREEZE_REFUSED", Retry.REPLAN, "a file refuses to freeze")


def made(*attempts: AttemptRow, **fields: Any) -> Fleet:
    return fleet(
        node("n00", highest_generation=max((a.generation for a in attempts), default=0), **fields), *attempts
    )


def take(f: Fleet, message: Report) -> transitions.Observation:
    seen = transitions.report(f, "n00", message, 1, LATER)
    apply(f, seen.change)
    return seen


def newest(f: Fleet) -> AttemptRow:
    found = f.newest_attempt("n00")
    assert found is not None
    return found


def test_workloads_that_were_left_behind_are_told_by_name() -> None:
    failed = Problem("WORKLOAD_UNPRESERVABLE", Retry.CALL, "it cannot be preserved: PRESERVE_FD: ENOENT")
    mute = Problem("WORKLOAD_GONE", Retry.CALL, "")
    f = made(attempt(phase=Phase.PRESERVING, acknowledged=True))
    left = (("vm-3", failed), ("vm-4", mute))
    (told,) = take(f, report("Preserved", Phase.PRESERVED, 4, stamp=STAMP, left_behind=left)).change.events
    assert told.fields["left_behind"] == (
        "vm-3: it cannot be preserved: PRESERVE_FD: ENOENT; vm-4: WORKLOAD_GONE"
    )
    assert newest(f).problem is None, "the attempt goes on without them"
    many = tuple((f"vm-{i}", mute) for i in range(6))
    (told,) = take(f, report("Preserved", Phase.PRESERVED, 5, left_behind=many)).change.events
    assert told.fields["left_behind"].endswith("vm-3: WORKLOAD_GONE; and 2 more")


HAPPY = [
    report("Prepared", Phase.LOADING, 1),
    report("Loaded", Phase.DRAINING, 2),
    report("Drained", Phase.PRESERVING, 3),
    report("Preserved", Phase.PRESERVED, 4, stamp=STAMP),
    report("Proceeded", Phase.SUSPENDING, 6),
    report("Suspended", Phase.JUMPING, 7),
    report("JumpIntentRecorded", Phase.JUMPING, 8),
    report(
        "BootClassified", Phase.RETRIEVING, 9, boot_id="b2", release=NEW, boot_verdict=Verdict.LIVE_UPDATED
    ),
    report("Retrieved", Phase.RESUMING, 10, boot_id="b2", release=NEW),
    report(
        "Resumed",
        Phase.VERIFYING,
        11,
        boot_id="b2",
        release=NEW,
        samples=(Sample("workload", timedelta(milliseconds=80), timedelta(0), "tsc", "w1"),),
        memory_check=MemoryCheck(2, 2, 4096),
    ),
    report("Healthy", Phase.FINISHING, 12, boot_id="b2", release=NEW),
    report("Finished", Phase.BAKING, 13, boot_id="b2", release=NEW, brownout=timedelta(seconds=2)),
]


def test_a_live_update_from_prepare_to_baking() -> None:
    f = made(attempt())
    opened = {}
    for message in HAPPY:
        assert take(f, message).acknowledge_seq == message.seq
        opened[message.event] = newest(f).blackout_open_at
    a = newest(f)
    assert (a.phase, a.failed, a.failure, a.verdict) == (Phase.BAKING, False, "", Verdict.LIVE_UPDATED)
    assert (a.stamp, a.brownout, a.workloads, a.memory_intact) == (STAMP, timedelta(seconds=2), 2, 2)
    assert a.acknowledged
    assert a.healthy_since == LATER
    assert a.settled_at == LATER
    assert opened["Preserved"] is None
    assert opened["Retrieved"] == LATER
    assert opened["Resumed"] is None
    assert f.nodes["n00"].release == NEW
    assert f.nodes["n00"].boot_id == "b2"
    take(f, report("Committed", Phase.COMMITTED, 14, boot_id="b2", release=NEW))
    assert newest(f).phase is Phase.COMMITTED


def test_the_story_of_a_report() -> None:
    f = made(attempt(phase=Phase.FINISHING, verdict=Verdict.LIVE_UPDATED))
    seen = take(f, replace(HAPPY[-1], seq=1))
    assert [e.kind for e in seen.change.events] == ["attempt.finished", "node.settled"]
    assert seen.change.events[0].message == "n00: Finished, FINISHING → BAKING"
    assert seen.change.events[0].actor == "n00"


@given(st.lists(st.integers(0, len(HAPPY) - 1), max_size=40))
@settings(max_examples=60, deadline=None)
def test_replays_and_duplicates_change_nothing(order: list[int]) -> None:
    """Whatever is repeated, the rows are those of the newest report that came."""
    f, g = made(attempt()), made(attempt())
    done = -1
    for i in order:
        if i > done + 1:
            continue
        seen = take(f, HAPPY[i])
        if i <= done:
            assert not seen.change
            assert seen.acknowledge_seq == HAPPY[done].seq
        else:
            take(g, HAPPY[i])
            done = i
        assert (f.attempts, f.nodes) == (g.attempts, g.nodes)


@pytest.mark.parametrize("before", [p for p in Phase if p is not Phase.IDLE])
@pytest.mark.parametrize("said", list(Phase))
def test_every_phase_takes_every_report(before: Phase, said: Phase) -> None:
    """Total: what is not expected is evidence and flagged; IDLE and LOST are never taken."""
    f = made(
        attempt(phase=before, verdict=Verdict.LIVE_UPDATED, settled_at=NOW if before in SETTLED else None)
    )
    seen = take(f, report("Something", said, 1, boot_id="b2", release=NEW))
    expected = said in FOLLOWS[before]
    flagged = any(e.kind == "attempt.contradicted" for e in seen.change.events)
    assert flagged is not expected
    after = newest(f)
    assert after.phase is (before if said in NEVER_REPORTED else said)
    assert (after.settled_at is not None) is (after.phase in SETTLED)


def test_follows_has_every_phase() -> None:
    assert set(FOLLOWS) == set(Phase)
    assert all(NEVER_REPORTED.isdisjoint(after) for after in FOLLOWS.values())


@pytest.mark.parametrize("said", [p for p in Phase if p not in SETTLED])
def test_an_older_attempt_is_never_reopened(said: Phase) -> None:
    f = made(attempt(phase=Phase.LOST, settled_at=NOW), attempt(generation=2))
    seen = take(f, report("Late", said, 1))
    assert f.attempts["n00", 1].phase is Phase.LOST
    assert any(e.kind == "attempt.contradicted" for e in seen.change.events)


CLASSIFIED: list[tuple[str, AttemptRow, Report, Phase, bool, str]] = [
    (
        "unhealthy",
        attempt(phase=Phase.FINISHING, verdict=Verdict.LIVE_UPDATED),
        report("Finished", Phase.AWAITING_ROLLBACK, 1, healthy=False),
        Phase.AWAITING_ROLLBACK,
        True,
        "unhealthy",
    ),
    (
        "power loss",
        attempt(phase=Phase.JUMPING),
        report("BootClassified", Phase.COLD_BOOTED, 1, boot_verdict=Verdict.COLD_BOOT),
        Phase.COLD_BOOTED,
        True,
        "cold_booted",
    ),
    (
        "memory gone",
        attempt(phase=Phase.JUMPING),
        report("BootClassified", Phase.COLD_BOOTED, 1, boot_verdict=Verdict.STATE_LOST),
        Phase.COLD_BOOTED,
        True,
        "state_lost",
    ),
    (
        "wrong kernel",
        attempt(phase=Phase.FINISHING, verdict=Verdict.WRONG_KERNEL),
        report("Finished", Phase.QUARANTINED, 1),
        Phase.QUARANTINED,
        True,
        "wrong_kernel",
    ),
    (
        "retrieve failed",
        attempt(phase=Phase.RETRIEVING, verdict=Verdict.LIVE_UPDATED),
        report("StepFailed", Phase.QUARANTINED, 1, problem=REFUSED),
        Phase.QUARANTINED,
        True,
        "quarantined",
    ),
    (
        "memory differs",
        attempt(phase=Phase.RESUMING, verdict=Verdict.LIVE_UPDATED),
        report("Resumed", Phase.VERIFYING, 1, memory_check=MemoryCheck(3, 2, 9)),
        Phase.VERIFYING,
        True,
        "state_lost",
    ),
    (
        "undone after a failure",
        attempt(phase=Phase.UNWINDING),
        report("Unwound", Phase.ABORTED, 1, problem=REFUSED),
        Phase.ABORTED,
        True,
        "aborted",
    ),
    (
        "undone because the system wished it",
        attempt(phase=Phase.UNWINDING, cancel_cause="pause", spares_budget=True),
        report("Unwound", Phase.ABORTED, 1, problem=Problem("CANCELLED", Retry.REPLAN, "cancelled: pause")),
        Phase.ABORTED,
        False,
        "",
    ),
    (
        "undone because its lease ran out",
        attempt(phase=Phase.UNWINDING),
        report("Unwound", Phase.ABORTED, 1, problem=Problem("LEASE_EXPIRED", Retry.REPLAN, "too late")),
        Phase.ABORTED,
        False,
        "",
    ),
    (
        "failed before the cancel reached it",
        attempt(phase=Phase.UNWINDING, cancel_cause="pause", spares_budget=True),
        report("Unwound", Phase.ABORTED, 1, problem=REFUSED),
        Phase.ABORTED,
        True,
        "aborted",
    ),
]


@pytest.mark.parametrize(
    ("name", "before", "said", "phase", "failed", "failure"), CLASSIFIED, ids=[c[0] for c in CLASSIFIED]
)
def test_failures_are_named_for_what_they_are(
    name: str, before: AttemptRow, said: Report, phase: Phase, failed: bool, failure: str
) -> None:
    f = made(before)
    take(f, said)
    a = newest(f)
    assert (a.phase, a.failed, a.failure) == (phase, failed, failure), name
    assert a.spares_budget is (phase is Phase.ABORTED and not failed)


UNPROVEN: list[tuple[str, dict[str, Any], dict[str, Any], str]] = [
    ("another release", {}, {"release": "6.19.3"}, "wrong_kernel"),
    ("the same boot", {}, {"boot_id": "boot-n00"}, "unproven"),
    ("no verdict", {"verdict": None}, {}, "unproven"),
    ("another verdict", {"verdict": Verdict.FOREIGN_KEXEC}, {}, "unproven"),
    ("not healthy", {}, {"healthy": False}, "unhealthy"),
    ("memory lost", {"workloads": 2, "memory_intact": 1}, {}, "state_lost"),
]


@pytest.mark.parametrize(("name", "row", "said", "failure"), UNPROVEN, ids=[u[0] for u in UNPROVEN])
@pytest.mark.parametrize("phase", [Phase.BAKING, Phase.COMMITTED])
def test_only_the_methods_own_rule_is_success(
    phase: Phase, name: str, row: dict[str, Any], said: dict[str, Any], failure: str
) -> None:
    f = made(attempt(phase=Phase.FINISHING, **{"verdict": Verdict.LIVE_UPDATED, **row}))
    seen = take(f, report("Finished", phase, 1, **{"boot_id": "b2", "release": NEW, **said}))
    a = newest(f)
    assert (a.phase, a.failed, a.failure) == (Phase.QUARANTINED, True, failure)
    assert a.problem is not None
    assert a.problem.reason == "NOT_PROVEN"
    assert any(e.kind == "attempt.not_proven" for e in seen.change.events)


def test_drain_and_reboot_has_a_rule_of_its_own() -> None:
    f = made(attempt(phase=Phase.FINISHING, method=Method.DRAIN_REBOOT, verdict=Verdict.COLD_BOOT))
    take(f, report("Finished", Phase.BAKING, 1, boot_id="b2", release=NEW))
    assert newest(f).phase is Phase.BAKING


def test_a_rollback_is_judged_by_its_own_target() -> None:
    back = attempt(
        phase=Phase.FINISHING, kind=Kind.ROLLBACK, to_release="6.18.9", verdict=Verdict.LIVE_UPDATED
    )
    f = made(back)
    take(f, report("Finished", Phase.BAKING, 1, boot_id="b2", release="6.18.9"))
    assert newest(f).phase is Phase.BAKING


def test_later_boots_do_not_rewrite_the_verdict() -> None:
    f = made(attempt(phase=Phase.BAKING, verdict=Verdict.LIVE_UPDATED, settled_at=NOW, healthy_since=NOW))
    take(f, report("BootClassified", Phase.BAKING, 1, boot_id="b2", boot_verdict=Verdict.SAME_BOOT))
    assert newest(f).verdict is Verdict.LIVE_UPDATED
    assert newest(f).healthy_since == NOW
    take(f, report("Committed", Phase.COMMITTED, 2, boot_id="b2", release=NEW))
    take(f, report("BootClassified", Phase.COMMITTED, 3, boot_id="b3", boot_verdict=Verdict.COLD_BOOT))
    assert newest(f).verdict is Verdict.LIVE_UPDATED
    assert f.nodes["n00"].boot_verdict is Verdict.COLD_BOOT


def test_a_node_that_returns_from_lost_stays_failed() -> None:
    lost = attempt(
        phase=Phase.LOST,
        settled_at=NOW,
        ever_lost=True,
        failed=True,
        failure="lost",
        verdict=Verdict.LIVE_UPDATED,
    )
    f = made(lost)
    seen = take(f, report("Finished", Phase.BAKING, 1, boot_id="b2", release=NEW))
    a = newest(f)
    assert (a.phase, a.failed, a.failure, a.ever_lost) == (Phase.BAKING, True, "lost", True)
    assert "node.returned" in [e.kind for e in seen.change.events]


def test_power_loss_while_baking() -> None:
    f = made(attempt(phase=Phase.BAKING, verdict=Verdict.LIVE_UPDATED, settled_at=NOW, healthy_since=NOW))
    take(f, report("BootClassified", Phase.COLD_BOOTED, 1, boot_verdict=Verdict.COLD_BOOT))
    a = newest(f)
    assert (a.phase, a.failure, a.healthy_since) == (Phase.COLD_BOOTED, "cold_booted", None)


def test_a_relapse_while_baking() -> None:
    f = made(attempt(phase=Phase.BAKING, verdict=Verdict.LIVE_UPDATED, settled_at=NOW, healthy_since=NOW))
    take(f, report("Relapsed", Phase.AWAITING_ROLLBACK, 1, healthy=False, problem=REFUSED))
    assert (newest(f).phase, newest(f).failure) == (Phase.AWAITING_ROLLBACK, "unhealthy")
    assert f.nodes["n00"].problem == REFUSED


def test_the_event_tells_the_longest_blackouts_once() -> None:
    f = made(attempt("n00", phase=Phase.RESUMING))
    samples = [
        Sample("workload", timedelta(milliseconds=100 * i), timedelta(0), "tsc", f"w{i}") for i in range(5)
    ]
    samples[1] = replace(samples[1], duration=timedelta(seconds=9), rejected="clock")
    host = Sample("HOST", timedelta(seconds=1), timedelta(0), "tsc")
    (told,) = take(f, report("Resumed", Phase.VERIFYING, 1, samples=(*samples, host))).change.events
    assert told.fields["blackout"] == (
        "w1 9.000 s (rejected: clock), host 1.000 s, w4 0.400 s, w3 0.300 s, 2 shorter ones"
    )
    (again,) = take(f, report("Healthy", Phase.FINISHING, 2, samples=(host,))).change.events
    assert "blackout" not in again.fields


def test_marks_and_samples_are_taken_once() -> None:
    mark = Mark("suspend", NOW, timedelta(seconds=1), 7, "boot-n00")
    sample = Sample("workload", timedelta(seconds=1), timedelta(0), "tsc", "w1")
    f = made(attempt(phase=Phase.RESUMING))
    take(f, report("Resumed", Phase.VERIFYING, 1, marks=(mark,), samples=(sample, sample)))
    take(
        f,
        report("Healthy", Phase.FINISHING, 2, marks=(mark, replace(mark, name="resume")), samples=(sample,)),
    )
    assert [m.name for m in newest(f).marks] == ["suspend", "resume"]
    assert newest(f).samples == (sample,)


PREPARE = DesiredPrepare(1, ARTIFACT, "")
PROCEED = DesiredProceed(1, STAMP, timedelta(seconds=30))
CANCEL = DesiredCancel(1, "pause")
COMMIT = DesiredCommit(1)
STAGE = DesiredStage(ARTIFACT)


@pytest.mark.parametrize(
    ("desired", "phase", "after", "cleared"),
    [
        (PREPARE, Phase.LOADING, Phase.LOADING, True),
        (PROCEED, Phase.PRESERVED, Phase.PRESERVED, False),
        (PROCEED, Phase.PRESERVED, Phase.SUSPENDING, True),
        (PROCEED, Phase.PRESERVED, Phase.UNWINDING, True),
        (CANCEL, Phase.PRESERVED, Phase.SUSPENDING, False),
        (CANCEL, Phase.PRESERVED, Phase.UNWINDING, True),
        (CANCEL, Phase.SUSPENDING, Phase.JUMPING, True),
        (COMMIT, Phase.BAKING, Phase.BAKING, False),
        (COMMIT, Phase.BAKING, Phase.COMMITTED, True),
        (STAGE, Phase.BAKING, Phase.COMMITTED, False),
        (DesiredPrepare(2, ARTIFACT, ""), Phase.BAKING, Phase.COMMITTED, False),
    ],
)
def test_an_answered_command_is_cleared(desired: Any, phase: Phase, after: Phase, cleared: bool) -> None:
    f = made(attempt(phase=phase, verdict=Verdict.LIVE_UPDATED), desired=desired, command_serial=5)
    take(f, report("Something", after, 1, boot_id="b2", release=NEW))
    assert (f.nodes["n00"].desired is None) is cleared
    assert f.nodes["n00"].command_serial == (6 if cleared else 5)


def refusal(serial: int = 5, problem: Problem = REFUSED, seq: int = 1) -> Report:
    return report(
        "CommandRefused", Phase.IDLE, seq, attempt=None, refusal=CommandRefusal(f"inc-a:{serial}", problem)
    )


def test_a_refused_prepare_never_started() -> None:
    f = made(attempt(), desired=PREPARE, command_serial=5)
    seen = take(f, refusal())
    a = newest(f)
    assert (a.phase, a.failed, a.failure, a.problem) == (Phase.ABORTED, True, "aborted", REFUSED)
    assert f.nodes["n00"].desired is None
    assert [e.kind for e in seen.change.events] == ["attempt.refused", "node.settled"]


def test_a_refused_proceed_is_recorded_and_may_be_sent_again() -> None:
    waiting = attempt(phase=Phase.PRESERVED, acknowledged=True, proceed_until=LATER)
    f = made(waiting, desired=PROCEED, command_serial=5)
    take(f, refusal())
    assert (newest(f).phase, newest(f).problem) == (Phase.PRESERVED, REFUSED)
    assert f.nodes["n00"].desired is None
    assert newest(f).proceed_until == LATER + timedelta(seconds=5), "not before the next beat's stamp"


@pytest.mark.parametrize("phase", [Phase.LOADING, Phase.PRESERVED])
def test_a_refused_cancel_stays_wanted_as_it_is(phase: Phase) -> None:
    """Cleared, it would be planned anew at once, and refused again: some thirty times a second by an agent
    whose journal had stalled (simulation, brief seed 278)."""
    f = made(attempt(phase=phase, cancel_cause="pause"), desired=CANCEL, command_serial=5)
    seen = take(f, refusal())
    assert (newest(f).phase, newest(f).problem) == (phase, REFUSED)
    assert (f.nodes["n00"].desired, f.nodes["n00"].command_serial) == (CANCEL, 5)
    assert [e.kind for e in seen.change.events] == ["node.refused"]


def test_a_refused_cancel_after_the_jump_is_done_with() -> None:
    f = made(attempt(phase=Phase.VERIFYING, acknowledged=True), desired=CANCEL, command_serial=5)
    take(f, refusal())
    assert f.nodes["n00"].desired is None


def test_a_refused_commit_is_recorded_and_not_wanted_again_at_once() -> None:
    f = made(
        attempt(phase=Phase.BAKING, acknowledged=True, healthy_since=NOW), desired=COMMIT, command_serial=5
    )
    seen = take(f, refusal())
    assert (newest(f).phase, newest(f).problem, newest(f).healthy_since) == (Phase.BAKING, REFUSED, None)
    assert f.nodes["n00"].desired is None
    assert [e.kind for e in seen.change.events] == ["node.refused"]


@pytest.mark.parametrize("desired", [CANCEL, COMMIT])
def test_other_refusals_clear_the_command_and_leave_the_attempt(desired: Any) -> None:
    f = made(attempt(phase=Phase.JUMPING, acknowledged=True), desired=desired, command_serial=5)
    seen = take(f, refusal())
    assert (newest(f).phase, newest(f).problem, f.nodes["n00"].desired) == (Phase.JUMPING, None, None)
    assert [e.kind for e in seen.change.events] == ["node.refused"]


def test_a_refused_stage_is_a_problem_of_staging() -> None:
    f = made(desired=STAGE, command_serial=5, staged=frozenset())
    take(f, refusal())
    n = f.nodes["n00"]
    assert (n.stage_problem, n.stage_problem_digest, n.stage_failed_at) == (REFUSED, ARTIFACT.digest, LATER)


def test_the_refusal_of_an_older_command_says_nothing() -> None:
    f = made(attempt(), desired=PREPARE, command_serial=6)
    take(f, refusal(serial=5))
    assert (newest(f).phase, f.nodes["n00"].desired) == (Phase.LOADING, PREPARE)


def test_staging() -> None:
    f = made(desired=STAGE, command_serial=5, staged=frozenset())
    failed = report("Staged", Phase.IDLE, 1, attempt=None, stage=StageResult(ARTIFACT.digest, False, REFUSED))
    assert [e.kind for e in take(f, failed).change.events] == ["node.stage_failed"]
    assert f.nodes["n00"].stage_problem == REFUSED
    f.apply(replace(f.nodes["n00"], desired=STAGE))
    done = report("Staged", Phase.IDLE, 2, attempt=None, stage=StageResult(ARTIFACT.digest, True))
    take(f, done)
    n = f.nodes["n00"]
    assert (n.staged, n.desired, n.stage_problem) == (frozenset({ARTIFACT.digest}), None, None)
    assert (n.stage_problem_digest, n.stage_failed_at) == ("", None)


def test_a_luoctl_attempt_raises_the_generation_and_no_more() -> None:
    f = made()
    seen = take(f, report("Loaded", Phase.DRAINING, 1, attempt=ref(generation=4, incarnation="local")))
    assert (f.nodes["n00"].highest_generation, f.attempts) == (4, {})
    assert "luoctl" in seen.change.events[0].message


def test_a_trimmed_attempt_is_acknowledged() -> None:
    f = fleet(node("n00", highest_generation=7))
    assert take(f, report("Committed", Phase.COMMITTED, 3, attempt=ref(generation=2))).acknowledge_seq == 3


def test_an_attempt_of_the_future_stops_the_fleet() -> None:
    f = made()
    seen = take(f, report("Loaded", Phase.DRAINING, 1, attempt=ref(generation=4)))
    assert isinstance(seen.refusal, StoreRegressed)
    assert seen.acknowledge_seq is None
    assert f.row.stopped == "STORE_REGRESSED"
    assert any(isinstance(r, FleetRow) for r in seen.change.writes)
    f.apply(replace(f.row, stopped=""))
    assert take(f, report("Loaded", Phase.DRAINING, 1, attempt=ref(generation=4))).acknowledge_seq == 1


@pytest.mark.parametrize("epoch", [0, 2])
def test_another_link_epoch_is_stale(epoch: int) -> None:
    f = made(attempt())
    for seen in (
        transitions.report(f, "n00", HAPPY[0], epoch, NOW),
        transitions.heartbeat(f, "n00", Heartbeat(NodeStatus()), epoch, NOW),
    ):
        assert isinstance(seen.refusal, StaleGeneration)
        assert seen.refusal.reason == "STALE_LINK"
        assert not seen.change
    assert transitions.report(f, "nobody", HAPPY[0], 1, NOW).refusal is not None


def test_a_heartbeat_is_heard_and_not_written() -> None:
    f = made(attempt(phase=Phase.PRESERVED))
    seen = transitions.heartbeat(f, "n00", Heartbeat(NodeStatus(ref(), Phase.RETRIEVING), STAMP), 1, LATER)
    assert not seen.change
    assert seen.facts[0].at == LATER
    assert seen.facts[0].stamp == STAMP  # type: ignore[union-attr]


def test_the_edge_of_health_is_written() -> None:
    f = made(attempt(phase=Phase.BAKING, verdict=Verdict.LIVE_UPDATED, settled_at=NOW, healthy_since=NOW))
    sick = Heartbeat(NodeStatus(ref(), Phase.BAKING, healthy=False, problem=REFUSED))
    seen = transitions.heartbeat(f, "n00", sick, 1, LATER)
    apply(f, seen.change)
    assert (f.nodes["n00"].healthy, f.nodes["n00"].problem, newest(f).healthy_since) == (False, REFUSED, None)
    assert [e.kind for e in seen.change.events] == ["node.sickened"]
    assert not transitions.heartbeat(f, "n00", sick, 1, LATER).change
    apply(f, transitions.heartbeat(f, "n00", Heartbeat(NodeStatus(ref(), Phase.BAKING)), 1, LATER).change)
    assert newest(f).healthy_since == LATER


def test_events_that_nodes_invent_get_no_kind_of_their_own() -> None:
    f = made(attempt())
    assert take(f, report("x; drop", Phase.LOADING, 1)).change.events[0].kind == "attempt.reported"


def test_a_report_of_the_node_at_rest() -> None:
    f = made(boot_id="boot-1")
    seen = take(
        f,
        report(
            "BootClassified",
            Phase.IDLE,
            1,
            attempt=None,
            boot_id="boot-2",
            rollback_artifact="e" * 64,
            healthy=False,
        ),
    )
    n = f.nodes["n00"]
    assert (n.boot_id, n.rollback_artifact, n.healthy, n.acknowledged_seq) == ("boot-2", "e" * 64, False, 1)
    assert [e.kind for e in seen.change.events] == ["node.reported"]
    assert isinstance(seen.change.writes[0], NodeRow)


def test_an_operators_hand_on_the_node_is_told_and_makes_no_problem_of_it() -> None:
    f = made()
    problem = Problem("LUO_BY_HAND", Retry.NEVER, "luoctl prepare: somebody drives LUO by hand")
    seen = take(f, report("ByHandPrepare", Phase.IDLE, 1, attempt=None, problem=problem))
    assert [(e.kind, e.fields["problem"]) for e in seen.change.events] == [("node.reported", "LUO_BY_HAND")]
    assert f.nodes["n00"].problem is None
    assert not f.nodes["n00"].desired


BY_HAND = Problem("LUO_BY_HAND", Retry.NEVER, "luoctl kexec", fields={"by_hand": "kexec"})


def by_hand(seq: int, phase: Phase = Phase.IDLE, **changes: Any) -> Report:
    """The boot after `luoctl kexec DIGEST`."""
    said = {"problem": BY_HAND, "boot_id": "boot-2", "release": NEW, "attempt": None, **changes}
    return report("BootClassified", phase, seq, boot_verdict=Verdict.FOREIGN_KEXEC, **said)


def came_by_hand(f: Fleet) -> bool:
    return node_view(f, "n00", NOW).boot_by_hand


def test_a_release_that_does_not_know_of_boots_by_hand_passes_the_word_on_to_no_other_boot() -> None:
    """It keeps what it does not know of, and writes that the node is in another boot."""
    f = made()
    take(f, by_hand(1))
    apply(f, Change((replace(f.nodes["n00"], boot_id="boot-3", boot_verdict=Verdict.COLD_BOOT),)))
    apply(f, transitions.hello(f, hello(boot_id="boot-3", acknowledged_seq=1), "", NOW).change)
    assert (f.nodes["n00"].boot_verdict, came_by_hand(f)) == (Verdict.COLD_BOOT, False)


def test_a_node_of_which_no_boot_is_known_has_come_by_nobodys_hand() -> None:
    f = made()
    apply(f, Change((replace(f.nodes["n00"], boot_id=""),)))
    assert not came_by_hand(f)


def test_a_boot_by_hand_of_a_node_at_rest() -> None:
    """Told with the word, and known of the node for as long as it is in that boot."""
    f = made()
    (told,) = take(f, by_hand(1)).change.events
    assert (told.kind, told.fields["verdict"], told.fields["by_hand"]) == (
        "node.reported",
        "FOREIGN_KEXEC",
        "kexec",
    )
    n = f.nodes["n00"]
    assert (n.boot_verdict, came_by_hand(f), n.problem, n.healthy) == (
        Verdict.FOREIGN_KEXEC,
        True,
        None,
        True,
    )
    take(f, report("ByHandFinish", Phase.IDLE, 2, attempt=None, boot_id="boot-2"))
    assert came_by_hand(f)
    for boot, still in (("boot-2", True), ("boot-3", False)):
        apply(f, transitions.hello(f, hello(boot_id=boot, acknowledged_seq=2), "", NOW).change)
        assert came_by_hand(f) is still
    take(f, by_hand(3, boot_id="boot-4"))
    take(f, report("BootClassified", Phase.IDLE, 4, attempt=None, boot_id="boot-5"))
    assert not came_by_hand(f)


@pytest.mark.parametrize(
    "phase", [Phase.ABORTED, Phase.AWAITING_ROLLBACK, Phase.QUARANTINED, Phase.COMMITTED]
)
def test_a_boot_by_hand_after_an_attempt_leaves_it_as_it_is(phase: Phase) -> None:
    """Its problem, its class and its failure are what decide about the member."""
    why = None if phase is Phase.COMMITTED else replace(REFUSED, fields={"by_hand": "kexec"})
    failed = phase is not Phase.COMMITTED
    f = made(attempt(phase=phase, problem=REFUSED if failed else None, failed=failed, failure="aborted"))
    before = newest(f)
    (told,) = take(f, by_hand(9, phase, attempt=ref(), problem=why or BY_HAND)).change.events
    assert (told.kind, told.fields["by_hand"]) == ("attempt.boot_classified", "kexec")
    after = newest(f)
    assert (after.phase, after.failed, after.failure) == (before.phase, before.failed, before.failure)
    assert after.problem == why
    assert came_by_hand(f)


def test_health_edges_while_baking_restart_the_bake() -> None:
    """By whatever message they come."""
    f = made(attempt(phase=Phase.BAKING, verdict=Verdict.LIVE_UPDATED, settled_at=NOW, healthy_since=NOW))
    take(f, report("Noted", Phase.IDLE, 1, attempt=None, healthy=False))
    assert newest(f).healthy_since is None
    back = transitions.hello(
        f, hello(highest_generation=1, status=NodeStatus(ref(), Phase.BAKING)), "", LATER
    )
    apply(f, back.change)
    assert newest(f).healthy_since == LATER


def test_an_attempts_own_older_report_changes_nothing() -> None:
    f = made(attempt(phase=Phase.DRAINING, seq=9))
    take(f, report("Loaded", Phase.DRAINING, 5))
    assert newest(f).seq == 9


def test_a_refusal_without_its_attempt_clears_the_command() -> None:
    f = fleet(node("n00", highest_generation=7, desired=DesiredCommit(7), command_serial=5))
    take(f, refusal())
    assert f.nodes["n00"].desired is None


def test_a_command_of_another_attempt_is_not_answered() -> None:
    f = made(attempt(phase=Phase.UNWINDING), attempt(generation=2), desired=CANCEL, command_serial=5)
    take(f, report("Prepared", Phase.LOADING, 1, attempt=ref(generation=2)))
    assert f.nodes["n00"].desired is None, "the command was for an attempt that a newer one has followed"


def test_a_link_down_of_nobody() -> None:
    assert transitions.link_down(made(), "nobody", 1, NOW) == transitions.Observation()


def test_a_hello_between_two_phases_of_the_blackout() -> None:
    f = made(attempt(phase=Phase.SUSPENDING))
    seen = transitions.hello(f, hello(highest_generation=1), "", LATER)
    assert len(seen.change.writes) == 1, "the same boot: no gap to measure"


def test_a_stage_that_fails_for_another_artifact_keeps_the_command() -> None:
    f = made(desired=STAGE, command_serial=5, stage_problem=REFUSED, stage_problem_digest="x")
    take(f, report("Staged", Phase.IDLE, 1, attempt=None, stage=StageResult("y" * 64, True)))
    assert (f.nodes["n00"].desired, f.nodes["n00"].stage_problem) == (STAGE, REFUSED)


def test_an_idle_node_that_falls_ill() -> None:
    f = made()
    seen = transitions.heartbeat(f, "n00", Heartbeat(NodeStatus(healthy=False)), 1, LATER)
    assert len(seen.change.writes) == 1
    assert seen.change.events[0].message == "n00 is unhealthy"
