"""The planner's lease and the replicas' own, on the database's clock.

Both are jobs of the writer's. Taking the planner lease holds the fence, so that it falls between
two write transactions; what a replica says of itself does not.
"""

from __future__ import annotations

from datetime import timedelta

from sqlalchemy import delete, select, text, update
from sqlalchemy.ext.asyncio import AsyncConnection

from orchestrator.errors import NotLeader
from orchestrator.ports import Beat, Lease
from orchestrator.store.database import Database, Past
from orchestrator.store.lineage import Lineage
from orchestrator.store.schema import fence, instant, meta, replicas
from orchestrator.store.writer import Writer

MICROSECOND = timedelta(microseconds=1)

REPLICAS_KEPT_US = 3_600_000_000
"""Leases that ran out longer ago are of processes that are gone."""

_BEAT = text(
    "INSERT INTO replicas (replica, until_us) VALUES (:replica, :until_us)"
    " ON CONFLICT (replica) DO UPDATE SET until_us = excluded.until_us"
)


class Leases:
    """One handle's."""

    def __init__(self, database: Database, lineage: Lineage, writer: Writer) -> None:
        self._database = database
        self._lineage = lineage
        self._writer = writer
        self._held_epoch = 0
        self.newest_epoch = 0
        """That this handle knows of."""

    async def acquire(self, holder: str, ttl: timedelta) -> Lease:
        async def take(connection: AsyncConnection) -> Lease:
            async with connection.begin():
                found, head = await self._lineage.lock(connection, self._lineage.seen)
                now_us = head.now_us
                current = found.until_us > now_us
                if current and found.holder != holder:
                    raise NotLeader(
                        f"{found.holder} holds the planner lease",
                        remedy="nothing to do: this process stands by",
                        holder=found.holder,
                        until=instant(found.until_us).isoformat(),
                    )
                renews = current and found.epoch == self._held_epoch
                # Above all that was ever seen, should the store have gone back in time.
                epoch = found.epoch if renews else max(found.epoch, self.newest_epoch) + 1
                until_us = now_us + ttl // MICROSECOND
                await connection.execute(update(fence).values(epoch=epoch, holder=holder, until_us=until_us))
            if not renews:
                seen = self._lineage.seen
                self._database.remember(Past(seen.incarnation, seen.serial, epoch))
            self._held_epoch, self._lineage.holder = epoch, holder
            self.newest_epoch = max(self.newest_epoch, epoch)
            return Lease(epoch, holder, instant(until_us))

        return await self._writer.run(take)

    async def release(self, lease: Lease) -> None:
        async def give_back(connection: AsyncConnection) -> None:
            async with connection.begin():
                await self._lineage.lock(connection, self._lineage.seen)
                await connection.execute(
                    update(fence)
                    .where(fence.c.epoch == lease.epoch, fence.c.holder == lease.holder)
                    .values(holder="", until_us=0)
                )
                await self._database.notify(connection)

        await self._writer.run(give_back)
        if self._held_epoch == lease.epoch:
            self._held_epoch = 0

    async def beat(self, replica: str, ttl: timedelta) -> Beat:
        """Without the fence: it must not wait behind others' writes, and decides nothing."""

        async def live(connection: AsyncConnection) -> Beat:
            async with connection.begin():
                now_us: int = (await connection.execute(select(self._database.now_us()))).scalar_one()
                await connection.execute(_BEAT, {"replica": replica, "until_us": now_us + ttl // MICROSECOND})
                alive = await connection.execute(
                    select(replicas.c.replica).where(replicas.c.until_us > now_us)
                )
                planner = (
                    await connection.execute(
                        select(meta.c.batch, fence.c.holder, fence.c.until_us).join(
                            fence, fence.c.id == meta.c.id
                        )
                    )
                ).one()
            holder = planner.holder if planner.until_us > now_us else ""
            return Beat(instant(now_us), frozenset(alive.scalars()), holder, planner.batch)

        return await self._writer.run(live)

    async def leave(self, replica: str) -> None:
        async def end(connection: AsyncConnection) -> None:
            async with connection.begin():
                await connection.execute(delete(replicas).where(replicas.c.replica == replica))
                await self._database.notify(connection)

        await self._writer.run(end)
