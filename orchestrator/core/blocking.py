"""Why a rollout does not go on: its blockers, and when the planner looks again by itself.

Everything said here was decided elsewhere; this turns it into sentences. The order is from
what stops the whole rollout to what holds single nodes.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import datetime
from itertools import islice

from orchestrator.core.attempts import fresh_stamp, is_fresh
from orchestrator.core.blockers import FEW, Blocker
from orchestrator.core.blocking_nodes import LOOKED_AT, on, pairs, places
from orchestrator.core.blocking_silent import silent
from orchestrator.core.budgets import Use
from orchestrator.core.draft import Draft
from orchestrator.core.index import RolloutIndex
from orchestrator.core.permits import standstill
from orchestrator.core.phases import Goal, Link, Outcome, WaveState
from orchestrator.core.remedies import Call, told
from orchestrator.core.standing import Flag, Lane, commit_at
from orchestrator.core.starts import Held
from orchestrator.core.transitions_regression import STOPPED
from orchestrator.core.waves import bake_ends_at, judge_wave, wave_name

_LOOKED_AT = LOOKED_AT


def blockers_of(draft: Draft, index: RolloutIndex, held: Held) -> tuple[Blocker, ...]:
    """Everything that the rollout waits for now."""
    found = [*_gates(draft, index), *_wave(draft, index)]
    found += _budgets(draft, index, held)
    found += pairs(draft, index, held)
    found += places(draft, index)
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
        look = "An operator must look at why, then release it (`liveroll release`)."
        if draft.fleet.row.stopped == STOPPED:
            look = (
                "An operator must look at what nodes have done beyond the store (`liveroll differences`), "
                "then release it (`liveroll release --accept-differences`)."
            )
        yield Blocker("FLEET_STOPPED", f"the fleet is stopped: {still.text}", look)
    if row.paused:
        yield Blocker(
            "PAUSED", f"paused: {row.paused}", f"An operator must resume it (`liveroll resume {name}`)."
        )
    if row.halted and row.goal is Goal.FORWARD:
        yield Blocker(
            "HALTED",
            f"halted, {row.halted}: {row.halt_message}",
            told(
                draft.fleet,
                "An operator must decide",
                row.rollout_id,
                {Call.CLEAR_HALT: (), Call.ROLL_BACK: (), Call.CANCEL: ()},
                joint=": ",
            ),
        )
    opening = draft.opening(index)
    if not opening.open:
        text = (
            "no change window is open"
            if opening.cause == "window"
            else f"embargo: {opening.reason or 'dated'}"
        )
        remedy = "" if opening.until is not None else _closed_for_good(draft, index)
        yield Blocker(opening.cause.upper(), text, remedy, until=opening.until)


def _closed_for_good(draft: Draft, index: RolloutIndex) -> str:
    """Nodes on their way back are not let go by a cancel: what is left is to bring them back by hand."""
    waits = [order[1] for orders in index.queue(Lane.BACK).ready.values() for order in orders]
    lead = "No window will open again"
    if waits:
        lead += f": boot {', '.join(waits[:FEW])} into the previous kernel by hand, and they count as back"
    calls: dict[Call, Sequence[str]] = {} if index.row.goal is Goal.CANCEL else {Call.CANCEL: ()}
    return told(draft.fleet, lead, index.row.rollout_id, calls, last=waits)


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
    elif row.wave_state is WaveState.GATED and row.wave not in row.gates_waived:
        for verdict in judge_wave(draft.fleet, index, row.wave):
            if verdict.result != "PASS":
                yield Blocker(
                    f"GATE_{verdict.result}",
                    f"gate {verdict.gate} holds wave {name}: {verdict.evidence}",
                    told(
                        draft.fleet,
                        "An operator must judge it",
                        row.rollout_id,
                        {Call.WAIVE: (), Call.ROLL_BACK: (), Call.CANCEL: ()},
                        joint=": ",
                    ),
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
_OF_NODES = ("max_unavailable", "fleet_max_unavailable")
"""Spent by nodes that stay unavailable too; the others only by attempts and baking nodes, which end
or have blockers of their own."""


def _budgets(draft: Draft, index: RolloutIndex, held: Held) -> Iterator[Blocker]:
    for name, (use, orders) in held.by_budget.items():
        reason, text = _BUDGET_TEXT.get(name, ("DOMAIN_CAP", f"{name.removeprefix('domain:')} is at its cap"))
        yield on(reason, f"{text} ({use.used} of {use.limit})", _remedy(draft, index, use), orders)


def _remedy(draft: Draft, index: RolloutIndex, use: Use) -> str:
    """Waiting is enough while attempts are under way, of whichever rollout spends the budget; else
    somebody must act."""
    if use.limit <= 0:
        return f"The limit leaves room for nobody: cancel the rollout and raise {use.budget}."
    if use.budget not in _OF_NODES and not use.budget.startswith("domain:"):
        return ""
    spenders = draft.fleet.indexes.values() if use.budget in _SHARED else (index,)
    if any(of.count(Outcome.OPEN) for of in spenders):
        return ""
    standings = draft.fleet.standings if use.budget in _SHARED else index.standings
    down = (node_id for node_id, standing in standings.items() if standing.unavailable)
    idle = [n for n in islice(down, _LOOKED_AT) if draft.fleet.open_attempt(n) is None]
    if not idle:
        return ""  # other rollouts' attempts, which end
    return told(
        draft.fleet,
        "Nothing under way will free it: bring unavailable nodes back (`liveroll nodes`)",
        index.row.rollout_id,
        dict.fromkeys((Call.RETRY, Call.MAINTAIN, Call.WRITE_OFF), sorted(idle)),
    )


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
    yield from silent(draft.fleet, index)
    baking = index.count(Outcome.BAKING, upto=row.wave)
    if baking and (row.wave_state is not WaveState.RUNNING or held.by_budget):
        yield from _baking(draft, index, baking)


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
            told(
                draft.fleet,
                "Bring the node back and healthy (it is rolled back when it relapses)",
                index.row.rollout_id,
                {Call.WRITE_OFF: stuck, Call.COMMIT: stuck, Call.ROLL_BACK: ()},
                last=stuck,
            ),
            tuple(stuck[:FEW]),
            len(stuck),
        )
    else:
        yield Blocker("NODES_BAKING", "updated nodes bake before they are committed", "", (), count, until)
