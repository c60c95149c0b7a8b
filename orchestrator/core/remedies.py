"""What a person may do about a stall: only what would not be refused now.

Rules
1. Whether a call is possible is asked of the call itself (operations.py) on the rows as they are:
   a remedy names no call that would be refused, and none that would change nothing.
2. Of several nodes, a call is named for those that it would do something for.
3. A write-off is refused for a linked node; where it is what is left, the remedy says that the
   node must be powered off first.
"""

from __future__ import annotations

import enum
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING

from orchestrator.core import operations
from orchestrator.core.blockers import FEW
from orchestrator.core.model import Change, Maintenance
from orchestrator.core.phases import Link
from orchestrator.errors import LiverollError

if TYPE_CHECKING:
    from datetime import datetime

    from orchestrator.core.fleet import Fleet


class Call(enum.StrEnum):
    """An operator's call that a remedy may name, and what it brings about."""

    RETRY = "`liveroll retry {rollout} {nodes}` tries again"
    EXCLUDE = "`liveroll exclude {rollout} {nodes} -m WHY` goes on without"
    WRITE_OFF = "`liveroll write-off {nodes} -m WHY` gives up on what will not return"
    MAINTAIN = "`liveroll maintenance {nodes} -m WHY` takes out of the count"
    END_MAINTENANCE = "`liveroll maintenance {nodes} --end` ends the maintenance"
    WAIVE = "`liveroll approve {rollout}` waives the gates"
    COMMIT = "`liveroll commit {rollout} {nodes}` commits"
    CLEAR_HALT = "`liveroll resume {rollout} --clear-halt` accepts what happened"
    ROLL_BACK = "`liveroll rollback {rollout}` goes back"
    CANCEL = "`liveroll cancel {rollout}` ends it"


_ON_NODES = frozenset(
    {Call.RETRY, Call.EXCLUDE, Call.WRITE_OFF, Call.MAINTAIN, Call.END_MAINTENANCE, Call.COMMIT}
)
_WHY = "asked"

_Ask = Callable[["Fleet", str, Sequence[str], "datetime"], Change]

_ASK: Mapping[Call, _Ask] = {
    Call.RETRY: lambda f, r, n, t: operations.retry_nodes(f, r, n, _WHY, _WHY, t).change,
    Call.EXCLUDE: lambda f, r, n, t: operations.exclude_nodes(f, r, n, _WHY, _WHY, t).change,
    Call.WRITE_OFF: lambda f, r, n, t: operations.write_off(f, n, _WHY, _WHY, t).change,
    Call.MAINTAIN: lambda f, r, n, t: (
        operations.set_maintenance(f, n, Maintenance(_WHY, _WHY), _WHY, t).change
    ),
    Call.END_MAINTENANCE: lambda f, r, n, t: operations.set_maintenance(f, n, None, _WHY, t).change,
    Call.COMMIT: lambda f, r, n, t: operations.commit_nodes(f, r, n, _WHY, _WHY, t).change,
    Call.WAIVE: lambda f, r, n, t: operations.approve(f, r, "", _WHY, _WHY, t),
    Call.CLEAR_HALT: lambda f, r, n, t: operations.resume(f, r, _WHY, True, _WHY, t),
    Call.ROLL_BACK: lambda f, r, n, t: operations.roll_back(f, r, _WHY, _WHY, t),
    Call.CANCEL: lambda f, r, n, t: operations.cancel(f, r, _WHY, False, _WHY, t),
}


def possible(fleet: Fleet, call: Call, rollout_id: str, nodes: Sequence[str] = ()) -> tuple[str, ...] | None:
    """Rules 1 and 2: the nodes that the call would do something for; None if it would do nothing
    at all. A call without nodes gives ()."""

    def goes(some: Sequence[str]) -> bool:
        try:
            return bool(_ASK[call](fleet, rollout_id, some, fleet.now).writes)
        except LiverollError:
            return False

    if call not in _ON_NODES:
        return () if goes(()) else None
    return tuple(node_id for node_id in nodes[:FEW] if goes((node_id,))) or None


def told(
    fleet: Fleet,
    lead: str,
    rollout_id: str,
    calls: Mapping[Call, Sequence[str]],
    last: Sequence[str] = (),
    joint: str = ", or ",
) -> str:
    """A remedy: what to do at the nodes, and the calls that are possible.

    lead: a clause without full stop; joint: what ties the calls to it. calls: each with the nodes
    it would be about. last: nodes that only a write-off would help, for which rule 3 is told.
    """
    named = []
    for call, nodes in calls.items():
        found = possible(fleet, call, rollout_id, nodes)
        if found is not None:
            more = " …" if len(nodes) > FEW else ""
            named.append(call.format(rollout=rollout_id, nodes=" ".join(found) + more))
    linked = [n for n in last[:FEW] if fleet.link(n, fleet.now) is Link.UP]
    if linked:
        given_up = Call.WRITE_OFF.format(nodes=" ".join(linked))
        named.append(f"once powered off and without a link, {given_up}")
    return joint.join(filter(None, (lead, ", or ".join(named)))) + "."
