"""What holds single nodes, or the nodes of one kernel pair: their blockers.

Everything said here was decided elsewhere; what may be done about it is asked of remedies.py.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

from orchestrator.core import canaries, staging
from orchestrator.core.blockers import FEW, Blocker
from orchestrator.core.blocking_ended import superseded_by
from orchestrator.core.draft import Draft
from orchestrator.core.index import Order, RolloutIndex
from orchestrator.core.model import RolloutRow
from orchestrator.core.phases import Outcome, Phase
from orchestrator.core.remedies import Call, told
from orchestrator.core.standing import Lane, Place
from orchestrator.core.starts import Held
from orchestrator.core.waves import wave_name

LOOKED_AT = 50
"""Members asked for what only people read; plans must not grow with the fleet."""


def on(
    reason: str,
    message: str,
    remedy: str,
    orders: Sequence[Order],
    *,
    wave: str = "",
    until: datetime | None = None,
) -> Blocker:
    """A blocker that names the first few of the members it holds."""
    nodes = tuple(node_id for _, node_id in orders[:FEW])
    return Blocker(reason, message, remedy, nodes, len(orders), until, wave)


# --- kernel pairs ------------------------------------------------------------------------


def pairs(draft: Draft, index: RolloutIndex, held: Held) -> Iterator[Blocker]:
    """Ready members whose pair has not passed."""
    row, fleet = index.row, draft.fleet
    for key, orders in held.by_pair.items():
        if not orders:
            continue
        kind = _ids(orders)
        node_id = row.pair_canaries.get(key)
        if node_id is None or not canaries.stands(index, key, node_id):
            wait = [row.pair_canaries[other] for other in canaries.under_way(index)]
            yield on(
                "PAIR_WAITS",
                f"{key} has no canary yet: at most {row.spec.canary.max_nodes} canaries go at a time",
                next((remedy for other in wait if (remedy := _stuck(draft, index, other, kind))), ""),
                orders,
            )
            continue
        member = index.members[node_id]
        without: dict[Call, Sequence[str]] = {Call.EXCLUDE: kind, Call.CANCEL: ()}
        if member.outcome is Outcome.UPDATED:
            yield on(
                "CANARY_GATED",
                f"{node_id}, the canary of {key}, is updated, but has not passed for its kind",
                told(
                    fleet,
                    "An operator must judge it",
                    row.rollout_id,
                    {Call.WAIVE: (), **without, Call.ROLL_BACK: ()},
                    joint=": ",
                ),
                orders,
            )
        elif member.outcome in _UNDER_WAY:
            yield on(
                "CANARY_UNDER_WAY",
                f"{node_id}, the canary of {key}, must pass first",
                _stuck(draft, index, node_id, kind),
                orders,
            )
        else:
            yield on(
                "CANARY_FAILED",
                f"{node_id}, the canary of {key}, is {member.outcome}"
                + (f" ({member.reason})" if member.reason else ""),
                told(
                    fleet,
                    f"An operator must look at it (`liveroll story {node_id}`), mend it, and decide",
                    row.rollout_id,
                    {Call.RETRY: [node_id], **without},
                    joint=": ",
                ),
                orders,
            )


_UNDER_WAY = frozenset({Outcome.PENDING, Outcome.OPEN, Outcome.BAKING})


def _stuck(draft: Draft, index: RolloutIndex, canary: str, kind: Sequence[str]) -> str:
    """What to do about a canary that has jumped once, and cannot take its turn again by itself;
    empty while it is under way. It may stand in a later wave, where nobody looks yet."""
    place = index.standings[canary].place
    at = _PLACES.get(place) if place is not None else None
    if at is None or not at.acts:
        return ""
    lead = f"{canary}: {at.text}. {at.lead.format(node=canary)}"
    calls = {**_about([canary], at), Call.EXCLUDE: [canary, *kind], Call.CANCEL: ()}
    return told(draft.fleet, lead, index.row.rollout_id, calls, joint=at.joint)


# --- places ------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _At:
    """How a place is told: what to do at the nodes, then which calls may help.

    acts: a person is waited for. off: a linked node that has crossed may have to be powered off,
    for it cannot be left out any more."""

    reason: str
    text: str
    lead: str = ""
    calls: tuple[Call, ...] = ()
    acts: bool = True
    off: bool = False
    joint: str = ", or "


_OUT = (Call.EXCLUDE, Call.WRITE_OFF)

_PLACES: Mapping[Place, _At] = {
    Place.NO_ROLLBACK: _At(
        "NO_ROLLBACK_ARTIFACT",
        "the node has nothing to go back to",
        "Restart the node's agent, which captures the running kernel",
        _OUT,
    ),
    Place.NOT_DUE: _At("RETRY_WAITS", "a retry waits for its backoff", acts=False),
    Place.UNKNOWN_LINK: _At(
        "LINK_UNKNOWN",
        "nothing was heard of the node since the orchestrator that it was linked to ended",
        acts=False,
    ),
    Place.UNREACHABLE: _At(
        "NODE_UNREACHABLE", "the node has no link", "Bring the node or its agent back", _OUT
    ),
    Place.MAINTENANCE: _At(
        "NODE_IN_MAINTENANCE",
        "the node is in maintenance",
        "Its owner must finish",
        (Call.END_MAINTENANCE, *_OUT),
    ),
    Place.UNHEALTHY: _At("NODE_UNHEALTHY", "the node's probes fail before its update", "Mend the node", _OUT),
    Place.NOT_READY: _At(
        "NODE_NOT_READY",
        "the node would refuse an attempt now",
        "See `liveroll node {node}` for what must be done there",
        _OUT,
    ),
    Place.NEEDS_WORD: _At(
        "NEEDS_OPERATOR",
        "the node's last attempt ended so that only a person may begin another",
        "Look at the node (`liveroll story {node}`) and mend it",
        (Call.RETRY, *_OUT),
        joint=", then ",
        off=True,
    ),
    Place.STAGING: _At("STAGING", "the node fetches the artifact", acts=False),
    Place.NOT_STAGED: _At("STAGING_WAITS", "the node waits for its turn to fetch the artifact", acts=False),
}

_NOTHING_BACK = (
    "Boot the node into its previous kernel by hand, and it counts as back; the rollout goes on without it."
)


def places(draft: Draft, index: RolloutIndex) -> Iterator[Blocker]:
    """Members whose turn has come, and that are not ready."""
    queues = [(wave_name(index.row, wave), queue) for wave, queue in index.due_queues()]
    queues.append(("", index.queue(Lane.BACK)))
    for wave, queue in queues:
        for place, orders in sorted(queue.waiting.items()):
            if place is Place.OTHER_ROLLOUT:
                yield _other_rollout(draft, orders, wave)
            elif place is Place.SUPERSEDED:
                awaited = draft.awaited.get(index.row.rollout_id, ())
                if gone := [order for order in orders if order[1] not in awaited]:
                    yield from _superseded(draft, index, gone)
            elif place is Place.STAGE_FAILED:
                yield from _stage_failed(draft, index.row, orders, wave)
            elif place is Place.NOT_READY:
                yield from _not_ready(draft, index.row, orders, wave)
            elif place is Place.NEEDS_WORD:
                yield from _needs_word(draft, index.row, orders, wave)
            elif place in _PLACES:
                at = _PLACES[place]
                remedy = _remedy(draft, index.row, at, orders)
                if place is Place.NO_ROLLBACK and not wave:
                    remedy = _NOTHING_BACK
                until = _ends(draft, index, place, orders)
                yield on(at.reason, at.text, remedy, orders, wave=wave, until=until)


def _ids(orders: Sequence[Order]) -> list[str]:
    return [node_id for _, node_id in orders]


def _about(nodes: Sequence[str], at: _At) -> dict[Call, Sequence[str]]:
    return dict.fromkeys(at.calls, nodes)


def _remedy(draft: Draft, row: RolloutRow, at: _At, orders: Sequence[Order]) -> str:
    if not at.acts:
        return ""
    members = draft.fleet.members(row.rollout_id)
    nodes = _ids(orders)
    crossed = [node_id for node_id in nodes[:FEW] if at.off and members[node_id].crossed]
    calls = {**_about(nodes, at), **({Call.ROLL_BACK: ()} if crossed else {})}
    lead = at.lead.format(node=nodes[0])
    return told(draft.fleet, lead, row.rollout_id, calls, last=crossed, joint=at.joint)


def _needs_word(draft: Draft, row: RolloutRow, orders: Sequence[Order], wave: str) -> Iterator[Blocker]:
    """A node that another rollout found unhealthy waits for that one's rollback, not for a retry."""
    at, fleet = _PLACES[Place.NEEDS_WORD], draft.fleet
    unhealthy = []
    for order in orders[:LOOKED_AT]:
        newest = fleet.newest_attempt(order[1])
        if newest is not None and newest.phase is Phase.AWAITING_ROLLBACK:
            unhealthy.append(order)
    others = [order for order in orders if order not in unhealthy] if unhealthy else orders
    if others:
        yield on(at.reason, at.text, _remedy(draft, row, at, others), others, wave=wave)
    if unhealthy:
        newest = fleet.newest_attempt(unhealthy[0][1])
        assert newest is not None
        name, nodes = newest.rollout_id, _ids(unhealthy)
        who, lead = f"rollout {name}", f"It must go back first (`liveroll why {name}`)"
        if not name:
            who, lead = "a rollout that the store has lost", "Boot it into the kernel that it came from"
        back = told(fleet, lead, name, {Call.ROLL_BACK: ()}).removesuffix(".")
        yield on(
            at.reason,
            f"{who} found the node unhealthy, and it has not gone back",
            told(fleet, back, row.rollout_id, dict.fromkeys(_OUT, nodes), last=nodes),
            unhealthy,
            wave=wave,
        )


def _not_ready(draft: Draft, row: RolloutRow, orders: Sequence[Order], wave: str) -> Iterator[Blocker]:
    """One for each thing that the nodes say, in their words."""
    at, members = _PLACES[Place.NOT_READY], draft.fleet.members(row.rollout_id)
    groups: dict[tuple[str, str], list[Order]] = {}
    for order in orders:
        problem = draft.fleet.nodes[order[1]].refuses
        assert problem is not None, "this is why they are here"
        groups.setdefault((problem.message, problem.remedy), []).append(order)
    for (message, remedy), some in sorted(groups.items()):
        nodes = _ids(some)
        lead = f"On the node: {remedy.rstrip('.')}" if remedy else at.lead.format(node=nodes[0])
        crossed = [node_id for node_id in nodes[:FEW] if members[node_id].crossed]
        told_so = told(draft.fleet, lead, row.rollout_id, _about(nodes, at), last=crossed)
        yield on(at.reason, f"{at.text}: {message}", told_so, some, wave=wave)


def _ends(draft: Draft, index: RolloutIndex, place: Place, orders: Sequence[Order]) -> datetime | None:
    dues: list[datetime | None] = []
    if place is Place.NOT_DUE:
        dues = [index.members[node_id].not_before for _, node_id in orders[:LOOKED_AT]]
    elif place is Place.MAINTENANCE:
        rows = [draft.fleet.nodes[node_id] for _, node_id in orders[:LOOKED_AT]]
        dues = [row.maintenance.expires_at for row in rows if row.maintenance is not None]
    elif place is Place.UNKNOWN_LINK:
        dues = [draft.fleet.unknown_until(node_id) for _, node_id in orders[:LOOKED_AT]]
    return min((due for due in dues if due is not None), default=None)


def _other_rollout(draft: Draft, orders: Sequence[Order], wave: str) -> Blocker:
    newest = draft.fleet.newest_attempt(orders[0][1])
    assert newest is not None, "the other rollout's"
    if not newest.rollout_id:
        return on(
            "OTHER_ROLLOUT",
            f"attempt {newest.generation}, of a future that the store has lost, is open on the node",
            "It goes on when that has been undone or has ended (`liveroll differences`).",
            orders,
            wave=wave,
        )
    other = draft.fleet.rollouts.get(newest.rollout_id)
    name = other.spec.name if other is not None else "unknown"
    return on(
        "OTHER_ROLLOUT",
        f"rollout {name} is at work on the node",
        f"It goes on when {name} has committed it or ended (`liveroll why {name}`).",
        orders,
        wave=wave,
    )


def _superseded(draft: Draft, index: RolloutIndex, orders: Sequence[Order]) -> Iterator[Blocker]:
    """One for each rollout that has taken some, as far as they are looked at."""
    groups: dict[tuple[str, str], list[Order]] = {}
    for order in orders[:LOOKED_AT]:
        last = draft.fleet.last_attempt(index.members[order[1]])
        assert last is not None, "the other rollout's"
        groups.setdefault((last.rollout_id, last.to_release), []).append(order)
    lead = "This rollout ends without it, FAILED (`liveroll why` says then what to do)"
    for (other, release), some in sorted(groups.items()):
        remedy = told(draft.fleet, lead, other, {Call.ROLL_BACK: ()})
        yield on("SUPERSEDED", superseded_by(other, release), remedy, some)
    if rest := orders[LOOKED_AT:]:
        yield on("SUPERSEDED", "another rollout has taken the node elsewhere since", f"{lead}.", rest)


def _stage_failed(draft: Draft, row: RolloutRow, orders: Sequence[Order], wave: str) -> Iterator[Blocker]:
    """One for each reason, and whether it is tried again by itself."""
    groups: dict[tuple[str, bool], list[Order]] = {}
    for order in orders:
        node = draft.fleet.nodes[order[1]]
        _, until = staging.is_held(node, row, draft.fleet.policy, draft.now)
        reason = node.stage_problem.reason if node.stage_problem is not None else ""
        groups.setdefault((reason, until is None), []).append(order)
    for (_, waits), some in sorted(groups.items()):
        yield _unstaged(draft, row, some, wave, waits=waits)


def _unstaged(draft: Draft, row: RolloutRow, orders: Sequence[Order], wave: str, *, waits: bool) -> Blocker:
    """waits: for a person, or for the node to begin anew."""
    nodes = [draft.fleet.nodes[node_id] for node_id in _ids(orders)]
    problem = nodes[0].stage_problem
    ends = [staging.is_held(node, row, draft.fleet.policy, draft.now)[1] for node in nodes]
    until = min((end for end in ends if end is not None), default=None)
    text = f"the artifact cannot be staged: {problem.message}" if problem else "the artifact cannot be staged"
    lead = problem.remedy.rstrip(".") if problem and problem.remedy else "Look at the node's agent log"
    if waits:
        ids = _ids(orders)
        remedy = told(
            draft.fleet,
            lead,
            row.rollout_id,
            {Call.RETRY: ids, Call.EXCLUDE: ids},
            joint=", then ",
        )
    elif problem and problem.remedy:
        remedy = problem.remedy
    else:
        remedy = told(draft.fleet, lead, row.rollout_id, {Call.EXCLUDE: _ids(orders)})
    return on("STAGE_FAILED", text, remedy, orders, wave=wave, until=until)
