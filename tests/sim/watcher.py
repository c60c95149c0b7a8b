"""A client that follows the event log by cursor, over every crash and at any replica: it must miss and
repeat nothing (I12). Only a database that went back in time may turn its cursor down; it then begins
again, and what it sees from there on is held to the same."""

from __future__ import annotations

import asyncio
import random
from typing import TYPE_CHECKING

from orchestrator.core.model import Event
from orchestrator.errors import NotLeader, OutOfRange, StoreUnavailable
from tests.sim.life import Life
from tests.sim.story import Violation

if TYPE_CHECKING:
    from tests.sim.world import World

LOOK_S = 7.0
PAGE = 50


class Watcher:
    """run() until cancelled."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._rng = random.Random(f"watcher {world.scenario.seed}")
        self._cursor = ""
        self._seen: list[Event] = []
        self._slot = 0
        self._past = self._now()
        """Regressions and incarnation of the database at the last page."""

    async def run(self) -> None:
        while True:
            await asyncio.sleep(LOOK_S)
            life = self._world.host.pick(self._rng)
            if life is None:
                continue
            if self._cursor and life.slot != self._slot:
                self._world.story.count("watch resumed at another replica")
            self._slot = life.slot
            loop = asyncio.get_running_loop()
            # The replica may be stopped while it answers; a client gives up in time.
            reading = loop.create_task(self._read(life), context=life.process.context())
            try:
                await asyncio.wait((reading,), timeout=30)
            finally:
                reading.cancel()
            if reading.done() and not reading.cancelled():
                reading.result()

    def _now(self) -> tuple[int, str]:
        return self._world.database.regressions, self._world.disk.incarnation

    async def _read(self, life: Life) -> None:
        try:
            while True:
                page = await life.orchestrator.events_after(self._cursor, limit=PAGE)
                if life.dead or not self._is_present(life):
                    return
                if self._past != self._now():
                    # A page of before and one of after do not fit together; the next answer says so.
                    self._begin_again()
                    return
                self._take(page.events)
                self._cursor = page.cursor
                if len(page.events) < PAGE:
                    return
        except OutOfRange as error:
            if self._stands():
                raise Violation("I12", f"a watch cannot go on from {self._cursor}: {error}") from error
            self._world.story.count("watch begun again")
            self._begin_again()
        except (NotLeader, StoreUnavailable):
            return

    def _stands(self) -> bool:
        """The cursor is of the database's present: nothing may keep it from going on."""
        disk, (incarnation, _, seq) = self._world.disk, self._cursor.rpartition(":")
        known = incarnation == disk.incarnation and int(seq) <= disk.head_seq
        return known and self._past == self._now()

    def _is_present(self, life: Life) -> bool:
        """Its view is of the database's present. One that has not noticed yet that this went back in time
        shows the end of a past that is gone; it says so within a beat."""
        disk, known = self._world.disk, life.store._known
        return known is not None and known[0] == disk.incarnation and known[1] <= disk.batch

    def _begin_again(self) -> None:
        self._cursor, self._seen, self._past = "", [], self._now()

    def _take(self, events: tuple[Event, ...]) -> None:
        for event in events:
            last = self._seen[-1].seq if self._seen else min(event.seq, self._first()) - 1
            if event.seq != last + 1:
                raise Violation("I12", f"a watch got event {event.seq} after {last}")
            self._seen.append(event)

    def _first(self) -> int:
        """The oldest event that is kept: where a watch without a cursor begins."""
        disk = self._world.disk
        return disk.head_seq - len(disk.events) + 1

    def compare(self) -> None:
        """What was watched is what the disk has."""
        disk = self._world.disk.events
        if self._past != self._now():
            return
        # What retention has taken, nobody can compare.
        self._seen = [event for event in self._seen if event.seq >= self._first()]
        # A log is told with the incarnation of today, whatever it was when they were written.
        if [(e.seq, e.at, e.new) for e in self._seen] != [
            (e.seq, e.at, e.new) for e in disk[: len(self._seen)]
        ]:
            raise Violation("I12", "a watch saw other events than the disk has")
        if len(disk) - len(self._seen) > PAGE:
            raise Violation("I12", f"a watch is {len(disk) - len(self._seen)} events behind")
