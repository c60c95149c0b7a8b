"""A whole fleet with its orchestrator on one virtual loop, from a seed to a verdict.

First faults, then none: everything is mended, a fair operator answers what blocks, and every
rollout must end (I7). The first broken promise ends the world.
"""

from __future__ import annotations

import asyncio
import random
import time
import traceback
from collections import Counter
from collections.abc import Coroutine
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any

from node_agent.core.phases import Phase
from node_agent.kernel.faults import FaultPlan
from orchestrator.core.model import FleetRow
from orchestrator.errors import LiverollError
from orchestrator.store.memory import Disk
from tests.sim import chaos
from tests.sim.ambush import Ambushes
from tests.sim.checks import Checks
from tests.sim.database import Database
from tests.sim.draw import Rates, Scenario, draw
from tests.sim.draw_spec import patient
from tests.sim.ending import Ending
from tests.sim.entropy import seeded
from tests.sim.host import Host
from tests.sim.logs import watched_logs
from tests.sim.network import Network
from tests.sim.node import SimNode, leaves
from tests.sim.operators import Operator, Unanswered, press_buttons
from tests.sim.story import Story, Violation
from tests.sim.virtual import NOBODY, VirtualClock, run
from tests.sim.watcher import Watcher


@dataclass(frozen=True, slots=True)
class Result:
    """How a seed ended. violation is None for a good one."""

    seed: int
    digest: str
    virtual_s: float
    took_s: float
    seen: Counter[str]
    violation: Violation | None = None
    story: tuple[str, ...] = ()

    def __str__(self) -> str:
        if self.violation is None:
            return f"seed {self.seed}: good, {self.virtual_s / 3600:.1f} h"
        lines = "\n".join(self.story)
        return f"seed {self.seed}: {self.violation}\n{lines}"


class World:
    """One seed's."""

    def __init__(self, scenario: Scenario, *, verbose: bool = False) -> None:
        self.scenario = scenario
        self.rates: Rates = scenario.rates
        self.chaos = True
        self.story = Story(verbose=verbose)
        self.disk = Disk()
        self.database = Database(self)
        self.store_clock = VirtualClock()
        self.leases: dict[str, datetime] = {}
        """Replica → until when its lease ran, or when it left, whatever the database remembers."""
        self.no_store_until_s = 0.0
        self.hint_s = self.rates.hint_s
        self.checks = Checks(self)
        self.network = Network(self)
        self.host = Host(self)
        self.nodes = {spec.node_id: SimNode(self, spec) for spec in scenario.nodes}
        models = {spec.luo for spec in scenario.nodes}
        self.story.count("fleet of both models" if len(models) > 1 else f"fleet of {models.pop()}")
        self.watcher = Watcher(self)
        self.ambushes = Ambushes(self)
        self.hands: list[Phase] = []
        """Phases in which somebody will use LUO by hand (chaos_luo.py)."""
        self.people: list[tuple[Phase, random.Random]] = []
        """The same, whatever they then do (chaos_hands.py)."""
        self.mallory = Operator(self, "mallory")
        self._started: set[asyncio.Task[object]] = set()
        self._clones = 0
        self._doubles: dict[asyncio.Task[None], SimNode] = {}
        self._broken: asyncio.Future[None]

    @property
    def replicas(self) -> int:
        return self.host.slots

    def clone(self, node: SimNode, *, copied: bool, lasts_s: float) -> None:
        """Another machine comes up under the node's name; copied: with its disk as it is now."""
        self._clones += 1
        spec = replace(node.spec, faults=FaultPlan(), joins_at_s=0.0)
        double = SimNode(
            self,
            spec,
            name=f"{node.node_id}~{self._clones}",
            installation=node.installation if copied else "",
        )
        if copied:
            double.disk.data = node.disk.data
            double.cache.update(node.cache)
            double.flipped = node.flipped
        self.story.count("clone with the same journal" if copied else "clone")
        self.story.tell(node.node_id, f"has a double, {double.name}, for {lasts_s} s")
        task = asyncio.create_task(double.run(), name=double.name)
        self._doubles[task] = double

        def gone(ended: asyncio.Task[None]) -> None:
            del self._doubles[ended]
            if not ended.cancelled() and (error := ended.exception()) is not None:
                self.fail(error)

        task.add_done_callback(gone)
        asyncio.get_running_loop().call_later(lasts_s, self._end_clone, task)

    def _end_clone(self, task: asyncio.Task[None]) -> None:
        if task in self._doubles:
            self._doubles[task].heal()
            task.cancel()

    def start(self, work: Coroutine[Any, Any, object]) -> None:
        """Beside everything else, of no process; what it raises ends the world."""
        task = asyncio.get_running_loop().create_task(work, context=NOBODY.copy())
        self._started.add(task)

        def done(ended: asyncio.Task[object]) -> None:
            self._started.discard(ended)
            if not ended.cancelled() and (error := ended.exception()) is not None:
                self.fail(error)

        task.add_done_callback(done)

    # --- verdicts

    def fail(self, error: BaseException) -> None:
        """The world ends with this."""
        if not self._broken.done():
            self._broken.set_exception(error)

    def violated(self, invariant: str, message: str, *names: str) -> None:
        self.story.tell("world", f"VIOLATION {invariant}: {message}")
        self.fail(Violation(invariant, message, *names))

    # --- life

    async def live(self) -> None:
        """Raises Violation, or whatever else went wrong."""
        self._broken = asyncio.get_running_loop().create_future()
        tasks = [
            asyncio.create_task(self.host.run(), name="host"),
            *(asyncio.create_task(node.run(), name=node.node_id) for node in self.nodes.values()),
            asyncio.create_task(self.watcher.run(), name="watcher"),
            asyncio.create_task(self.checks.promises.run(), name="promises"),
        ]
        copying = asyncio.create_task(self.database.run(), name="database")
        script = asyncio.create_task(self._script(), name="script")
        try:
            await asyncio.wait((*tasks, script, self._broken), return_when=asyncio.FIRST_COMPLETED)
            for task in (self._broken, *tasks, script):
                if task.done():
                    task.result()
            if not script.done():
                raise Violation("TASKS", "a task of the world ended early")
        finally:
            self.chaos = False
            tasks += self._doubles
            for double in self._doubles.values():
                double.heal()
            everything = (script, copying, *tasks, *self._started)
            for task in everything:
                task.cancel()
            await asyncio.wait(everything)
            if self._broken.done():
                self._broken.exception()

    async def _script(self) -> None:
        creator = Operator(self, "creator")
        running = list(chaos.faults(self))
        if self.rates.operator_s:
            running.append(asyncio.create_task(press_buttons(self, self.rates.operator_s)))
        creating = asyncio.create_task(self._create(creator))
        try:
            await self._until_ended(self.scenario.chaos_s, creating)
        finally:
            for task in running:
                task.cancel()
            await asyncio.gather(*running, return_exceptions=True)
        for task in running:
            if not task.cancelled() and task.exception() is not None:
                task.result()
        await creating
        self._heal()
        await Ending(self).settle()

    async def _create(self, creator: Operator) -> None:
        loop = asyncio.get_running_loop()
        for at_s, spec in self.scenario.rollouts:
            await asyncio.sleep(max(0.0, at_s - loop.time()))
            for _ in range(20):
                try:
                    await creator.create(patient(spec) if self.scenario.patient else spec)
                    break
                except (LiverollError, Unanswered):
                    # Nobody serves, or nothing fits the selection yet.
                    await asyncio.sleep(30)

    async def _until_ended(self, limit_s: float, creating: asyncio.Task[None]) -> None:
        loop = asyncio.get_running_loop()
        while loop.time() < limit_s:
            await asyncio.sleep(10)
            self._look_at_the_plan()
            if creating.done() and not self.unended():
                return

    def _look_at_the_plan(self) -> None:
        """What stands in the way."""
        life = self.host.current
        plan = life.orchestrator.last_plan if life is not None else None
        for blockers in plan.blockers.values() if plan is not None else ():
            for blocker in blockers:
                self.story.count(f"blocker {blocker.reason}")

    def unended(self) -> list[str]:
        """Rollouts that have not ended, as the disk has them."""
        rows = self.disk.rows
        return sorted(key[1][0] for key, row in rows.items() if key[0] == "rollouts" and row.ended_at is None)  # type: ignore[union-attr]

    def is_stopped(self) -> bool:
        """The whole fleet, until a person has looked."""
        return any(isinstance(row, FleetRow) and row.stopped for row in self.disk.rows.values())

    def _heal(self) -> None:
        self.story.tell("world", "everything is mended")
        self.chaos = False
        self.rates = QUIET
        self.no_store_until_s = self.hint_s = 0.0
        self.network.heal()
        self.host.heal()
        for task in tuple(self._doubles):
            self._end_clone(task)
        for node in self.nodes.values():
            node.heal()


QUIET = Rates(**{**dict.fromkeys(Rates.__dataclass_fields__, 0.0), "skews_s": (0.0,)})  # type: ignore[arg-type]


def run_seed(seed: int, *, verbose: bool = False) -> Result:
    """One world from its seed. Never raises what the world found: see Result."""
    return run_scenario(draw(seed), verbose=verbose)


def run_scenario(scenario: Scenario, *, verbose: bool = False) -> Result:
    """One world as drawn, or as a test has changed it."""
    world = World(scenario, verbose=verbose)
    began_s = time.perf_counter()
    violation: Violation | None = None
    virtual_s = 0.0

    async def main() -> None:
        nonlocal virtual_s
        try:
            await world.live()
        finally:
            virtual_s = asyncio.get_running_loop().time()

    with watched_logs(world), seeded(scenario.seed):
        try:
            run(main())
        except Violation as found:
            violation = found
        except BaseException as error:
            if isinstance(error, KeyboardInterrupt):
                raise
            violation = _crashed(error)
    names = violation.nodes if violation is not None else ()
    return Result(
        seed=scenario.seed,
        digest=world.story.digest,
        virtual_s=virtual_s,
        took_s=time.perf_counter() - began_s,
        seen=world.story.seen,
        violation=violation,
        story=tuple(world.story.last(names)) if violation is not None else (),
    )


def _crashed(error: BaseException) -> Violation:
    first = leaves(error)[0]
    where = "".join(traceback.format_exception(first))
    return Violation("CRASH", f"{type(first).__name__}: {first}\n{where}")
