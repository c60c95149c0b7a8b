"""Why a rollout or a node stands where it stands, in one sentence.

The planner's blockers say what holds things back now; this says what the rows show, so that
there is an answer even when nothing holds anything back.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import TYPE_CHECKING

from orchestrator.core.blockers import Blocker
from orchestrator.core.model import AttemptRow, MemberRow, NodeRow, RolloutRow
from orchestrator.core.phases import SETTLED, Goal, Link, Outcome, Phase, RolloutState
from orchestrator.core.standing import Lane, Place

if TYPE_CHECKING:
    from orchestrator.core.fleet import Fleet

_WAITS: dict[Place, str] = {
    Place.READY: "it is ready; its turn has not come",
    Place.ALREADY: "it runs the target release already",
    Place.UNCOMMITTED: "it runs the target release, but uncommitted: a cold boot would start another",
    Place.IS_BACK: "it runs the release it came from",
    Place.SUPERSEDED: "another rollout has taken it elsewhere since",
    Place.NO_ROLLBACK: "it has no rollback artifact",
    Place.NOT_DUE: "a retry waits",
    Place.UNKNOWN_LINK: "it has not been heard of since the orchestrator that it was linked to ended",
    Place.UNREACHABLE: "it is not linked",
    Place.MAINTENANCE: "it is in maintenance",
    Place.UNHEALTHY: "it is not healthy",
    Place.NOT_READY: "it would refuse an attempt now",
    Place.OTHER_ROLLOUT: "another rollout is busy with it",
    Place.NEEDS_WORD: "it waits for an operator's word",
    Place.NOT_STAGED: "the artifact is not on the node yet",
    Place.STAGING: "it is fetching the artifact",
    Place.STAGE_FAILED: "it could not fetch the artifact",
}

_DOING: dict[Phase, str] = {
    Phase.LOADING: "the kernel is being loaded",
    Phase.DRAINING: "what cannot be preserved is being moved off",
    Phase.PRESERVING: "workloads are being preserved",
    Phase.PRESERVED: "it waits for the word to jump",
    Phase.SUSPENDING: "workloads are being suspended",
    Phase.JUMPING: "it is on its way into the new kernel",
    Phase.RETRIEVING: "sessions are being retrieved",
    Phase.RESUMING: "workloads are being resumed",
    Phase.VERIFYING: "its health is being probed",
    Phase.FINISHING: "sessions are being finished",
    Phase.UNWINDING: "it is being undone",
}

_OUTCOMES: dict[Outcome, str] = {
    Outcome.PENDING: "it has not had its turn",
    Outcome.OPEN: "an attempt is open on it",
    Outcome.BAKING: "it is updated and being watched",
    Outcome.UPDATED: "it is updated and committed",
    Outcome.UNCOMMITTED: "it is updated, but not committed: commit it or roll it back",
    Outcome.ALREADY: "it was running the target release when its turn came",
    Outcome.FAILED: "it has failed",
    Outcome.ROLLED_BACK: "it is back on the kernel it came from",
    Outcome.EXCLUDED: "it takes no part",
    Outcome.WRITTEN_OFF: "it is written off",
}


def summary(fleet: Fleet, row: RolloutRow, state: RolloutState) -> str:
    """One line on the rollout as a whole."""
    index = fleet.indexes[row.rollout_id]
    updated = index.count(Outcome.UPDATED, Outcome.BAKING, Outcome.UNCOMMITTED, Outcome.ALREADY)
    text = f"{row.rollout_id} is {state}: {updated} of {row.members} nodes run {row.artifact.release}"
    counts = {
        "in progress": index.count(Outcome.OPEN),
        "failed": index.count(Outcome.FAILED),
        "rolled back": index.count(Outcome.ROLLED_BACK),
        "left out": index.count(Outcome.EXCLUDED, Outcome.WRITTEN_OFF),
    }
    text += "".join(f", {count} {word}" for word, count in counts.items() if count)
    if row.ended_at is None:
        if row.wave < len(row.wave_names) and row.goal is Goal.FORWARD:
            text += f"; wave {row.wave_names[row.wave]} is {row.wave_state.lower().replace('_', ' ')}"
        if row.halted:
            text += f"; halted by {row.halted}" + (f" ({row.halt_message})" if row.halt_message else "")
        if row.paused:
            text += f"; paused: {row.paused}"
        if fleet.row.stopped:
            text += f"; the fleet is stopped: {fleet.row.stopped}, {fleet.row.stop_message}"
    return text


def explain_node(
    fleet: Fleet, row: RolloutRow, node: NodeRow, blockers: Sequence[Blocker], now: datetime
) -> tuple[str, tuple[Blocker, ...]]:
    """What happened to one node of the rollout, or what it waits for, and its blockers."""
    member = fleet.member(row.rollout_id, node.node_id)
    name = node.node_id
    if member is None:
        return f"{name} is no member of {row.rollout_id}: {_why_not(row, node)}", ()
    own = fleet.attempts.get((name, member.generation))
    if own is not None and own.phase not in SETTLED:
        text = f"{name} is {own.phase} in attempt {own.generation}: {_DOING[own.phase]}"
        if not node.healthy and node.problem is not None:
            text += f"; {node.problem.reason}: {node.problem.message}. {node.problem.remedy}".rstrip()
        return _with_link(fleet, text, name, now), _mine(blockers, row, member, general=False)
    if member.outcome is Outcome.PENDING and row.ended_at is None:
        return _waiting(fleet, row, node, member, own, blockers, now)
    text = f"{name}: {_OUTCOMES[member.outcome]}"
    if member.reason:
        text += f" ({member.reason})"
    if own is not None:
        text += f"; attempt {own.generation} is {own.phase}"
        if own.problem is not None and own.phase is not Phase.COMMITTED:
            text += f": {own.problem.message}"
            if own.problem.remedy:
                text += f". {own.problem.remedy}"
    standing = fleet.indexes[row.rollout_id].standings.get(name)
    place = standing.place if standing is not None and standing.lane is Lane.BACK else None
    if place is not None:
        text += f"; it is to be brought back: {_WAITS[place]}"
    return text, _mine(blockers, row, member, general=place is not None)


def _waiting(
    fleet: Fleet,
    row: RolloutRow,
    node: NodeRow,
    member: MemberRow,
    own: AttemptRow | None,
    blockers: Sequence[Blocker],
    now: datetime,
) -> tuple[str, tuple[Blocker, ...]]:
    name = member.node_id
    standing = fleet.indexes[row.rollout_id].standings.get(name)
    place = standing.place if standing is not None else None
    forward = standing is None or standing.lane is not Lane.BACK
    wave = row.wave_names[member.wave] if member.wave < len(row.wave_names) else str(member.wave)
    if forward and member.wave > row.wave:
        current = row.wave_names[row.wave]
        text = f"{name} has not started: its wave {wave} comes after {current}, the current one"
        if place is not None and place not in (Place.READY, Place.STAGING, Place.NOT_STAGED):
            text += f"; and {_WAITS[place]}"
    elif place is None:
        text = f"{name} has not started: the rollout's goal is {row.goal}"
    else:
        text = f"{name} has not started (wave {wave}): {_WAITS[place]}"
        if place is Place.UNHEALTHY and node.problem is not None:
            text += f", {node.problem.reason}: {node.problem.message}. {node.problem.remedy}".rstrip()
        if place is Place.NOT_READY and node.refuses is not None:
            text += f", {node.refuses.reason}: {node.refuses.message}. {node.refuses.remedy}".rstrip()
        if place is Place.NOT_DUE and member.not_before is not None:
            text += f" until {member.not_before:%Y-%m-%d %H:%M:%S} UTC"
    if own is not None and own.problem is not None:
        text += f"; its last attempt {own.generation} ended {own.phase}: {own.problem.message}"
    return text, _mine(blockers, row, member, general=True)


def _mine(
    blockers: Sequence[Blocker], row: RolloutRow, member: MemberRow, *, general: bool
) -> tuple[Blocker, ...]:
    """The blockers that name the node and, for one that has not started, those that name nobody
    or that hold back more nodes than they name."""
    name = row.wave_names[member.wave] if member.wave < len(row.wave_names) else ""
    return tuple(
        b
        for b in blockers
        if member.node_id in b.nodes
        or (general and (not b.nodes or b.node_count > len(b.nodes)) and b.wave in ("", name))
    )


def _with_link(fleet: Fleet, text: str, node_id: str, now: datetime) -> str:
    link = fleet.link(node_id, now)
    return text if link is Link.UP else f"{text}; its link is {link}"


def _why_not(row: RolloutRow, node: NodeRow) -> str:
    if node.node_id in row.spec.selection.exclude:
        return "its specification excludes it"
    if node.enrolled_at is not None and node.enrolled_at > row.created_at:
        return "it was enrolled after the rollout was created"
    return "it was not selected, or was left out, when the rollout was created"
