"""The Store port in memory: deterministic, with crash points, for simulation and unit tests.

A Disk is what survives; a MemoryStore is one process's handle on it. To restart after a crash,
throw the store away and open another one on the same disk; disk.copy() keeps a moment to come
back to (rows are immutable, so copies are cheap).

Like the SQL store it commits in batches: all that wait when a batch begins share its hooks'
delay. hooks.before may delay, or raise to refuse the whole batch with nothing written;
hooks.after may delay, or raise although all of it is written (the answer is lost).
"""

from __future__ import annotations

import asyncio
import copy
import itertools
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta

from orchestrator.core.model import (
    CAPACITY,
    CapacityRow,
    Change,
    Event,
    FleetRow,
    IdempotencyRow,
    Row,
    RowKey,
    row_key,
)
from orchestrator.errors import Capacity, Conflict, LiverollError, NotLeader, StoreUnavailable
from orchestrator.ports import Beat, Changes, Clock, Committed, Lease, Snapshot
from orchestrator.store.admission import Ledger, fenced, replaced, risen

QUEUE_BOUND = 4096

_TOKENS = itertools.count(1)
"""One for each batch of any disk, so that no two histories agree by chance."""


@dataclass(slots=True)
class Disk:
    """All that is durable."""

    incarnation: str = "memory-1"
    serial: int = 1
    rows: dict[RowKey, Row] = field(default_factory=dict)
    events: list[Event] = field(default_factory=list)
    head_seq: int = 0
    epoch: int = 0
    holder: str = ""
    until: datetime | None = None
    ledger: Ledger = field(default_factory=Ledger)
    batch: int = 0
    batches: dict[RowKey, int] = field(default_factory=dict)
    """Row → the batch that wrote it last."""
    replicas: dict[str, datetime] = field(default_factory=dict)
    """Replica → when its lease runs out."""
    tokens: list[int] = field(default_factory=list)
    """Of every batch, in order: what tells a forked history from its own."""
    regressed: str = ""
    """Why it has a new incarnation, until somebody has written the fleet's row in it."""
    moved: asyncio.Event = field(default_factory=asyncio.Event)
    """Set, and replaced, by every batch."""

    def copy(self) -> Disk:
        """As it is now, for a restart or a restore from backup."""
        return Disk(
            self.incarnation,
            self.serial,
            dict(self.rows),
            list(self.events),
            self.head_seq,
            self.epoch,
            self.holder,
            self.until,
            Ledger(dict(self.ledger.revisions), dict(self.ledger.open_attempts), dict(self.ledger.names)),
            self.batch,
            dict(self.batches),
            dict(self.replicas),
            list(self.tokens),
            self.regressed,
        )

    def tell(self) -> None:
        """The hint of every handle."""
        moved, self.moved = self.moved, asyncio.Event()
        moved.set()

    def recreated(self) -> Disk:
        """An empty one in its place: another incarnation, with a higher serial."""
        return Disk(incarnation=f"memory-{self.serial + 1}", serial=self.serial + 1)


class Hooks:
    """Where a simulation may delay, refuse or crash. Does nothing unless overridden."""

    async def before(self, changes: Sequence[Change]) -> None:
        """Nothing is written yet."""

    async def after(self, changes: Sequence[Change]) -> None:
        """Those that stand are written, and nobody has been told."""

    async def reading(self, what: str) -> None:
        """Before load, events, first_seq, recall, acquire, release or trim."""


@dataclass(slots=True, eq=False)
class _Entry:
    epoch: int | None
    change: Change
    outcome: Committed | LiverollError | Exception | None = None


class MemoryStore:
    """One process's handle. Cancelling a commit() that waits drops it; once its batch has begun
    it may be written, as with the SQL store."""

    def __init__(
        self,
        disk: Disk,
        clock: Clock,
        *,
        hooks: Hooks | None = None,
        queue_bound: int = QUEUE_BOUND,
    ) -> None:
        self.disk = disk
        self._clock = clock
        self._hooks = hooks or Hooks()
        self._bound = queue_bound
        self._pending: list[_Entry] = []
        self._turn = asyncio.Lock()
        self._open = False
        self._held_epoch = 0
        self._newest_epoch = 0
        self._holder = ""
        """Under which this handle has last taken the lease."""
        self._known = self._newest()
        """The newest batch that this handle has seen."""
        self._serial = disk.serial
        """Of the newest incarnation that it has loaded."""

    def _newest(self) -> tuple[str, int, int]:
        """Incarnation, batch, token."""
        disk = self.disk
        return (disk.incarnation, disk.batch, disk.tokens[-1] if disk.tokens else 0)

    async def open(self) -> None:
        self._open = True
        self._known, self._serial = self._newest(), self.disk.serial

    async def close(self) -> None:
        async with self._turn:
            await self._drain(None)
        self._open = False
        self.disk.tell()

    def _check_open(self) -> None:
        if not self._open:
            raise StoreUnavailable("the store is not open", remedy="start the orchestrator again")

    # --- the lease -----------------------------------------------------------------------

    async def acquire(self, holder: str, ttl: timedelta) -> Lease:
        self._check_open()
        await self._hooks.reading("acquire")
        disk, now = self.disk, self._clock.now()
        current = disk.until is not None and disk.until > now
        if current and disk.holder != holder:
            raise NotLeader(
                f"{disk.holder} holds the planner lease",
                remedy="nothing to do: this process stands by",
                holder=disk.holder,
                until=disk.until,
            )
        if not (current and disk.epoch == self._held_epoch):
            # Above all that was ever seen, should the store have gone back in time.
            disk.epoch = max(disk.epoch, self._newest_epoch) + 1
        self._held_epoch = disk.epoch
        self._newest_epoch = max(self._newest_epoch, disk.epoch)
        self._holder = disk.holder = holder
        disk.until = now + ttl
        return Lease(disk.epoch, holder, disk.until)

    async def release(self, lease: Lease) -> None:
        self._check_open()
        await self._hooks.reading("release")
        if (self.disk.epoch, self.disk.holder) == (lease.epoch, lease.holder):
            self.disk.holder, self.disk.until = "", None
        if self._held_epoch == lease.epoch:
            self._held_epoch = 0

    # --- replicas ------------------------------------------------------------------------

    async def beat(self, replica: str, ttl: timedelta) -> Beat:
        self._check_open()
        await self._hooks.reading("beat")
        disk, now = self.disk, self._clock.now()
        disk.replicas[replica] = now + ttl
        alive = frozenset(name for name, until in disk.replicas.items() if until > now)
        current = disk.until is not None and disk.until > now
        return Beat(now, alive, disk.holder if current else "", disk.batch)

    async def leave(self, replica: str) -> None:
        self._check_open()
        await self._hooks.reading("leave")
        self.disk.replicas.pop(replica, None)
        self.disk.tell()

    def _departed(self) -> bool:
        """Is what this handle has seen no part of the store's history?"""
        disk, (incarnation, batch, token) = self.disk, self._known
        return (
            disk.incarnation != incarnation
            or disk.batch < batch
            or (batch > 0 and disk.tokens[batch - 1] != token)
        )

    def _check_known(self) -> Conflict | None:
        """Is this still the store that was loaded?"""
        if self._departed():
            known, actual = (" ".join(map(str, each)) for each in (self._known, self._newest()))
            return replaced(known, actual)
        self._known = self._newest()
        return None

    # --- the one write -------------------------------------------------------------------

    async def commit(self, epoch: int | None, change: Change) -> Committed:
        self._check_open()
        if len(self._pending) >= self._bound:
            raise Capacity(
                "too many writes wait for the database",
                reason="STORE_QUEUE_FULL",
                remedy="try again shortly",
                bound=self._bound,
            )
        entry = _Entry(epoch, change)
        self._pending.append(entry)
        try:
            async with self._turn:
                if entry.outcome is None:
                    await self._drain(entry)
        except asyncio.CancelledError:
            if entry in self._pending:
                self._pending.remove(entry)
            raise
        if isinstance(entry.outcome, Committed):
            return entry.outcome
        assert entry.outcome is not None
        raise entry.outcome

    async def _drain(self, mine: _Entry | None) -> None:
        """Commit all that waits, as one batch. Whoever has the turn does it for all."""
        await asyncio.sleep(0)  # no store answers at once: those who call now join the batch
        batch, self._pending = self._pending, []
        if not batch:
            return
        changes = [entry.change for entry in batch]
        try:
            await self._hooks.before(changes)
        except asyncio.CancelledError:
            self._pending[:0] = [entry for entry in batch if entry is not mine]
            raise
        except Exception as error:  # noqa: BLE001  whatever a simulation raises is the batch's answer
            for entry in batch:
                entry.outcome = error
            return
        now = self._clock.now()
        if (other := self._check_known()) is None:
            self.disk.batch += 1
            self.disk.tokens.append(next(_TOKENS))
        for entry in batch:
            entry.outcome = self._apply(entry, now) if other is None else copy.copy(other)
        if other is None:
            self._known = self._newest()
            self.disk.tell()
        try:
            await self._hooks.after(changes)
        except Exception as error:  # noqa: BLE001  as above
            for entry in batch:
                entry.outcome = error

    def _leads(self, epoch: int, now: datetime) -> bool:
        """As with SQL: its own lease, still running. A fail-over that lost the taking of a lease and
        nothing else gives the same number to another."""
        disk = self.disk
        mine = disk.holder == (self._holder or disk.holder)
        return mine and epoch == disk.epoch and disk.until is not None and disk.until > now

    def _apply(self, entry: _Entry, now: datetime) -> Committed | LiverollError:
        disk = self.disk
        if entry.epoch is not None and not self._leads(entry.epoch, now):
            return fenced(entry.epoch, disk.epoch)
        try:
            disk.ledger.admit(entry.change)
        except LiverollError as refused:
            return refused
        rows = risen(entry.change)
        if entry.change.shrinks:
            rows = (*rows, CapacityRow(disk.ledger.revisions[CAPACITY]))
        for row in rows:
            disk.rows[row_key(row)] = row
            disk.batches[row_key(row)] = disk.batch
            if isinstance(row, FleetRow):
                disk.regressed = ""
        events = tuple(
            Event(disk.incarnation, disk.head_seq + index, now, new)
            for index, new in enumerate(entry.change.events, 1)
        )
        disk.events.extend(events)
        disk.head_seq += len(events)
        return Committed(rows, events, disk.batch)

    # --- reads ---------------------------------------------------------------------------

    async def load(self) -> Snapshot:
        self._check_open()
        await self._hooks.reading("load")
        disk = self.disk
        if self._departed() and (disk.incarnation == self._known[0] or disk.serial < self._serial):
            seen = self._known[1]
            disk.regressed = (
                f"the store is at batch {disk.batch}, without the batch {seen} that has been seen here"
            )
            disk.serial = max(disk.serial, self._serial) + 1
            disk.incarnation = f"memory-{disk.serial}"
        self._known, self._serial = self._newest(), disk.serial
        rows = tuple(row for row in disk.rows.values() if not isinstance(row, IdempotencyRow))
        return Snapshot(disk.incarnation, disk.serial, disk.head_seq, rows, disk.batch, disk.regressed)

    async def changes(self, after_batch: int) -> Changes:
        self._check_open()
        await self._hooks.reading("changes")
        if (other := self._check_known()) is not None:
            raise other
        disk = self.disk
        rows = tuple(
            disk.rows[key]
            for key, batch in disk.batches.items()
            if batch > after_batch and key[0] != IdempotencyRow.table and key in disk.rows
        )
        return Changes(disk.batch, disk.head_seq, rows)

    async def hints(self) -> AsyncIterator[None]:
        moved = self.disk.moved
        while self._open:
            await moved.wait()
            moved = self.disk.moved
            if self._known != self._newest():  # or it was this handle's own, and the last
                yield

    async def events(
        self, after_seq: int, *, limit: int, rollout_id: str = "", node_id: str = ""
    ) -> Sequence[Event]:
        self._check_open()
        await self._hooks.reading("events")
        disk = self.disk
        found: list[Event] = []
        start = max(0, after_seq - (disk.head_seq - len(disk.events)))
        for index in range(start, len(disk.events)):
            event = disk.events[index]
            if rollout_id in ("", event.new.rollout_id) and node_id in ("", event.new.node_id):
                found.append(event)
                if len(found) >= limit:
                    break
        if found and disk.incarnation != self._known[0]:
            raise replaced(self._known[0], disk.incarnation)
        # A cursor is of the life in which it is told.
        return [replace(event, incarnation=disk.incarnation) for event in found]

    async def first_seq(self) -> int:
        self._check_open()
        await self._hooks.reading("first_seq")
        return self.disk.head_seq - len(self.disk.events) + 1

    async def recall(self, actor: str, idempotency_key: str) -> IdempotencyRow | None:
        self._check_open()
        await self._hooks.reading("recall")
        row = self.disk.rows.get((IdempotencyRow.table, (actor, idempotency_key)))
        return row if isinstance(row, IdempotencyRow) else None

    async def trim(self, *, keep_events_after: int, idempotency_before: datetime) -> None:
        self._check_open()
        await self._hooks.reading("trim")
        disk = self.disk
        disk.events = [event for event in disk.events if event.seq > keep_events_after]
        for key, row in list(disk.rows.items()):
            if isinstance(row, IdempotencyRow) and row.at < idempotency_before:
                del disk.rows[key]
                disk.ledger.revisions.pop(key, None)
