"""A client that follows the event log by cursor, over every crash, and must miss and repeat nothing (I12)."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from orchestrator.core.model import Event
from orchestrator.errors import NotLeader, StoreUnavailable
from tests.sim.story import Violation

if TYPE_CHECKING:
    from tests.sim.world import World

LOOK_S = 7.0
PAGE = 50


class Watcher:
    """run() until cancelled."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._cursor = ""
        self._seen: list[Event] = []

    async def run(self) -> None:
        while True:
            await asyncio.sleep(LOOK_S)
            life = self._world.host.current
            if life is None:
                continue
            try:
                while True:
                    page = await life.orchestrator.events_after(self._cursor, limit=PAGE)
                    if life.dead:
                        break
                    self._take(page.events)
                    self._cursor = page.cursor
                    if len(page.events) < PAGE:
                        break
            except (NotLeader, StoreUnavailable):
                continue

    def _take(self, events: tuple[Event, ...]) -> None:
        for event in events:
            last = self._seen[-1].seq if self._seen else 0
            if event.seq != last + 1:
                raise Violation("I12", f"a watch got event {event.seq} after {last}")
            self._seen.append(event)

    def compare(self) -> None:
        """What was watched is what the disk has."""
        disk = self._world.disk.events
        if self._seen != disk[: len(self._seen)]:
            raise Violation("I12", "a watch saw other events than the disk has")
        if len(disk) - len(self._seen) > PAGE:
            raise Violation("I12", f"a watch is {len(disk) - len(self._seen)} events behind")
