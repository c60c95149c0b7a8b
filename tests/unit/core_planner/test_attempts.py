"""Attempts under way: PROCEED, CANCEL, COMMIT, silence, and what their ends mean."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta

import pytest

from orchestrator.core.backoff import delay, share
from orchestrator.core.model import DesiredCancel, DesiredCommit, DesiredProceed, Problem
from orchestrator.core.phases import Goal, Outcome, Phase, Verdict
from orchestrator.core.spec import Amount, Embargo, FailureBudget, RetryRule, Schedule
from orchestrator.errors import Retry
from tests.unit.core_planner.builders import START, World, node, nodes, planned, spec


def alone(**how: object) -> World:
    """One node, one rollout, its PREPARE committed."""
    w = World([node("n0")])
    w.rollout(spec(**how))  # type: ignore[arg-type]
    w.settle_plans()
    return w


def preserved(**how: object) -> World:
    """Its node waits PRESERVED, and no PROCEED has been committed."""
    w = alone(**how)
    while w.attempt("n0").phase is not Phase.PRESERVED:
        w.step("n0")
    return w


def ended(phase: Phase, failures: int = 9, **changes: object) -> World:
    """Its attempt has ended in phase, and that is settled."""
    budget = FailureBudget(Amount(count=failures), frozenset())
    w = preserved(budgets={"failures": budget})
    w.settle_plans()
    w.set_attempt("n0", phase=phase, settled_at=w.now, **changes)
    w.settle_plans()
    return w


# --- PROCEED -----------------------------------------------------------------------------


def test_proceed_echoes_the_newest_stamp_of_that_boot_and_is_valid_for_the_lease() -> None:
    w = preserved()
    w.tick(timedelta(seconds=5))
    w.settle_plans()
    desired = w.node("n0").desired
    assert isinstance(desired, DesiredProceed)
    assert desired.stamp.boot_id == "n0-boot-1"
    assert desired.stamp.boottime == timedelta(seconds=5)
    assert desired.valid_for == timedelta(seconds=30)
    assert w.attempt("n0").proceed_until == w.now + timedelta(seconds=30)
    assert w.member("n0").crossed


def test_a_stale_stamp_is_not_echoed_and_the_next_heartbeat_is_waited_for() -> None:
    w = preserved()
    w.now += timedelta(seconds=20)
    assert planned(w, "proceed") == []
    (blocker,) = [b for b in w.last_plan.blockers["r1"] if b.reason == "AWAITING_STAMP"]
    assert blocker.until is not None
    w.hear("n0")
    assert planned(w, "proceed") == ["n0"]


def test_a_stamp_of_another_boot_is_never_echoed() -> None:
    w = preserved()
    w.set_attempt("n0", expected_boot_id="another")
    assert planned(w, "proceed") == []


def test_proceed_only_goes_to_preserved() -> None:
    w = alone()
    for phase in (Phase.LOADING, Phase.DRAINING, Phase.PRESERVING, Phase.SUSPENDING, Phase.UNWINDING):
        w.set_attempt("n0", phase=phase, acknowledged=True)
        assert planned(w, "proceed") == []


def test_an_unacknowledged_proceed_is_sent_again_with_a_newer_stamp_once_it_has_run_out() -> None:
    w = preserved()
    w.settle_plans()
    first = w.node("n0").desired
    w.tick(timedelta(seconds=25))
    assert planned(w, "proceed") == []
    w.tick(timedelta(seconds=10))
    w.settle_plans()
    second = w.node("n0").desired
    assert isinstance(first, DesiredProceed)
    assert isinstance(second, DesiredProceed)
    assert second.stamp.boottime > first.stamp.boottime


@pytest.mark.parametrize("closing", ["pause", "halt", "fleet_stop", "embargo", "cancel", "roll_back"])
def test_when_the_gates_close_cancel_replaces_an_unacknowledged_proceed(closing: str) -> None:
    w = preserved()
    w.settle_plans()
    close(w, closing)
    w.settle_plans()
    assert isinstance(w.node("n0").desired, DesiredCancel)
    a = w.attempt("n0")
    assert (a.cancel_cause, a.spares_budget) == (closing, True)
    reopen(w)
    w.tick(timedelta(seconds=5))
    assert planned(w, "proceed") == []


def close(w: World, how: str) -> None:
    match how:
        case "pause":
            w.set_rollout(paused="lunch")
        case "halt":
            w.set_rollout(halted="X")
        case "fleet_stop":
            w.set_fleet(stopped="OPERATOR")
        case "embargo":
            ban = Schedule(embargoes=(Embargo(w.now, w.now + timedelta(days=1)),))
            w.set_rollout(spec=replace(w.row().spec, schedule=ban))
        case "cancel":
            w.set_rollout(goal=Goal.CANCEL)
        case "roll_back":
            w.set_rollout(goal=Goal.BACK)


def reopen(w: World) -> None:
    w.set_fleet(stopped="")
    w.set_rollout(paused="", halted="", spec=replace(w.row().spec, schedule=Schedule()))


def test_a_cancel_that_was_refused_is_wanted_again_and_never_forgotten() -> None:
    w = preserved()
    close(w, "pause")
    w.settle_plans()
    w.set_node("n0", desired=None)
    reopen(w)
    w.settle_plans()
    assert isinstance(w.node("n0").desired, DesiredCancel)


def test_pause_leaves_a_draining_node_alone_until_it_is_preserved() -> None:
    w = alone()
    w.set_attempt("n0", phase=Phase.DRAINING, acknowledged=True)
    w.set_rollout(paused="lunch")
    w.settle_plans()
    assert not isinstance(w.node("n0").desired, DesiredCancel)
    w.set_attempt("n0", phase=Phase.PRESERVED)
    w.settle_plans()
    assert isinstance(w.node("n0").desired, DesiredCancel)


def test_pause_takes_back_a_prepare_that_nobody_has_acknowledged() -> None:
    w = alone()
    w.set_rollout(paused="lunch")
    assert planned(w, "cancel") == ["n0"]


@pytest.mark.parametrize("phase", [Phase.LOADING, Phase.DRAINING, Phase.PRESERVING, Phase.SUSPENDING])
def test_cancel_undoes_every_attempt_before_its_jump(phase: Phase) -> None:
    w = alone()
    w.set_attempt("n0", phase=phase, acknowledged=True)
    w.set_rollout(goal=Goal.CANCEL)
    assert planned(w, "cancel") == ["n0"]


@pytest.mark.parametrize("phase", [Phase.JUMPING, Phase.RETRIEVING, Phase.VERIFYING, Phase.FINISHING])
def test_after_the_jump_a_cancel_waits_for_the_attempt_to_settle(phase: Phase) -> None:
    w = alone()
    w.set_attempt("n0", phase=phase, acknowledged=True)
    w.set_rollout(goal=Goal.CANCEL)
    w.settle_plans()
    assert w.row().ended_at is None
    assert not isinstance(w.node("n0").desired, DesiredCancel)


def test_a_window_that_ends_unwinds_preserved_nodes_and_is_a_wake() -> None:
    w = preserved()
    ban = Schedule(embargoes=(Embargo(START + timedelta(seconds=7), START + timedelta(hours=1)),))
    w.set_rollout(spec=replace(w.row().spec, schedule=ban))
    w.settle_plans()
    assert w.plan().next_wake == START + timedelta(seconds=7)
    w.tick(timedelta(seconds=10))
    w.settle_plans()
    assert w.attempt("n0").cancel_cause == "embargo"


# --- acknowledgement and silence ---------------------------------------------------------


def test_a_prepare_that_a_linked_node_never_acknowledges_is_cancelled() -> None:
    w = alone()
    w.tick(timedelta(seconds=55))
    assert planned(w, "cancel") == []
    w.tick(timedelta(seconds=5))
    w.settle_plans()
    a = w.attempt("n0")
    assert (a.cancel_cause, a.spares_budget) == ("ack_timeout", False)


def test_a_silent_node_is_lost_after_its_lease_and_the_slack_and_not_before() -> None:
    w = preserved()
    w.settle_plans()
    w.set_attempt("n0", phase=Phase.SUSPENDING)
    w.cut("n0")
    w.now += timedelta(minutes=5, seconds=1)
    w.settle_plans()
    assert w.attempt("n0").phase is Phase.SUSPENDING
    blocker = next(b for b in w.plan().blockers["r1"] if b.reason == "IN_BLACKOUT")
    assert (blocker.remedy, blocker.nodes) == ("", ("n0",))
    assert blocker.message == "in its blackout; lost at 12:05:02 UTC if it stays silent"
    assert blocker.until == START + timedelta(minutes=5, seconds=2)
    assert w.last_plan.next_wake == blocker.until
    w.now += timedelta(seconds=1)
    w.settle_plans()
    a = w.attempt("n0")
    assert (a.phase, a.failed, a.ever_lost, a.failure) == (Phase.LOST, True, True, "lost")
    assert w.row().halted == "HALT_ON_LOST"


def test_lost_leaves_the_blackout_count_and_keeps_its_unavailable_slot() -> None:
    w = ended(Phase.LOST, ever_lost=True)
    assert (w.fleet.blackout, w.fleet.unavailable) == (0, 1)
    w.set_node("n0", written_off="burnt")
    assert w.fleet.unavailable == 0
    w.settle_plans()
    assert w.member("n0").outcome is Outcome.WRITTEN_OFF


def test_an_open_attempt_on_a_written_off_node_is_lost_at_once() -> None:
    w = alone()
    w.cut("n0")
    w.set_node("n0", written_off="burnt")
    w.settle_plans()
    assert w.attempt("n0").phase is Phase.LOST
    assert w.member("n0").outcome is Outcome.WRITTEN_OFF


def test_after_a_restart_nobody_is_lost_before_the_grace_and_a_whole_lease_are_over() -> None:
    w = preserved()
    w.settle_plans()
    w.set_attempt("n0", phase=Phase.SUSPENDING)
    w.now += timedelta(hours=1)
    w.silent.add("n0")
    w.crash(grace=timedelta(seconds=60))
    w.fleet = type(w.fleet).rebuild(w.policy, "inc-1", list(w.rows.values()))
    w.settle_plans()
    assert w.attempt("n0").phase is Phase.SUSPENDING
    from orchestrator.core.facts import GraceEnds

    w.fleet.apply(GraceEnds(w.now + timedelta(seconds=60)))
    w.now += timedelta(minutes=6, seconds=1)
    w.settle_plans()
    assert w.attempt("n0").phase is Phase.SUSPENDING
    w.now += timedelta(seconds=1)
    w.settle_plans()
    assert w.attempt("n0").phase is Phase.LOST


def test_a_node_that_returns_from_lost_before_its_jump_is_undone_and_takes_no_blackout_slot() -> None:
    w = ended(Phase.LOST, ever_lost=True, failed=True, failure="lost")
    w.set_attempt("n0", phase=Phase.PRESERVED, settled_at=None)
    assert w.fleet.blackout == 0
    w.settle_plans()
    assert isinstance(w.node("n0").desired, DesiredCancel)
    assert w.member("n0").outcome is Outcome.OPEN
    w.set_attempt("n0", phase=Phase.ABORTED, settled_at=w.now)
    w.settle_plans()
    assert w.member("n0").outcome is Outcome.FAILED


# --- ends and retries --------------------------------------------------------------------


def aborted(retry: Retry) -> World:
    return ended(Phase.ABORTED, problem=Problem("FREEZE", retry, "refused"))


def test_a_retryable_failure_goes_round_again_after_its_backoff() -> None:
    w = aborted(Retry.REPLAN)
    m = w.member("n0")
    assert (m.outcome, m.retries, dict(m.tries), m.failed) == (Outcome.PENDING, 1, {"REPLAN": 1}, False)
    assert m.not_before is not None
    assert timedelta(seconds=30) <= m.not_before - w.now <= timedelta(seconds=37.5)
    assert "RETRY_WAITS" in w.reasons()
    assert w.last_plan.next_wake is not None
    w.tick(m.not_before - w.now + timedelta(seconds=5))
    w.tick(timedelta(seconds=40))
    w.settle_plans()
    assert w.attempt("n0").generation == 2


@pytest.mark.parametrize("retry", [Retry.FIX_STATE, Retry.NEVER])
def test_a_failure_that_no_retry_mends_is_final(retry: Retry) -> None:
    w = aborted(retry)
    assert (w.member("n0").outcome, w.member("n0").failed) == (Outcome.FAILED, True)
    assert w.row().halted == ""


def test_attempts_count_the_first_and_then_the_node_has_failed() -> None:
    w = World([node("n0")])
    w.rollout(spec(budgets={"failures": FailureBudget(Amount(count=1))}))
    w.script("n0", fail_at="PRESERVING", retry=Retry.CALL)
    w.run()
    assert w.attempt("n0").generation == 3
    assert (w.member("n0").outcome, w.member("n0").reason) == (Outcome.FAILED, "refused")
    assert w.state() == "FAILED"


def test_an_unwind_that_the_system_wished_for_spends_nothing() -> None:
    w = ended(Phase.ABORTED, spares_budget=True, cancel_cause="pause")
    m = w.member("n0")
    assert (m.outcome, dict(m.tries), m.retries, m.failed) == (Outcome.OPEN, {}, 0, False)
    assert w.attempt("n0").generation == 2


def test_an_expired_lease_spends_nothing_and_is_not_a_hot_loop() -> None:
    w = ended(Phase.ABORTED, problem=Problem("LEASE_EXPIRED", Retry.REPLAN, "late"))
    m = w.member("n0")
    assert (m.outcome, dict(m.tries), m.retries) == (Outcome.PENDING, {}, 0)
    assert m.not_before is not None


def test_a_node_back_on_its_old_release_after_a_kexec_has_failed_and_never_goes_round() -> None:
    w = preserved(budgets={"failures": FailureBudget(Amount(count=9))})
    w.settle_plans()
    w.set_node("n0", boot_id="n0-boot-2")
    w.set_attempt("n0", phase=Phase.ABORTED, settled_at=w.now)
    w.settle_plans()
    m = w.member("n0")
    assert (m.outcome, m.reason) == (Outcome.FAILED, "back_on_old_release")


@pytest.mark.parametrize(
    ("phase", "reason"),
    [(Phase.QUARANTINED, "quarantined"), (Phase.COLD_BOOTED, "cold_booted"), (Phase.LOST, "lost")],
)
def test_a_bad_end_is_named_for_what_it_was(phase: Phase, reason: str) -> None:
    w = ended(phase)
    m = w.member("n0")
    assert (m.outcome, m.reason, m.failed) == (Outcome.FAILED, reason, True)


def test_one_failure_more_than_the_budget_halts_with_reason_and_message() -> None:
    w = ended(Phase.QUARANTINED, failures=0, problem=Problem("X", Retry.NEVER, "no session"))
    assert w.row().halted == "FAILURE_BUDGET"
    assert "1 failed nodes, 0 allowed" in w.row().halt_message
    assert "no session" in w.row().halt_message


def test_halt_on_halts_at_the_first_whatever_the_budget_says() -> None:
    budget = FailureBudget(Amount(count=9), frozenset({"state_lost"}))
    w = preserved(budgets={"failures": budget})
    w.settle_plans()
    w.set_attempt("n0", phase=Phase.QUARANTINED, verdict=Verdict.STATE_LOST, settled_at=w.now)
    w.settle_plans()
    assert w.row().halted == "HALT_ON_STATE_LOST"


def test_a_forgiven_halt_does_not_come_back() -> None:
    w = ended(Phase.QUARANTINED, failures=0)
    w.set_rollout(halted="", failures_forgiven=1)
    w.settle_plans()
    assert w.row().halted == ""


def test_a_failure_and_a_start_are_never_in_one_plan() -> None:
    w = World(nodes(3))
    w.rollout(spec(unavailable=2), waves=[["n0", "n1", "n2"], []])
    w.settle_plans()
    w.set_attempt("n0", phase=Phase.ABORTED, problem=Problem("X", Retry.NEVER, "x"), settled_at=w.now)
    made = w.plan()
    assert [a.kind for a in made.actions] == ["halt"]
    w.settle_plans()
    assert w.open_nodes() == ["n1"]


def test_backoff_doubles_up_to_its_bound_with_jitter_of_its_own() -> None:
    rule = RetryRule(9, timedelta(seconds=4), timedelta(seconds=10))
    for failures, base in ((1, 4), (2, 8), (3, 10), (90, 10)):
        waited = delay(rule, failures, "r", "n").total_seconds()
        assert base <= waited <= base * 1.25
    assert delay(rule, 1, "r", "n") == delay(rule, 1, "r", "n")
    assert 0 <= share("a") < 1
    assert share("a", "b") != share("ab")


# --- COMMIT ------------------------------------------------------------------------------


def test_a_node_is_committed_when_it_has_baked() -> None:
    w = alone()
    w.run(until="BAKING")
    w.settle_plans()
    assert w.member("n0").outcome is Outcome.BAKING
    assert not isinstance(w.node("n0").desired, DesiredCommit)
    w.tick(timedelta(seconds=10))
    w.settle_plans()
    assert isinstance(w.node("n0").desired, DesiredCommit)
    w.step("n0")
    w.settle_plans()
    assert (w.member("n0").outcome, w.node("n0").desired) == (Outcome.UPDATED, None)


@pytest.mark.parametrize("closing", ["pause", "halt", "fleet_stop"])
def test_nothing_is_committed_while_its_gates_are_closed(closing: str) -> None:
    w = alone()
    w.run(until="BAKING")
    close(w, closing)
    w.tick(timedelta(minutes=1))
    w.settle_plans()
    assert not isinstance(w.node("n0").desired, DesiredCommit)


def test_a_baking_node_that_is_unreachable_is_named() -> None:
    w = alone()
    w.run(until="BAKING")
    w.settle_plans()
    assert "NODES_BAKING" in w.reasons()
    w.cut("n0")
    w.tick(timedelta(minutes=1))
    w.settle_plans()
    assert "BAKING_STUCK" in w.reasons()


def test_a_relapse_in_the_bake_is_a_failure() -> None:
    w = alone()
    w.run(until="BAKING")
    w.settle_plans()
    w.set_attempt("n0", phase=Phase.AWAITING_ROLLBACK, healthy_since=None)
    w.settle_plans()
    assert w.row().halted == "FAILURE_BUDGET"
