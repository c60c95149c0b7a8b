"""Keeps this replica's view of the store: loaded, fresh, and given up when it is neither.

Rules
1. load() once; afterwards `changes` since the batch that is known, on every hint, after every own
   commit that left a gap, on every conflict, and behind every beat that tells of a lost hint.
2. One read at a time: whoever asks while one is under way shares the next, which begins after he
   asked. One that hangs is given up before the lease runs out: beats wait for it, too.
3. A beat renews the replica's own lease, tells who else lives and what the store's clock says. Who
   could not beat for a lease's length, by its own monotonic clock, is taken for dead by the others,
   and its nodes dial them: it ends its links, refuses calls, and loads again once it can.
4. `is_fresh` is asked before anything goes to a node or a caller. So who was stopped (SIGSTOP, a
   frozen machine) and wakes says nothing before it has beaten again.
5. Whoever doubts that the fleet stands for the store asks for a reload, which begins with silence:
   no new commits, links closed (agents dial again within seconds and say where they stand), those
   commits in flight landed.
6. A store's clock that was set says nothing of how long nodes have been silent: load again, which
   begins with a grace.
7. A process that stood still (SIGSTOP, a machine that slept) has not listened: what came for it
   meanwhile waits in its sockets, and silence proves nothing. Late for its beat, it loads again, which
   begins with a grace, and plans nothing before.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from datetime import datetime, timedelta

import structlog

from orchestrator.core.facts import Replicas
from orchestrator.core.fleet import Fleet
from orchestrator.core.model import NodeRow, Row
from orchestrator.errors import Conflict, LiverollError, NotServing, StoreUnavailable
from orchestrator.ports import Beat, Snapshot, Store
from orchestrator.runtime.alarm import Alarm
from orchestrator.runtime.commits import Commits, reloading
from orchestrator.runtime.leader import RENEWALS, RETRY, TROUBLES
from orchestrator.runtime.store_clock import CLOCK_SET, StoreClock

log = structlog.get_logger("liveroll.runtime")

STOOD_STILL = timedelta(seconds=5)
"""So late for a beat. An event loop that is merely busy is late by less; with the pause between beats it
bounds what goes unnoticed to ten seconds, well below every silence lease."""

REMEMBERED = timedelta(hours=2)
"""Longer than any grace: a replica that is gone for so long is gone without one, too."""

PATIENCE = (RENEWALS - 1) / RENEWALS
"""Of a lease: a read of changes that takes longer is given up, for the next beat is due. What hangs may be
one connection."""


class Follower:
    """start() once, then run_beats(), run_hints() and run_watch() until cancelled, then leave()."""

    def __init__(
        self,
        *,
        store: Store,
        clock: StoreClock,
        replica: str,
        ttl: timedelta,
        commits: Commits,
        begin: Callable[[Snapshot, Replicas], Awaitable[None]],
        end: Callable[[LiverollError], None],
        on_replicas: Callable[[Replicas], None],
        on_beat: Callable[[Beat], None],
    ) -> None:
        self._store = store
        self._clock = clock
        self._replica = replica
        self._ttl = ttl
        self._commits = commits
        self._begin = begin
        self._end = end
        self._on_replicas = on_replicas
        self._on_beat = on_beat
        self._alarm = Alarm(clock)
        self._renewed = asyncio.Event()
        self._turn = asyncio.Lock()
        self._asked = 0
        self._covered = 0
        self._valid_until_s = 0.0
        self._due_s: float | None = None
        """When the next beat is due; None while it is under way."""
        self._serves = False
        self._doubt = ""
        self._replicas = Replicas(replica, frozenset({replica}))
        self.trouble = "not started"
        """Why this process does not serve, or soon will not; empty if all is well."""

    # --- freshness -----------------------------------------------------------------------

    def is_fresh(self) -> bool:
        """Rules 3 and 4."""
        return self._clock.monotonic_s() < self._valid_until_s

    @property
    def serves(self) -> bool:
        """The fleet is loaded, and stands for the store as far as is known."""
        return self._serves and not self._doubt and self.is_fresh() and not self._stood_still()

    def _stood_still(self) -> bool:
        """Rule 7: asked by whoever wakes first."""
        late_s = self._clock.monotonic_s() - self._due_s if self._due_s is not None else 0.0
        return late_s > STOOD_STILL.total_seconds()

    def doubt(self, why: str) -> None:
        """The fleet may not be what the store has: load again, soon."""
        self._doubt = self._doubt or why
        self.trouble = why
        self._alarm.wake()

    @property
    def alone(self) -> bool:
        """No other replica is known to live: nothing is written but by this process."""
        return self._replicas.alive == {self._replica}

    @property
    def alive(self) -> int:
        """How many replicas are known to live."""
        return len(self._replicas.alive)

    async def refresh(self) -> None:
        """catch_up(), where anybody else may have written."""
        if not self.alone:
            await self.catch_up()

    # --- life ----------------------------------------------------------------------------

    async def start(self) -> None:
        """NotServing, StoreUnavailable, CorruptState: nothing is kept."""
        await self._beat()
        await self._load()
        self.trouble = self._doubt

    async def run_beats(self) -> None:
        while True:
            pause = self._ttl / RENEWALS if not self.trouble else RETRY
            self._due_s = self._clock.monotonic_s() + pause.total_seconds()
            await self._alarm.wait_for(pause)
            if self._serves and self._stood_still():
                self.doubt("this process stood still")
            self._due_s = None
            await self.turn()

    async def turn(self) -> None:
        """One beat, and what it shows to be necessary."""
        known = self._commits.batch
        try:
            beat = await self._beat()
            if self._doubt or not self._serves:
                await self._load()
            elif not known <= beat.batch <= self._commits.batch:
                await self.catch_up()  # a hint was lost, or the store has gone back
            if not self._doubt:
                self.trouble = ""
        except (*TROUBLES, NotServing) as error:
            trouble = self._doubt or error.message
            tell = log.debug if trouble == self.trouble else log.warning  # once, not every second
            tell("the store does not answer as it should", reason=error.reason, error=error.message)
            self.trouble = trouble

    async def run_hints(self) -> None:
        async for _ in self._store.hints():
            await self.try_catch_up()

    async def run_watch(self) -> None:
        """Stands down in time, even while a beat waits for an answer."""
        while True:
            left_s = self._valid_until_s - self._clock.monotonic_s()
            if left_s > 0:
                await self._clock.sleep(timedelta(seconds=left_s))
                continue
            if self._serves:
                self._stand_down(cut_off())
            self._renewed.clear()
            await self._renewed.wait()

    async def leave(self) -> None:
        """At the end: others need not wait to know that the links here are gone."""
        self._serves, self._valid_until_s = False, 0.0
        self.trouble = "stopped"
        try:
            await self._store.leave(self._replica)
        except TROUBLES as error:
            log.warning("the others were not told of the end", reason=error.reason, error=error.message)

    def _stand_down(self, error: LiverollError) -> None:
        log.warning("standing down", reason=error.reason, error=error.message, why=self._doubt)
        self._serves = False
        self.trouble = self._doubt or error.message
        self._end(error)

    # --- reading -------------------------------------------------------------------------

    async def catch_up(self) -> None:
        """Returns when all that was committed before the call is applied. NotServing,
        StoreUnavailable, CorruptState."""
        self._asked += 1
        ticket = self._asked
        async with self._turn:
            if self._covered >= ticket:
                return
            covers, fleet = self._asked, self._commits.fleet
            try:
                async with asyncio.timeout((self._ttl * PATIENCE).total_seconds()):
                    changes = await self._store.changes(self._commits.batch)
            except Conflict as conflict:
                self.doubt("the store was replaced")
                raise reloading() from conflict
            except TimeoutError as error:
                raise too_slow() from error
            await self._commits.own_first()
            self._commits.follow(fleet, changes, self._vouched(fleet, changes.rows))
            self._covered = covers

    async def try_catch_up(self) -> None:
        """catch_up(), for whom the next beat is soon enough to hear of trouble."""
        try:
            await self.catch_up()
        except LiverollError as error:
            log.debug("not caught up", reason=error.reason, error=error.message)

    async def _load(self) -> None:
        if self._serves:
            self._stand_down(reloading())
        await self._commits.landed()
        self._doubt = ""
        snapshot = await self._read_all()
        try:
            await self._begin(snapshot, self._replicas)
        except Conflict:  # another replica loads and writes, too
            snapshot = await self._read_all()
            await self._begin(snapshot, self._replicas)
        self._serves = True
        log.info("following", replica=self._replica, batch=snapshot.batch)

    async def _read_all(self) -> Snapshot:
        """Whoever takes long to load is taken for dead meanwhile, and must not load again for that."""
        snapshot = await self._store.load()
        if self._valid_until_s - self._clock.monotonic_s() < (self._ttl * PATIENCE).total_seconds():
            await self._beat()
        return snapshot

    async def _beat(self) -> Beat:
        asked_s = self._clock.monotonic_s()
        if self._serves and asked_s >= self._valid_until_s:
            self._stand_down(cut_off())  # it was stopped, and wakes
        beat = await self._store.beat(self._replica, self._ttl)
        answered_s = self._clock.monotonic_s()
        moved = self._clock.error(beat.now, asked_s, answered_s)
        if abs(moved) > CLOCK_SET and self._serves:
            self._doubt = self._doubt or "the store's clock was set"
            self._stand_down(reloading())
        self._clock.learn(beat.now, asked_s, answered_s)
        self._valid_until_s = asked_s + self._ttl.total_seconds()
        self._renewed.set()
        self._hear(beat, self._clock.now())
        self._on_beat(beat)
        return beat

    def _vouched(self, fleet: Fleet, rows: Sequence[Row]) -> tuple[Replicas, ...]:
        """A Hello that was taken since the last beat shows that its replica lived: one that has just
        been started, or was thought gone."""
        known = self._replicas
        lives = {
            row.link_replica
            for row in rows
            if isinstance(row, NodeRow)
            and row.link_up
            and row.link_replica not in ("", *known.alive)
            and fleet.nodes.get(row.node_id, NodeRow(row.node_id)).link_epoch < row.link_epoch
        }
        if not lives:
            return ()
        gone = {r: at for r, at in known.gone.items() if r not in lives}
        self._replicas = Replicas(self._replica, known.alive | lives, gone)
        return (self._replicas,)

    def _hear(self, beat: Beat, now: datetime) -> None:
        known = self._replicas
        alive = beat.alive | {self._replica}
        gone = {r: at for r, at in known.gone.items() if r not in alive and now - at < REMEMBERED}
        gone |= dict.fromkeys(sorted(known.alive - alive), now)
        heard = Replicas(self._replica, alive, gone)
        if heard == known:
            return
        self._replicas = heard
        if self._serves and not self._doubt:
            self._on_replicas(heard)


def cut_off() -> StoreUnavailable:
    """What links and calls are ended with when this replica has lost the store."""
    return StoreUnavailable(
        "this orchestrator has not reached the store for too long",
        reason="CUT_OFF",
        remedy="dial or call another orchestrator of the same store; this one serves again once it can",
    )


def too_slow() -> StoreUnavailable:
    """What whoever needed to know what others have written is told."""
    return StoreUnavailable(
        "the store does not say in time what others have written",
        reason="DATABASE_SLOW",
        remedy="look at the load of the database and at the way to it; this orchestrator goes on trying",
    )
