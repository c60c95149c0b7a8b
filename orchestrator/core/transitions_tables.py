"""Which phase may follow which, and what a settled phase says of success: literal tables.

Rules
1. FOLLOWS is total over the phases. A report that it does not expect is evidence all the same
   (a missed journal, somebody's hands on the node): it is taken and flagged, never a crash.
2. LOST and IDLE are never taken from a node: LOST is the orchestrator's word, and a node that
   calls an attempt IDLE says nothing about it.
3. Only the method's own rule counts as success (`unproven`); whatever else a node calls
   BAKING or COMMITTED is QUARANTINED here.
4. An attempt that was undone by the system's own wish, or whose lease ran out, spends nothing.
"""

from __future__ import annotations

from collections.abc import Mapping

from orchestrator.core.model import AttemptRow, Problem
from orchestrator.core.phases import Method, Phase, Verdict

P = Phase
_BROKEN = frozenset({P.COLD_BOOTED, P.QUARANTINED})

FOLLOWS: Mapping[Phase, frozenset[Phase]] = {
    P.IDLE: frozenset(),
    P.LOADING: _BROKEN | {P.LOADING, P.DRAINING, P.UNWINDING, P.ABORTED},
    P.DRAINING: _BROKEN | {P.DRAINING, P.PRESERVING, P.UNWINDING},
    P.PRESERVING: _BROKEN | {P.PRESERVING, P.PRESERVED, P.UNWINDING, P.RETRIEVING},
    P.PRESERVED: _BROKEN | {P.PRESERVED, P.SUSPENDING, P.UNWINDING, P.RETRIEVING},
    P.SUSPENDING: _BROKEN | {P.SUSPENDING, P.JUMPING, P.UNWINDING, P.RETRIEVING},
    P.JUMPING: _BROKEN | {P.JUMPING, P.UNWINDING, P.RETRIEVING},
    P.RETRIEVING: _BROKEN | {P.RETRIEVING, P.RESUMING},
    P.RESUMING: _BROKEN | {P.RETRIEVING, P.RESUMING, P.VERIFYING, P.FINISHING},
    P.VERIFYING: _BROKEN | {P.VERIFYING, P.FINISHING},
    P.FINISHING: _BROKEN | {P.FINISHING, P.BAKING, P.AWAITING_ROLLBACK},
    P.BAKING: _BROKEN | {P.BAKING, P.COMMITTED, P.AWAITING_ROLLBACK},
    P.COMMITTED: frozenset({P.COMMITTED, P.QUARANTINED}),
    P.UNWINDING: _BROKEN | {P.UNWINDING, P.ABORTED, P.RETRIEVING},
    P.ABORTED: frozenset({P.ABORTED, P.QUARANTINED}),
    P.AWAITING_ROLLBACK: _BROKEN | {P.AWAITING_ROLLBACK},
    P.QUARANTINED: frozenset({P.QUARANTINED}),
    P.COLD_BOOTED: _BROKEN,
    P.LOST: frozenset(Phase) - {P.IDLE, P.LOST},
}
"""Orchestrator's phase → what a node may report next. RETRIEVING before a jump is a salvage
after somebody else's kexec."""

NEVER_REPORTED = frozenset({P.IDLE, P.LOST})

CLOSES_BLACKOUT = frozenset(
    {P.VERIFYING, P.FINISHING, P.BAKING, P.COMMITTED, P.AWAITING_ROLLBACK, P.ABORTED, P.COLD_BOOTED}
)
"""Workloads are known to run again, or to be gone. QUARANTINED and LOST leave it open: nobody
knows, and an open blackout counts as infinite."""

OPENS_BLACKOUT = frozenset({P.SUSPENDING, P.JUMPING})

UPDATED = frozenset({P.BAKING, P.COMMITTED})

_QUARANTINE_NAMES: Mapping[Verdict, str] = {
    Verdict.WRONG_KERNEL: "wrong_kernel",
    Verdict.STATE_LOST: "state_lost",
    Verdict.POISONED: "poisoned",
    Verdict.FOREIGN_KEXEC: "foreign_kexec",
}


def memory_lost(attempt: AttemptRow) -> bool:
    """A workload that compared its memory found it changed."""
    return attempt.memory_intact < attempt.workloads


def spared(attempt: AttemptRow, problem: Problem | None) -> bool:
    """Whether an undone attempt spends no retry and no failure budget.

    The planner says so when it wants a CANCEL; a node that failed by itself before the CANCEL
    reached it failed all the same.
    """
    if problem is not None and problem.reason == "LEASE_EXPIRED":
        return True
    return attempt.spares_budget and (problem is None or problem.reason == "CANCELLED")


def unproven(attempt: AttemptRow, *, boot_id: str, release: str, healthy: bool) -> tuple[str, str]:
    """(failure, what is missing) for an attempt that its node calls updated; ("", "") if proven.

    The attempt carries what was learnt so far; boot_id and release are the node's now.
    Success of LIVE: a new boot_id, the expected release, this attempt's session retrieved
    (LIVE_UPDATED), memory as it was, health held; finished is what BAKING says. Success of
    DRAIN_REBOOT: a new boot_id, the expected release, health held.
    """
    if memory_lost(attempt):
        return "state_lost", f"{attempt.memory_intact} of {attempt.workloads} workloads' memory is intact"
    if attempt.to_release and release != attempt.to_release:
        return "wrong_kernel", f"it runs {release or 'an unknown release'}, not {attempt.to_release}"
    if attempt.expected_boot_id and boot_id == attempt.expected_boot_id:
        return "unproven", "its boot_id is the one from before the update"
    if attempt.method is Method.LIVE and attempt.verdict is not Verdict.LIVE_UPDATED:
        return "unproven", f"its boot verdict is {attempt.verdict or 'unknown'}, not LIVE_UPDATED"
    if not healthy:
        return "unhealthy", "it is not healthy"
    return "", ""


def failure_of(attempt: AttemptRow, phase: Phase, problem: Problem | None) -> str:
    """The name of an attempt's failure once its node is in `phase`; empty if it did not fail.

    The attempt carries the verdict. Open phases fail only by lost memory.
    """
    if phase is P.COLD_BOOTED:
        return "state_lost" if attempt.verdict is Verdict.STATE_LOST else "cold_booted"
    if phase is P.QUARANTINED:
        return _QUARANTINE_NAMES.get(attempt.verdict, "quarantined") if attempt.verdict else "quarantined"
    if memory_lost(attempt):
        return "state_lost"
    if phase is P.AWAITING_ROLLBACK:
        return "unhealthy"
    if phase is P.ABORTED and not spared(attempt, problem):
        return "aborted"
    if phase is P.LOST:
        return "lost"
    return ""
