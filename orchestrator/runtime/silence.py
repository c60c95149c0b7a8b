"""Ends links that carry nothing, and records those of an earlier life that never came back.

The fleet says whether a link is down (core/fleet.py rule 4); this looks when that may have
become so, sleeping until the first instant at which it could.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from datetime import datetime

from orchestrator.core.phases import Link
from orchestrator.core.policy import FleetPolicy
from orchestrator.errors import LiverollError, NotLeader
from orchestrator.ports import Clock
from orchestrator.runtime.alarm import Alarm
from orchestrator.runtime.commits import Commits
from orchestrator.runtime.ingest import Ingest
from orchestrator.runtime.links import LinkHandle, Links, silent

LOOKS = 10
"""At most so many in one span of policy.silence: a link is found silent a tenth of it late."""

TOGETHER = 256
"""Links found down at the end of the grace, written at the same time."""


class Silence:
    """run() until cancelled."""

    def __init__(
        self,
        *,
        clock: Clock,
        policy: FleetPolicy,
        commits: Commits,
        links: Links,
        ingest: Ingest,
        end: Callable[[LinkHandle, LiverollError], None],
    ) -> None:
        self._clock = clock
        self._policy = policy
        self._commits = commits
        self._links = links
        self._ingest = ingest
        self._end = end
        self._alarm = Alarm(clock)
        self._grace_ends_at: datetime | None = None
        self._look_is_set = False

    def begin(self, grace_ends_at: datetime) -> None:
        """The fleet was loaded: links of which nothing is heard until then are down."""
        self._grace_ends_at = grace_ends_at
        self._alarm.wake()

    def look(self) -> None:
        """There is a new link: it falls due after all those that a look is set for."""
        if not self._look_is_set:
            self._alarm.wake()

    async def run(self) -> None:
        wake_at: datetime | None = None
        while True:
            await self._alarm.wait(wake_at)
            try:
                wake_at = await self._end_silent()
            except NotLeader:
                wake_at = None  # the next load wakes
            self._look_is_set = wake_at is not None

    async def _end_silent(self) -> datetime | None:
        """When to look again."""
        fleet, now = self._commits.fleet, self._clock.now()
        due: list[datetime] = []
        for handle in self._links.all():
            at = handle.heard_at + self._policy.silence
            if at <= now:
                if fleet.link(handle.node_id, now) is Link.DOWN:
                    self._end(handle, silent(handle.node_id))
                    continue
                at = now + self._policy.silence
            due.append(at)
        if self._grace_ends_at is not None:
            if now < self._grace_ends_at:
                due.append(self._grace_ends_at)
            else:
                self._grace_ends_at = None
                await self._end_stale()
        # One look for many links: each costs a pass over all of them.
        return max(min(due), now + self._policy.silence / LOOKS) if due else None

    async def _end_stale(self) -> None:
        stale = [
            node
            for node in self._commits.fleet.nodes.values()
            if node.link_up and self._links.of(node.node_id) is None
        ]
        for start in range(0, len(stale), TOGETHER):
            await asyncio.gather(
                *(
                    self._ingest.link_down(node.node_id, node.link_epoch)
                    for node in stale[start : start + TOGETHER]
                )
            )
