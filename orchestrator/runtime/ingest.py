"""What nodes say, taken in: in order a node, computed on the fleet as it stands, committed, applied.

Rules
1. One message of a node at a time, over all its links; nodes do not wait for each other.
2. A message that loses to another commit is looked at again, on the fleet as it then is.
3. What a message means (transitions.py) is written before it is answered.
4. A heartbeat is a fact, not a write, unless a node's health or readiness turned, or another replica plans
   and needs the stamp (core/stamps.py): then it is written behind the beat, one such write a node at a time,
   and of the beats that come meanwhile the newest.
"""

from __future__ import annotations

import asyncio
import weakref
from collections.abc import Callable, Sequence
from datetime import datetime

from orchestrator.core import stamps, transitions
from orchestrator.core.facts import Arrival
from orchestrator.core.fleet import Fleet
from orchestrator.core.messages import Heartbeat, Hello, Report, Welcome
from orchestrator.core.transitions import Observation
from orchestrator.errors import Conflict, LiverollError
from orchestrator.ports import Clock
from orchestrator.runtime.commits import Commits
from orchestrator.runtime.links import LinkHandle, Links, replaced
from orchestrator.runtime.tasks import Tasks

_Look = Callable[[Fleet, datetime], Observation]

TRIES = 8
"""Each loss means that somebody else's commit about the node succeeded; eight in a row is a fault."""


class Ingest:
    """Called by AgentLink; one for all nodes."""

    def __init__(
        self, *, clock: Clock, commits: Commits, links: Links, tasks: Tasks, plans: Callable[[], bool]
    ) -> None:
        self._clock = clock
        self._commits = commits
        self._links = links
        self._tasks = tasks
        self._plans = plans
        self._locks: weakref.WeakValueDictionary[str, asyncio.Lock] = weakref.WeakValueDictionary()
        self._writing: dict[str, _Look | None] = {}
        """Node that is being written → the newest beat since: a node that turns beats at once, and once."""

    def _lock(self, node_id: str) -> asyncio.Lock:
        lock = self._locks.get(node_id)
        if lock is None:
            lock = self._locks[node_id] = asyncio.Lock()
        return lock

    def _now(self) -> Arrival:
        return Arrival(self._clock.now(), self._clock.monotonic_s())

    async def hello(self, message: Hello, actor: str) -> tuple[LinkHandle, Welcome]:
        """The node's link from now on. The Hello's refusal, Capacity, StoreUnavailable."""
        came = self._now()
        async with self._lock(message.node_id):
            self._links.admit(message.node_id)
            seen = await self._take(lambda fleet, now: transitions.hello(fleet, message, actor, now, came))
            assert seen.welcome is not None
            if self._commits.fleet.nodes[message.node_id].link_epoch > seen.welcome.link_epoch:
                raise replaced(message.node_id)  # at another replica, while the answer was under way
            handle = self._links.register(message.node_id, seen.welcome.link_epoch, self._clock.now())
            return handle, seen.welcome

    async def report(self, handle: LinkHandle, messages: Sequence[Report]) -> int:
        """The seq to acknowledge. Several reports are one commit."""
        came = self._now()
        async with self._lock(handle.node_id):
            handle.check()
            handle.heard(came.wall)
            seen = await self._take(
                lambda fleet, now: transitions.reports(
                    fleet, handle.node_id, messages, handle.link_epoch, now, came
                )
            )
            assert seen.acknowledge_seq is not None
            return seen.acknowledge_seq

    def heartbeat(self, handle: LinkHandle, message: Heartbeat) -> None:
        handle.check()
        came = self._now()
        now = came.wall
        handle.heard(now)
        fleet = self._commits.fleet
        seen = transitions.heartbeat(fleet, handle.node_id, message, handle.link_epoch, now, came)
        if seen.refusal is not None:
            raise seen.refusal
        self._commits.hear(seen.facts)
        if seen.change or handle.node_id in self._writing:
            # What is being written may be what this beat takes back.
            self._write(
                handle.node_id,
                lambda fleet, now: transitions.heartbeat(
                    fleet, handle.node_id, message, handle.link_epoch, now, came
                ),
            )
        elif not self._plans() and stamps.renewal(fleet, handle.node_id, message.stamp, now):
            self._write(
                handle.node_id,
                lambda fleet, now: Observation(stamps.renewal(fleet, handle.node_id, message.stamp, now)),
            )

    def _write(self, node_id: str, look: _Look) -> None:
        """Behind a beat."""
        if node_id in self._writing:
            self._writing[node_id] = look
        else:
            self._writing[node_id] = None
            self._tasks.spawn(self._write_behind(node_id, look))

    async def _write_behind(self, node_id: str, look: _Look) -> None:
        try:
            following: _Look | None = look
            while following is not None:
                async with self._lock(node_id):
                    await self._take(following)
                following, self._writing[node_id] = self._writing[node_id], None
        except LiverollError:
            pass  # the next beat says the same again
        finally:
            del self._writing[node_id]

    async def link_down(self, node_id: str, link_epoch: int, cause: str) -> bool:
        """Record that the link ended, unless it lives after all or a newer one has taken its place.
        False if it could not be written; never raises what the store says."""
        try:
            async with self._lock(node_id):
                handle = self._links.of(node_id)
                if handle is None or handle.link_epoch != link_epoch:
                    await self._take(
                        lambda fleet, now: transitions.link_down(fleet, node_id, link_epoch, now, cause)
                    )
        except LiverollError:
            return False
        return True

    async def _take(self, look: _Look) -> Observation:
        """Commit and apply what `look` sees, then raise its refusal if there is one."""
        tries = 0
        while True:
            seen = look(self._commits.fleet, self._clock.now())
            try:
                await self._commits.commit(seen.change, seen.facts)
            except Conflict:
                tries += 1
                if tries >= TRIES:
                    raise
                continue
            if seen.refusal is not None:
                raise seen.refusal
            return seen
