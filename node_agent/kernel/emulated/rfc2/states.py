"""The state machine of LUO, as RFC v2 had it, as one literal table.

| from | event | to |
|---|---|---|
| boot | no LUO subtree in the KHO tree | NORMAL |
| boot | one there | UPDATED (an incompatible one panics) |
| NORMAL | PREPARE | PREPARED |
| PREPARED | FREEZE | FROZEN; on failure NORMAL |
| PREPARED, FROZEN | CANCEL | NORMAL |
| FROZEN | kexec | UPDATED, in the next kernel |
| UPDATED | FINISH | NORMAL |

Any other pair is EINVAL. reboot(KEXEC) freezes where the state is PREPARED; from NORMAL and UPDATED it
is a plain kexec.

Source: luo_core.c of RFC v2.
"""

from __future__ import annotations

import enum

from node_agent.kernel import rfc2_abi as abi


class LuoState(enum.IntEnum):
    """enum liveupdate_state."""

    NORMAL = abi.NORMAL
    PREPARED = abi.PREPARED
    FROZEN = abi.FROZEN
    UPDATED = abi.UPDATED

    def __str__(self) -> str:
        return abi.STATE_NAMES[self]


class LuoEvent(enum.StrEnum):
    """What an ioctl asks for."""

    PREPARE = "prepare"
    FREEZE = "freeze"
    CANCEL = "cancel"
    FINISH = "finish"


TRANSITIONS = {
    (LuoState.NORMAL, LuoEvent.PREPARE): LuoState.PREPARED,
    (LuoState.PREPARED, LuoEvent.FREEZE): LuoState.FROZEN,
    (LuoState.PREPARED, LuoEvent.CANCEL): LuoState.NORMAL,
    (LuoState.FROZEN, LuoEvent.CANCEL): LuoState.NORMAL,
    (LuoState.UPDATED, LuoEvent.FINISH): LuoState.NORMAL,
}

AIMS = {event: after for (_, event), after in TRANSITIONS.items()}
"""Where an event leads, from wherever it is legal."""


class Coupling(enum.StrEnum):
    """Who drives whom, LUO and KHO: what the thread argues about."""

    NOTIFIER = "notifier"
    """As posted: PREPARE is kho_finalize(), whose notifier chain calls back into LUO."""
    LUO_DRIVEN = "luo-driven"
    """As concluded: LUO alone drives KHO, and KHO does not know LUO."""
