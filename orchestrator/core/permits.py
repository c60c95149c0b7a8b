"""Whether a rollout may start, proceed or commit now, and why not: goal × gates × schedule.

Rules (I6)
1. Fleet stop and pause stop everything but unwinding.
2. A halt stops FORWARD only; so does another goal than FORWARD.
3. PREPARE and PROCEED, forward or back, must fall in a window and under no embargo.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from orchestrator.core.draft import Draft
from orchestrator.core.index import RolloutIndex
from orchestrator.core.phases import Goal, Kind

SPARING = frozenset({"fleet_stop", "pause", "halt", "window", "embargo", "cancel", "roll_back", "lost"})
"""Causes of a CANCEL that spend no retry and no failure budget of the node."""


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why not. cause: as AttemptRow.cancel_cause spells it."""

    cause: str
    text: str
    until: datetime | None = None


def standstill(draft: Draft, index: RolloutIndex) -> Refusal | None:
    """Rule 1, and a rollout that has ended."""
    stop, row = draft.fleet.row, index.row
    if row.ended_at is not None:
        return Refusal("cancel", f"the rollout has ended, {row.ended_as}")
    if stop.stopped:
        return Refusal("fleet_stop", stop.stop_message or stop.stopped)
    if row.paused:
        return Refusal("pause", row.paused)
    return None


def refusal(draft: Draft, index: RolloutIndex, kind: Kind) -> Refusal | None:
    """Why no step of this kind but unwinding may be taken; the schedule left aside."""
    if (still := standstill(draft, index)) is not None:
        return still
    row = index.row
    if kind is Kind.FORWARD:
        if row.goal is not Goal.FORWARD:
            return Refusal("cancel" if row.goal is Goal.CANCEL else "roll_back", f"its goal is {row.goal}")
        if row.halted:
            return Refusal("halt", row.halt_message or row.halted)
    return None


def start_refusal(draft: Draft, index: RolloutIndex, kind: Kind) -> Refusal | None:
    """Why no PREPARE or PROCEED of this kind may be committed now."""
    if (no := refusal(draft, index, kind)) is not None:
        return no
    opening = draft.opening(index)
    if not opening.open:
        return Refusal(opening.cause, opening.reason or "outside every change window", opening.until)
    return None
