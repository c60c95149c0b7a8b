"""Which rollout an adopted attempt belongs to: attempts of a future that the store has lost.

Rules
1. Nothing is taken in while the fleet is stopped: first a person sees the differences.
2. A forward attempt belongs to the rollout that would make it: one that has not ended, that still has
   the node to do, and whose artifact it is. Of several, to the oldest. The node's member then
   stands as if the rollout had made the attempt; so a node that was updated is not updated again.
3. A rollback that has jumped belongs to the rollout that wants the node on the kernel that it came back
   from, or whose way back it was. The member is ROLLED_BACK then, and is not sent round again by itself.
   One that was undone before its jump is nobody's: the node is where it was. But if its rollout goes back
   and has forgotten that the node crossed, it says so, and the node is brought back again.
4. What no rollout wants stays as it is: the row of what has happened. A rollout that is created
   later may want it.
5. After a rollout has taken in an attempt, nothing of it starts in the same plan: its budgets read
   otherwise afterwards.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from orchestrator.core.beyond import Beyond
from orchestrator.core.draft import Draft
from orchestrator.core.model import AttemptRow, MemberRow, NewEvent, NodeRow, RolloutRow, Row
from orchestrator.core.phases import BEFORE_JUMP, SETTLED, Goal, Kind, Outcome, Phase

if TYPE_CHECKING:
    from orchestrator.core.fleet import Fleet

_TO_DO = frozenset({Outcome.PENDING, Outcome.FAILED})
_MAY_GO_BACK = _TO_DO | {Outcome.BAKING, Outcome.UPDATED, Outcome.UNCOMMITTED}


@dataclass(frozen=True, slots=True)
class Home:
    """Where an attempt belongs."""

    rollout: RolloutRow
    member: MemberRow


def take_in(draft: Draft) -> None:
    """Rules 1 to 3. Who is awaited is noted in the draft; while the fleet is stopped that is all."""
    fleet = draft.fleet
    for node_id in sorted(fleet.unclaimed):
        attempt = fleet.newest_attempt(node_id)
        assert attempt is not None, "what is unclaimed is an attempt"
        home = home_of(fleet, attempt)
        if home is None:
            continue
        draft.awaited.setdefault(home.rollout.rollout_id, set()).add(node_id)
        if not fleet.row.stopped:
            _take(draft, fleet.nodes[node_id], attempt, home)


def _take(draft: Draft, node: NodeRow, attempt: AttemptRow, home: Home) -> None:
    rollout, member = home.rollout, home.member
    taken = replace(attempt, rollout_id=rollout.rollout_id, wave=member.wave)
    if attempt.kind is Kind.FORWARD:
        taken = replace(taken, artifact=rollout.artifact)
    text = f"{node.node_id}: attempt {attempt.generation} of a lost future, {attempt.phase}, is taken in"
    event = NewEvent(
        "attempt.taken_in",
        text,
        rollout_id=rollout.rollout_id,
        node_id=node.node_id,
        generation=attempt.generation,
        fields={"phase": attempt.phase.value, "kind": attempt.kind.value},
    )
    rows: list[Row] = [taken, _joined(member, taken, node.beyond)]
    draft.add("take_in", rollout.rollout_id, rows, [event], [rollout, draft.fleet.row, node])
    draft.held.add(rollout.rollout_id)


def home_of(fleet: Fleet, attempt: AttemptRow) -> Home | None:
    """The rollout that the attempt belongs to, were the fleet released now."""
    homes = []
    for rollout_id in fleet.rollouts_of(attempt.node_id):
        rollout, member = fleet.rollouts[rollout_id], fleet.members(rollout_id)[attempt.node_id]
        if rollout.ended_at is None and member.generation < attempt.generation:
            fits = _wants if attempt.kind is Kind.FORWARD else _goes_back
            if fits(fleet.nodes[attempt.node_id], rollout, member, attempt):
                homes.append(Home(rollout, member))
    return min(homes, key=lambda h: (h.rollout.created_at, h.rollout.rollout_id), default=None)


def _wants(node: NodeRow, rollout: RolloutRow, member: MemberRow, attempt: AttemptRow) -> bool:
    if member.outcome not in _TO_DO or member.crossed:
        return False
    if attempt.artifact.digest:
        return attempt.artifact.digest == rollout.artifact.digest
    return attempt.to_release == rollout.artifact.release


def _goes_back(node: NodeRow, rollout: RolloutRow, member: MemberRow, attempt: AttemptRow) -> bool:
    came_from_there = attempt.to_release == member.from_release
    if member.crossed:
        return has_crossed(attempt) and member.outcome in _MAY_GO_BACK and came_from_there
    if member.outcome not in _TO_DO or attempt.from_release != rollout.artifact.release:
        return False
    return has_crossed(attempt) or (rollout.goal is Goal.BACK and came_from_there)


def _joined(member: MemberRow, attempt: AttemptRow, beyond: Beyond | None) -> MemberRow:
    """As if its rollout had made the attempt; settling it is settlement.py's."""
    after = replace(
        member,
        outcome=Outcome.OPEN,
        generation=attempt.generation,
        reason="",
        not_before=None,
        operator_word=False,
        crossed=member.crossed or attempt.kind is Kind.ROLLBACK or has_crossed(attempt),
    )
    if member.crossed or attempt.kind is Kind.ROLLBACK or beyond is None:
        return after
    return replace(
        after,
        from_release=attempt.from_release,
        from_artifact=beyond.rollback_artifact,
        from_command_line=beyond.command_line,
    )


def has_crossed(attempt: AttemptRow) -> bool:
    """Whether its node may run the kernel that it was for."""
    return attempt.phase not in BEFORE_JUMP | {Phase.UNWINDING, Phase.ABORTED, Phase.IDLE}


def is_open(attempt: AttemptRow) -> bool:
    """It has not ended."""
    return attempt.phase not in SETTLED
