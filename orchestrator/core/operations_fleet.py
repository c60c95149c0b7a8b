"""The red button: the fleet stop and its release, over differences too.

Rules
1. A stop stops every rollout; its release is an audited call.
2. A fleet that stands still because its store went back in time is released only by who accepts the
   differences (differences.py); what was accepted stands in the event.
"""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime
from typing import TYPE_CHECKING

from orchestrator.core import differences
from orchestrator.core.model import Change, FleetRow, NewEvent
from orchestrator.core.operations_nodes import unchanged
from orchestrator.core.transitions_regression import STOPPED
from orchestrator.errors import Blocked

if TYPE_CHECKING:
    from orchestrator.core.fleet import Fleet

OPERATOR = "OPERATOR"
ACCEPTED_TOLD = 200
"""Names of nodes in the event of an acceptance; the rest is a count."""


def fleet_stop(
    fleet: Fleet, stop: bool, reason: str, actor: str, now: datetime, *, accept_differences: bool = False
) -> Change:
    """The red button: no rollout starts anything or jumps. stop False releases it.

    accept_differences: the word of a person who has seen what nodes have lived through beyond the
    store; without it a fleet that stands still because of that is not released. Blocked
    (DIFFERENCES_NOT_ACCEPTED).
    """
    row = fleet.row
    if stop == bool(row.stopped):
        return unchanged(row)
    if stop:
        why = reason.strip() or f"asked for by {actor}"
        stopped = replace(row, stopped=OPERATOR, stop_message=why, stopped_by=actor, stopped_at=now)
        event = NewEvent("fleet.stopped", f"all rollouts stop: {why}", actor=actor, cause=OPERATOR)
        return Change((stopped,), events=(event,))
    released = replace(row, stopped="", stop_message="", stopped_by="", stopped_at=None)
    text = f"the fleet stop ({row.stopped}) is released" + (f": {reason}" if reason else "")
    event = NewEvent("fleet.released", text, actor=actor, cause=row.stopped)
    if row.stopped == STOPPED:
        released, event = _with_differences(fleet, released, event, now, accepted=accept_differences)
    return Change((released,), events=(event,))


def _with_differences(
    fleet: Fleet, released: FleetRow, event: NewEvent, now: datetime, *, accepted: bool
) -> tuple[FleetRow, NewEvent]:
    """Released over a store that went back in time: what is accepted stands in the event."""
    found, missing = tuple(differences.differences(fleet)), tuple(differences.unheard(fleet, now))
    words = differences.in_words(found, missing)
    if (found or missing) and not accepted:
        raise Blocked(
            words,
            reason="DIFFERENCES_NOT_ACCEPTED",
            remedy="Look at them (`liveroll differences`), then release with --accept-differences. What is "
            "brought by nodes that have not said Hello is accepted with it.",
            differences=len(found),
            unheard=len(missing),
        )
    audit = {
        "differences": str(len(found)),
        "unheard": str(len(missing)),
        **differences.counted(found),
        "nodes": ",".join([d.node_id for d in found][:ACCEPTED_TOLD]),
        "unheard_nodes": ",".join(missing[:ACCEPTED_TOLD]),
    }
    told = replace(
        event,
        message=f"{event.message}; accepted: {words}",
        fields={name: str(value) for name, value in audit.items() if value},
    )
    return replace(released, unheard=frozenset(missing)), told
