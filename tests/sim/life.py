"""One process of the orchestrator, from its start to its end.

A life that is killed is dead at that instant: its store takes nothing more, its streams are broken,
and what its tasks still do reaches nobody. One that is stopped (SIGSTOP) does nothing until it is let
go, and then goes on as if no time had passed.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any

from orchestrator.core.model import Artifact
from orchestrator.errors import NotFound, StoreUnavailable
from orchestrator.rpc.agents import AgentService
from orchestrator.runtime.service import Orchestrator
from tests.sim.network import Aborted, ServerSide, Stream, unreachable
from tests.sim.sim_store import SimStore
from tests.sim.virtual import Process, VirtualClock

if TYPE_CHECKING:
    from tests.sim.world import World

DYING_S = 600.0
"""A dead or stopping process whose tasks have not ended by then never ends."""


class Catalogue:
    """Rollouts are created with their artifacts in hand."""

    async def resolve(self, name_or_digest: str) -> Artifact:
        raise NotFound("the simulation resolves artifacts itself")

    async def names(self) -> Sequence[str]:
        return ()


class Life:
    """One process."""

    def __init__(self, world: World, slot: int, number: int) -> None:
        self.world, self.slot, self.number = world, slot, number
        self.name = f"r{slot}.{number}"
        self.rng = random.Random(f"life {world.scenario.seed} {slot} {number}")
        self.process = Process(self.name)
        self.dead = False
        self.serving = False
        self.woke = False
        """It was stopped beyond the planner's lease, which it held, and has been let go."""
        self.leased_until: datetime | None = None
        """Until when the database has last let it speak for its links."""
        self.cut_from_store = False
        self.ended = asyncio.Event()
        """Set by a crash or a polite stop."""
        self._handlers: set[asyncio.Task[None]] = set()
        self._streams: list[Stream] = []
        self._stopping = asyncio.Event()
        skew_s = self.rng.choice(world.rates.skews_s)
        self.clock = VirtualClock(timedelta(seconds=skew_s))
        self.store = SimStore(self, world.disk, world.store_clock)
        self.orchestrator = Orchestrator(
            store=self.store,
            clock=self.clock,
            catalogue=Catalogue(),
            policy=world.scenario.policy,
            retention=world.scenario.retention,
            holder="orchestrator" if world.scenario.same_holder else f"orchestrator-{self.name}",
            replica=self.name,
        )
        self._service = AgentService(self.orchestrator, verified=False, stopping=self._stopping)

    # --- faults

    def take_chance(self, rate: float) -> bool:
        return rate > 0 and self.world.chaos and self.rng.random() < rate

    def check(self) -> None:
        """Raises StoreUnavailable once the process is dead: nothing it does has an effect."""
        if self.dead:
            raise StoreUnavailable("this process is dead")

    def point(self, where: str, weight: float = 1.0) -> None:
        """It passes here, and may not get beyond: then StoreUnavailable, and nobody hears of it."""
        if self.take_chance(self.world.rates.orchestrator_crash * weight / 2):
            self.crash(where)
        self.check()

    def crash(self, when: str) -> None:
        """kill -9, now."""
        if self.dead or self.ended.is_set():
            return
        story = self.world.story
        story.tell("orchestrator", f"life {self.name} is killed {when}")
        story.count("orchestrator crashed")
        story.count(f"orchestrator crashed {when}")
        if self.world.checks.open_attempts():
            story.count("orchestrator crashed with an attempt open")
        self.dead = True
        self.serving = False
        self.process.go()
        for stream in self._streams:
            stream.cut(self.rng.uniform(0, 0.5), 0.0)
        self.ended.set()

    def stop(self) -> None:
        """SIGTERM."""
        self.world.story.tell("orchestrator", f"life {self.name} stops")
        self.world.story.count("orchestrator stopped")
        self.process.go()
        self._stopping.set()
        self.serving = False
        self.ended.set()

    def cut_streams(self) -> None:
        """Its network is gone: both sides find out in their own time."""
        for stream in tuple(self._streams):
            stream.cut(self.rng.uniform(1, 20), self.rng.choice((1.0, 20.0, None)))

    # --- how it stands

    @property
    def plans(self) -> bool:
        """It thinks that it is the planner."""
        return self.serving and not self.process.stopped and self.orchestrator.plans()

    @property
    def answers(self) -> bool:
        """A call would reach it."""
        return self.serving and not self.process.stopped

    def holds_lease(self) -> bool:
        """As the database has it."""
        disk = self.world.disk
        return disk.epoch == self.store._held_epoch != 0

    # --- agents

    def serve(self, stream: Stream) -> None:
        """A new stream has come in."""
        loop = asyncio.get_running_loop()
        task = loop.create_task(self._handle(stream), context=self.process.context())
        stream.server = task
        self._streams.append(stream)
        self._handlers.add(task)
        task.add_done_callback(self._handlers.discard)

    async def _handle(self, stream: Stream) -> None:
        context: Any = ServerSide(self.world, stream, self)
        try:
            await self._service.Link(None, context)
            stream.break_agent(None)
        except Aborted:
            pass
        except asyncio.CancelledError:
            stream.break_agent(unreachable())
        finally:
            self._streams.remove(stream)

    # --- its life

    async def run(self) -> None:
        """Until crashed or stopped. Raises the LiverollError of a start that failed."""
        try:
            async with self.orchestrator:
                if not self.ended.is_set():
                    self.serving = True
                    self.world.story.tell("orchestrator", f"life {self.name} serves")
                await self.ended.wait()
                if self.dead:
                    # The service's tasks are cancelled with the process.
                    raise asyncio.CancelledError
        except asyncio.CancelledError:
            if not self.dead:
                raise
        finally:
            self.serving = False
            for handler in tuple(self._handlers):
                if self.dead:
                    handler.cancel()
            if self._handlers:
                await asyncio.wait(tuple(self._handlers), timeout=DYING_S)
