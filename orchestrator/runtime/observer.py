"""What the runtime tells of itself, for metrics. Hooks are called in the loop: cheap, never raising."""

from __future__ import annotations

from typing import Protocol

from orchestrator.core.model import Row


class Observer(Protocol):
    """All durations in seconds."""

    def row_applied(self, before: Row | None, after: Row) -> None:
        """A row was committed by this process and taken into the fleet; None: it is new."""
        ...

    def planned(self, seconds: float, actions: int) -> None: ...
    def committed(self, seconds: float) -> None:
        """From asking to durable and applied."""
        ...

    def conflicted(self) -> None:
        """A commit lost to another and is made again."""
        ...

    def store_failed(self, reason: str) -> None: ...
    def violated(self, invariant: str) -> None: ...
    def link_opened(self) -> None: ...
    def link_closed(self, cause: str) -> None:
        """cause: closed, replaced, silent, shutdown, or what the transport said."""
        ...


class NullObserver:
    """Hears nothing."""

    def row_applied(self, before: Row | None, after: Row) -> None:
        pass

    def planned(self, seconds: float, actions: int) -> None:
        pass

    def committed(self, seconds: float) -> None:
        pass

    def conflicted(self) -> None:
        pass

    def store_failed(self, reason: str) -> None:
        pass

    def violated(self, invariant: str) -> None:
        pass

    def link_opened(self) -> None:
        pass

    def link_closed(self, cause: str) -> None:
        pass
