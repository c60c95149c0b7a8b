"""Which events a reader of the log asks for: read from the request, judged event by event.

Rollout and node are the store's to filter; the rest is judged here, on pages of the log, so that the
cursor moves over what does not match.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime

from liveroll.v1 import rollout_pb2 as pb

from orchestrator.core.model import Event
from orchestrator.runtime.eventlog import split_cursor
from orchestrator.wire.check import Checker

MAX_KINDS = 50
MAX_CURSOR = 200
"""Characters; an incarnation is an UUID."""


@dataclass(frozen=True, slots=True)
class Wanted:
    """A checked ListEventsRequest."""

    cursor: str
    since: datetime | None
    rollout_id: str
    node_id: str
    kinds: tuple[str, ...]
    actor: str
    until_cursor: str
    until: datetime | None
    follow: bool
    limit: int
    """0: none."""
    progress: bool

    @classmethod
    def of(cls, request: pb.ListEventsRequest) -> Wanted:
        """Raises InvalidSpec."""
        check = Checker()
        made = cls(
            cursor=check.name(request.cursor, "cursor", required=False, most=MAX_CURSOR),
            since=_instant(check, request, "since_time"),
            rollout_id=check.name(request.rollout, "rollout", required=False),
            node_id=check.name(request.node_id, "node_id", required=False),
            kinds=tuple(
                kind.removesuffix("*").removesuffix(".")
                for kind in check.names(request.kinds, "kinds", most=MAX_KINDS)
            ),
            actor=check.name(request.actor, "actor", required=False),
            until_cursor=check.name(request.until_cursor, "until_cursor", required=False, most=MAX_CURSOR),
            until=_instant(check, request, "until_time"),
            follow=request.follow,
            limit=request.limit,
            progress=request.progress,
        )
        if made.cursor and made.since is not None:
            check.bad("since_time", "a cursor says already where to begin", "Give one of them.")
        check.done()
        if made.until_cursor:
            split_cursor(made.until_cursor, "until_cursor")
        return made

    @property
    def sifts(self) -> bool:
        """Whether events that the store finds may still not match."""
        return bool(self.kinds or self.actor)

    def matches(self, event: Event) -> bool:
        """Whether an event that the store found is one of those."""
        kind, actor = event.new.kind, event.new.actor
        if self.kinds and not any(kind == k or kind.startswith(f"{k}.") for k in self.kinds):
            return False
        return not self.actor or self.actor in (actor, actor.partition(":")[2])

    def excludes(self, event: Event) -> bool:
        """Whether it, and so all that follows, is beyond the end."""
        if self.until is not None and event.at >= self.until:
            return True
        return bool(self.until_cursor) and event.seq > split_cursor(self.until_cursor)[1]

    def is_over(self, cursor: str, now: datetime) -> bool:
        """Whether nothing more can come behind a cursor that has caught up."""
        if not self.follow or (self.until is not None and now >= self.until):
            return True
        return bool(self.until_cursor) and split_cursor(cursor)[1] >= split_cursor(self.until_cursor)[1]


def _instant(check: Checker, request: pb.ListEventsRequest, name: str) -> datetime | None:
    if not request.HasField(name):
        return None
    try:
        instant: datetime = getattr(request, name).ToDatetime(UTC)
    except (ValueError, OverflowError):
        check.bad(name, "it is no instant", "Give one of this age.")
        return None
    return instant
