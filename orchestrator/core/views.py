"""What rollouts and nodes look like to people and tools: derived from the fleet, never stored.

Cost: one pass over the rollout's members for a rollout, O(1) for a node.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from datetime import datetime
from typing import TYPE_CHECKING, assert_never

from orchestrator.core import budgets, other_model
from orchestrator.core.actions import Plan
from orchestrator.core.blockers import Blocker
from orchestrator.core.blocking_ended import short_of_goal
from orchestrator.core.blocking_uncommitted import left_behind
from orchestrator.core.model import (
    AttemptRow,
    DesiredCancel,
    DesiredCommit,
    DesiredPrepare,
    DesiredProceed,
    DesiredStage,
    MemberRow,
    NodeRow,
    RolloutRow,
)
from orchestrator.core.operations_nodes import find_node, find_rollout
from orchestrator.core.operations_table import shown_state
from orchestrator.core.phases import Goal, Outcome, Phase, RolloutState, WaveState
from orchestrator.core.report import BudgetUse, Explanation, KernelPairView, NodeView, RolloutView, WaveView
from orchestrator.core.standing import pair_of
from orchestrator.core.views_numbers import totals
from orchestrator.core.views_why import explain_node, summary

if TYPE_CHECKING:
    from orchestrator.core.fleet import Fleet

__all__ = ["explain", "node_view", "rollout_view", "shown_state", "state_of"]

UPDATED = (Outcome.UPDATED, Outcome.ALREADY, Outcome.UNCOMMITTED)
LEFT_OUT = (Outcome.EXCLUDED, Outcome.WRITTEN_OFF)


def state_of(fleet: Fleet, rollout_id: str) -> RolloutState:
    """The one word for where a rollout stands. NotFound."""
    rollout = find_rollout(fleet, rollout_id)
    return shown_state(rollout, fleet.members(rollout.rollout_id).values())


def rollout_view(fleet: Fleet, rollout_id: str, plan: Plan | None, now: datetime) -> RolloutView:
    """plan None: without blockers and next_wake. NotFound."""
    row = find_rollout(fleet, rollout_id)
    members = sorted(fleet.members(row.rollout_id).values(), key=lambda m: m.position)
    numbers = totals(_attempts(fleet, row, members))
    return RolloutView(
        rollout_id=row.rollout_id,
        spec=row.spec,
        state=shown_state(row, members),
        goal=row.goal,
        paused=row.paused,
        halted=row.halted,
        halt_message=row.halt_message,
        created_at=row.created_at,
        created_by=row.created_by,
        started_at=numbers.started_at,
        ended_at=row.ended_at,
        waves=waves(fleet, row, members),
        current_wave=row.wave,
        budgets=tuple(BudgetUse(u.budget, u.limit, u.used) for u in budgets.uses(fleet, row.rollout_id)),
        blockers=blockers_of(plan, row),
        gates=row.gates,
        wave_names=row.wave_names,
        pairs=pairs(fleet, row, members),
        blackout=numbers.blackout,
        retries=sum(m.retries for m in members),
        memory_checks_passed=numbers.memory_passed,
        memory_checks_failed=numbers.memory_failed,
        uncommitted=tuple(m.node_id for m in members if m.outcome is Outcome.UNCOMMITTED),
        next_wake=plan.next_wake if plan is not None and row.ended_at is None else None,
        target_release=row.artifact.release,
        revision=row.revision,
        members=row.members,
        fleet_stopped=fleet.row.stopped,
    )


def waves(fleet: Fleet, row: RolloutRow, members: Iterable[MemberRow]) -> tuple[WaveView, ...]:
    """Every wave with its counts; members in their order."""
    nodes: dict[int, list[str]] = {}
    for member in members:
        nodes.setdefault(member.wave, []).append(member.node_id)
    index = fleet.indexes[row.rollout_id]
    views = []
    for wave, name in enumerate(row.wave_names):
        views.append(
            WaveView(
                index=wave,
                name=name,
                state=_wave_state(row, wave),
                members=len(nodes.get(wave, ())),
                pending=index.count(Outcome.PENDING, wave=wave),
                in_progress=index.count(Outcome.OPEN, wave=wave),
                baking=index.count(Outcome.BAKING, wave=wave),
                updated=index.count(*UPDATED, wave=wave),
                failed=index.count(Outcome.FAILED, wave=wave),
                left_out=index.count(*LEFT_OUT, wave=wave),
                rolled_back=index.count(Outcome.ROLLED_BACK, wave=wave),
                nodes=tuple(nodes.get(wave, ())),
            )
        )
    return tuple(views)


def _wave_state(row: RolloutRow, wave: int) -> str:
    """`undone` and `ended` are of rollouts that do not go forward any more: there no wave runs."""
    if row.goal is Goal.BACK:
        back = row.ended_as != RolloutState.FAILED
        return "undone" if wave <= row.wave and back else "ended"
    if wave < row.wave:
        return WaveState.PASSED.lower()
    over = row.goal is Goal.CANCEL or row.ended_at is not None
    if over and not (wave == row.wave and row.wave_state is WaveState.PASSED):
        return "ended"
    return row.wave_state.lower() if wave == row.wave else "pending"


def pairs(fleet: Fleet, row: RolloutRow, members: Iterable[MemberRow]) -> tuple[KernelPairView, ...]:
    """The kernel pairs that members were of before their update, or are of now."""
    counts: dict[tuple[str, str, str], int] = {}
    for member in members:
        node = fleet.nodes.get(member.node_id)
        if node is None or member.outcome is Outcome.ALREADY:
            continue
        now = pair_of(node, row)
        pair = (member.from_release or now[0], now[1], now[2])
        if pair[0] != pair[1]:
            counts[pair] = counts.get(pair, 0) + 1
    for pair in row.pairs_passed:
        counts.setdefault(pair, 0)
    return tuple(
        KernelPairView(
            from_release=pair[0],
            to_release=pair[1],
            hardware_model=pair[2],
            nodes=count,
            canary=row.pair_canaries.get("|".join(pair), ""),
            passed=pair in row.pairs_passed,
        )
        for pair, count in sorted(counts.items())
    )


def blockers_of(plan: Plan | None, row: RolloutRow) -> tuple[Blocker, ...]:
    """What the plan says stands in the rollout's way."""
    return tuple(plan.blockers.get(row.rollout_id, ())) if plan is not None else ()


def node_view(fleet: Fleet, node_id: str, now: datetime, of: str = "") -> NodeView:
    """of: a rollout that the node is shown as a member of: wave, phase and attempt are that one's,
    whatever another rollout has done to the node. NotFound."""
    node = find_node(fleet, node_id)
    attempt = fleet.newest_attempt(node_id)
    shown = fleet.rollout_named(of) if of else None
    member = fleet.member(shown.rollout_id, node_id) if shown is not None else None
    if member is not None:
        attempt = fleet.attempts.get((node_id, member.generation))
        rollout_id, wave = _named(fleet, member.rollout_id, node_id)
    else:
        rollout_id, wave = _place(fleet, node, attempt)
    problem = node.problem
    if problem is None and attempt is not None and attempt.phase is not Phase.COMMITTED:
        problem = attempt.problem
    return NodeView(
        node_id=node_id,
        labels=node.labels,
        release=node.release,
        hardware_model=node.hardware_model,
        boot_id=node.boot_id,
        link=fleet.link(node_id, now),
        link_changed_at=node.link_changed_at,
        phase=attempt.phase if attempt is not None else Phase.IDLE,
        generation=attempt.generation if attempt is not None else 0,
        incarnation=attempt.incarnation if attempt is not None else "",
        rollout_id=rollout_id,
        wave=wave,
        healthy=node.healthy,
        problem=problem,
        not_ready=node.refuses,
        maintenance=node.maintenance,
        rollback_artifact=node.rollback_artifact,
        staged=tuple(sorted(node.staged)),
        highest_generation=node.highest_generation,
        capabilities=tuple(sorted(node.capabilities)),
        agent_version=node.agent_version,
        desired=desired_in_words(node),
        written_off=node.written_off,
        boot_verdict=node.boot_verdict,
        boot_by_hand=node.boot_by_hand == node.boot_id != "",
        revision=node.revision,
    )


def desired_in_words(node: NodeRow) -> str:
    """What is wanted of the node now; empty if nothing."""
    match node.desired:
        case None:
            return ""
        case DesiredStage(artifact=artifact):
            return f"stage {artifact.name or artifact.digest[:12]}"
        case DesiredPrepare(generation=generation, artifact=artifact):
            return f"prepare attempt {generation} to {artifact.release}"
        case DesiredProceed(generation=generation):
            return f"jump in attempt {generation}"
        case DesiredCancel(generation=generation, reason=reason):
            return f"cancel attempt {generation}: {reason}"
        case DesiredCommit(generation=generation):
            return f"commit attempt {generation}"
        case _ as never:
            assert_never(never)


def explain(fleet: Fleet, rollout_id: str, node_id: str, plan: Plan | None, now: datetime) -> Explanation:
    """Why it stands where it stands; node_id empty: the rollout as a whole. NotFound."""
    row = find_rollout(fleet, rollout_id)
    wake = plan.next_wake if plan is not None and row.ended_at is None else None
    if node_id:
        known = (
            *blockers_of(plan, row),
            *short_of_goal(fleet, row, node_id),
            *left_behind(fleet, row, node_id),
            *other_model.ahead(fleet, row, node_id),
        )
        text, found = explain_node(fleet, row, find_node(fleet, node_id), known, now)
        return Explanation(text, found, row.gates, row.wave_names, wake)
    members = fleet.members(row.rollout_id)
    text = summary(fleet, row, shown_state(row, members.values()))
    found = (
        *blockers_of(plan, row),
        *short_of_goal(fleet, row),
        *left_behind(fleet, row),
        *other_model.ahead(fleet, row),
    )
    return Explanation(text, found, row.gates, row.wave_names, wake)


def _attempts(fleet: Fleet, row: RolloutRow, members: Iterable[MemberRow]) -> Iterator[AttemptRow]:
    for member in members:
        if member.generation:
            for attempt in fleet.attempts_at(member.node_id):
                if attempt.rollout_id == row.rollout_id:
                    yield attempt


def _place(fleet: Fleet, node: NodeRow, attempt: AttemptRow | None) -> tuple[str, str]:
    """The rollout that the node is busy with: its open attempt's, else the newest active one,
    else its newest attempt's."""
    active = [
        fleet.rollouts[r] for r in fleet.rollouts_of(node.node_id) if fleet.rollouts[r].ended_at is None
    ]
    chosen = attempt.rollout_id if attempt is not None else ""
    if fleet.open_attempt(node.node_id) is None and active:
        ids = {r.rollout_id for r in active}
        if chosen not in ids:
            chosen = max(active, key=lambda r: (r.created_at, r.rollout_id)).rollout_id
    return _named(fleet, chosen, node.node_id)


def _named(fleet: Fleet, rollout_id: str, node_id: str) -> tuple[str, str]:
    """The rollout, and the node's wave in it."""
    row = fleet.rollouts.get(rollout_id)
    member = fleet.member(rollout_id, node_id)
    if row is None or member is None or member.wave >= len(row.wave_names):
        return rollout_id, ""
    return rollout_id, row.wave_names[member.wave]
