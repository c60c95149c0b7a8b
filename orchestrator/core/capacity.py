"""Whether a Change leaves less room for starts than there was: what Change.shrinks is.

Any replica may commit what takes room away (a report, a Hello, the end of a link, an operator's
word), and the planner may not have seen it yet. Such a Change raises the CapacityRow's revision;
every start guards the revision that it was planned at, so none stands on budgets that have become
smaller since.

Rules
1. Judged node by node, from rows alone, before and after: `spending`. What this process has heard
   of links does not count: other replicas have heard otherwise, and the edge will be a row.
2. Room is taken by a node that becomes unavailable, takes a blackout slot again, is under way or
   bakes again, or fails; that leaves the count (percentages are of fewer nodes); whose labels
   change (it counts in another domain, and one domain has fewer nodes).
3. A start (a new attempt with its PREPARE) is no loss, and LOST is none: both are the one
   planner's own, under one epoch, and it counts them itself. So nothing that a plan does stands in
   the way of its starts.
4. Whoever commits asks here, once, for every Change (runtime/commits.py); nobody else sets shrinks.
5. The row is raised by whoever shrinks without having read it. So who shrinks learns a revision,
   yet not of the losses before it: `seen_whole` tells whether it may be taken in.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Protocol

from orchestrator.core.model import AttemptRow, CapacityRow, Change, DesiredPrepare, NodeRow
from orchestrator.core.phases import UNAVAILABLE, Kind, Link, Phase
from orchestrator.core.standing import holds_blackout_slot, in_maintenance, is_open, is_unavailable


class Known(Protocol):
    """Rows as they are before the Change: the fleet's."""

    @property
    def nodes(self) -> Mapping[str, NodeRow]: ...
    @property
    def attempts(self) -> Mapping[tuple[str, int], AttemptRow]: ...
    def newest_attempt(self, node_id: str) -> AttemptRow | None: ...


@dataclass(frozen=True, slots=True)
class Spending:
    """What one node takes from budgets, as its rows say."""

    counted: bool
    unavailable: bool
    blackout: bool
    uncommitted: bool
    """Under way forward, or baking."""
    domains: Mapping[str, str] | None
    """The labels that its attempt started with, where it counts under them, too."""


NOTHING = Spending(counted=False, unavailable=False, blackout=False, uncommitted=False, domains=None)
"""Of a node that does not exist."""


def spending(node: NodeRow | None, newest: AttemptRow | None, now: datetime) -> Spending:
    """Rule 1; the definitions are those of standing.py."""
    if node is None:
        return NOTHING
    counted = not in_maintenance(node, now) and not node.written_off
    link = Link.UP if node.link_up else Link.DOWN
    forward = newest is not None and newest.kind is Kind.FORWARD
    baking = newest is not None and newest.phase is Phase.BAKING
    elsewhere = newest is not None and newest.phase in UNAVAILABLE and newest.domains != node.labels
    return Spending(
        counted=counted,
        unavailable=counted and is_unavailable(node, newest, link),
        blackout=holds_blackout_slot(newest),
        uncommitted=is_open(newest) or (baking and forward and not node.written_off),
        domains=newest.domains if counted and newest is not None and elsewhere else None,
    )


def measured(fleet: Known, change: Change, now: datetime) -> Change:
    """The Change with `shrinks` as it must be: to be asked right before it is committed.

    fleet: as the Change's rows were read; if it has moved on, the Change does not stand anyway.
    """
    nodes = {row.node_id: row for row in change.writes if isinstance(row, NodeRow)}
    attempts = [row for row in change.writes if isinstance(row, AttemptRow)]
    if any(row.revision == 0 and _is_start(nodes.get(row.node_id), row) for row in attempts):
        return change
    newest = dict[str, AttemptRow]()
    for row in attempts:
        before = fleet.attempts.get((row.node_id, row.generation))
        if before is not None and row.failed and not before.failed and row.phase is not Phase.LOST:
            return replace(change, shrinks=True)
        known = fleet.newest_attempt(row.node_id)
        if known is None or row.generation >= known.generation:
            newest[row.node_id] = row
    for node_id in nodes.keys() | newest.keys():
        if _takes_room(fleet, node_id, nodes.get(node_id), newest.get(node_id), now):
            return replace(change, shrinks=True)
    return change


def _is_start(node: NodeRow | None, attempt: AttemptRow) -> bool:
    desired = node.desired if node is not None else None
    return isinstance(desired, DesiredPrepare) and desired.generation == attempt.generation


def _takes_room(
    fleet: Known, node_id: str, node: NodeRow | None, newest: AttemptRow | None, now: datetime
) -> bool:
    """node, newest: as written; None where they stay as they are."""
    known, attempt = fleet.nodes.get(node_id), fleet.newest_attempt(node_id)
    if node is not None and known is not None and node.labels != known.labels:
        return True
    before = spending(known, attempt, now)
    after = spending(node or known, newest or attempt, now)
    return (
        (before.counted and not after.counted)
        or (after.unavailable and not before.unavailable)
        or (after.blackout and not before.blackout)
        or (after.uncommitted and not before.uncommitted)
        or (after.domains is not None and before.domains is None)
    )


def seen_whole(known: CapacityRow, row: CapacityRow) -> bool:
    """Whether a process that has `known`, and whose own Change raised it to `row`, has seen every
    loss up to there (rule 5). If not, it reads the changes, which bring the row with them."""
    return row.revision == known.revision + 1
