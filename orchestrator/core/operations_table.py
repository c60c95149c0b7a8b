"""Which call is allowed in which state of a rollout: one literal table, checked and tested.

Rules
1. Every state has a row; what it does not list is refused with the state and its row.
2. A call that would change nothing in an allowed state is no error and changes nothing.
3. Cancel works in every state that has not ended.
4. A call that lost to another commit is looked at again. What it would approve or forgive then must
   be what it was about at first (Meant): nobody clears a halt, or waives a gate, that came in between.
"""

from __future__ import annotations

import enum
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from orchestrator.core.model import MemberRow, RolloutRow
from orchestrator.core.phases import Goal, Outcome, RolloutState
from orchestrator.errors import Blocked, IllegalTransition


class Operation(enum.StrEnum):
    """What an operator may do with a rollout; the CLI's words."""

    PAUSE = "pause"
    RESUME = "resume"
    APPROVE = "approve"
    CANCEL = "cancel"
    ROLL_BACK = "rollback"
    COMMIT = "commit"
    RETRY = "retry"
    EXCLUDE = "exclude"


S, Op = RolloutState, Operation

ALLOWED: Mapping[RolloutState, frozenset[Operation]] = {
    S.PENDING: frozenset({Op.PAUSE, Op.APPROVE, Op.CANCEL, Op.RETRY, Op.EXCLUDE}),
    S.RUNNING: frozenset({Op.PAUSE, Op.APPROVE, Op.CANCEL, Op.ROLL_BACK, Op.RETRY, Op.EXCLUDE}),
    S.PAUSED: frozenset({Op.RESUME, Op.APPROVE, Op.CANCEL, Op.ROLL_BACK, Op.COMMIT, Op.RETRY, Op.EXCLUDE}),
    S.HALTED: frozenset(Op),
    S.CANCELLING: frozenset({Op.CANCEL, Op.ROLL_BACK, Op.COMMIT}),
    S.CANCELLED: frozenset({Op.ROLL_BACK, Op.COMMIT}),
    S.ROLLING_BACK: frozenset({Op.PAUSE, Op.CANCEL, Op.RETRY, Op.EXCLUDE}),
    S.ROLLED_BACK: frozenset(),
    S.SUCCEEDED: frozenset({Op.ROLL_BACK}),
    S.FAILED: frozenset({Op.ROLL_BACK, Op.COMMIT, Op.RETRY}),
}
"""COMMIT by hand is for rollouts that do not go on by themselves: elsewhere it comes after the
bake, and to allow it would be a way around the gates."""


def shown_state(rollout: RolloutRow, members: Iterable[MemberRow]) -> RolloutState:
    """The one word for where a rollout stands.

    members: in any order; looked at only until one that has had its turn is found.
    """
    if rollout.ended_at is not None:
        return RolloutState(rollout.ended_as)
    if rollout.goal is Goal.CANCEL:
        return RolloutState.CANCELLING
    if rollout.goal is Goal.BACK:
        return RolloutState.PAUSED if rollout.paused else RolloutState.ROLLING_BACK
    if rollout.halted:
        return RolloutState.HALTED
    if rollout.paused:
        return RolloutState.PAUSED
    begun = any(m.generation or m.outcome not in _UNTOUCHED for m in members)
    return RolloutState.RUNNING if begun else RolloutState.PENDING


_UNTOUCHED = frozenset({Outcome.PENDING, Outcome.EXCLUDED})


def admit(rollout: RolloutRow, state: RolloutState, operation: Operation) -> None:
    """Let an allowed call pass.

    Raises:
        IllegalTransition: with the state and what it allows.
    """
    allowed = ALLOWED[state]
    if operation in allowed:
        return
    words = ", ".join(sorted(allowed))
    raise IllegalTransition(
        f"rollout {rollout.rollout_id} is {state}: {operation} is not possible",
        remedy=f"Possible now: {words}." if words else "Nothing any more; create a new rollout.",
        state=state.value,
        allowed=words.replace(" ", ""),
    )


@dataclass(slots=True)
class Meant:
    """What one call was about when it was first looked at (rule 4)."""

    what: str = ""

    def same(self, rollout: RolloutRow, what: str) -> None:
        """Blocked (MOVED_ON) if it is about something else by now. Empty: about nothing."""
        if what and self.what not in ("", what):
            raise Blocked(
                f"{rollout.rollout_id} has moved on while the call was made: it was about {self.what}, "
                f"and would be about {what}",
                reason="MOVED_ON",
                remedy="Look at the rollout (`liveroll get`), then decide again.",
            )
        self.what = self.what or what
