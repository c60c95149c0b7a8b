"""The stores that one contract binds, each with a clock that the test moves."""

from __future__ import annotations

import itertools
import sqlite3
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, closing, contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Protocol

import pytest
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
    """One durable place, opened as often as the test wants (SQLite: not twice at once)."""

    clock: Moved

    def store(self) -> Store: ...

    def recreate(self) -> None:
        """Throw away what is durable, leaving what lies beside it."""
        ...

    def copy(self) -> Any:
        """What is durable now, stores open or not."""
        ...

    def fall_back(self, copy: Any) -> None:
        """To that copy, under the stores that are open."""
        ...


class MemoryBackend:
    def __init__(self) -> None:
        self.clock = Moved()
        self.disk = Disk()
        self._stores: list[MemoryStore] = []

    def store(self) -> Store:
        store = MemoryStore(self.disk, self.clock, queue_bound=64)
        self._stores.append(store)
        return store

    def recreate(self) -> None:
        self.disk = self.disk.recreated()

    def copy(self) -> Disk:
        return self.disk.copy()

    def fall_back(self, copy: Disk) -> None:
        self.disk = copy
        for store in self._stores:
            store.disk = copy


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

    def copy(self) -> Path:
        copy = self.path.with_name("copy.db")
        self._pour(self.path, copy)
        return copy

    def fall_back(self, copy: Path) -> None:
        self._pour(copy, self.path)

    @staticmethod
    def _pour(source: Path, target: Path) -> None:
        with closing(sqlite3.connect(source)) as out, closing(sqlite3.connect(target)) as into:
            out.backup(into)


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

    def copy(self) -> str:
        with self._alone():
            return self._server.create(self.database)

    def fall_back(self, copy: str) -> None:
        with self._alone():
            lost = f"{self.database}_lost"
            self._server.sql(
                f"ALTER DATABASE {self.database} RENAME TO {lost}",
                f"ALTER DATABASE {copy} RENAME TO {self.database}",
            )
            self._server.drop(lost)

    @contextmanager
    def _alone(self) -> Iterator[None]:
        """Nobody is connected, nor can be: the server is gone for a moment."""
        self._server.sql(
            f"ALTER DATABASE {self.database} ALLOW_CONNECTIONS false",
            "SELECT pg_terminate_backend(pid, 10000) FROM pg_stat_activity"
            f" WHERE datname = '{self.database}'",
        )
        yield
        self._server.sql(f"ALTER DATABASE {self.database} ALLOW_CONNECTIONS true")

    def end(self) -> None:
        self._server.drop(self.database)


STORES = ("memory", "sqlite", "postgres")


@contextmanager
def chosen(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Backend]:
    """The one of STORES that is the fixture's parameter."""
    if request.param == "memory":
        yield MemoryBackend()
    elif request.param == "sqlite":
        yield SqliteBackend(tmp_path / "liveroll.db")
    else:
        backend = PostgresBackend(request.getfixturevalue("postgres"))
        yield backend
        backend.end()


@asynccontextmanager
async def opened(backend: Backend) -> AsyncIterator[Store]:
    store = backend.store()
    await store.open()
    try:
        yield store
    finally:
        await store.close()
