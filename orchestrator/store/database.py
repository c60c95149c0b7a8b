"""What SqlStore needs of one kind of database (sqlite.py; PostgreSQL later)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from sqlalchemy import ColumnElement
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from orchestrator.errors import LiverollError


@dataclass(frozen=True, slots=True)
class Past:
    """What was last known of this database, kept outside of it."""

    incarnation: str = ""
    serial: int = 0
    epoch: int = 0
    pid: int = 0


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

    def now_us(self) -> ColumnElement[int]:
        """The database's own clock."""
        ...

    def trouble(self, error: Exception) -> LiverollError: ...
