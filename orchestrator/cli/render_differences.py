"""How the differences between the store and its nodes look. Pure; see render.py."""

from __future__ import annotations

from liveroll.v1 import common_pb2
from liveroll.v1 import rollout_pb2 as pb
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

_STYLES = {
    "COUNTS_AS_UPDATED": "green",
    "CAUGHT_UP": "green",
    "NUMBERS_ONLY": "dim",
    "UNWINDS": "yellow",
    "SETTLES": "yellow",
}
"""By outlook; the others need somebody."""


def differences_view(found: pb.ListDifferencesResponse) -> RenderableType:
    """What `differences` prints: why the fleet stands, each node, who has not been heard, what to do."""
    parts: list[RenderableType] = []
    if found.stopped:
        parts.append(Text.assemble(("the fleet is stopped: ", "bold red"), found.stop_reason))
    if found.differences:
        parts.append(_table(found))
        parts += [Text.assemble((d.node_id, "bold"), f": {d.remedy}") for d in found.differences if d.remedy]
    parts.append(Text(_counts(found)))
    if found.stopped:
        parts.append(Text(_way_on(found)))
    return Group(*parts)


def _table(found: pb.ListDifferencesResponse) -> Table:
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="dim")
    for name in ("node", "the store had", "the node says", "what becomes of it"):
        table.add_column(name, overflow="fold")
    for d in found.differences:
        table.add_row(
            Text(d.node_id),
            Text(_side(d.store)),
            Text(_side(d.node)),
            Text.assemble((d.outlook, _STYLES.get(d.outlook, "bold red")), f" {d.message}"),
        )
    return table


def _side(side: pb.NodeMemory) -> str:
    """`6.18.9, attempt 3 COMMITTED`; the highest generation where it is not the attempt's."""
    phase = common_pb2.Phase.Name(side.phase).removeprefix("PHASE_")
    words = [side.kernel_release or "not enrolled"]
    if side.attempt:
        words.append(f"attempt {side.attempt} {phase}")
    if side.highest_generation != side.attempt:
        words.append(f"generation {side.highest_generation}")
    return ", ".join(words)


def _counts(found: pb.ListDifferencesResponse) -> str:
    text = f"{found.difference_count} of {found.node_count} nodes differ"
    if not found.unheard_count:
        return text
    few = ", ".join(found.unheard[:5])
    more = f" and {found.unheard_count - 5} more" if found.unheard_count > 5 else ""
    return f"{text}; {found.unheard_count} have not said Hello: {few}{more}"


def _way_on(found: pb.ListDifferencesResponse) -> str:
    if found.difference_count or found.unheard_count:
        return "to go on from here: liveroll release --accept-differences -m WHY"
    return "nothing differs; to go on: liveroll release -m WHY"
