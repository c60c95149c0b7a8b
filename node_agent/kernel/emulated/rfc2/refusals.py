"""The subsystem by which a fault plan refuses prepare or freeze."""

from __future__ import annotations

from collections.abc import Callable


class Refusals:
    """A subsystem that refuses when the node's fault plan says so.

    Args:
        refuses: "prepare" or "freeze" → the errno, 0 for none.
    """

    name = "faults"
    automatic = False

    def __init__(self, refuses: Callable[[str], int]) -> None:
        self._refuses = refuses

    def prepare(self) -> int:
        self._ask("prepare")
        return 0

    def freeze(self, data: int) -> int:
        self._ask("freeze")
        return data

    def cancel(self, data: int) -> None:
        """Nothing was kept."""

    def boot(self, data: int | None) -> None:
        """Nothing was kept."""

    def finish(self, data: int | None) -> None:
        """Nothing was kept."""

    def _ask(self, what: str) -> None:
        if number := self._refuses(what):
            raise OSError(number, f"{what} of {self.name}")
