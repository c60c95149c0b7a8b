"""One orchestrator's handle on the world's database: the memory store, with a way to it that fails.

Every call has a point before and one after its effect, at which the process may be killed. On the
way it may be refused, kept waiting, or cut off; what was written may be written although the answer
is lost. Hints come late, or never. The checks look at every commit as the database takes it.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, TypeVar

from orchestrator.core.model import Change, Event, IdempotencyRow
from orchestrator.errors import Conflict, LiverollError, StoreUnavailable
from orchestrator.ports import Beat, Changes, Committed, Lease, Snapshot
from orchestrator.store.memory import Disk, Hooks, MemoryStore, _Entry
from tests.sim.virtual import VirtualClock

if TYPE_CHECKING:
    from tests.sim.life import Life

T = TypeVar("T")

READS = 0.2
"""Reads are many: each is so much less likely to be the last than a commit."""


class SimStore(MemoryStore):
    """The memory store, looked at by the checks as it commits."""

    def __init__(self, life: Life, disk: Disk, clock: VirtualClock) -> None:
        super().__init__(disk, clock, hooks=StoreHooks(life))
        self._life = life

    def _apply(self, entry: _Entry, now: datetime) -> Committed | LiverollError:
        outcome = super()._apply(entry, now)
        checks, story = self._life.world.checks, self._life.world.story
        if isinstance(outcome, Committed):
            checks.promises.accepted(self._life, entry.epoch, outcome.rows)
            checks.committed(outcome, now)
        elif isinstance(outcome, Conflict):
            story.count(f"store {outcome.reason}")
            if outcome.reason == "EPOCH_FENCED" and self._life.woke:
                story.count("a commit waited while its planner was stopped beyond its lease")
        return outcome

    async def _passing(self, name: str, call: Callable[[], Awaitable[T]]) -> T:
        result = await call()
        self._life.point(f"after {name}", READS)
        return result

    async def acquire(self, holder: str, ttl: timedelta) -> Lease:
        call = super().acquire
        return await self._passing("acquire", lambda: call(holder, ttl))

    async def release(self, lease: Lease) -> None:
        call = super().release
        await self._passing("release", lambda: call(lease))

    async def beat(self, replica: str, ttl: timedelta) -> Beat:
        call = super().beat

        async def beat() -> Beat:
            answer = await call(replica, ttl)
            # A copy that takes over may know of an older lease: it was given all the same.
            self._life.leased_until = self._life.world.leases[replica] = self.disk.replicas[replica]
            return answer

        return await self._passing("beat", beat)

    async def leave(self, replica: str) -> None:
        call = super().leave
        await self._passing("leave", lambda: call(replica))
        self._life.world.leases[replica] = self._life.world.store_clock.now()

    async def load(self) -> Snapshot:
        call = super().load

        async def load() -> Snapshot:
            before = self.disk.incarnation
            snapshot = await call()
            if self.disk.incarnation != before:
                # Also where whoever began it dies before it has the answer.
                self._life.world.database.began_anew()
            return snapshot

        return await self._passing("load", load)

    async def changes(self, after_batch: int) -> Changes:
        call = super().changes
        return await self._passing("changes", lambda: call(after_batch))

    async def events(
        self, after_seq: int, *, limit: int, rollout_id: str = "", node_id: str = ""
    ) -> Sequence[Event]:
        call = super().events
        return await self._passing(
            "events", lambda: call(after_seq, limit=limit, rollout_id=rollout_id, node_id=node_id)
        )

    async def trim(self, *, keep_events_after: int, idempotency_before: datetime) -> None:
        await super().trim(keep_events_after=keep_events_after, idempotency_before=idempotency_before)
        self._life.world.checks.promises.trimmed(await self.first_seq())

    async def recall(self, actor: str, idempotency_key: str) -> IdempotencyRow | None:
        call = super().recall
        return await self._passing("recall", lambda: call(actor, idempotency_key))

    async def hints(self) -> AsyncIterator[None]:
        life = self._life
        async for _ in super().hints():
            if life.take_chance(life.world.rates.hints_lost):
                life.world.story.count("hint lost")
                continue
            await asyncio.sleep(life.rng.uniform(0.0005, max(0.001, life.world.hint_s)))
            yield


class StoreHooks(Hooks):
    """Crashes and troubles of the store by the seed's rates."""

    def __init__(self, life: Life) -> None:
        self._life = life

    async def before(self, changes: Sequence[Change]) -> None:
        life = self._life
        world, rates = life.world, life.world.rates
        await self._way("commit", 1.0)
        world.ambushes.committing(changes)
        await asyncio.sleep(0)
        life.check()
        self._reach()
        if life.take_chance(rates.store_slow):
            world.story.count("slow commit")
            await asyncio.sleep(life.rng.uniform(1, 25))
            life.check()
            self._reach()
        if life.take_chance(rates.store_refuses):
            world.story.count("store refused")
            raise StoreUnavailable("the database is locked", reason="STORE_LOCKED")
        if life.take_chance(rates.store_conflicts):
            world.story.count("store conflict")
            raise Conflict("another commit came first")

    async def after(self, changes: Sequence[Change]) -> None:
        life = self._life
        life.point("after commit")
        if life.take_chance(life.world.rates.store_in_doubt) or life.cut_from_store:
            life.world.story.count("commit in doubt")
            raise StoreUnavailable("the answer was lost", reason="COMMIT_IN_DOUBT")
        if life.world.replicas > 1:
            await asyncio.sleep(life.rng.uniform(0.0002, 0.004))
            life.check()

    async def reading(self, what: str) -> None:
        await self._way(what, READS)

    async def _way(self, what: str, weight: float) -> None:
        """To the database."""
        life = self._life
        life.check()
        await asyncio.sleep(life.rng.uniform(0.0005, 0.01))
        life.check()
        self._reach()
        life.point(f"before {what}", weight)

    def _reach(self) -> None:
        life = self._life
        if asyncio.get_running_loop().time() < life.world.no_store_until_s:
            raise StoreUnavailable("the disk is full", reason="DISK_FULL")
        if life.cut_from_store:
            raise StoreUnavailable("the database cannot be reached")
