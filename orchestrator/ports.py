"""What the orchestrator's runtime needs of the world, as Protocols.

The core decides (plan, transitions, operations: pure functions over Fleet, returning
Changes); the runtime commits Changes through Store, applies what was committed to the
Fleet, and only then tells nodes. Adapters: store/, rpc/, web/, runtime/clock.py.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Protocol

from orchestrator.core.model import Artifact, Change, Event, IdempotencyRow, Row


class Clock(Protocol):
    """The only reader of time in the orchestrator."""

    def now(self) -> datetime:
        """Aware UTC."""
        ...

    def monotonic_s(self) -> float: ...
    async def sleep_until(self, at: datetime) -> None: ...
    async def sleep(self, duration: timedelta) -> None: ...


@dataclass(frozen=True, slots=True)
class Lease:
    """Leave to commit, fenced: a commit under an epoch that is no longer the store's fails."""

    epoch: int
    holder: str
    until: datetime


@dataclass(frozen=True, slots=True)
class Snapshot:
    """Everything durable at one moment."""

    incarnation: str
    incarnation_serial: int
    head_seq: int
    """Newest event."""
    rows: tuple[Row, ...]
    """All but idempotency rows."""
    regressed: str = ""
    """Why the store is known to have gone back in time (a sentence), if it did at this open."""


@dataclass(frozen=True, slots=True)
class Committed:
    """What became of a Change: the rows with their new revisions, the events with their places."""

    rows: tuple[Row, ...]
    events: tuple[Event, ...]


class Store(Protocol):
    """All that is durable. One write, atomic, fenced and group-committed.

    Errors: Conflict (a revision moved, I14's index refused, or the epoch is fenced with reason
    EPOCH_FENCED), StoreUnavailable (unreachable, locked, disk full: nothing was written),
    CorruptState.
    """

    async def open(self) -> None: ...
    async def close(self) -> None: ...
    async def acquire(self, holder: str, ttl: timedelta) -> Lease:
        """Take or renew the planner lease, on the store's own clock. NotLeader if another
        holds it. Taking it (not renewing) raises the epoch."""
        ...

    async def release(self, lease: Lease) -> None: ...
    async def load(self) -> Snapshot: ...
    async def commit(self, epoch: int, change: Change) -> Committed:
        """Durable when it returns. Concurrent calls share transactions, yet each stands or
        falls by itself, in the order in which they were called."""
        ...

    async def events(
        self, after_seq: int, *, limit: int, rollout_id: str = "", node_id: str = ""
    ) -> Sequence[Event]:
        """In order. NotFound-like OUT_OF_RANGE is the caller's: compare with first_seq()."""
        ...

    async def first_seq(self) -> int: ...
    async def recall(self, actor: str, idempotency_key: str) -> IdempotencyRow | None: ...
    async def trim(self, *, keep_events_after: int, idempotency_before: datetime) -> None: ...


class ArtifactCatalogue(Protocol):
    """The artifacts this orchestrator serves."""

    async def resolve(self, name_or_digest: str) -> Artifact:
        """NotFound if there is none, Blocked (ARTIFACT_INVALID) if its files do not match."""
        ...

    async def names(self) -> Sequence[str]: ...


class NodeHints(Protocol):
    """Tells a node's link, if there is one here, to look at the node's desired command again."""

    def hint(self, node_ids: Sequence[str]) -> None: ...


class EventFeed(Protocol):
    """Committed events as they come, for watches; a hint only: readers read the store."""

    def subscribe(self) -> AsyncIterator[int]:
        """Yields the newest seq whenever it moved."""
        ...
