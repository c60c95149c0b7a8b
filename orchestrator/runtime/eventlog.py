"""Pages of the event log for watches and lists, by cursors that know which store they are of.

Rules
1. A cursor is <incarnation>:<seq>: what follows that event in that life of the store. A page never
   runs ahead of what the fleet has applied, so a snapshot taken after it is at least as new as its
   events.
2. A cursor before the tail, of another incarnation, or of an event that does not exist is OutOfRange.
   Its fields say why, and from where to go on: `first_available`, with which all that is kept is
   read, and `head`, with which only what is new is.
3. Of a store that has been replaced nothing is told until it is loaded again (NotServing): heads and
   events of two lives do not fit together.
4. A cursor ahead of this replica is no error: another one has told of that event, and this one waits
   until it has come so far.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass
from datetime import datetime

from orchestrator.core.model import Event
from orchestrator.errors import Conflict, InvalidSpec, OutOfRange, Violation
from orchestrator.ports import Store
from orchestrator.runtime.commits import reloading
from orchestrator.runtime.feed import Feed


class Why(enum.StrEnum):
    """Why a cursor is out of range (field `why`)."""

    TRIMMED = "TRIMMED"
    OTHER_INCARNATION = "OTHER_INCARNATION"
    NOT_YET = "NOT_YET"


@dataclass(frozen=True, slots=True)
class EventsPage:
    events: tuple[Event, ...]
    cursor: str
    """incarnation:seq to go on from; the newest seq looked at, even if no event matched."""


def split_cursor(cursor: str, path: str = "cursor") -> tuple[str, int]:
    """(incarnation, seq). Raises InvalidSpec."""
    incarnation, _, number = cursor.rpartition(":")
    if not incarnation or not number.isascii() or not number.isdigit():
        raise InvalidSpec([Violation(path, f"{cursor!r} is no cursor", "give one that came with an event")])
    return incarnation, int(number)


async def seq_before(store: Store, first: int, head: int, instant: datetime) -> int:
    """The last seq before the instant, by bisection; events are in the order of time, or nearly."""
    low, high = first - 1, head
    while low < high:
        middle = (low + high + 1) // 2
        found = await store.events(middle - 1, limit=1)
        if found and found[0].at < instant:
            low = middle
        else:
            high = middle - 1
    return low


class EventLog:
    """Reads the store; feed.head_seq is how far the fleet has come."""

    def __init__(self, store: Store, feed: Feed) -> None:
        self._store = store
        self._feed = feed
        self.incarnation = ""
        """Set when the store is loaded."""

    def cursor(self, seq: int) -> str:
        return f"{self.incarnation}:{seq}"

    async def since(self, instant: datetime) -> str:
        """The cursor that the first event at or after the instant follows."""
        first = await self._store.first_seq()
        return self.cursor(await seq_before(self._store, first, self._feed.head_seq, instant))

    async def after(self, cursor: str, *, limit: int, rollout_id: str, node_id: str) -> EventsPage:
        """InvalidSpec, OutOfRange, NotServing, StoreUnavailable; see Orchestrator.events_after."""
        try:
            return await self._after(cursor, limit, rollout_id, node_id)
        except Conflict as error:
            raise reloading() from error

    async def _after(self, cursor: str, limit: int, rollout_id: str, node_id: str) -> EventsPage:
        incarnation, head = self.incarnation, self._feed.head_seq
        after = await self._seq_of(cursor, head) if cursor else await self._store.first_seq() - 1
        if cursor and after == head:  # most looks of most watches: the store need not be asked
            return EventsPage((), cursor)
        found = await self._store.events(after, limit=limit, rollout_id=rollout_id, node_id=node_id)
        # Asked afterwards, so that a trim, or another store, in between is noticed.
        if cursor and after + 1 < await self._store.first_seq():
            raise await self._out_of_range(f"events after {cursor} are no longer kept", Why.TRIMMED, cursor)
        if incarnation != self.incarnation or any(event.incarnation != incarnation for event in found):
            raise reloading()
        events = tuple(event for event in found if event.seq <= head)
        full = len(events) == limit
        return EventsPage(events, self.cursor(events[-1].seq if full else max(head, after)))

    async def _seq_of(self, cursor: str, head: int) -> int:
        incarnation, seq = split_cursor(cursor)
        if incarnation != self.incarnation:
            raise await self._out_of_range(
                f"{cursor} is of another life of the store", Why.OTHER_INCARNATION, cursor
            )
        if seq > head and not await self._store.events(seq - 1, limit=1):
            raise await self._out_of_range(f"there is no event {cursor} yet", Why.NOT_YET, cursor)
        return seq

    async def _out_of_range(self, message: str, why: Why, cursor: str) -> OutOfRange:
        told = {
            Why.TRIMMED: "what came between this cursor and first_available is gone from the log",
            Why.OTHER_INCARNATION: "the database was replaced or set back, and its log with it",
            Why.NOT_YET: "the database may have been set back; a cursor comes with an event",
        }[why]
        return OutOfRange(
            message,
            remedy=f"{told}: read on from first_available, or from head for what is new",
            why=why.value,
            cursor=cursor,
            first_available=self.cursor(await self._store.first_seq() - 1),
            head=self.cursor(self._feed.head_seq),
            incarnation=self.incarnation,
        )
