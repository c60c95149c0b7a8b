"""Why a rollout does not go on: its blockers, and when the planner looks again by itself.

Everything said here was decided elsewhere; this turns it into sentences. The order is from
what stops the whole rollout to what holds single nodes.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import datetime

from orchestrator.core import canaries
from orchestrator.core.attempts import fresh_stamp, is_fresh
from orchestrator.core.blockers import FEW, Blocker
from orchestrator.core.budgets import Use
from orchestrator.core.draft import Draft
from orchestrator.core.index import Order, RolloutIndex
from orchestrator.core.permits import standstill
from orchestrator.core.phases import Goal, Link, Outcome, WaveState
from orchestrator.core.standing import Flag, Lane, Place, commit_at
from orchestrator.core.starts import Held
from orchestrator.core.waves import bake_ends_at, judge_wave, wave_name


def blockers_of(draft: Draft, index: RolloutIndex, held: Held) -> tuple[Blocker, ...]:
    """Everything that the rollout waits for now."""
    found = [*_gates(draft, index), *_wave(draft, index)]
    found += _budgets(draft, index, held)
    found += _pairs(index, held)
    found += _places(draft, index)
    found += _under_way(draft, index, held)
    return tuple(found)


def wakes_of(draft: Draft, index: RolloutIndex) -> Iterator[datetime | None]:
    """When the rollout must be looked at again, nodes' own deadlines left aside."""
    yield draft.opening(index).until
    if index.row.wave_state is WaveState.BAKING:
        yield bake_ends_at(index)
    if index.flagged[Flag.PRESERVED]:
        yield draft.now + draft.fleet.policy.active_heartbeat


def _gates(draft: Draft, index: RolloutIndex) -> Iterator[Blocker]:
    row, name = index.row, index.row.spec.name
    still = standstill(draft, index)
    if still is not None and still.cause == "fleet_stop":
        yield Blocker(
            "FLEET_STOPPED",
            f"the fleet is stopped: {still.text}",
            "An operator must look at why, then release it (`liveroll release`).",
        )
    if row.paused:
        yield Blocker(
            "PAUSED", f"paused: {row.paused}", f"An operator must resume it (`liveroll resume {name}`)."
        )
    if row.halted and row.goal is Goal.FORWARD:
        yield Blocker(
            "HALTED",
            f"halted, {row.halted}: {row.halt_message}",
            f"An operator must decide: `liveroll resume {name} --clear-halt` accepts what happened, "
            f"`liveroll rollback {name}` goes back, `liveroll cancel {name}` ends it.",
        )
    opening = draft.opening(index)
    if not opening.open:
        text = (
            "no change window is open"
            if opening.cause == "window"
            else f"embargo: {opening.reason or 'dated'}"
        )
        remedy = (
            ""
            if opening.until is not None
            else "No window will open again: cancel the rollout, and give it another schedule."
        )
        yield Blocker(opening.cause.upper(), text, remedy, until=opening.until)


def _wave(draft: Draft, index: RolloutIndex) -> Iterator[Blocker]:
    row = index.row
    if row.goal is not Goal.FORWARD:
        return
    name = wave_name(row, row.wave)
    if row.wave_state is WaveState.AWAITING_APPROVAL and row.wave not in row.approved:
        yield Blocker(
            "AWAITING_APPROVAL",
            f"wave {name} may begin once an operator approves it",
            f"An operator must approve it (`liveroll approve {row.spec.name} --wave {name}`).",
            wave=name,
        )
    elif row.wave_state is WaveState.BAKING:
        ends_at = bake_ends_at(index)
        if ends_at is not None and ends_at > draft.now:
            yield Blocker("WAVE_BAKING", f"wave {name} bakes", until=ends_at, wave=name)
    elif row.wave_state is WaveState.GATED:
        for verdict in judge_wave(draft.fleet, index, row.wave):
            if verdict.result != "PASS":
                yield Blocker(
                    f"GATE_{verdict.result}",
                    f"gate {verdict.gate} holds wave {name}: {verdict.evidence}",
                    f"An operator must judge it: `liveroll approve {row.spec.name} --wave {name}` waives the "
                    "wave's gates, `liveroll rollback` or `liveroll cancel` ends it.",
                    wave=name,
                )


_BUDGET_TEXT = {
    "max_unavailable": ("BUDGET_UNAVAILABLE", "as many nodes are unavailable as the rollout allows"),
    "max_in_blackout": ("BUDGET_BLACKOUT", "as many blackout slots are out as the rollout allows"),
    "max_uncommitted": ("BUDGET_UNCOMMITTED", "as many nodes bake or will bake as the rollout allows"),
    "fleet_max_unavailable": (
        "FLEET_BUDGET_UNAVAILABLE",
        "as many nodes are unavailable as the fleet allows",
    ),
    "fleet_max_in_blackout": ("FLEET_BUDGET_BLACKOUT", "as many blackout slots are out as the fleet allows"),
}


_SHARED = ("fleet_max_unavailable", "fleet_max_in_blackout")


def _budgets(draft: Draft, index: RolloutIndex, held: Held) -> Iterator[Blocker]:
    for name, (use, orders) in held.by_budget.items():
        reason, text = _BUDGET_TEXT.get(name, ("DOMAIN_CAP", f"{name.removeprefix('domain:')} is at its cap"))
        yield _on(reason, f"{text} ({use.used} of {use.limit})", _remedy(draft, index, use), orders)


def _remedy(draft: Draft, index: RolloutIndex, use: Use) -> str:
    """Waiting is enough while attempts are under way, of whichever rollout spends the budget; else
    somebody must act."""
    if use.limit <= 0:
        return f"The limit leaves room for nobody: cancel the rollout and raise {use.budget}."
    spenders = draft.fleet.indexes.values() if use.budget in _SHARED else (index,)
    if any(of.count(Outcome.OPEN, Outcome.BAKING) for of in spenders):
        return ""
    return (
        "Nothing under way will free it: bring unavailable nodes back (`liveroll nodes`), set them in "
        "maintenance, or write them off."
    )


def _pairs(index: RolloutIndex, held: Held) -> Iterator[Blocker]:
    row = index.row
    for key, orders in held.by_pair.items():
        if not orders:
            continue
        node_id = row.pair_canaries.get(key)
        if node_id is None or not canaries.stands(index, key, node_id):
            yield _on(
                "PAIR_WAITS",
                f"{key} has no canary yet: at most {row.spec.canary.max_nodes} canaries go at a time",
                "Canaries under way must pass first; if none is, bring a node of this kind back.",
                orders,
            )
            continue
        member = index.members[node_id]
        if member.outcome in (Outcome.FAILED, Outcome.ROLLED_BACK, Outcome.EXCLUDED, Outcome.WRITTEN_OFF):
            yield _on(
                "CANARY_FAILED",
                f"{node_id}, the canary of {key}, is {member.outcome} ({member.reason})",
                f"An operator must mend it and retry it (`liveroll retry {row.spec.name} {node_id}`), "
                "exclude the nodes of its kind, or cancel the rollout.",
                orders,
            )
        elif member.outcome is Outcome.UPDATED:
            yield _on(
                "CANARY_GATED",
                f"{node_id}, the canary of {key}, is updated, but a gate fails on it",
                f"An operator must judge it: `liveroll approve {row.spec.name}` waives the gates, "
                "`liveroll exclude` leaves the nodes of its kind out, `liveroll rollback` goes back.",
                orders,
            )
        else:
            yield _on("CANARY_UNDER_WAY", f"{node_id}, the canary of {key}, must pass first", "", orders)


_PLACES: dict[Place, tuple[str, str, str]] = {
    Place.NO_ROLLBACK: (
        "NO_ROLLBACK_ARTIFACT",
        "the node has nothing to go back to",
        "Capture its running kernel on the node (restart its agent), exclude it, or say `rollback: none`.",
    ),
    Place.NOT_DUE: ("RETRY_WAITS", "a retry waits for its backoff", ""),
    Place.UNKNOWN_LINK: ("LINK_UNKNOWN", "nothing was heard of the node since this orchestrator began", ""),
    Place.UNREACHABLE: (
        "NODE_UNREACHABLE",
        "the node has no link",
        "Bring the node or its agent back, exclude it, or write it off.",
    ),
    Place.MAINTENANCE: (
        "NODE_IN_MAINTENANCE",
        "the node is in maintenance",
        "Its owner must end the maintenance (`liveroll maintenance --end`), or an operator exclude it.",
    ),
    Place.UNHEALTHY: (
        "NODE_UNHEALTHY",
        "the node's probes fail before its update",
        "Mend the node, or exclude it.",
    ),
    Place.NEEDS_WORD: (
        "NEEDS_OPERATOR",
        "the node's last attempt ended so that only a person may begin another",
        "Look at the node (`liveroll story`), then retry it by name, exclude it, or write it off.",
    ),
    Place.SUPERSEDED: (
        "SUPERSEDED",
        "another rollout has taken the node elsewhere since",
        "Roll the other rollout back if the node must return.",
    ),
    Place.STAGING: ("STAGING", "the node fetches the artifact", ""),
    Place.NOT_STAGED: ("STAGING_WAITS", "the node waits for its turn to fetch the artifact", ""),
}


def _places(draft: Draft, index: RolloutIndex) -> Iterator[Blocker]:
    queues = [(wave_name(index.row, wave), queue) for wave, queue in index.due_queues()]
    queues.append(("", index.queue(Lane.BACK)))
    for wave, queue in queues:
        for place, orders in sorted(queue.waiting.items()):
            if place is Place.OTHER_ROLLOUT:
                yield _other_rollout(draft, orders, wave)
            elif place is Place.STAGE_FAILED:
                yield _stage_failed(draft, orders, wave)
            elif place in _PLACES:
                reason, text, remedy = _PLACES[place]
                yield _on(
                    reason, text, remedy, orders, wave=wave, until=_place_ends(draft, index, place, orders)
                )


def _place_ends(draft: Draft, index: RolloutIndex, place: Place, orders: Sequence[Order]) -> datetime | None:
    if place is Place.NOT_DUE:
        dues = (index.members[node_id].not_before for _, node_id in orders[:_LOOKED_AT])
        return min((due for due in dues if due is not None), default=None)
    if place is Place.UNKNOWN_LINK:
        return draft.fleet.grace_ends_at
    return None


_LOOKED_AT = 50
"""Members asked for a deadline that only people read; plans must not grow with the fleet."""


def _other_rollout(draft: Draft, orders: Sequence[Order], wave: str) -> Blocker:
    newest = draft.fleet.newest_attempt(orders[0][1])
    other = draft.fleet.rollouts.get(newest.rollout_id) if newest is not None else None
    name = other.spec.name if other is not None else "unknown"
    return _on(
        "OTHER_ROLLOUT",
        f"rollout {name} is at work on the node",
        f"It goes on when {name} has committed it or ended (`liveroll why {name}`).",
        orders,
        wave=wave,
    )


def _stage_failed(draft: Draft, orders: Sequence[Order], wave: str) -> Blocker:
    node = draft.fleet.nodes[orders[0][1]]
    problem = node.stage_problem
    until = node.stage_failed_at + draft.fleet.policy.stage_retry if node.stage_failed_at else None
    text = f"the artifact cannot be staged: {problem.message}" if problem else "the artifact cannot be staged"
    remedy = (
        problem.remedy if problem and problem.remedy else "Look at the node's agent log, or exclude the node."
    )
    return _on("STAGE_FAILED", text, remedy, orders, wave=wave, until=until)


def _under_way(draft: Draft, index: RolloutIndex, held: Held) -> Iterator[Blocker]:
    row, fleet = index.row, draft.fleet
    count = index.count(Outcome.OPEN)
    if count:
        yield Blocker("IN_PROGRESS", "attempts are under way", node_count=count, until=fleet.next_wake())
    preserved = index.flagged_nodes(Flag.PRESERVED)
    waits = []
    for node_id in preserved[:_LOOKED_AT]:
        a = fleet.newest_attempt(node_id)
        found = fresh_stamp(fleet, a) if a is not None else None
        if found is None or not is_fresh(found[1], row.spec.proceed_lease, draft.now):
            waits.append(node_id)
    if waits:
        yield Blocker(
            "AWAITING_STAMP",
            "the node is preserved, and its next heartbeat is waited for",
            nodes=tuple(waits[:FEW]),
            node_count=len(waits),
            until=draft.now + fleet.policy.active_heartbeat,
        )
    yield from _unanswered(draft, index)
    baking = index.count(Outcome.BAKING, upto=row.wave)
    if baking and (row.wave_state is not WaveState.RUNNING or held.by_budget):
        yield from _baking(draft, index, baking)


def _unanswered(draft: Draft, index: RolloutIndex) -> Iterator[Blocker]:
    """Open attempts that only a returning node, or its silence lease, can end."""
    fleet = draft.fleet
    silent: list[str] = []
    until: datetime | None = None
    for node_id in index.silent:
        silent.append(node_id)
        if len(silent) <= _LOOKED_AT:
            at = fleet.lost_at(node_id)
            until = at if until is None or (at is not None and at < until) else until
    if silent:
        silent.sort()
        yield Blocker(
            "ATTEMPT_SILENT",
            "the node's attempt is open, and nothing is heard of the node",
            "Bring the node or its agent back; past its silence lease it counts as lost. A node that "
            "will not return must be written off.",
            tuple(silent[:FEW]),
            len(silent),
            until,
        )


def _baking(draft: Draft, index: RolloutIndex, count: int) -> Iterator[Blocker]:
    """Baking nodes that hold their wave."""
    stuck: list[str] = []
    until: datetime | None = None
    for node_id in index.baking:
        node, a = draft.fleet.nodes[node_id], draft.fleet.newest_attempt(node_id)
        at = commit_at(a, index.row) if a is not None else None
        if draft.fleet.standings[node_id].link is not Link.UP or not node.healthy or at is None:
            stuck.append(node_id)
        elif at > draft.now and (until is None or at < until):
            until = at
        if len(stuck) > _LOOKED_AT or (until is not None and not stuck):
            break
    if stuck:
        stuck.sort()
        yield Blocker(
            "BAKING_STUCK",
            "the node bakes, but is unreachable, unhealthy or refuses to commit, so it cannot be committed",
            "Bring the node back and healthy; it is rolled back when it relapses. A node that will not "
            "return must be written off.",
            tuple(stuck[:FEW]),
            len(stuck),
        )
    else:
        yield Blocker("NODES_BAKING", "updated nodes bake before they are committed", "", (), count, until)


def _on(
    reason: str,
    message: str,
    remedy: str,
    orders: Sequence[Order],
    *,
    wave: str = "",
    until: datetime | None = None,
) -> Blocker:
    nodes = tuple(node_id for _, node_id in orders[:FEW])
    return Blocker(reason, message, remedy, nodes, len(orders), until, wave)
