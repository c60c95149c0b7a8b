"""The saga's table: every row, every absent pair, and what an attempt learns from each event."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import replace

import pytest

from node_agent.core import events as ev
from node_agent.core.model import AttemptKind, BlackoutSample, Lease, MemoryCheck, Problem, Vantage
from node_agent.core.phases import SETTLED, Phase, Verdict
from node_agent.core.saga import CROSSED, TABLE, IllegalTransition, Signal, signal_of, transition
from node_agent.core.steps import STEPS, Effect
from node_agent.errors import Retry
from tests.unit.agent_core.make import EVENTS, NOW, PROBLEM, attempt, classified, mark

P, E = Phase, Effect

# The design's table in words of its own: state, event, next, effect.
ROWS = [
    (P.LOADING, ev.Loaded, P.DRAINING, E.DRAIN),
    (P.DRAINING, ev.Drained, P.PRESERVING, E.PRESERVE),
    (P.PRESERVING, ev.Preserved, P.PRESERVED, E.AWAIT_PROCEED),
    (P.PRESERVED, ev.Proceeded, P.SUSPENDING, E.SUSPEND),
    (P.SUSPENDING, ev.Suspended, P.JUMPING, E.RECORD_INTENT),
    (P.JUMPING, ev.JumpIntentRecorded, P.JUMPING, E.REBOOT),
    (P.JUMPING, ev.RebootRefused, P.UNWINDING, E.UNWIND),
    (P.JUMPING, ev.StepFailed, P.UNWINDING, E.UNWIND),
    (P.JUMPING, ev.CancelRequested, P.UNWINDING, E.UNWIND),
    (P.RETRIEVING, ev.Retrieved, P.RESUMING, E.RESUME),
    (P.RESUMING, ev.Resumed, P.VERIFYING, E.VERIFY),
    (P.VERIFYING, ev.Healthy, P.FINISHING, E.FINISH),
    (P.VERIFYING, ev.Unhealthy, P.FINISHING, E.FINISH),
    (P.VERIFYING, ev.StepFailed, P.FINISHING, E.FINISH),
    (P.VERIFYING, ev.TimedOut, P.FINISHING, E.FINISH),
    (P.FINISHING, ev.Finished, P.AWAITING_ROLLBACK, None),
    (P.FINISHING, ev.StepFailed, P.QUARANTINED, None),
    (P.FINISHING, ev.TimedOut, P.QUARANTINED, None),
    (P.BAKING, ev.CommitRequested, P.BAKING, E.SET_DEFAULT),
    (P.BAKING, ev.Committed, P.COMMITTED, None),
    (P.BAKING, ev.Relapsed, P.AWAITING_ROLLBACK, None),
    (P.BAKING, ev.StepFailed, P.BAKING, E.WATCH),
    (P.BAKING, ev.TimedOut, P.BAKING, E.WATCH),
    (P.UNWINDING, ev.Unwound, P.ABORTED, None),
    (P.UNWINDING, ev.StepFailed, P.QUARANTINED, None),
    (P.UNWINDING, ev.TimedOut, P.QUARANTINED, None),
    *((phase, ev.CancelRequested, P.UNWINDING, E.UNWIND) for phase in
      (P.LOADING, P.DRAINING, P.PRESERVING, P.PRESERVED, P.SUSPENDING)),
    *((phase, event, P.UNWINDING, E.UNWIND) for phase, event in itertools.product(
        (P.LOADING, P.DRAINING, P.PRESERVING, P.SUSPENDING), (ev.StepFailed, ev.TimedOut))),
    *((phase, ev.LeaseExpired, P.UNWINDING, E.UNWIND) for phase in (P.PRESERVED, P.SUSPENDING, P.JUMPING)),
    *((phase, event, P.QUARANTINED, E.BRING_BACK) for phase, event in itertools.product(
        (P.RETRIEVING, P.RESUMING), (ev.StepFailed, ev.TimedOut))),
]  # fmt: skip
LISTED = {(phase, event): (after, effect) for phase, event, after, effect in ROWS}


@pytest.mark.parametrize("phase", Phase)
@pytest.mark.parametrize("event", EVENTS, ids=lambda event: type(event).__name__)
def test_every_state_and_event(phase: Phase, event: ev.Event) -> None:
    before = attempt(phase)
    expected = LISTED.get((phase, type(event)))
    if expected is None:
        with pytest.raises(IllegalTransition) as caught:
            transition(before, event, ["Prepared", "Loaded"])
        assert caught.value.story == ("Prepared", "Loaded")
        assert "Prepared; Loaded" in str(caught.value)
        assert caught.value.phase is phase
    else:
        step = transition(before, event)
        assert (step.attempt.phase, step.effect) == expected


def test_the_table_has_an_entry_for_every_state_and_no_row_that_no_event_reaches() -> None:
    assert set(TABLE) == set(Phase)
    refined = {
        Signal.RESUMED_SALVAGE, Signal.NOTHING_CROSSED, Signal.FINISHED_HEALTHY, Signal.FINISHED_SPOILT,
        Signal.RELAPSED_ROLLBACK, Signal.UNWOUND_SPOILT,
    }  # fmt: skip
    rows = {(phase, signal) for phase, known in TABLE.items() for signal in known if signal not in refined}
    assert len(rows) == len(LISTED)


def test_settled_states_other_than_baking_know_no_event() -> None:
    assert all(not TABLE[phase] for phase in SETTLED - {Phase.BAKING})


def test_nothing_else_ends_up_in_a_state_whose_effect_cannot_be_bounded() -> None:
    effects = {row.effect for known in TABLE.values() for row in known.values() if row.effect}
    assert effects <= set(STEPS)


def test_a_healthy_attempt_bakes_and_an_unhealthy_one_awaits_its_rollback() -> None:
    healthy = transition(attempt(P.VERIFYING, problem=PROBLEM), ev.Healthy()).attempt
    assert (healthy.healthy, healthy.problem) == (True, None)
    assert transition(healthy, ev.Finished()).attempt.phase is P.BAKING
    unhealthy = transition(attempt(P.VERIFYING), ev.Unhealthy(PROBLEM)).attempt
    assert unhealthy.healthy is False
    assert transition(unhealthy, ev.Finished()).attempt.phase is P.AWAITING_ROLLBACK


@pytest.mark.parametrize("event", [ev.StepFailed(PROBLEM), ev.TimedOut(PROBLEM)])
def test_a_probe_that_fails_counts_as_unhealthy(event: ev.Event) -> None:
    after = transition(attempt(P.VERIFYING), event).attempt
    assert (after.healthy, after.problem) == (False, PROBLEM)


def test_an_unhealthy_rollback_is_quarantined() -> None:
    finishing = attempt(P.FINISHING, kind=AttemptKind.ROLLBACK, healthy=False)
    after = transition(finishing, ev.Finished())
    assert (after.attempt.phase, after.attempt.healthy) == (P.QUARANTINED, False)
    relapsed = transition(attempt(P.BAKING, kind=AttemptKind.ROLLBACK), ev.Relapsed(PROBLEM))
    assert relapsed.attempt.phase is P.QUARANTINED


def test_a_healthy_rollback_bakes() -> None:
    finishing = attempt(P.FINISHING, kind=AttemptKind.ROLLBACK, healthy=True)
    assert transition(finishing, ev.Finished()).attempt.phase is P.BAKING


def test_a_rollback_that_fails_is_quarantined_and_one_that_is_interrupted_is_not() -> None:
    failed = transition(attempt(P.DRAINING, kind=AttemptKind.ROLLBACK), ev.StepFailed(PROBLEM)).attempt
    assert transition(failed, ev.Unwound()).attempt.phase is P.QUARANTINED
    for event in (ev.CancelRequested("paused"), ev.LeaseExpired(PROBLEM)):
        interrupted = transition(attempt(P.PRESERVED, kind=AttemptKind.ROLLBACK), event).attempt
        assert transition(interrupted, ev.Unwound()).attempt.phase is P.ABORTED


def test_an_attempt_begun_in_quarantine_goes_back_there_when_it_is_unwound() -> None:
    unwinding = attempt(P.UNWINDING, was_quarantined=True, interrupted=True)
    assert transition(unwinding, ev.Unwound()).attempt.phase is P.QUARANTINED


def test_a_salvage_skips_verifying_and_ends_in_quarantine() -> None:
    resumed = transition(attempt(P.RESUMING, salvage=True), ev.Resumed())
    assert (resumed.attempt.phase, resumed.effect) == (P.FINISHING, E.FINISH)
    assert resumed.attempt.healthy is False
    assert transition(resumed.attempt, ev.Finished()).attempt.phase is P.QUARANTINED


def test_a_failed_unwinding_says_why_it_was_unwinding() -> None:
    unwinding = transition(attempt(P.PRESERVED), ev.CancelRequested("window closed")).attempt
    assert unwinding.problem == Problem("CANCELLED", Retry.REPLAN, "cancelled: window closed")
    failed = transition(unwinding, ev.StepFailed(PROBLEM)).attempt
    assert failed.problem is not None
    assert failed.problem.fields == {"unwinding_because": "CANCELLED"}
    assert transition(attempt(P.UNWINDING), ev.TimedOut(PROBLEM)).attempt.problem == PROBLEM


def test_a_cancel_without_a_reason() -> None:
    problem = transition(attempt(P.LOADING), ev.CancelRequested()).attempt.problem
    assert problem is not None
    assert problem.message == "cancelled"


def test_what_the_attempt_learns_on_the_way() -> None:
    marks = tuple(
        mark(name, float(i))
        for i, name in enumerate(("preserve_done", "suspend", "retrieved", "resume", "finish"))
    )
    sample = BlackoutSample(Vantage.WORKLOAD, 1.0, 0.01, "tsc", "vm")
    check = MemoryCheck(1, 1, 4096)
    state = attempt(P.PRESERVING)
    bound = {"vm": {"uid": 1000}}
    state = transition(state, ev.Preserved({"vm": "s"}, bound, marks[:1], 1e9)).attempt
    state = transition(state, ev.Proceeded(Lease(NOW, 5.0))).attempt
    state = transition(state, ev.Suspended(marks[1:2])).attempt
    assert not state.jumped
    state = transition(state, ev.JumpIntentRecorded()).attempt
    assert (state.jumped, state.furthest, state.lease) == (True, P.JUMPING, Lease(NOW, 5.0))
    assert (state.sessions, state.bindings, state.tsc_hz) == ({"vm": "s"}, bound, 1e9)
    refused = transition(state, ev.RebootRefused(PROBLEM)).attempt
    assert (refused.problem, refused.interrupted, refused.furthest) == (PROBLEM, False, P.JUMPING)
    crossed = attempt(P.RETRIEVING, marks=state.marks)
    crossed = transition(crossed, ev.Retrieved(marks[2:3])).attempt
    crossed = transition(crossed, ev.Resumed(marks[3:4], (sample,), check)).attempt
    crossed = transition(crossed, ev.Healthy()).attempt
    crossed = transition(crossed, ev.Finished(marks[4:], 2.5)).attempt
    assert crossed.marks == marks
    assert (crossed.samples, crossed.memory, crossed.brownout_s) == ((sample,), check, 2.5)


def test_the_kernels_tokens_are_known_while_anything_has_them() -> None:
    told = {"lr.7-abcdef01.vm": {1: 5}}
    state = transition(attempt(P.PRESERVING), ev.Preserved(tokens=told)).attempt
    for event in (ev.Proceeded(Lease(NOW, 5.0)), ev.Suspended(), ev.JumpIntentRecorded()):
        state = transition(state, event).attempt
        assert state.tokens == told
    refused = transition(state, ev.RebootRefused(PROBLEM)).attempt
    assert (refused.phase, refused.tokens) == (P.UNWINDING, told)
    assert transition(refused, ev.Unwound()).attempt.tokens == {}
    stuck = transition(refused, ev.StepFailed(PROBLEM)).attempt
    assert (stuck.phase, stuck.tokens) == (P.QUARANTINED, told)
    crossed = transition(state, classified(Verdict.LIVE_UPDATED)).attempt
    for event in (ev.Retrieved(), ev.Resumed(), ev.Healthy()):
        crossed = transition(crossed, event).attempt
        assert crossed.tokens == told
    assert transition(crossed, ev.Finished()).attempt.tokens == {}


def test_the_release_of_a_local_attempt_comes_with_its_artifact() -> None:
    nameless = attempt(P.LOADING)
    artifact = nameless.artifact
    kept = transition(nameless, ev.Loaded("other")).attempt
    assert kept.to_release == artifact.release


def test_a_commit_that_fails_may_be_asked_for_again() -> None:
    committing = transition(attempt(P.BAKING, healthy=True), ev.CommitRequested()).attempt
    assert committing.committing
    failed = transition(committing, ev.StepFailed(PROBLEM))
    assert (failed.attempt.committing, failed.attempt.healthy, failed.effect) == (False, True, E.WATCH)
    done = transition(committing, ev.Committed()).attempt
    assert (done.phase, done.committing, done.healthy) == (P.COMMITTED, False, True)


def test_signals_are_named_after_their_events() -> None:
    assert signal_of(attempt(), ev.Loaded()) is Signal.LOADED
    assert signal_of(attempt(), ev.Unwound()) is Signal.UNWOUND


@pytest.mark.parametrize("event", [ev.StepFailed(PROBLEM), ev.TimedOut(PROBLEM)])
def test_where_nothing_crossed_the_state_is_lost(event: ev.Event) -> None:
    lost = Problem("STATE_LOST", Retry.FIX_STATE, "lost")
    before = attempt(P.RETRIEVING, salvage=True, verdict=Verdict.STATE_LOST, problem=lost)
    after = transition(before, event)
    assert (after.attempt.phase, after.effect) == (P.COLD_BOOTED, E.BRING_BACK)
    assert after.attempt.problem is not None
    assert (after.attempt.problem.reason, after.attempt.problem.fields) == (
        "STATE_LOST",
        {"salvage": "BROKEN"},
    )


def test_an_attempt_never_jumps_twice() -> None:
    jumped = transition(attempt(P.JUMPING), ev.JumpIntentRecorded()).attempt
    with pytest.raises(IllegalTransition):
        transition(jumped, ev.JumpIntentRecorded())
    with pytest.raises(IllegalTransition):
        transition(jumped, ev.CancelRequested())


@pytest.mark.parametrize("failed", [ev.StepFailed, ev.TimedOut])
def test_where_one_workloads_memory_crossed_the_node_is_not_taken_for_a_cold_one(
    failed: Callable[[Problem], ev.Event],
) -> None:
    lost = Problem("STATE_LOST", Retry.FIX_STATE, "lost")
    before = attempt(P.RETRIEVING, salvage=True, verdict=Verdict.STATE_LOST, problem=lost)
    after = transition(before, failed(replace(PROBLEM, fields={CROSSED: "vm-1"})))
    assert (after.attempt.phase, after.effect) == (P.QUARANTINED, E.BRING_BACK)
