"""The world's database server, as far as it goes wrong: it is lost for an older copy of itself.

A fail-over replaces what is stored by what a lagging copy had, under the feet of the orchestrators that
run. A restore does so while all of them are down. Either way the past that was written since is gone,
and what nodes know of it is all the evidence there is.
"""

from __future__ import annotations

import asyncio
from collections import deque
from dataclasses import fields
from typing import TYPE_CHECKING

from orchestrator.store.memory import Disk

if TYPE_CHECKING:
    from tests.sim.world import World

COPY_S = 3.0
KEPT = 400
"""Copies: twenty minutes of them."""


class Database:
    """run() until cancelled."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._copies: deque[tuple[float, Disk]] = deque(maxlen=KEPT)
        self.regressions = 0
        """How often it has gone back in time."""

    async def run(self) -> None:
        """Keeps copies, if the seed will need one."""
        rates = self._world.scenario.rates
        if not (rates.failover_s or rates.restore_s or rates.restore_back_s):
            return
        while True:
            self._copies.append((asyncio.get_running_loop().time(), self._world.disk.copy()))
            await asyncio.sleep(COPY_S)

    def fail_over(self, lag_s: float) -> None:
        """The primary is lost; a copy that lags so far behind takes its place."""
        self._world.story.count("fail-over to a stale copy")
        self._go_back(lag_s, "a stale copy takes over")

    def restore(self, age_s: float) -> None:
        """Somebody brings back a backup. Nobody may be running."""
        self._world.story.count("backup restored")
        self._go_back(age_s, "a backup is restored")

    def began_anew(self) -> None:
        """An orchestrator has noticed, and begun a new incarnation."""
        self._world.story.tell("world", f"the store is {self._world.disk.incarnation} now")
        self._world.story.count("incarnation begun")
        self._world.checks.regressed()

    def _go_back(self, age_s: float, how: str) -> None:
        now_s = asyncio.get_running_loop().time()
        older = [(at, copy) for at, copy in self._copies if at <= now_s - age_s] or list(self._copies)[:1]
        if not older:
            return
        at_s, copy = older[-1]
        disk = self._world.disk
        lost = disk.batch - copy.batch
        moved = disk.moved
        fresh = copy.copy()
        for field in fields(Disk):
            setattr(disk, field.name, getattr(fresh, field.name))
        disk.moved = moved
        self._world.story.tell("world", f"{how}: {now_s - at_s:.0f} s and {lost} transactions are gone")
        if lost:
            self.regressions += 1
            self._world.story.count("the store went back in time")
            self._world.checks.regressed()
        # Copies that are newer are of a future that never was.
        self._copies = deque(((at, c) for at, c in self._copies if at <= at_s), maxlen=KEPT)
