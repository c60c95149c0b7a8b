"""What a settled attempt means for its member: outcome, tries, and when to try again.

Rules
1. Only the method's own success (BAKING, COMMITTED) counts as success; every other end is
   named for what it was.
2. ABORTED goes round again by the class of its error while its rule has attempts left. An
   unwind that the system wished for, or an expired lease, spends nothing.
3. A node that jumped and is back on its old release has failed and never goes round by itself.
   QUARANTINED, COLD_BOOTED and LOST need an operator's word; AWAITING_ROLLBACK is rolled back.
4. failed, once true, stays true.
5. Settling is idempotent: settle_needed is false for its own result.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from datetime import datetime
from types import MappingProxyType

from orchestrator.core.backoff import delay
from orchestrator.core.model import AttemptRow, MemberRow, NodeRow, RolloutRow
from orchestrator.core.phases import SETTLED, Goal, Kind, Outcome, Phase, Verdict
from orchestrator.core.spec import DEFAULT_RETRIES
from orchestrator.errors import Retry

BAD_ENDS = frozenset({Phase.AWAITING_ROLLBACK, Phase.QUARANTINED, Phase.COLD_BOOTED, Phase.LOST})

BACK = frozenset({Phase.BAKING, Phase.COMMITTED})
"""Phases of a rollback that has brought its node back."""

RUNS_PREVIOUS = "runs_previous_release"
"""Why a member is ROLLED_BACK that no rollback attempt brought back: a bad end of one is past."""

FORGOTTEN = "ATTEMPT_FORGOTTEN"
"""Problem of an attempt that a lost future has ended: nobody knows how."""

NO_TRIES: Mapping[str, int] = MappingProxyType({})

_BY_VERDICT = {
    Verdict.STATE_LOST: "state_lost",
    Verdict.WRONG_KERNEL: "wrong_kernel",
    Verdict.COLD_BOOT: "cold_booted",
}
_BY_PHASE = {
    Phase.LOST: "lost",
    Phase.COLD_BOOTED: "cold_booted",
    Phase.QUARANTINED: "quarantined",
    Phase.AWAITING_ROLLBACK: "unhealthy",
    Phase.ABORTED: "aborted",
}


def failure_kinds(attempt: AttemptRow) -> tuple[str, ...]:
    """All names of a failed attempt's failure, the one to show first."""
    names = [attempt.failure, _BY_VERDICT.get(attempt.verdict, "") if attempt.verdict else ""]
    names.append(_BY_PHASE.get(attempt.phase, ""))
    return tuple(dict.fromkeys(name for name in names if name))


def lease_expired(attempt: AttemptRow) -> bool:
    """The agent unwound because no PROCEED was valid any more."""
    return attempt.problem is not None and attempt.problem.reason == "LEASE_EXPIRED"


def is_forgotten(attempt: AttemptRow) -> bool:
    """It may have jumped, though it says ABORTED."""
    return attempt.problem is not None and attempt.problem.reason == FORGOTTEN


def spared(attempt: AttemptRow) -> bool:
    """Rule 2: an unwind nobody is to blame for."""
    return attempt.spares_budget or lease_expired(attempt)


def came_back_old(attempt: AttemptRow, node: NodeRow) -> bool:
    """Rule 3: the attempt ended as undone, yet the node has another boot than it began in."""
    return (
        attempt.proceed_until is not None
        and bool(attempt.expected_boot_id)
        and node.boot_id != attempt.expected_boot_id
    )


def settle_needed(rollout: RolloutRow, member: MemberRow, own: AttemptRow | None, node: NodeRow) -> bool:
    """Whether the member row does not yet say what its newest attempt and its node say."""
    outcome = member.outcome
    if outcome is Outcome.WRITTEN_OFF:
        # It has returned: it may run the new kernel, so it counts again.
        return not node.written_off and own is not None and rollout.ended_at is None
    if outcome is Outcome.EXCLUDED:
        return False
    if node.written_off and (own is None or own.phase in SETTLED):
        pending = outcome in (Outcome.PENDING, Outcome.FAILED, Outcome.OPEN, Outcome.BAKING)
        return pending or (member.crossed and rollout.goal is Goal.BACK and rollout.ended_at is None)
    if own is None:
        return False
    phase = own.phase
    if phase not in SETTLED:
        return outcome is not Outcome.OPEN
    if phase in BAD_ENDS:
        if outcome is Outcome.FAILED:
            return member.reason != failure_kinds(own)[0]
        back = outcome is Outcome.ROLLED_BACK and (own.kind is Kind.FORWARD or member.reason == RUNS_PREVIOUS)
        return outcome is not Outcome.PENDING and not back
    if phase is Phase.ABORTED:
        return outcome is Outcome.OPEN
    if own.kind is Kind.ROLLBACK:
        return member.crossed and outcome is not Outcome.ROLLED_BACK
    if outcome is Outcome.PENDING:
        return member.crossed  # it was LOST, a person asked for a retry, and it came back by itself
    if phase is Phase.COMMITTED:
        return outcome in (Outcome.OPEN, Outcome.BAKING, Outcome.UNCOMMITTED, Outcome.FAILED)
    if outcome is Outcome.BAKING:
        return rollout.goal is Goal.CANCEL
    return outcome in (Outcome.OPEN, Outcome.FAILED)


def settle(
    rollout: RolloutRow, member: MemberRow, own: AttemptRow | None, node: NodeRow, order: int, now: datetime
) -> MemberRow:
    """The member as it should be. order: the updated_order to give it if it has none."""
    if node.written_off and (own is None or own.phase in SETTLED):
        return replace(
            member, outcome=Outcome.WRITTEN_OFF, reason=node.written_off, not_before=None, operator_word=False
        )
    assert own is not None
    if own.phase not in SETTLED:
        return replace(member, outcome=Outcome.OPEN, reason="", not_before=None)
    if own.phase in BAD_ENDS:
        return _failed(member, failure_kinds(own)[0])
    if own.phase is Phase.ABORTED:
        return _aborted(rollout, member, own, node, now)
    if own.kind is Kind.ROLLBACK:
        return replace(
            member,
            outcome=Outcome.ROLLED_BACK,
            reason="",
            crossed=False,
            jumped=True,
            not_before=None,
            tries=NO_TRIES,
        )
    if own.phase is Phase.COMMITTED:
        outcome = Outcome.UPDATED
    else:
        outcome = Outcome.UNCOMMITTED if rollout.goal is Goal.CANCEL else Outcome.BAKING
    return replace(
        member,
        outcome=outcome,
        reason="",
        crossed=True,
        not_before=None,
        operator_word=False,
        updated_order=member.updated_order or order,
    )


def _failed(member: MemberRow, reason: str) -> MemberRow:
    return replace(member, outcome=Outcome.FAILED, reason=reason, failed=True, not_before=None)


def _aborted(
    rollout: RolloutRow, member: MemberRow, own: AttemptRow, node: NodeRow, now: datetime
) -> MemberRow:
    if came_back_old(own, node):
        return _failed(member, "back_on_old_release")
    crossed = member.crossed and own.kind is Kind.ROLLBACK
    member = replace(member, crossed=crossed)
    if own.ever_lost:
        return _failed(member, "lost")
    again = replace(member, outcome=Outcome.PENDING, not_before=None)
    ids = (rollout.rollout_id, member.node_id, str(own.generation))
    if spared(own):
        if lease_expired(own):
            rule = rollout.spec.retries.get(Retry.CALL, DEFAULT_RETRIES[Retry.CALL])
            return replace(again, reason="lease_expired", not_before=now + delay(rule, 1, *ids))
        return replace(again, reason=own.cancel_cause)
    retry = own.problem.retry if own.problem is not None else Retry.REPLAN
    rule = rollout.spec.retries.get(retry, DEFAULT_RETRIES[retry])
    count = member.tries.get(retry.value, 0) + 1
    tries = MappingProxyType({**member.tries, retry.value: count})
    reason = own.problem.reason.lower() if own.problem is not None else (own.failure or "aborted")
    if count >= rule.attempts:
        return replace(_failed(member, reason), tries=tries)
    return replace(
        again,
        tries=tries,
        reason=reason,
        retries=member.retries + 1,
        not_before=now + delay(rule, count, *ids),
    )
