"""Stops one handle of a store before any of its statements, for as long as another one goes on.

An operation is first run to its end, to see how many statements it has (COMMIT counts as one);
then once for each of them, with the other party let in before it. The other party either ends or
waits for a lock, which the server tells; only then the first goes on. No clock decides anything.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any, TypeVar

import asyncpg
from sqlalchemy import event
from sqlalchemy.ext.asyncio import AsyncEngine
from sqlalchemy.util import await_only

from orchestrator.store.postgres import Postgres
from orchestrator.store.postgres_url import address
from orchestrator.store.sql import SqlStore

T = TypeVar("T")
PATIENCE_S = 40.0

LONG = timedelta(seconds=60)
SHORT = timedelta(milliseconds=500)
"""How long a server waits for a handle that stands still."""


class Gate:
    """Lets statements pass, but for the one at which it is closed."""

    def __init__(self) -> None:
        self.passed: list[str] = []
        self._stop_before = 0
        self._reached = asyncio.Event()
        self._go = asyncio.Event()

    def close(self, number: int) -> None:
        """Before the number-th statement from now on (from 1)."""
        self.passed.clear()
        self._stop_before = number
        self._reached.clear()
        self._go.clear()

    def open(self) -> None:
        self._stop_before = 0
        self._go.set()

    async def reached(self) -> None:
        await self._reached.wait()

    def listen(self, engine: AsyncEngine) -> AsyncEngine:
        @event.listens_for(engine.sync_engine, "before_cursor_execute")
        def _before(connection: Any, cursor: Any, statement: str, *rest: Any) -> None:
            self._pass(statement)

        @event.listens_for(engine.sync_engine, "commit")
        def _commit(connection: Any) -> None:
            self._pass("COMMIT")

        return engine

    def _pass(self, statement: str) -> None:
        self.passed.append(statement)
        if len(self.passed) == self._stop_before:
            self._reached.set()
            await_only(self._go.wait())


class GatedPostgres(Postgres):
    """Both engines pass the same gate."""

    def __init__(self, url: str, gate: Gate, **options: Any) -> None:
        super().__init__(address(url), **options)
        self._gate = gate

    def writer(self) -> AsyncEngine:
        return self._gate.listen(super().writer())

    def reader(self) -> AsyncEngine:
        return self._gate.listen(super().reader())


@dataclass(slots=True)
class Handle:
    """A replica's store, and its gate."""

    store: SqlStore
    gate: Gate


@dataclass(slots=True)
class Arena:
    """Several handles on one database, and somebody who sees who waits."""

    url: str
    handles: list[Handle] = field(default_factory=list)
    _watcher: asyncpg.Connection[Any] | None = None

    def make(self, *, frozen: timedelta = LONG) -> Handle:
        """Not opened. frozen: how long the server waits for it; longer than any test, unless that is
        what the test is about."""
        gate = Gate()
        handle = Handle(SqlStore(GatedPostgres(self.url, gate, frozen=frozen)), gate)
        self.handles.append(handle)
        return handle

    async def handle(self, *, frozen: timedelta = LONG) -> Handle:
        handle = self.make(frozen=frozen)
        await handle.store.open()
        return handle

    async def close(self) -> None:
        for handle in self.handles:
            handle.gate.open()
            await handle.store.close()
        if self._watcher is not None:
            await self._watcher.close()

    async def somebody_waits(self) -> bool:
        """For a lock that another session holds."""
        if self._watcher is None:
            self._watcher = await asyncpg.connect(self.url)
        waits: bool = await self._watcher.fetchval(
            "SELECT EXISTS (SELECT FROM pg_stat_activity"
            " WHERE datname = current_database() AND cardinality(pg_blocking_pids(pid)) > 0)"
        )
        return waits

    async def until_it_waits(self, task: asyncio.Task[Any]) -> None:
        """... or has ended."""
        async with asyncio.timeout(PATIENCE_S):
            while not task.done() and not await self.somebody_waits():
                pass

    async def statements(self, handle: Handle, operation: Callable[[], Awaitable[Any]]) -> int:
        """How many it takes when nobody is in its way."""
        handle.gate.close(0)
        await operation()
        return len(handle.gate.passed)

    async def meet(
        self,
        number: int,
        first: Handle,
        one: Callable[[], Awaitable[T]],
        other: Callable[[], Awaitable[T]],
        *,
        between: Callable[[], Awaitable[None]] | None = None,
    ) -> tuple[T | BaseException, T | BaseException]:
        """`one` is stopped before its number-th statement until `other` has ended or waits.
        `between` is called while the first stands still, and whenever something has moved."""

        async def look() -> None:
            if between is not None:
                await between()

        first.gate.close(number)
        running = asyncio.ensure_future(one())
        reached = asyncio.ensure_future(first.gate.reached())
        await asyncio.wait([running, reached], return_when=asyncio.FIRST_COMPLETED, timeout=PATIENCE_S)
        reached.cancel()
        await look()
        following = asyncio.ensure_future(other())
        await self.until_it_waits(following)
        await look()
        first.gate.open()
        async with asyncio.timeout(PATIENCE_S):
            results = await asyncio.gather(running, following, return_exceptions=True)
        await look()
        return results[0], results[1]
