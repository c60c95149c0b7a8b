"""All files that one boot's LUO has a token for, as its debugfs would list them: for `luoctl list`."""

from __future__ import annotations

from node_agent.kernel.emulated.rfc2.kernel import Rfc2
from node_agent.kernel.emulated.rfc2.luo_files import LuoFile
from node_agent.kernel.emulated.rfc2.states import LuoState

REGISTERED = "registered"
ARRIVED, RESTORED, FAILED = "arrived", "restored", "failed"


def listing(rfc2: Rfc2) -> list[tuple[int, str, str]]:
    """(token, kind, state) of each file that goes out, then of each that came in, by token."""
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
