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
    batch: int = 0
    """The newest transaction in it: changes() goes on from there."""
    regressed: str = ""
    """Why the store is known to have gone back in time (a sentence), if it did: every load says so
    until somebody has written the fleet's row, so that a crash before its stop loses nothing."""


@dataclass(frozen=True, slots=True)
class Committed:
    """What became of a Change: the rows with their new revisions, the events with their places."""

    rows: tuple[Row, ...]
    """With the CapacityRow, if the Change shrinks."""
    events: tuple[Event, ...]
    batch: int = 0
    """The transaction that it shared. Batches are numbered without gaps in commit order, so who
    knows all up to batch - 1 knows all once it has applied every commit of its own in this one;
    a batch is one process's."""


@dataclass(frozen=True, slots=True)
class Changes:
    """What others (and this process) have written since a batch."""

    batch: int
    """All transactions up to this one are in it."""
    head_seq: int
    """Newest event then."""
    rows: tuple[Row, ...]
    """As they are now, once each; no idempotency rows. Rows are never deleted."""


@dataclass(frozen=True, slots=True)
class Beat:
    """How the replicas stand, on the store's clock."""

    now: datetime
    """The store's clock, read during the call."""
    alive: frozenset[str]
    """Replicas whose own lease has not run out; the caller is one."""
    planner: str
    """Who holds the planner lease now; empty if nobody does."""
    batch: int
    """The newest transaction: tells of a lost hint."""


class Store(Protocol):
    """All that is durable. One write, atomic, fenced and group-committed.

    Errors: Conflict (a revision moved, I14's index refused, the epoch is fenced with reason
    EPOCH_FENCED, or the store is not the one that was loaded, with reason STORE_REPLACED),
    StoreUnavailable (unreachable, locked, disk full: nothing was written), CorruptState, Unsupported
    (SCHEMA_NEWER: a newer release has migrated it, this process must end).

    STORE_REPLACED: its incarnation is another one, or its newest batch is older than one that
    this handle has seen (a fail-over to a stale copy, a restored backup). load() again: it begins
    a new incarnation if nobody has, and says `regressed`.
    """

    async def open(self) -> None: ...
    async def close(self) -> None: ...
    async def acquire(self, holder: str, ttl: timedelta) -> Lease:
        """Take or renew the planner lease, on the store's own clock. NotLeader if another
        holds it. Taking it (not renewing) raises the epoch."""
        ...

    async def release(self, lease: Lease) -> None: ...
    async def beat(self, replica: str, ttl: timedelta) -> Beat:
        """Renew the replica's own lease (that its links count as held), on the store's clock."""
        ...

    async def leave(self, replica: str) -> None:
        """Its lease ends now: its links are known to be gone."""
        ...

    async def load(self) -> Snapshot: ...
    async def commit(self, epoch: int | None, change: Change) -> Committed:
        """Durable when it returns. Concurrent calls share transactions, yet each stands or
        falls by itself, in the order in which they were called.

        epoch: the planner's, fenced: whose lease has run out by the store's clock may commit nothing
        under it, though nobody else has taken it. None: an observation or an operator's word, which
        any replica may write; its revisions and guards alone decide."""
        ...

    async def changes(self, after_batch: int) -> Changes:
        """One consistent read. Conflict (STORE_REPLACED)."""
        ...

    def hints(self) -> AsyncIterator[None]:
        """Yields when another handle may have committed (or this one); several may count as
        one, any may be lost: read behind it, and on every beat. Ends when the store is closed;
        goes on by itself after a lost connection."""
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
