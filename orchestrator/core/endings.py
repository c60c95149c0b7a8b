"""How a rollout that goes no further winds up: cancelled, or rolled back.

Rules
1. What was not begun is left untouched (EXCLUDED); what is under way is undone or settles first.
2. A cancel ends when nothing is under way and every unhealthy node that can be is rolled back;
   baking nodes stay updated, uncommitted. If the cancel asked for it, the rollout goes BACK then.
3. ROLLED_BACK needs every crossed node back on its release or written off; else FAILED.
4. A node that runs its previous release again is back, however it got there.
5. Nothing winds up that will take in an attempt of a lost future (adoption.py).
"""

from __future__ import annotations

from dataclasses import replace

from orchestrator.core.draft import Draft
from orchestrator.core.index import RolloutIndex
from orchestrator.core.model import MemberRow, NewEvent, RolloutRow
from orchestrator.core.phases import Goal, Outcome, RolloutState
from orchestrator.core.settlement import RUNS_PREVIOUS
from orchestrator.core.standing import Flag, Lane, Place
from orchestrator.core.waves import settle_in_batches, way_back_open


def wind_up(draft: Draft, index: RolloutIndex) -> None:
    """Take a rollout in CANCEL or BACK towards its end; note nodes that are back."""
    row = index.row
    if row.rollout_id in draft.awaited:
        return
    back = [
        replace(
            index.members[node_id],
            outcome=Outcome.ROLLED_BACK,
            reason=RUNS_PREVIOUS,
            crossed=False,
            jumped=True,
            operator_word=False,
        )
        for _, node_id in index.queue(Lane.BACK).waiting.get(Place.IS_BACK, ())
    ]
    settle_in_batches(draft, index, back, "it runs its previous release")
    if row.goal is Goal.FORWARD:
        return
    untouched = [
        replace(member, outcome=Outcome.EXCLUDED, reason=f"left untouched by {_by(row)}", not_before=None)
        for member in _pending(index)
    ]
    settle_in_batches(draft, index, untouched, "its turn had not come")
    if back or untouched or index.flagged[Flag.SETTLE] or index.count(Outcome.OPEN) or way_back_open(index):
        return
    after, event = _end(draft, index)
    draft.add("end", row.rollout_id, [after], [event])
    draft.held.add(row.rollout_id)


def _pending(index: RolloutIndex) -> list[MemberRow]:
    if not index.count(Outcome.PENDING):
        return []
    return [
        member
        for member in index.members.values()
        if member.outcome is Outcome.PENDING and index.standings[member.node_id].lane is None
    ]


def _by(row: RolloutRow) -> str:
    return "the cancel" if row.goal is Goal.CANCEL else "the rollback"


def _end(draft: Draft, index: RolloutIndex) -> tuple[RolloutRow, NewEvent]:
    row = index.row
    if row.goal is Goal.CANCEL and row.roll_back_after_cancel:
        after = replace(row, goal=Goal.BACK, rollback_baseline=index.unavailable)
        text = "all is settled, and what was updated is rolled back"
        return after, NewEvent("rollout.rolling_back", text, rollout_id=row.rollout_id, cause="cancel")
    if row.goal is Goal.CANCEL:
        count = index.count(Outcome.UNCOMMITTED)
        text = f"CANCELLED: {count} nodes are updated and uncommitted" if count else "CANCELLED"
        return _ended(draft, row, RolloutState.CANCELLED, text)
    left = sorted(
        m.node_id for m in index.members.values() if m.crossed and m.outcome is not Outcome.WRITTEN_OFF
    )
    if left:
        few = ", ".join(left[:3])
        text = f"FAILED: {len(left)} nodes could not be rolled back ({few})"
        return _ended(draft, row, RolloutState.FAILED, text)
    return _ended(draft, row, RolloutState.ROLLED_BACK, "ROLLED_BACK: every node is back")


def _ended(draft: Draft, row: RolloutRow, state: RolloutState, text: str) -> tuple[RolloutRow, NewEvent]:
    after = replace(row, ended_at=draft.now, ended_as=state.value)
    return after, NewEvent("rollout.ended", text, rollout_id=row.rollout_id, fields={"state": state.value})
