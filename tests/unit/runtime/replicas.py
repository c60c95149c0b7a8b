"""Several orchestrators over one disk in virtual time, each with its own way to the store, its own
clock and its own life: it can be partitioned, stopped, killed and told to go."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from datetime import timedelta
from typing import Any

from orchestrator.core.model import Change, Event
from orchestrator.errors import StoreUnavailable
from orchestrator.runtime.service import Orchestrator
from orchestrator.store.memory import Disk, MemoryStore
from tests.sim.virtual import Process, VirtualClock
from tests.unit.runtime.world import POLICY, Catalogue, Faults, Heard, Planned

TTL_S = 15.0


class Way(Faults):
    """To the store, of one replica."""

    def __init__(self) -> None:
        super().__init__()
        self.cut = False
        self.reads: list[str] = []
        self.answers_after_s = 0.0
        """So late does it hear of what is written."""

    async def before(self, changes: Sequence[Change]) -> None:
        self._check()
        await super().before(changes)

    async def after(self, changes: Sequence[Change]) -> None:
        await super().after(changes)
        if self.answers_after_s:
            await asyncio.sleep(self.answers_after_s)

    async def reading(self, what: str) -> None:
        self.reads.append(what)
        self._check()
        await asyncio.sleep(0.0005)
        await super().reading(what)

    def _check(self) -> None:
        if self.cut:
            raise StoreUnavailable("there is no way to the database")


class Replica:
    """One process."""

    def __init__(
        self, disk: Disk, name: str, store_clock: VirtualClock, skew: timedelta, **more: Any
    ) -> None:
        self.name = name
        self.way = Way()
        self.planned = Planned()
        self.heard = Heard()
        self.process = Process(name)
        self.clock = VirtualClock(skew)
        self.orchestrator = Orchestrator(
            store=MemoryStore(disk, store_clock, hooks=self.way),
            clock=self.clock,
            catalogue=Catalogue(),
            policy=POLICY,
            holder=name,
            replica=name,
            observer=self.heard,
            **{"planner": self.planned, **more},
        )
        self._stop = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    async def start(self) -> Orchestrator:
        """Serves when it returns."""
        serves = asyncio.Event()

        async def life() -> None:
            async with self.orchestrator:
                serves.set()
                await self._stop.wait()

        loop = asyncio.get_running_loop()
        self._task = loop.create_task(life(), context=self.process.context())
        waiting = loop.create_task(serves.wait())
        await asyncio.wait((self._task, waiting), return_when=asyncio.FIRST_COMPLETED)
        if not serves.is_set():
            waiting.cancel()
            await self._task
        return self.orchestrator

    async def stop(self) -> None:
        """SIGTERM."""
        assert self._task is not None
        self._stop.set()
        await self._task
        self._task = None

    async def kill(self) -> None:
        """kill -9: nothing that it does any more reaches the store."""
        assert self._task is not None
        self.way.cut = True
        self._task.cancel()
        await asyncio.wait((self._task,))
        self._task = None

    async def end(self) -> None:
        if self._task is not None:
            self.process.go()
            await self.stop()


class Replicas:
    """One store, and its replicas by name."""

    def __init__(self) -> None:
        self.disk = Disk()
        self.store_clock = VirtualClock()
        self.all: dict[str, Replica] = {}

    async def start(self, name: str, *, skew: timedelta = timedelta(0), **more: Any) -> Orchestrator:
        replica = self.all[name] = Replica(self.disk, name, self.store_clock, skew, **more)
        return await replica.start()

    def events(self) -> list[Event]:
        return self.disk.events

    def told(self) -> list[str]:
        """Kinds of the committed events."""
        return [event.new.kind for event in self.disk.events]

    def planner(self) -> str:
        """Who plans, by what the replicas say of themselves."""
        return ",".join(name for name, r in self.all.items() if r.orchestrator.role == "planner")


@asynccontextmanager
async def replicas() -> AsyncIterator[Replicas]:
    """Ends whatever was started."""
    made = Replicas()
    try:
        yield made
    finally:
        for replica in made.all.values():
            await replica.end()


async def passes(duration_s: float) -> None:
    await asyncio.sleep(duration_s)
