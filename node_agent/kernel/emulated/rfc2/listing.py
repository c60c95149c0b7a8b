"""All files that one boot's LUO has a token for, as its debugfs would list them: for `luoctl list`.

In pages where they go through a message (see wire.MESSAGE_BYTES). A page begins after a file, not at a
number: one that is given up between two pages takes no other's place.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from node_agent.kernel.emulated.rfc2.states import LuoState

if TYPE_CHECKING:  # an agent knows pages, and needs no kernel for it
    from node_agent.kernel.emulated.rfc2.kernel import Rfc2
    from node_agent.kernel.emulated.rfc2.luo_files import LuoFile

REGISTERED = "registered"
ARRIVED, RESTORED, FAILED = "arrived", "restored", "failed"
CAME_IN = frozenset({ARRIVED, RESTORED, FAILED})

PAGE_FILES = 1000
"""A row has at most 20 digits and two short words."""

Row = tuple[int, str, str]
"""(token, kind, state)"""


def page(rows: Sequence[Row], after: Sequence[str]) -> Sequence[Row]:
    """Of listing(), what comes after a row of which `place` is. Shorter than PAGE_FILES: it was the last."""
    return [row for row in rows if not after or _order(place(row)) > _order(after)][:PAGE_FILES]


def place(row: Row) -> Sequence[str]:
    """Where a row is in listing(), as words."""
    token, _, state = row
    return ("in" if state in CAME_IN else "out", str(token))


def _order(place: Sequence[str]) -> tuple[bool, int]:
    way, token = place
    return way == "in", int(token)


def listing(rfc2: Rfc2) -> list[Row]:
    """Each file that goes out, then each that came in, by token."""
    state = rfc2.state
    going = REGISTERED if state in (None, LuoState.NORMAL, LuoState.UPDATED) else str(state)
    out = [(token, file.handler.kind, going) for token, file in sorted(rfc2.files.outgoing.items())]
    return out + [
        (token, file.handler.kind, _came(file)) for token, file in sorted(rfc2.files.incoming.items())
    ]


def _came(file: LuoFile) -> str:
    if file.errno:
        return FAILED
    return RESTORED if file.reclaimed else ARRIVED
