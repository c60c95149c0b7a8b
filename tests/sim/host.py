"""The orchestrator's processes, one life after the other, over one disk.

A life that crashes is dead at that instant: its store takes nothing more, its streams are broken,
and what its tasks still do reaches nobody. The next life begins from the disk.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from orchestrator.core.model import Artifact, Change
from orchestrator.errors import Conflict, LiverollError, NotFound, StoreUnavailable
from orchestrator.ports import Committed
from orchestrator.rpc.agents import AgentService
from orchestrator.runtime.service import Orchestrator
from orchestrator.store.memory import Disk, Hooks, MemoryStore, _Entry
from tests.sim.network import Aborted, ServerSide, Stream, unreachable
from tests.sim.node import leaves
from tests.sim.story import Violation
from tests.sim.virtual import VirtualClock

if TYPE_CHECKING:
    from datetime import datetime

    from tests.sim.world import World

DYING_S = 600.0
"""A dead or stopping process whose tasks have not ended by then never ends."""


class Catalogue:
    """Rollouts are created with their artifacts in hand."""

    async def resolve(self, name_or_digest: str) -> Artifact:
        raise NotFound("the simulation resolves artifacts itself")

    async def names(self) -> Sequence[str]:
        return ()


class SimStore(MemoryStore):
    """The memory store, looked at by the checks as it commits."""

    def __init__(self, life: Life, disk: Disk, clock: VirtualClock) -> None:
        super().__init__(disk, clock, hooks=StoreHooks(life))
        self._life = life

    def _apply(self, entry: _Entry, now: datetime) -> Committed | LiverollError:
        outcome = super()._apply(entry, now)
        if isinstance(outcome, Committed):
            self._life.world.checks.committed(outcome, now)
        return outcome


class StoreHooks(Hooks):
    """Crashes and troubles of the store by the seed's rates."""

    def __init__(self, life: Life) -> None:
        self._life = life

    async def before(self, changes: Sequence[Change]) -> None:
        life = self._life
        life.check()
        await asyncio.sleep(life.rng.uniform(0.0005, 0.01))
        life.check()
        world, rates = life.world, life.world.rates
        if asyncio.get_running_loop().time() < world.no_store_until_s:
            raise StoreUnavailable("the disk is full", reason="DISK_FULL")
        if life.take_chance(rates.orchestrator_crash / 2):
            life.crash("before a commit")
            life.check()
        if life.take_chance(rates.store_refuses):
            world.story.count("store refused")
            raise StoreUnavailable("the database is locked", reason="STORE_LOCKED")
        if life.take_chance(rates.store_conflicts):
            world.story.count("store conflict")
            raise Conflict("another commit came first")

    async def after(self, changes: Sequence[Change]) -> None:
        life = self._life
        if life.take_chance(life.world.rates.orchestrator_crash / 2):
            life.crash("after a commit")
        life.check()
        if life.take_chance(life.world.rates.store_in_doubt):
            life.world.story.count("commit in doubt")
            raise StoreUnavailable("the answer was lost", reason="COMMIT_IN_DOUBT")

    async def reading(self, what: str) -> None:
        self._life.check()
        if asyncio.get_running_loop().time() < self._life.world.no_store_until_s:
            raise StoreUnavailable("the disk is full", reason="DISK_FULL")


class Life:
    """One process."""

    def __init__(self, world: World, number: int) -> None:
        self.world, self.number = world, number
        self.rng = random.Random(f"life {world.scenario.seed} {number}")
        self.dead = False
        self.ended = asyncio.Event()
        """Set by a crash or a polite stop."""
        self._handlers: set[asyncio.Task[None]] = set()
        self._streams: list[Stream] = []
        self._stopping = asyncio.Event()
        clock = VirtualClock()
        holder = "orchestrator" if world.scenario.same_holder else f"orchestrator-{number}"
        self.orchestrator = Orchestrator(
            store=SimStore(self, world.disk, clock),
            clock=clock,
            catalogue=Catalogue(),
            policy=world.scenario.policy,
            holder=holder,
        )
        self._service = AgentService(self.orchestrator, verified=False, stopping=self._stopping)

    def take_chance(self, rate: float) -> bool:
        return rate > 0 and self.world.chaos and self.rng.random() < rate

    def check(self) -> None:
        """Raises StoreUnavailable once the process is dead: nothing it does has an effect."""
        if self.dead:
            raise StoreUnavailable("this process is dead")

    def crash(self, when: str) -> None:
        """kill -9, now."""
        if self.dead or self.ended.is_set():
            return
        open_attempts = self.world.checks.open_attempts()
        self.world.story.tell("orchestrator", f"life {self.number} is killed {when}")
        self.world.story.count("orchestrator crashed")
        if open_attempts:
            self.world.story.count("orchestrator crashed with an attempt open")
        self.dead = True
        for stream in self._streams:
            stream.cut(self.rng.uniform(0, 0.5), 0.0)
        if self.world.host.current is self:
            self.world.host.current = None
        self.ended.set()

    def stop(self) -> None:
        """SIGTERM."""
        self.world.story.tell("orchestrator", f"life {self.number} stops")
        self.world.story.count("orchestrator stopped")
        self._stopping.set()
        if self.world.host.current is self:
            self.world.host.current = None
        self.ended.set()

    def serve(self, stream: Stream) -> None:
        """A new stream has come in."""
        task = asyncio.get_running_loop().create_task(self._handle(stream))
        stream.server = task
        self._streams.append(stream)
        self._handlers.add(task)
        task.add_done_callback(self._handlers.discard)

    async def _handle(self, stream: Stream) -> None:
        context: Any = ServerSide(self.world, stream, lambda: not self.dead)
        try:
            await self._service.Link(None, context)
            stream.break_agent(None)
        except Aborted:
            pass
        except asyncio.CancelledError:
            stream.break_agent(unreachable())
        finally:
            self._streams.remove(stream)

    async def run(self) -> None:
        """Until crashed or stopped. Raises the LiverollError of a start that failed."""
        try:
            async with self.orchestrator:
                self.world.host.current = self
                self.world.story.tell("orchestrator", f"life {self.number} serves")
                await self.ended.wait()
                if self.dead:
                    # The service's tasks are cancelled with the process.
                    raise asyncio.CancelledError
        except asyncio.CancelledError:
            if not self.dead:
                raise
        finally:
            if self.world.host.current is self:
                self.world.host.current = None
            for handler in tuple(self._handlers):
                if self.dead:
                    handler.cancel()
            if self._handlers:
                await asyncio.wait(tuple(self._handlers), timeout=DYING_S)


class Host:
    """Starts lives until cancelled."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._rng = random.Random(f"host {world.scenario.seed}")
        self.current: Life | None = None
        """The one that serves."""
        self._remains: set[asyncio.Task[None]] = set()

    async def run(self) -> None:
        number = 0
        while True:
            number += 1
            life = Life(self._world, number)
            task = asyncio.create_task(life.run())
            self._remains.add(task)
            ended = asyncio.create_task(life.ended.wait())
            try:
                await asyncio.wait((task, ended), return_when=asyncio.FIRST_COMPLETED)
                if not life.dead:
                    # A polite stop: the next begins when it is over.
                    await self._over(task, life)
                else:
                    asyncio.get_running_loop().create_task(self._bury(task, life))
            finally:
                ended.cancel()
                if not life.ended.is_set():
                    task.cancel()
            await asyncio.sleep(self._rng.choice((0.5, 2.0, 10.0, 40.0)) if self._world.chaos else 1.0)

    async def _bury(self, task: asyncio.Task[None], life: Life) -> None:
        try:
            await self._over(task, life)
        except Exception as error:
            self._world.fail(error)

    async def _over(self, task: asyncio.Task[None], life: Life) -> None:
        done, _ = await asyncio.wait((task,), timeout=DYING_S)
        if not done:
            raise Violation("STOPS", f"life {life.number} of the orchestrator does not end")
        self._remains.discard(task)
        error = None if task.cancelled() else task.exception()
        if error is None:
            return
        errors = leaves(error)
        if not all(isinstance(e, LiverollError) for e in errors):
            raise error
        self._world.story.tell("orchestrator", f"life {life.number} did not start: {errors[0]}")
        self._world.story.count("orchestrator did not start")
