"""Pages of the event log for watches and lists, by cursors that know which store they are of.

A cursor is <incarnation>:<seq>. A page never runs ahead of what the fleet has applied, so a
snapshot taken after it is at least as new as its events.
"""

from __future__ import annotations

from dataclasses import dataclass

from orchestrator.core.model import Event
from orchestrator.errors import InvalidSpec, OutOfRange, Violation
from orchestrator.ports import Store
from orchestrator.runtime.feed import Feed


@dataclass(frozen=True, slots=True)
class EventsPage:
    events: tuple[Event, ...]
    cursor: str
    """incarnation:seq to go on from; the newest seq looked at, even if no event matched."""


class EventLog:
    """Reads the store; feed.head_seq is how far the fleet has come."""

    def __init__(self, store: Store, feed: Feed) -> None:
        self._store = store
        self._feed = feed
        self.incarnation = ""
        """Set when the store is loaded."""

    def cursor(self, seq: int) -> str:
        return f"{self.incarnation}:{seq}"

    async def after(self, cursor: str, *, limit: int, rollout_id: str, node_id: str) -> EventsPage:
        """InvalidSpec, OutOfRange, StoreUnavailable; see Orchestrator.events_after."""
        head = self._feed.head_seq
        after = self._seq_of(cursor, head) if cursor else await self._store.first_seq() - 1
        found = await self._store.events(after, limit=limit, rollout_id=rollout_id, node_id=node_id)
        # Asked afterwards, so that a trim in between is noticed.
        if cursor and after + 1 < await self._store.first_seq():
            raise OutOfRange(
                f"events after {cursor} are no longer kept",
                remedy="start again without a cursor; what happened in between is gone from the log",
                cursor=cursor,
            )
        events = tuple(event for event in found if event.seq <= head)
        full = len(events) == limit
        return EventsPage(events, self.cursor(events[-1].seq if full else max(head, after)))

    def _seq_of(self, cursor: str, head: int) -> int:
        incarnation, _, number = cursor.rpartition(":")
        if not incarnation or not number.isascii() or not number.isdigit():
            raise InvalidSpec(
                [Violation("cursor", f"{cursor!r} is no cursor", "give one that came with an event")]
            )
        seq = int(number)
        if incarnation != self.incarnation or seq > head:
            raise OutOfRange(
                f"{cursor} is not of this store's present",
                remedy="the database was replaced or set back; start again without a cursor",
                cursor=cursor,
                incarnation=self.incarnation,
                head=head,
            )
        return seq
