"""Which node goes first for each kernel pair.

Rules (I5)
1. Each (from release, to release, hardware model) has one canary at a time. Wave 0 is made of
   them; a pair found later gets its first ready member as canary, in place.
2. At most canary.max_nodes canaries of pairs that have not passed are under way beyond wave 0;
   the other pairs wait their turn. One that is tried again from another kernel has given its turn back.
3. A canary that cannot take its turn, or that ended before its jump, is replaced; after the jump
   it never is: its failure is the pair's answer.
4. A canary that has jumped, is tried again and was moved to the last wave because it could not take
   its turn, comes back into the current wave as soon as it can: its kind waits for it.
5. A late pair passes when its canary is UPDATED and no gate fails on its samples.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType

from orchestrator.core.index import Order, RolloutIndex
from orchestrator.core.model import MemberRow, NewEvent, Pair, RolloutRow
from orchestrator.core.phases import Outcome
from orchestrator.core.standing import Lane, Place, pair_key

_UNDER_WAY = frozenset({Outcome.OPEN, Outcome.BAKING})
_ANSWERED = frozenset({Outcome.UPDATED, Outcome.ROLLED_BACK})
"""It has jumped, and been found good or bad: a node that is back is no less an answer."""
_TRIED_AGAIN = frozenset({Outcome.PENDING, Outcome.FAILED})
"""By an operator's word, after it had come back."""
_WAITS = frozenset({Place.READY, Place.NOT_DUE, Place.NOT_STAGED, Place.STAGING, Place.STAGE_FAILED})
"""Places from which a canary will start without anybody's doing."""


@dataclass(frozen=True, slots=True)
class Canaries:
    """What becomes of a rollout's canaries: the row's mapping, members moved into wave 0."""

    chosen: Mapping[str, str]
    moved: tuple[MemberRow, ...] = ()
    events: tuple[NewEvent, ...] = ()


def stands(index: RolloutIndex, key: str, node_id: str) -> bool:
    """Rule 3: whether the node is still the pair's canary."""
    member, standing = index.members.get(node_id), index.standings.get(node_id)
    if member is None or standing is None:
        return False
    if member.crossed or member.outcome in _UNDER_WAY or member.outcome in _ANSWERED:
        return True
    if member.jumped and member.outcome in _TRIED_AGAIN:
        return True
    return (
        standing.lane is Lane.FORWARD
        and standing.place in _WAITS
        and pair_key(standing.bucket[1]) == key
        and member.wave <= index.row.wave
    )


def recalled(index: RolloutIndex) -> list[MemberRow]:
    """Rule 4."""
    wave = index.row.wave
    return [
        replace(index.members[node_id], wave=wave)
        for key, node_id in index.row.pair_canaries.items()
        if (member := index.standings.get(node_id)) is not None
        and member.wave > wave
        and member.lane is Lane.FORWARD
        and member.place in _WAITS
        and stands(index, key, node_id)
    ]


def under_way(index: RolloutIndex) -> list[str]:
    """Pairs whose canary has not had its answer yet."""
    row = index.row
    passed = {pair_key(pair) for pair in row.pairs_passed}
    return [
        key
        for key, node_id in row.pair_canaries.items()
        if key not in passed
        and stands(index, key, node_id)
        and (index.members[node_id].outcome in _UNDER_WAY or _waits_for(index, key, node_id))
    ]


def _waits_for(index: RolloutIndex, key: str, node_id: str) -> bool:
    """Its turn is to come, and it is of this pair still. One that is tried again from another kernel is of
    another pair, whose canary it must not hold up."""
    return (
        index.members[node_id].outcome is Outcome.PENDING
        and pair_key(index.standings[node_id].bucket[1]) == key
    )


def choose(index: RolloutIndex) -> Canaries:
    """Canaries for pairs whose members are ready and that have none that stands."""
    row = index.row
    chosen = dict(row.pair_canaries)
    events: list[NewEvent] = []
    room = row.spec.canary.max_nodes - len(under_way(index))
    for pair, orders in sorted(_ready(index).items()):
        key = pair_key(pair)
        known = chosen.get(key)
        if (row.wave > 0 and pair in row.pairs_passed) or (known is not None and stands(index, key, known)):
            continue
        if row.wave > 0:
            if room <= 0:
                continue
            room -= 1
        node_id = _first(row, orders)
        chosen[key] = node_id
        events.append(_told(row, key, node_id, known))
    moved = _refill(index, chosen, events) if row.wave == 0 else []
    return Canaries(MappingProxyType(chosen), tuple(moved), tuple(events))


def _ready(index: RolloutIndex) -> dict[Pair, list[Order]]:
    """Heads of the ready buckets of waves whose turn has come, by pair."""
    found: dict[Pair, list[Order]] = {}
    preferred = index.row.spec.canary.nodes
    for _, queue in index.due_queues():
        for bucket, orders in queue.ready.items():
            heads = found.setdefault(bucket[1], [])
            heads.append(orders[0])
            if preferred:
                heads += [order for order in orders if order[1] in preferred]
    return found


def _first(row: RolloutRow, orders: list[Order]) -> str:
    preferred = {node_id: i for i, node_id in enumerate(row.spec.canary.nodes)}
    return min(orders, key=lambda order: (preferred.get(order[1], len(preferred)), order))[1]


def _refill(index: RolloutIndex, chosen: dict[str, str], events: list[NewEvent]) -> list[MemberRow]:
    """In wave 0: another member of the pair takes the place of a canary that cannot."""
    moved: list[MemberRow] = []
    for key, node_id in index.row.pair_canaries.items():
        if chosen[key] != node_id or stands(index, key, node_id):
            continue
        replacement = _candidate(index, key)
        if replacement is not None:
            chosen[key] = replacement
            events.append(_told(index.row, key, replacement, node_id))
            moved.append(replace(index.members[replacement], wave=0))
    return moved


def _candidate(index: RolloutIndex, key: str) -> str | None:
    best: Order | None = None
    for (lane, wave), queue in index.queues.items():
        if lane is not Lane.FORWARD or wave == 0:
            continue
        orders = [order for of in queue.ready.values() for order in of]
        orders += [order for place in _WAITS for order in queue.waiting.get(place, ())]
        for order in orders:
            if pair_key(index.standings[order[1]].bucket[1]) == key and (best is None or order < best):
                best = order
    return best[1] if best is not None else None


def _told(row: RolloutRow, key: str, node_id: str, instead_of: str | None) -> NewEvent:
    text = f"{node_id} is the canary of {key}"
    if instead_of is not None:
        text += f" instead of {instead_of}"
    return NewEvent("canary.chosen", text, rollout_id=row.rollout_id, node_id=node_id, fields={"pair": key})
