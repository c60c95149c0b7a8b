"""What nodes have lived through that the store did not know, and what becomes of it: for a person
who must say whether the fleet may go on.

Pure views of rows; transitions_regression.py notices, adoption.py acts.

Rules
1. A difference stands on its node's row from the Hello that proved it to the node's next attempt. It is
   told until the store goes back in time once more: of what is told then, a person has accepted nothing.
2. A node is unheard if it has said no Hello to the store as it is now, and may still: it is neither
   written off, nor linked, nor was its link taken under the store's incarnation.
"""

from __future__ import annotations

import enum
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING

from orchestrator.core.adoption import home_of, is_open
from orchestrator.core.beyond import Beyond
from orchestrator.core.model import AttemptRow, NodeRow
from orchestrator.core.phases import BEFORE_JUMP, Goal, Kind, Link, Phase
from orchestrator.core.transitions_regression import stands

if TYPE_CHECKING:
    from orchestrator.core.fleet import Fleet


class Outlook(enum.StrEnum):
    """What becomes of a node that differs."""

    COUNTS_AS_UPDATED = "COUNTS_AS_UPDATED"
    CAUGHT_UP = "CAUGHT_UP"
    UNWINDS = "UNWINDS"
    SETTLES = "SETTLES"
    ROLLED_BACK = "ROLLED_BACK"
    NEEDS_WORD = "NEEDS_WORD"
    UNCLAIMED = "UNCLAIMED"
    REFUSED = "REFUSED"
    NUMBERS_ONLY = "NUMBERS_ONLY"


@dataclass(frozen=True, slots=True)
class Difference:
    """One node's."""

    node_id: str
    beyond: Beyond
    phase: Phase
    """Where its newest attempt stands now."""
    outlook: Outlook
    message: str
    remedy: str = ""
    """Who must do what; empty where nobody must."""
    rollout_id: str = ""
    """That takes it in, or has."""


_BROKEN = frozenset({Phase.AWAITING_ROLLBACK, Phase.QUARANTINED, Phase.COLD_BOOTED, Phase.LOST})


def differences(fleet: Fleet) -> Iterator[Difference]:
    """All that stand, in the order of the nodes' names."""
    for node_id in sorted(fleet.nodes):
        node = fleet.nodes[node_id]
        beyond = told_of(fleet, node)
        if beyond is not None:
            yield _difference(fleet, node, beyond)


def told_of(fleet: Fleet, node: NodeRow) -> Beyond | None:
    """The node's difference, if it is of the last loss."""
    beyond = node.beyond
    return beyond if beyond is not None and beyond.loss == fleet.row.losses else None


def unheard(fleet: Fleet, now: datetime) -> Iterator[str]:
    """Rule 2, in the order of the nodes' names."""
    for node_id in sorted(fleet.nodes):
        node = fleet.nodes[node_id]
        if node.written_off or fleet.link(node_id, now) is Link.UP:
            continue
        since = fleet.row.stopped_at if stands(fleet.row) else None
        told = node.link_changed_at
        heard = node.incarnation == fleet.incarnation and (since is None or (told or since) > since)
        beyond = told_of(fleet, node)
        if not heard and not (beyond is not None and beyond.refused):
            yield node_id


def _difference(fleet: Fleet, node: NodeRow, beyond: Beyond) -> Difference:
    newest = fleet.newest_attempt(node.node_id)
    phase = newest.phase if newest is not None else Phase.IDLE

    def found(outlook: Outlook, message: str, remedy: str = "", rollout_id: str = "") -> Difference:
        return Difference(node.node_id, beyond, phase, outlook, message, remedy, rollout_id)

    if beyond.refused:
        of = beyond.node.incarnation or "another store"
        return found(
            Outlook.REFUSED,
            f"it knows {of}, of which this store knows nothing; it may link once the fleet is released",
            "See that it is this orchestrator's node: its settings say where it dials.",
        )
    if newest is None or newest.generation < beyond.node.attempt:
        return found(Outlook.NUMBERS_ONLY, f"its next attempt is {node.highest_generation + 1}")
    rollout_id = newest.rollout_id
    if not rollout_id and (home := home_of(fleet, newest)) is not None:
        rollout_id = home.rollout.rollout_id
    rollout = fleet.rollouts.get(rollout_id)
    outlook, message, remedy = _outlook(newest, rollout_id, rollout is None or rollout.goal is Goal.FORWARD)
    return found(outlook, message, remedy, rollout_id)


def _outlook(a: AttemptRow, rollout_id: str, forward: bool) -> tuple[Outlook, str, str]:
    """forward: its rollout, if it has one, goes forward."""
    name, of = f"attempt {a.generation}", f" of {rollout_id}" if rollout_id else ""
    if is_open(a):
        if a.phase in BEFORE_JUMP or a.phase is Phase.UNWINDING:
            then = "; the node's turn comes again" if rollout_id else ""
            return Outlook.UNWINDS, f"{name} is {a.phase}, and is undone{then}", ""
        return Outlook.SETTLES, f"{name} is {a.phase}: how it ends counts{of}", ""
    if not a.adopted:
        return Outlook.CAUGHT_UP, f"the store has caught up with {name}{of}: {a.phase}", ""
    if a.phase in _BROKEN:
        why = a.problem.message if a.problem is not None else a.failure
        remedy = (
            f"See `liveroll why {rollout_id} --node {a.node_id}` once the fleet is released."
            if rollout_id
            else f"Look at the node; then retry it by name in the rollout that wants it (`liveroll node "
            f"{a.node_id}`)."
        )
        return Outlook.NEEDS_WORD, f"{name} is {a.phase}{f' ({why})' if why else ''}", remedy
    if a.phase is Phase.ABORTED:
        return Outlook.NUMBERS_ONLY, f"{name} was undone; its next is {a.generation + 1}", ""
    if a.kind is Kind.ROLLBACK:
        again = f"`liveroll retry {rollout_id} {a.node_id} -m WHY` sends it forward again."
        remedy = again if rollout_id and forward else ""
        return Outlook.ROLLED_BACK, f"{name}{of} took it back to {a.to_release}: it stays there", remedy
    if rollout_id:
        text = f"runs {a.to_release} by {name}: counts as updated in {rollout_id}"
        return Outlook.COUNTS_AS_UPDATED, text, ""
    if a.phase is Phase.COMMITTED:
        return Outlook.NUMBERS_ONLY, f"runs {a.to_release} by {name}, and no rollout wants it elsewhere", ""
    return (
        Outlook.UNCLAIMED,
        f"runs {a.to_release} by {name}, uncommitted: a cold boot would start {a.from_release}, and no "
        "rollout knows of it",
        f"Create a rollout to {a.to_release} that selects it, which then takes it in; or `luoctl commit` on "
        "the node.",
    )


def counted(found: Iterable[Difference]) -> Mapping[str, int]:
    """How many of each outlook, for an event and a sentence."""
    return Counter(difference.outlook.value for difference in found)


def in_words(found: Sequence[Difference], missing: Sequence[str]) -> str:
    """`12 nodes differ from the store (COUNTS_AS_UPDATED 9, UNWINDS 3), 2 have not said Hello`"""
    many = ", ".join(f"{outlook} {count}" for outlook, count in sorted(counted(found).items()))
    text = f"{len(found)} nodes differ from the store" + (f" ({many})" if many else "")
    return f"{text}, {len(missing)} have not said Hello" if missing else text
