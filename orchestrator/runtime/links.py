"""The live links of this process: which one speaks for a node, and what it is to be told.

Rules
1. The newest link of a node wins; the one before is closed with LINK_REPLACED.
2. Delivery is level-triggered: a handle compares the node's desired command with what it sent
   last. A hint only says: look. Nothing is queued, so a slow link is told the newest and no more.
3. A command that stands is sent again when the node beats and RESEND has passed.
4. Bounded: beyond `max_links` a new node is refused (Capacity), a known one still replaces its own.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from orchestrator.core.model import AttemptRow, Desired, RolloutRow
from orchestrator.errors import Capacity, LiverollError, StaleGeneration

RESEND = timedelta(seconds=30)
"""A command is lost only with its stream, so this covers an agent that forgot; below a few
heartbeats it would repeat what the agent is busy with."""

MAX_LINKS = 50_000


@dataclass(frozen=True, slots=True)
class Command:
    """The node's newest desired command with the rows that fill it in. Same id, same command."""

    command_id: str
    """<incarnation>:<serial>"""
    node_id: str
    desired: Desired
    attempt: AttemptRow | None
    """Of desired.generation; None for STAGE."""
    rollout: RolloutRow | None
    """The attempt's rollout (timeouts, health_hold, rollback.none); None for STAGE."""


Lookup = Callable[[str], Command | None]
"""The newest desired command of a node, if any."""


class LinkHandle:
    """One link. Made by Links.register."""

    def __init__(self, node_id: str, link_epoch: int, lookup: Lookup, now: datetime) -> None:
        self.node_id = node_id
        self.link_epoch = link_epoch
        self.opened_at = now
        self.heard_at = now
        self.closed: LiverollError | None = None
        self._lookup = lookup
        self._look = asyncio.Event()
        self._sent_id = ""
        self._sent_at = now

    def hint(self) -> None:
        self._look.set()

    def heard(self, now: datetime) -> None:
        """The node said something: a poll, too, for a command that has stood for long."""
        self.heard_at = now
        if self._sent_id and now - self._sent_at >= RESEND:
            self._sent_id = ""
            self._look.set()

    def close(self, error: LiverollError) -> None:
        """Idempotent; the first error stands."""
        if self.closed is None:
            self.closed = error
            self._look.set()

    def check(self) -> None:
        """Raises what closed it."""
        if self.closed is not None:
            raise self.closed

    async def next_command(self, now: Callable[[], datetime]) -> Command:
        """Waits until there is one that was not sent, or its time has come again. Raises what
        closed the link."""
        while True:
            self.check()
            self._look.clear()
            command = self._lookup(self.node_id)
            if command is not None and command.command_id != self._sent_id:
                self._sent_id, self._sent_at = command.command_id, now()
                return command
            await self._look.wait()


class Links:
    """NodeHints, and the registry."""

    def __init__(self, lookup: Lookup, *, max_links: int = MAX_LINKS) -> None:
        self._lookup = lookup
        self._max_links = max_links
        self._handles: dict[str, LinkHandle] = {}

    def __len__(self) -> int:
        return len(self._handles)

    def of(self, node_id: str) -> LinkHandle | None:
        return self._handles.get(node_id)

    def all(self) -> tuple[LinkHandle, ...]:
        return tuple(self._handles.values())

    def admit(self, node_id: str) -> None:
        """Before anything is written for a Hello. Capacity."""
        if len(self._handles) >= self._max_links and node_id not in self._handles:
            raise Capacity(
                f"{self._max_links} nodes are linked here already",
                reason="TOO_MANY_LINKS",
                remedy="raise the limit, or run another orchestrator",
                bound=self._max_links,
            )

    def register(self, node_id: str, link_epoch: int, now: datetime) -> LinkHandle:
        """The node's link from now on."""
        old = self._handles.get(node_id)
        handle = LinkHandle(node_id, link_epoch, self._lookup, now)
        self._handles[node_id] = handle
        if old is not None:
            old.close(replaced(node_id))
        return handle

    def remove(self, handle: LinkHandle) -> bool:
        """False if a newer one has taken its place."""
        if self._handles.get(handle.node_id) is not handle:
            return False
        del self._handles[handle.node_id]
        return True

    def close_all(self, error: LiverollError) -> None:
        handles, self._handles = self._handles, {}
        for handle in handles.values():
            handle.close(error)

    def hint(self, node_ids: Sequence[str]) -> None:
        for node_id in node_ids:
            handle = self._handles.get(node_id)
            if handle is not None:
                handle.hint()


def replaced(node_id: str) -> StaleGeneration:
    return StaleGeneration(
        f"a newer link of {node_id} has taken over",
        reason="LINK_REPLACED",
        remedy="nothing to do if the agent was restarted; two agents on one node must not share a journal",
        node_id=node_id,
    )


def silent(node_id: str) -> StaleGeneration:
    return StaleGeneration(
        f"the link of {node_id} carried nothing for too long",
        reason="LINK_SILENT",
        remedy="the agent dials again by itself",
        node_id=node_id,
    )
