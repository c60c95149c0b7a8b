"""The machines that the orchestrator runs on: a slot for each replica, with one life after the other."""

from __future__ import annotations

import asyncio
import random
from datetime import timedelta
from typing import TYPE_CHECKING

from orchestrator.errors import LiverollError
from tests.sim.life import DYING_S, Life
from tests.sim.node import leaves
from tests.sim.story import Violation

if TYPE_CHECKING:
    from tests.sim.world import World


class Host:
    """Starts lives until cancelled, in as many slots as there are replicas."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._rng = random.Random(f"host {world.scenario.seed}")
        self._lives: list[Life | None] = [None] * world.scenario.replicas
        self._remains: set[asyncio.Task[None]] = set()
        self.may_start = asyncio.Event()
        """Clear while an operator keeps all of them down."""
        self.may_start.set()

    # --- who is there

    @property
    def lives(self) -> list[Life]:
        """Processes that run, stopped ones too."""
        return [life for life in self._lives if life is not None and not life.ended.is_set()]

    def at(self, slot: int) -> Life | None:
        """The process at this address, if it takes calls and streams."""
        life = self._lives[slot]
        return life if life is not None and life.serving else None

    @property
    def slots(self) -> int:
        return len(self._lives)

    @property
    def current(self) -> Life | None:
        """The one that plans; any that answers if none does."""
        answering = [life for life in self.lives if life.answers]
        planning = [life for life in answering if life.plans]
        holding = [life for life in planning if life.holds_lease()]
        return (holding or planning or answering or [None])[0]

    def pick(self, rng: random.Random) -> Life | None:
        """One that answers, as a client finds it."""
        answering = [life for life in self.lives if life.answers]
        return rng.choice(answering) if answering else None

    def heal(self) -> None:
        """All run, and reach what they need."""
        self.may_start.set()
        for life in self.lives:
            life.process.go()
            life.cut_from_store = False
            life.clock.skew = timedelta(0)

    # --- their lives

    async def run(self) -> None:
        tasks = [asyncio.create_task(self._slot(slot)) for slot in range(self.slots)]
        try:
            await asyncio.gather(*tasks)
        finally:
            for life in self.lives:
                life.process.go()
            for task in tasks:
                task.cancel()
            await asyncio.wait(tasks)

    async def _slot(self, slot: int) -> None:
        number = 0
        while True:
            await self.may_start.wait()
            number += 1
            life = self._lives[slot] = Life(self._world, slot, number)
            loop = asyncio.get_running_loop()
            task = loop.create_task(life.run(), context=life.process.context())
            self._remains.add(task)
            ended = asyncio.create_task(life.ended.wait())
            try:
                await asyncio.wait((task, ended), return_when=asyncio.FIRST_COMPLETED)
                if not life.dead:
                    # A polite stop: the next begins when it is over.
                    await self._over(task, life)
                else:
                    burial = loop.create_task(self._bury(task, life))
                    self._remains.add(burial)
                    burial.add_done_callback(self._remains.discard)
            finally:
                ended.cancel()
                if not life.ended.is_set():
                    task.cancel()
                life.ended.set()
            await asyncio.sleep(self._rng.choice((0.5, 2.0, 10.0, 40.0)) if self._world.chaos else 1.0)

    async def _bury(self, task: asyncio.Task[None], life: Life) -> None:
        try:
            await self._over(task, life)
        except Exception as error:
            self._world.fail(error)

    async def _over(self, task: asyncio.Task[None], life: Life) -> None:
        done, _ = await asyncio.wait((task,), timeout=DYING_S)
        if not done:
            raise Violation("STOPS", f"life {life.name} of the orchestrator does not end")
        self._remains.discard(task)
        error = None if task.cancelled() else task.exception()
        if error is None:
            return
        errors = leaves(error)
        if not all(isinstance(e, LiverollError) for e in errors):
            raise error
        self._world.story.tell("orchestrator", f"life {life.name} did not start: {errors[0]}")
        self._world.story.count("orchestrator did not start")
