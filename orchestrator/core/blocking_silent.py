"""What is said of open attempts whose nodes are silent.

Rules
1. A node in its blackout is silent, and that is expected: until its silence lease ends nobody need
   do anything. A PRESERVED node whose PROCEED is out may be in it, its last report underway.
2. Any other silence, and one without an end, wants a person.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import datetime
from typing import TYPE_CHECKING

from orchestrator.core.blockers import FEW, Blocker
from orchestrator.core.blocking_nodes import LOOKED_AT
from orchestrator.core.phases import BLIND, Phase
from orchestrator.core.remedies import Call, told

if TYPE_CHECKING:
    from orchestrator.core.fleet import Fleet
    from orchestrator.core.index import RolloutIndex

_LOOKED_AT = LOOKED_AT


def silent(fleet: Fleet, index: RolloutIndex) -> Iterator[Blocker]:
    """Open attempts that only a returning node, or its silence lease, can end."""
    dark: list[str] = []
    others: list[str] = []
    for node_id in sorted(index.silent):
        (dark if _may_be_dark(fleet, node_id) else others).append(node_id)
    until = _first_end(fleet, dark)
    if until is not None:
        yield Blocker("IN_BLACKOUT", _dark(fleet, dark, until), "", tuple(dark[:FEW]), len(dark), until)
    else:
        others = sorted([*dark, *others])
    if others:
        yield Blocker(
            "ATTEMPT_SILENT",
            "the node's attempt is open, and nothing is heard of the node",
            told(
                fleet,
                "Bring the node or its agent back; past its silence lease it counts as lost",
                index.row.rollout_id,
                {Call.WRITE_OFF: others},
            ),
            tuple(others[:FEW]),
            len(others),
            _first_end(fleet, others) or _first_known(fleet, others),
        )


def _may_be_dark(fleet: Fleet, node_id: str) -> bool:
    """Rule 1."""
    a = fleet.newest_attempt(node_id)
    assert a is not None, "what is silent is an attempt"
    return a.phase in BLIND or (a.phase is Phase.PRESERVED and a.proceed_until is not None)


def _first_end(fleet: Fleet, nodes: Sequence[str]) -> datetime | None:
    """When the first of them counts as lost; None while none of them can."""
    ends = (fleet.lost_at(node_id) for node_id in nodes[:_LOOKED_AT])
    return min((at for at in ends if at is not None), default=None)


def _first_known(fleet: Fleet, nodes: Sequence[str]) -> datetime | None:
    """When the first of them is known to be down: in the grace nobody's silence counts yet."""
    ends = (fleet.unknown_until(node_id) for node_id in nodes[:_LOOKED_AT])
    return min((at for at in ends if at is not None), default=None)


def _dark(fleet: Fleet, nodes: Sequence[str], until: datetime) -> str:
    """Instants, not durations: it may be read long after it was said."""
    if len(nodes) > 1:
        return f"in their blackout; the first is lost at {until:%H:%M:%S} UTC if it stays silent"
    a = fleet.newest_attempt(nodes[0])
    since = a.blackout_open_at if a is not None else None
    text = "in its blackout" + (f" since {since:%H:%M:%S} UTC" if since is not None else "")
    return f"{text}; lost at {until:%H:%M:%S} UTC if it stays silent"
