"""Calls of one node, counted by name over all its boots, and which of them never return."""

from __future__ import annotations

from node_agent.kernel.emulated.rfc2.lock import Hang, StateLock
from node_agent.kernel.faults import FaultPlan


class Calls:
    """By the names that faults use."""

    def __init__(self) -> None:
        self._made: dict[str, int] = {}

    def made(self, call: str) -> int:
        """How often, hanging ones included."""
        return self._made.get(call, 0)

    def hangs(self, call: str, faults: FaultPlan, lock: StateLock | None) -> Hang:
        """Count a call and say whether it ever returns: a fault keeps it, or it waits for one that is kept.

        Args:
            lock: that the call takes; who hangs keeps it.
        """
        self._made[call] = self.made(call) + 1
        if lock is not None and lock.held_by:
            return Hang.WAITS
        if not faults.hang(call, self._made[call]):
            return Hang.NO
        if lock is not None:
            lock.held_by = call
        return Hang.FOR_EVER
