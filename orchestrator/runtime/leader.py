"""Plans while it holds the planner lease: takes it when nobody has it, renews it, gives it up.

Whether this replica serves links and calls is another matter (follower.py).

Rules
1. A raised epoch means that somebody may have planned in between: `lead` catches up with all that
   was committed before it, and only then anything is planned.
2. A lease that cannot be renewed before it runs out is lost, by this process's own clock too: who
   was stopped for longer, and wakes, plans nothing before it has asked.
3. While another plans, it is tried STANDBY apart: a lease that was given back is taken within that.
4. Who has no fresh view of the store gives the lease up, or lets it run out.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from datetime import timedelta

import structlog

from orchestrator.errors import Capacity, Conflict, CorruptState, NotLeader, StoreUnavailable
from orchestrator.ports import Beat, Clock, Lease, Store
from orchestrator.runtime.alarm import Alarm

log = structlog.get_logger("liveroll.runtime")

TTL = timedelta(seconds=15)
"""How long nobody plans after a planner died with its machine; a process that died alone, on
SQLite, is known dead at once. As long nobody vouches for a lost replica's links."""

RENEWALS = 3
"""Tries within one TTL."""

RETRY = timedelta(seconds=1)

STANDBY = timedelta(seconds=1)

TROUBLES = (StoreUnavailable, Capacity, CorruptState, Conflict)
"""What a store that cannot be used says."""


class Leader:
    """take() once, then run() until cancelled, then give_back()."""

    def __init__(
        self,
        *,
        store: Store,
        clock: Clock,
        holder: str,
        ttl: timedelta,
        lead: Callable[[Lease], Awaitable[None]],
        follow: Callable[[], None],
        serves: Callable[[], bool],
    ) -> None:
        self._store = store
        self._clock = clock
        self._holder = holder
        self._ttl = ttl
        self._lead = lead
        self._follow = follow
        self._serves = serves
        self._alarm = Alarm(clock)
        self._lease: Lease | None = None
        self._leads = False
        self._valid_until_s = 0.0
        self.planner = ""
        """Who plans, as far as is known here; empty if nobody does."""
        self.trouble = "not started"
        """Why nobody is known to plan; empty if somebody does."""

    @property
    def epoch(self) -> int | None:
        """To plan under; None while this replica does not."""
        if self._lease is None or not self._leads or self._clock.monotonic_s() >= self._valid_until_s:
            return None
        return self._lease.epoch

    def fenced(self) -> None:
        """A commit was refused under the lease's epoch: another has it, or nobody."""
        self._end("another planner has taken over")
        self._alarm.wake()

    def hear(self, beat: Beat) -> None:
        """How the replicas stand."""
        self.planner = beat.planner
        if not beat.planner:
            self._alarm.wake()

    def look(self) -> None:
        """The lease may be free, or this replica serves again."""
        self._alarm.wake()

    async def take(self) -> None:
        """Plan, if nobody else does. NotLeader; StoreUnavailable, Capacity, CorruptState, Conflict."""
        asked_s = self._clock.monotonic_s()
        lease = await self._store.acquire(self._holder, self._ttl)
        if self._leads and self._lease is not None and lease.epoch == self._lease.epoch:
            self._lease, self._valid_until_s = lease, asked_s + self._ttl.total_seconds()
            return
        self._end("another planner has planned since")
        self._lease, self._valid_until_s = lease, asked_s + self._ttl.total_seconds()
        await self._lead(lease)
        self._leads = True
        self.planner, self.trouble = self._holder, ""
        log.info("planning", epoch=lease.epoch)

    async def run(self) -> None:
        while True:
            if self._leads:
                pause = self._ttl / RENEWALS if not self.trouble else RETRY
            else:
                pause = STANDBY
            await self._alarm.wait_for(pause)
            await self.turn()

    async def turn(self) -> None:
        """One look at the lease."""
        if not self._serves():
            self._end("it has no fresh view of the store")
            await self.give_back("this replica has no fresh view of the store")
            return
        try:
            await self.take()
            self.trouble = ""
        except NotLeader as error:
            self._end(error.message)
            self.planner, self.trouble = str(error.fields.get("holder", "")), ""
            self._lease = None
        except TROUBLES as error:
            tell = log.debug if error.message == self.trouble else log.warning  # once, not every second
            tell("the lease was not renewed", reason=error.reason, error=error.message)
            self.trouble = error.message
            if self._clock.monotonic_s() >= self._valid_until_s:
                self._end(error.message)

    def _end(self, why: str) -> None:
        if self._leads:
            self._leads = False
            self.planner = ""
            log.warning("planning no more", why=why)
            self._follow()

    async def give_back(self, why: str) -> None:
        """So that another need not wait."""
        lease, self._lease, self._leads = self._lease, None, False
        self.planner, self.trouble = "", why
        if lease is not None:
            try:
                await self._store.release(lease)
            except TROUBLES as error:
                log.warning(
                    "the lease was not given back", reason=error.reason, ttl_s=self._ttl.total_seconds()
                )
