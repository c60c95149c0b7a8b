"""What keeps a rollout that ended FAILED from its goal: each node, and who must do what about it.

Rules
1. On the way back it is every node that crossed, and neither is back nor was written off. Forward it is
   every node that failed, or was updated and is back: nothing else ends a rollout so.
2. What must be done ends in a call that the rollout admits: a retry, or going back once more, which
   counts nodes that came back otherwise.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from orchestrator.core.blockers import FEW, Blocker
from orchestrator.core.model import MemberRow, RolloutRow
from orchestrator.core.phases import Goal, Outcome, RolloutState
from orchestrator.core.remedies import Call, told

if TYPE_CHECKING:
    from orchestrator.core.fleet import Fleet


def short_of_goal(fleet: Fleet, row: RolloutRow, node_id: str = "") -> tuple[Blocker, ...]:
    """Empty unless the rollout ended FAILED. node_id: only about this one."""
    if row.ended_as != RolloutState.FAILED:
        return ()
    members = sorted(fleet.members(row.rollout_id).values(), key=lambda m: m.position)
    groups: dict[tuple[str, str, str], list[MemberRow]] = {}
    for member in members:
        if node_id in ("", member.node_id) and _is_short(row, member):
            groups.setdefault(_found(fleet, row, member), []).append(member)
    return tuple(_blocker(fleet, row, found, some) for found, some in sorted(groups.items()))


def _is_short(row: RolloutRow, member: MemberRow) -> bool:
    """Rule 1."""
    if row.goal is Goal.BACK:
        return member.crossed and member.outcome is not Outcome.WRITTEN_OFF
    return member.outcome in (Outcome.FAILED, Outcome.ROLLED_BACK)


def _found(fleet: Fleet, row: RolloutRow, member: MemberRow) -> tuple[str, str, str]:
    """(reason, what has happened, the kernel to bring it back to by hand): one blocker for each."""
    if row.goal is not Goal.BACK and member.outcome is Outcome.ROLLED_BACK:
        return "NODE_ROLLED_BACK", "the node was updated, and is back on the kernel that it came from", ""
    last = fleet.last_attempt(member)
    if row.goal is Goal.BACK and last is not None and last.rollout_id != row.rollout_id:
        return "SUPERSEDED", superseded_by(last.rollout_id, last.to_release), member.from_release
    if row.goal is Goal.BACK and not member.from_artifact:
        return "NO_ROLLBACK_ARTIFACT", "the node has nothing to go back to", member.from_release
    if member.outcome is Outcome.FAILED:
        return "NEEDS_OPERATOR", "the node has failed", ""
    return "NOT_BACK", "the node could not be brought back then, and can be now", ""


def _blocker(
    fleet: Fleet, row: RolloutRow, found: tuple[str, str, str], members: Sequence[MemberRow]
) -> Blocker:
    reason, text, release = found
    nodes = [m.node_id for m in members]
    if reason == "NEEDS_OPERATOR":
        reasons = ", ".join(sorted({m.reason for m in members if m.reason}))
        text += f" ({reasons})" if reasons else ""
        lead = f"Look at the node (`liveroll story {nodes[0]}`) and mend it"
        calls = {Call.RETRY: nodes, Call.WRITE_OFF: nodes}
        remedy = told(fleet, lead, row.rollout_id, calls, joint=", then ")
    elif reason == "NODE_ROLLED_BACK":
        lead = f"Find out why it is back (`liveroll story {nodes[0]}`)"
        remedy = told(fleet, lead, row.rollout_id, {Call.RETRY: nodes}, joint=", then ")
    elif reason == "NOT_BACK":
        remedy = told(
            fleet, "An operator may ask for it again", row.rollout_id, {Call.ROLL_BACK: ()}, joint=": "
        )
    else:
        # Rule 2, for nodes that this rollout cannot bring back.
        lead = (
            f"Bring the node back to {release} (boot it by hand), then "
            f"`liveroll rollback {row.rollout_id}` counts it as back"
        )
        remedy = told(fleet, lead, row.rollout_id, {Call.WRITE_OFF: nodes}, last=nodes)
    return Blocker(reason, text, remedy, tuple(nodes[:FEW]), len(nodes))


def superseded_by(rollout_id: str, release: str) -> str:
    """Who has taken the node elsewhere."""
    who = f"rollout {rollout_id}" if rollout_id else "a rollout that the store has lost"
    return f"{who} has taken the node elsewhere since, to {release}"
