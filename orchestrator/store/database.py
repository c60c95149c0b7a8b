"""What SqlStore needs of one kind of database (sqlite.py, postgres.py)."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from sqlalchemy import Column, ColumnElement, TextClause
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from orchestrator.errors import LiverollError

RECORD = (
    "INSERT INTO batches (slot, number, token) VALUES (:slot, :number, :token)"
    " ON CONFLICT (slot) DO UPDATE SET number = excluded.number, token = excluded.token"
)
NUMBER = "UPDATE meta SET event_seq = :event_seq, batch = :number, regressed = :regressed"
"""In words that every database understands."""


@dataclass(frozen=True, slots=True)
class Past:
    """What was last known of this database, kept outside of it."""

    incarnation: str = ""
    serial: int = 0
    epoch: int = 0
    pid: int = 0


@dataclass(frozen=True, slots=True)
class Among:
    """A condition on key columns: that they are one of many keys."""

    where: ColumnElement[bool]
    params: Callable[[Sequence[tuple[Any, ...]]], Mapping[str, Any]]
    """What to execute it with, for these keys (at least one)."""


class Database(Protocol):
    """Engines, a clock and errors."""

    @property
    def exclusive(self) -> bool:
        """After lock(), no other process has it open, so a lease found in it is void."""
        ...

    def lock(self) -> Past: ...
    def remember(self, past: Past) -> None: ...
    def unlock(self) -> None: ...
    def writer(self) -> AsyncEngine:
        """One connection whose transactions hold the write lock from their beginning."""
        ...

    def reader(self) -> AsyncEngine:
        """A few connections with consistent, short reads."""
        ...

    async def check(self, connection: AsyncConnection) -> None:
        """Is what was promised of durability in force? StoreUnavailable if not."""
        ...

    async def alone(self, connection: AsyncConnection, *, at_leisure: bool = False) -> None:
        """Within the transaction: no other process migrates the database until it ends. It may
        last, and wait, for longer than others; at_leisure: also do something else in between."""
        ...

    def bound(self) -> ColumnElement[Any]:
        """Executed by who has just locked the fence: from now on the transaction must not last
        for longer than others wait for the lock."""
        ...

    @property
    def numbering(self) -> Sequence[TextClause]:
        """End a transaction that writes, as notify() does, and make it the batch :number (in :slot
        of the ring, with :token) after which the newest event is :event_seq."""
        ...

    async def notify(self, connection: AsyncConnection) -> None:
        """Within a transaction that writes: once it is committed, listeners hear of it."""
        ...

    async def listen(self, tell: Callable[[], None]) -> None:
        """Calls tell whenever another process may have committed, until it is cancelled; never
        fails. Returns at once if no other one writes."""
        ...

    def now_us(self) -> ColumnElement[int]:
        """The database's own clock."""
        ...

    def among(self, columns: Sequence[Column[Any]]) -> Among:
        """Of few shapes, so that statements can be kept prepared."""
        ...

    @property
    def errors(self) -> tuple[type[Exception], ...]:
        """What a call to it may raise."""
        ...

    def lost(self, error: Exception) -> bool:
        """The connection ended, for a reason that need not hold for another one."""
        ...

    def trouble(self, error: Exception) -> LiverollError: ...
