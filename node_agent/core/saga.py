"""The saga of one attempt: state × event → next state and effect, as one literal table.

Theory of operation
    Events go in, at most one effect (an instruction) comes out, and the effect's result comes
    back as the next event. Nothing here performs anything, reads a clock or waits. The runner
    journals the new attempt, then performs the effect; so after a crash the journal says
    what may have been begun, and every effect can be repeated.

Rules
1. TABLE is total: what it does not list is illegal, and raises with the story of how it came
   about. Only internal events get here; commands are classified first (`admission`).
2. An event whose outcome depends on the attempt (was it healthy, is it a rollback, is it a
   salvage) is refined into a signal by `signal_of`, so that the table stays literal.
3. Before JumpIntentRecorded every state can unwind. From then on only reboot's refusal can.
4. The verdict of VERIFYING is kept and acted upon after FINISHING: an unfinished session does
   not survive the rollback's kexec.
5. A rollback that fails or is unhealthy is QUARANTINED, never rolled back again. One that was
   merely interrupted (cancel, lease, restart) is ABORTED and may be tried again.
6. A salvage (recovery.py) retrieves, resumes and finishes, and is then QUARANTINED; where nothing
   can be retrieved after STATE_LOST, COLD_BOOTED. One workload's memory that did cross is not
   nothing (field `crossed`): its session is held, which no COLD_BOOTED node has. The problem stays
   the boot's.
7. BootClassified is legal in every state and has a table of its own, recovery.RECOVERY.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import assert_never

from node_agent.core import events as ev
from node_agent.core.attempt import Attempt
from node_agent.core.model import AttemptKind, Problem
from node_agent.core.phases import Phase, Verdict
from node_agent.core.recovery import RECOVERY, Row
from node_agent.core.steps import BEFORE_JUMP, Effect
from node_agent.errors import Retry


class Signal(enum.StrEnum):
    """An event as the table sees it."""

    LOADED = "Loaded"
    DRAINED = "Drained"
    PRESERVED = "Preserved"
    PROCEEDED = "Proceeded"
    SUSPENDED = "Suspended"
    JUMP_INTENT_RECORDED = "JumpIntentRecorded"
    REBOOT_REFUSED = "RebootRefused"
    LEASE_EXPIRED = "LeaseExpired"
    CANCEL_REQUESTED = "CancelRequested"
    STEP_FAILED = "StepFailed"
    TIMED_OUT = "TimedOut"
    NOTHING_CROSSED = "StepFailed or TimedOut (state lost)"
    RETRIEVED = "Retrieved"
    RESUMED = "Resumed"
    RESUMED_SALVAGE = "Resumed (salvage)"
    HEALTHY = "Healthy"
    UNHEALTHY = "Unhealthy"
    FINISHED_HEALTHY = "Finished (healthy)"
    FINISHED_UNHEALTHY = "Finished (unhealthy)"
    FINISHED_SPOILT = "Finished (unhealthy rollback, or salvage)"
    COMMIT_REQUESTED = "CommitRequested"
    COMMITTED = "Committed"
    RELAPSED = "Relapsed"
    RELAPSED_ROLLBACK = "Relapsed (rollback)"
    UNWOUND = "Unwound"
    UNWOUND_SPOILT = "Unwound (failed rollback, or quarantined before)"


CROSSED = "crossed"
"""Field of a failed RETRIEVE's problem: the workloads whose sessions are held all the same."""

_UNWIND = Row(Phase.UNWINDING, Effect.UNWIND)
_STAND_STILL = Row(Phase.QUARANTINED)
_BRING_BACK = Row(Phase.QUARANTINED, Effect.BRING_BACK)
_NOTHING_CROSSED = Row(Phase.COLD_BOOTED, Effect.BRING_BACK)

TABLE: Mapping[Phase, Mapping[Signal, Row]] = {
    Phase.IDLE: {},
    Phase.LOADING: {
        Signal.LOADED: Row(Phase.DRAINING, Effect.DRAIN),
        Signal.STEP_FAILED: _UNWIND,
        Signal.TIMED_OUT: _UNWIND,
        Signal.CANCEL_REQUESTED: _UNWIND,
    },
    Phase.DRAINING: {
        Signal.DRAINED: Row(Phase.PRESERVING, Effect.PRESERVE),
        Signal.STEP_FAILED: _UNWIND,
        Signal.TIMED_OUT: _UNWIND,
        Signal.CANCEL_REQUESTED: _UNWIND,
    },
    Phase.PRESERVING: {
        Signal.PRESERVED: Row(Phase.PRESERVED, Effect.AWAIT_PROCEED),
        Signal.STEP_FAILED: _UNWIND,
        Signal.TIMED_OUT: _UNWIND,
        Signal.CANCEL_REQUESTED: _UNWIND,
    },
    Phase.PRESERVED: {
        Signal.PROCEEDED: Row(Phase.SUSPENDING, Effect.SUSPEND),
        Signal.LEASE_EXPIRED: _UNWIND,
        Signal.CANCEL_REQUESTED: _UNWIND,
    },
    Phase.SUSPENDING: {
        Signal.SUSPENDED: Row(Phase.JUMPING, Effect.RECORD_INTENT),
        Signal.STEP_FAILED: _UNWIND,
        Signal.TIMED_OUT: _UNWIND,
        Signal.LEASE_EXPIRED: _UNWIND,
        Signal.CANCEL_REQUESTED: _UNWIND,
    },
    Phase.JUMPING: {
        Signal.JUMP_INTENT_RECORDED: Row(Phase.JUMPING, Effect.REBOOT),
        Signal.CANCEL_REQUESTED: _UNWIND,
        Signal.STEP_FAILED: _UNWIND,
        Signal.LEASE_EXPIRED: _UNWIND,
        Signal.REBOOT_REFUSED: _UNWIND,
    },
    Phase.RETRIEVING: {
        Signal.RETRIEVED: Row(Phase.RESUMING, Effect.RESUME),
        Signal.NOTHING_CROSSED: _NOTHING_CROSSED,
        Signal.STEP_FAILED: _BRING_BACK,
        Signal.TIMED_OUT: _BRING_BACK,
    },
    Phase.RESUMING: {
        Signal.RESUMED: Row(Phase.VERIFYING, Effect.VERIFY),
        Signal.RESUMED_SALVAGE: Row(Phase.FINISHING, Effect.FINISH),
        Signal.STEP_FAILED: _BRING_BACK,
        Signal.TIMED_OUT: _BRING_BACK,
    },
    Phase.VERIFYING: {
        Signal.HEALTHY: Row(Phase.FINISHING, Effect.FINISH),
        Signal.UNHEALTHY: Row(Phase.FINISHING, Effect.FINISH),
        Signal.STEP_FAILED: Row(Phase.FINISHING, Effect.FINISH),
        Signal.TIMED_OUT: Row(Phase.FINISHING, Effect.FINISH),
    },
    Phase.FINISHING: {
        Signal.FINISHED_HEALTHY: Row(Phase.BAKING, Effect.WATCH),
        Signal.FINISHED_UNHEALTHY: Row(Phase.AWAITING_ROLLBACK),
        Signal.FINISHED_SPOILT: _STAND_STILL,
        Signal.STEP_FAILED: _STAND_STILL,
        Signal.TIMED_OUT: _STAND_STILL,
    },
    Phase.BAKING: {
        Signal.COMMIT_REQUESTED: Row(Phase.BAKING, Effect.SET_DEFAULT),
        Signal.COMMITTED: Row(Phase.COMMITTED),
        Signal.STEP_FAILED: Row(Phase.BAKING, Effect.WATCH),
        Signal.TIMED_OUT: Row(Phase.BAKING, Effect.WATCH),
        Signal.RELAPSED: Row(Phase.AWAITING_ROLLBACK),
        Signal.RELAPSED_ROLLBACK: _STAND_STILL,
    },
    Phase.COMMITTED: {},
    Phase.UNWINDING: {
        Signal.UNWOUND: Row(Phase.ABORTED),
        Signal.UNWOUND_SPOILT: _STAND_STILL,
        Signal.STEP_FAILED: _STAND_STILL,
        Signal.TIMED_OUT: _STAND_STILL,
    },
    Phase.ABORTED: {},
    Phase.AWAITING_ROLLBACK: {},
    Phase.QUARANTINED: {},
    Phase.COLD_BOOTED: {},
}
"""State × signal → row. Every state has an entry; an absent signal is illegal."""


class IllegalTransition(Exception):
    """An internal event that the attempt's state does not know: a bug, never an operator's mistake.

    Args:
        phase: the state. event: the event's name.
        story: what happened to the attempt before, oldest first.
    """

    def __init__(self, phase: Phase, event: str, story: Sequence[str]) -> None:
        super().__init__(f"{event} is illegal in {phase}; before: {'; '.join(story) or 'nothing'}")
        self.phase = phase
        self.event = event
        self.story = tuple(story)


@dataclass(frozen=True, slots=True)
class Transition:
    """What an event did: the attempt as it is now, and the effect to perform."""

    attempt: Attempt
    effect: Effect | None


def transition(attempt: Attempt, event: ev.Event, story: Sequence[str] = ()) -> Transition:
    """Apply an event to an attempt.

    Raises:
        IllegalTransition: the state does not know the event.
    """
    if isinstance(event, ev.BootClassified):
        return _recover(attempt, event)
    signal = signal_of(attempt, event)
    row = TABLE[attempt.phase].get(signal)
    # A second intent would be a second reboot, and a cancel comes too late (rule 3).
    too_late = attempt.jumped and signal in (Signal.JUMP_INTENT_RECORDED, Signal.CANCEL_REQUESTED)
    if row is None or too_late:
        raise IllegalTransition(attempt.phase, signal.value, story)
    return Transition(_enter(absorb(attempt, event), row), row.effect)


def signal_of(attempt: Attempt, event: ev.Event) -> Signal:
    """The table's word for an event, given what the attempt is (rule 2)."""
    rollback = attempt.kind is AttemptKind.ROLLBACK
    match event:
        case ev.StepFailed(problem) | ev.TimedOut(problem) if _state_lost(attempt, problem):
            return Signal.NOTHING_CROSSED
        case ev.Resumed() if attempt.salvage:
            return Signal.RESUMED_SALVAGE
        case ev.Finished():
            if attempt.salvage:
                return Signal.FINISHED_SPOILT
            if attempt.healthy:
                return Signal.FINISHED_HEALTHY
            return Signal.FINISHED_SPOILT if rollback else Signal.FINISHED_UNHEALTHY
        case ev.Relapsed() if rollback:
            return Signal.RELAPSED_ROLLBACK
        case ev.Unwound() if attempt.was_quarantined or (rollback and not attempt.interrupted):
            return Signal.UNWOUND_SPOILT
        case _:
            return Signal(type(event).__name__)


def absorb(attempt: Attempt, event: ev.Event) -> Attempt:
    """What the attempt learns from an event, its state left aside."""
    match event:
        case ev.Loaded(release, skipped):
            artifact = attempt.artifact
            artifact = replace(artifact, release=artifact.release or release)
            return replace(attempt, artifact=artifact, skipped=skipped)
        case ev.Drained(sessions, bindings):
            return replace(attempt, sessions=sessions, bindings=bindings)
        case ev.Preserved(sessions, bindings, marks, tsc_hz, _, tokens):
            return replace(
                attempt,
                sessions=sessions,
                bindings=bindings,
                tokens=tokens,
                marks=attempt.marks + marks,
                tsc_hz=tsc_hz,
            )
        case ev.Proceeded(lease):
            return replace(attempt, lease=lease)
        case ev.Suspended(marks) | ev.Retrieved(marks):
            return replace(attempt, marks=attempt.marks + marks)
        case ev.JumpIntentRecorded(marks):
            return replace(attempt, marks=attempt.marks + marks, jumped=True)
        case ev.RebootRefused(problem):
            return replace(attempt, problem=problem)
        case ev.LeaseExpired(problem):
            return replace(attempt, problem=problem, interrupted=True)
        case ev.CancelRequested(reason):
            return replace(attempt, problem=_cancelled(reason), interrupted=True)
        case ev.StepFailed(problem) | ev.TimedOut(problem):
            return _failed(attempt, problem)
        case ev.Resumed(marks, samples, memory):
            return replace(
                attempt,
                marks=attempt.marks + marks,
                samples=attempt.samples + samples,
                memory=memory,
                healthy=False if attempt.salvage else attempt.healthy,
            )
        case ev.Healthy():
            return replace(attempt, healthy=True, problem=None)
        case ev.Unhealthy(problem) | ev.Relapsed(problem):
            return replace(attempt, healthy=False, problem=problem)
        case ev.Finished(marks, brownout_s):
            # Nothing has these tokens any more: later records need not carry them.
            return replace(attempt, marks=attempt.marks + marks, brownout_s=brownout_s, tokens={})
        case ev.CommitRequested():
            return replace(attempt, committing=True)
        case ev.Committed():
            return replace(attempt, committing=False, problem=None)
        case ev.Unwound():
            return replace(attempt, tokens={})
        case ev.BootClassified(verdict, boot_id, _, marks, problem):
            # A restart within the boot says nothing about how the boot came about, and how a later one did
            # says nothing about an attempt that was committed.
            over = attempt.phase is Phase.COMMITTED and verdict is not Verdict.POISONED
            known = attempt.verdict if over or verdict is Verdict.SAME_BOOT else verdict
            return replace(
                attempt,
                verdict=known,
                boot_id=boot_id,
                marks=attempt.marks + marks,
                problem=problem or attempt.problem,
            )
        case _:  # pragma: no cover
            assert_never(event)


def _recover(attempt: Attempt, event: ev.BootClassified) -> Transition:
    row = RECOVERY[attempt.phase][event.verdict]
    effect = row.effect
    known = absorb(attempt, event)
    if event.verdict is Verdict.SAME_BOOT and row.next is Phase.UNWINDING:
        known = _interrupted_by_restart(known)
    if effect is Effect.WATCH and attempt.committing:
        effect = Effect.SET_DEFAULT
    return Transition(_enter(known, row), effect)


def _enter(attempt: Attempt, row: Row) -> Attempt:
    begun = row.next if row.next in BEFORE_JUMP else attempt.furthest
    healthy = False if row.next in (Phase.QUARANTINED, Phase.COLD_BOOTED) else attempt.healthy
    salvage = attempt.salvage or row.salvage
    return replace(attempt, phase=row.next, furthest=begun, salvage=salvage, healthy=healthy)


def _state_lost(attempt: Attempt, problem: Problem) -> bool:
    lost = attempt.phase is Phase.RETRIEVING and attempt.verdict is Verdict.STATE_LOST
    return lost and CROSSED not in problem.fields


def _failed(attempt: Attempt, problem: Problem) -> Attempt:
    if attempt.salvage and attempt.problem is not None:
        known = {**attempt.problem.fields, "salvage": problem.reason}
        return replace(attempt, problem=replace(attempt.problem, fields=known))
    if attempt.phase is Phase.UNWINDING and attempt.problem is not None:
        because = {**problem.fields, "unwinding_because": attempt.problem.reason}
        return replace(attempt, problem=replace(problem, fields=because))
    if attempt.phase is Phase.VERIFYING:
        return replace(attempt, problem=problem, healthy=False)
    return replace(attempt, problem=problem, committing=False)


def _cancelled(reason: str) -> Problem:
    return Problem("CANCELLED", Retry.REPLAN, f"cancelled: {reason}" if reason else "cancelled")


def _interrupted_by_restart(attempt: Attempt) -> Attempt:
    if attempt.phase is Phase.UNWINDING:
        return attempt
    restarted = Problem(
        "AGENT_RESTARTED",
        Retry.REPLAN,
        f"the agent restarted while the attempt was {attempt.phase}",
        "Nothing has to be done; see the agent's log for why it stopped.",
        {"step": attempt.phase.value},
    )
    return replace(attempt, interrupted=True, problem=restarted)
