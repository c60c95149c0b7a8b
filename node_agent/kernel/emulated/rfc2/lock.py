"""LUO's lock: one for the whole state, held by whatever changes it.

Rules
1. All calls but GET_STATE take it, so does a finalize by hand where KHO calls back into LUO.
2. A call that hangs keeps it for the rest of the boot, dead or alive.
3. Waiting for it can be killed; who is has changed nothing (-EAGAIN, which nobody lives to see), and the
   log says so of an event.

Source: luo_core.c of RFC v2, down_write_killable(&luo_state_rwsem). There a registration of files waits
unkillably, and reboot() looks at the state before it waits.
"""

from __future__ import annotations

import enum
from collections.abc import Callable

LOCKED_CALLS = frozenset(
    {"fd_preserve", "fd_unpreserve", "fd_restore", "prepare", "freeze", "cancel", "finish", "reboot"}
)
"""Calls that take it, by the names that faults use."""

BY_HAND = "debugfs_write"
"""Takes it where KHO calls back into LUO."""

EVENTS = {
    "prepare": "prepare",
    "freeze": "freeze",
    "cancel": "cancel",
    "finish": "finish",
    "reboot": "freeze",
}
"""Call → the event whose wait the log tells of."""


class Hang(enum.IntEnum):
    """Does a call ever return? True is: no."""

    NO = 0
    FOR_EVER = 1
    """A fault keeps it; killing the caller changes nothing."""
    WAITS = 2
    """For LUO's lock, which a call of the other kind holds. Killed: LuoModel.wait_killed."""


class StateLock:
    """One boot's.

    Args:
        log: the kernel's.
    """

    def __init__(self, log: Callable[[str], None]) -> None:
        self.held_by = ""
        """A call that hangs within it."""
        self._log = log

    def wait_killed(self, event: str) -> None:
        """Nothing happens but a message; not even that where it is no event's wait (empty)."""
        if event:
            self._log(f"luo_core: [{event}] event canceled by user")
