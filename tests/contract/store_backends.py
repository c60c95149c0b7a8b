"""The stores that one contract binds, each with a clock that the test moves."""

from __future__ import annotations

import itertools
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Protocol

from sqlalchemy import BigInteger, ColumnElement, bindparam

from orchestrator.ports import Store
from orchestrator.store.memory import Disk, MemoryStore
from orchestrator.store.postgres import Postgres
from orchestrator.store.postgres_url import address
from orchestrator.store.sql import SqlStore
from orchestrator.store.sqlite import Sqlite
from tests.postgres import Postgres as Server

START = datetime(2030, 1, 1, tzinfo=UTC)


class Moved:
    """A clock that stands still until it is moved."""

    def __init__(self) -> None:
        self.at = START

    def now(self) -> datetime:
        return self.at

    def monotonic_s(self) -> float:
        return (self.at - START).total_seconds()

    async def sleep_until(self, at: datetime) -> None:
        self.at = max(self.at, at)

    async def sleep(self, duration: timedelta) -> None:
        self.at += duration


class Backend(Protocol):
    """One durable place, opened as often as the test wants (but not twice at once)."""

    clock: Moved

    def store(self) -> Store: ...
    def recreate(self) -> None:
        """Throw away what is durable, leaving what lies beside it."""
        ...


class MemoryBackend:
    def __init__(self) -> None:
        self.clock = Moved()
        self.disk = Disk()

    def store(self) -> Store:
        return MemoryStore(self.disk, self.clock, queue_bound=64)

    def recreate(self) -> None:
        self.disk = self.disk.recreated()


class MovedSqlite(Sqlite):
    """SQLite on the test's clock."""

    def __init__(self, path: Path, clock: Moved) -> None:
        super().__init__(path)
        self._clock = clock

    def now_us(self) -> ColumnElement[int]:
        # The statement is kept, so the value must be read whenever it is executed.
        return bindparam("now_us", callable_=self._now_us, type_=BigInteger)

    def _now_us(self) -> int:
        return round(self._clock.at.timestamp() * 1_000_000)


class SqliteBackend:
    def __init__(self, path: Path) -> None:
        self.clock = Moved()
        self.path = path
        self._names = itertools.count(1)

    def store(self) -> Store:
        return SqlStore(
            MovedSqlite(self.path, self.clock),
            make_incarnation=lambda: f"sqlite-{next(self._names)}",
            queue_bound=64,
        )

    def recreate(self) -> None:
        for suffix in ("", "-wal", "-shm"):
            self.path.with_name(self.path.name + suffix).unlink(missing_ok=True)


class MovedPostgres(Postgres):
    """PostgreSQL on the test's clock."""

    def __init__(self, url: str, clock: Moved) -> None:
        super().__init__(address(url))
        self._clock = clock

    def now_us(self) -> ColumnElement[int]:
        return bindparam("now_us", callable_=self._now_us, type_=BigInteger)

    def _now_us(self) -> int:
        return round(self._clock.at.timestamp() * 1_000_000)


class PostgresBackend:
    def __init__(self, server: Server) -> None:
        self.clock = Moved()
        self._server = server
        self._names = itertools.count(1)
        self.database = server.create()

    @property
    def url(self) -> str:
        return self._server.url(self.database)

    def store(self) -> Store:
        return SqlStore(
            MovedPostgres(self.url, self.clock),
            make_incarnation=lambda: f"postgres-{next(self._names)}",
            queue_bound=64,
        )

    def recreate(self) -> None:
        self.end()
        self.database = self._server.create()
        self.clock.at += timedelta(seconds=1)  # nothing beside it tells one from the other

    def end(self) -> None:
        self._server.drop(self.database)


@asynccontextmanager
async def opened(backend: Backend) -> AsyncIterator[Store]:
    store = backend.store()
    await store.open()
    try:
        yield store
    finally:
        await store.close()
