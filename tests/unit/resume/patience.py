"""The blackout path's deadline in tests: it passes when all is said, not when a busy machine is late."""

from __future__ import annotations

import select
from collections.abc import Callable

import pytest

from node_agent.resume import claims

QUIET_MS = 5


class Patience:
    """claims' clock and poll object: as long as anybody talks, or was not heard, no time passes.

    Args:
        talking: whether some client has still something to say.
    """

    POLLIN = select.POLLIN

    def __init__(self, talking: Callable[[], bool]) -> None:
        self._talking = talking
        self._now_s = 0.0
        self._poll = select.poll()
        self.register = self._poll.register
        self.unregister = self._poll.unregister

    def install(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """For one run of the path."""
        for module in ("time", "select"):
            monkeypatch.setattr(claims, module, self)

    def monotonic(self) -> float:
        """See time."""
        return self._now_s

    def poll(self, left_ms: float | None = None) -> Patience | list[tuple[int, int]]:
        """Of the module without an argument, of the object with one."""
        if left_ms is None:
            return self
        while True:
            talking = self._talking()
            if found := self._poll.poll(QUIET_MS):
                return found
            if not talking:
                self._now_s += left_ms / 1000
                return []
