"""What goes wrong in a soak, drawn from a seed: one trouble at a time, each ended before the next but one.

A third of the nodes' processes, one replica and the database may be in trouble at once: never all of the
replicas, for then there would be nobody left to judge.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import signal
from collections import Counter
from collections.abc import Awaitable, Callable

from tests.integration.replica_fleet import Agents, Replica, ReplicaFleet, start_replica
from tests.postgres import Postgres

LEASE_S = 15.0
"""orchestrator/runtime/leader.py's: a replica that stands still for longer has lost it."""


class Trouble:
    """run() until cancelled; then end() mends all."""

    def __init__(self, fleet: ReplicaFleet, server: Postgres, seed: int, *, every_s: float = 4.0) -> None:
        self._fleet = fleet
        self._server = server
        self._rng = random.Random(seed)
        self._every_s = every_s
        self._busy: set[str] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self.made: Counter[str] = Counter()
        self.failed: list[str] = []
        """What should have come back and did not."""

    async def run(self) -> None:
        kinds: list[tuple[int, Callable[[], Awaitable[None]]]] = [
            (6, self._kill_replica),
            (2, self._stop_replica),
            (4, self._freeze_replica),
            (5, self._kill_agents),
            (5, self._cut_links),
            (3, self._cut_store),
            (1, self._restart_database),
            (1, self._kill_database),
        ]
        while True:
            await asyncio.sleep(self._rng.uniform(0.5, 1.5) * self._every_s)
            (make,) = self._rng.choices([make for _, make in kinds], [weight for weight, _ in kinds])
            task = asyncio.ensure_future(self._guarded(make))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def end(self) -> None:
        """Every trouble that is under way passes."""
        if self._tasks:
            await asyncio.wait(self._tasks)

    async def _guarded(self, make: Callable[[], Awaitable[None]]) -> None:
        try:
            await make()
        except Exception as error:
            self.failed.append(f"{make.__name__.strip('_')}: {error}")

    @contextlib.contextmanager
    def _only(self, what: str, kind: str) -> object:
        """Nothing else happens to it meanwhile."""
        self._busy.add(what)
        self.made[kind] += 1
        try:
            yield
        finally:
            self._busy.discard(what)

    def _replica(self) -> Replica | None:
        """None while another one is in trouble."""
        if "replica" in self._busy:
            return None
        return self._rng.choice(self._fleet.replicas)

    def _agents(self) -> Agents | None:
        free = [a for a in self._fleet.agents.values() if a.name not in self._busy]
        if len(free) * 3 <= len(self._fleet.agents) * 2:
            return None
        return self._rng.choice(free)

    async def _kill_replica(self) -> None:
        replica = self._replica()
        if replica is None:
            return
        with self._only("replica", "replica killed"):
            await replica.kill_orchestrator()
            await asyncio.sleep(self._rng.uniform(0, 6))
            await start_replica(self._fleet, replica)

    async def _stop_replica(self) -> None:
        replica = self._replica()
        if replica is None:
            return
        with self._only("replica", "replica ended politely"):
            assert replica.orchestrator is not None
            child = replica.orchestrator
            await child.stop()
            replica.children.remove(child)
            replica.orchestrator = None
            await start_replica(self._fleet, replica)

    async def _freeze_replica(self) -> None:
        """Past its lease, half of the times."""
        replica = self._replica()
        if replica is None:
            return
        past = self._rng.random() < 0.5
        with self._only("replica", f"replica frozen {'past its lease' if past else 'for a moment'}"):
            os.kill(replica.pid, signal.SIGSTOP)
            try:
                await asyncio.sleep(LEASE_S + 3 if past else self._rng.uniform(0.5, 6))
            finally:
                os.kill(replica.pid, signal.SIGCONT)

    async def _kill_agents(self) -> None:
        agents = self._agents()
        if agents is None:
            return
        with self._only(agents.name, f"power cut of {agents.count} nodes"):
            await self._fleet.kill_agents(agents)
            await asyncio.sleep(self._rng.uniform(0, 3))
            await self._fleet.start_again(agents)

    async def _cut_links(self) -> None:
        agents = self._agents()
        if agents is None:
            return
        how = self._rng.choice(("cut", "frozen", "slow"))
        with self._only(agents.name, f"links {how}"):
            for wire in agents.wires:
                if how == "cut":
                    wire.cut()
                elif how == "frozen":
                    wire.freeze()
                else:
                    wire.delay_s = 0.2
            await asyncio.sleep(self._rng.uniform(0.2, 12))
            for wire in agents.wires:
                wire.heal()

    async def _cut_store(self) -> None:
        if "replica" in self._busy:
            return
        wire = self._rng.choice(self._fleet.store_wires)
        how = self._rng.choice(("cut", "frozen"))
        with self._only("replica", f"replica {how} off from the database"):
            (wire.cut if how == "cut" else wire.freeze)()
            await asyncio.sleep(self._rng.uniform(0.5, LEASE_S + 5))
            wire.heal()

    async def _restart_database(self) -> None:
        if "database" in self._busy:
            return
        with self._only("database", "database restarted"):
            await asyncio.to_thread(self._server.restart)

    async def _kill_database(self) -> None:
        if "database" in self._busy:
            return
        with self._only("database", "database killed"):
            await asyncio.to_thread(self._server.kill)
            await asyncio.sleep(self._rng.uniform(0, 3))
            await asyncio.to_thread(self._server.start)
