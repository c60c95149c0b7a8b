"""Leads while it holds the planner lease: takes it, loads, renews it, stands down, loads again.

Rules
1. A raised epoch means that somebody may have written in between: load before planning.
2. Whoever doubts that the fleet stands for the store asks for a reload; the lease is kept.
3. A reload begins with silence: no new commits, those in flight landed, links closed (agents
   dial again within seconds and say where they stand).
4. A lease that cannot be renewed before it runs out is lost, by this process's own clock too.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from datetime import timedelta

import structlog

from orchestrator.errors import Capacity, CorruptState, LiverollError, NotLeader, StoreUnavailable
from orchestrator.ports import Clock, Lease, Store
from orchestrator.runtime.alarm import Alarm

log = structlog.get_logger("liveroll.runtime")

TTL = timedelta(seconds=15)
"""How long nobody plans after a planner died with its machine; a process that died alone, on
SQLite, is known dead at once."""

RENEWALS = 3
"""Tries within one TTL."""

RETRY = timedelta(seconds=1)


class Leader:
    """take() once, then run() until cancelled, then give_back()."""

    def __init__(
        self,
        *,
        store: Store,
        clock: Clock,
        holder: str,
        ttl: timedelta,
        load: Callable[[Lease], Awaitable[None]],
        forget: Callable[[LiverollError], Awaitable[None]],
    ) -> None:
        self._store = store
        self._clock = clock
        self._holder = holder
        self._ttl = ttl
        self._load = load
        self._forget = forget
        self._alarm = Alarm(clock)
        self._lease: Lease | None = None
        self._valid_until_s = 0.0
        self._doubt = ""
        self.trouble = "not started"
        """Why this process does not lead; empty if it does."""

    def doubt(self, why: str) -> None:
        """The fleet may not be what the store has: load again, soon."""
        self._doubt = self._doubt or why
        self.trouble = why
        self._alarm.wake()

    async def take(self) -> None:
        """Lead. NotLeader, StoreUnavailable, CorruptState: nothing is kept."""
        asked_s = self._clock.monotonic_s()
        lease = await self._store.acquire(self._holder, self._ttl)
        self._valid_until_s = asked_s + self._ttl.total_seconds()
        if self._lease is not None and lease.epoch == self._lease.epoch and not self._doubt:
            self._lease = lease
            self.trouble = ""
            return
        if self._lease is not None:
            await self._stand_down(
                NotLeader("the orchestrator loads again", reason="RELOADING", remedy="dial or call again")
            )
        self._doubt = ""
        await self._load(lease)
        self._lease = lease
        if not self._doubt:
            self.trouble = ""
        log.info("leading", epoch=lease.epoch)

    async def run(self) -> None:
        while True:
            pause = self._ttl / RENEWALS if self._lease is not None and not self.trouble else RETRY
            await self._alarm.wait(self._clock.now() + pause)
            try:
                await self.take()
            except NotLeader as error:
                self.trouble = error.message
                if self._lease is not None:
                    await self._stand_down(error)
            except (StoreUnavailable, Capacity, CorruptState) as error:
                self.trouble = error.message
                log.warning("the lease was not renewed", reason=error.reason, error=error.message)
                if self._lease is not None and self._clock.monotonic_s() >= self._valid_until_s:
                    await self._stand_down(error)

    async def _stand_down(self, error: LiverollError) -> None:
        log.warning("standing down", reason=error.reason, error=error.message, why=self._doubt)
        self._lease = None
        await self._forget(error)

    async def give_back(self) -> None:
        """At the end, so that another need not wait."""
        lease, self._lease = self._lease, None
        self.trouble = "stopped"
        if lease is not None:
            try:
                await self._store.release(lease)
            except (StoreUnavailable, Capacity) as error:
                log.warning(
                    "the lease was not given back", reason=error.reason, ttl_s=self._ttl.total_seconds()
                )
