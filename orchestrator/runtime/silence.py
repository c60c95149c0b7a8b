"""Ends links that carry nothing, and records those that ended while nobody could write it.

The fleet says whether a link is down (core/link_states.py); this looks when that may have
become so, sleeping until the first instant at which it could.

Rules
1. Every replica ends its own silent links, and writes that they have ended.
2. A row that says of a link of this replica that it is up, while there is none, is put right: after
   the grace that follows a load, and some time after the writing of an edge failed.
3. Links of replicas whose lease ran out are the planner's to write down, when their grace is over.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from datetime import datetime

from orchestrator.core.facts import Replicas
from orchestrator.core.fleet import Fleet
from orchestrator.core.model import NodeRow
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
        plans: Callable[[], bool],
    ) -> None:
        self._clock = clock
        self._policy = policy
        self._commits = commits
        self._links = links
        self._ingest = ingest
        self._end = end
        self._plans = plans
        self._alarm = Alarm(clock)
        self._stale_from: list[datetime] = []
        """When rows may begin to tell of links that are none."""
        self._look_is_set = False

    def begin(self, grace_ends_at: datetime) -> None:
        """The fleet was loaded: links of which nothing is heard until then are down."""
        self._stale_from.clear()
        self.stale_from(grace_ends_at)

    def stale_from(self, at: datetime) -> None:
        """From then on some rows may tell of links that are none."""
        self._stale_from.append(at)
        self._alarm.wake()

    def hear_of(self, replicas: Replicas) -> None:
        """How the replicas stand: the links of one that is gone are down in the end."""
        fleet = self._commits.fleet
        known = fleet.replicas.gone if fleet.replicas is not None else {}
        self._commits.hear((replicas,))
        for replica in replicas.gone.keys() - known.keys():
            ends = fleet.unvouched_until(replica)
            if ends is not None:
                self.stale_from(ends)

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
        if any(at <= now for at in self._stale_from):
            self._stale_from = [at for at in self._stale_from if at > now]
            await self._end_stale(fleet, now)
        due += self._stale_from
        # One look for many links: each costs a pass over all of them.
        return max(min(due), now + self._policy.silence / LOOKS) if due else None

    async def _end_stale(self, fleet: Fleet, now: datetime) -> None:
        """Rules 2 and 3."""
        stale = [
            node
            for node in fleet.nodes.values()
            if node.link_up and self._links.of(node.node_id) is None and self._is_stale(fleet, node, now)
        ]
        for start in range(0, len(stale), TOGETHER):
            written = await asyncio.gather(
                *(
                    self._ingest.link_down(node.node_id, node.link_epoch, _why(fleet, node))
                    for node in stale[start : start + TOGETHER]
                )
            )
            if not all(written):
                self.stale_from(now + self._policy.silence)

    def _is_stale(self, fleet: Fleet, node: NodeRow, now: datetime) -> bool:
        replicas = fleet.replicas
        if replicas is not None and node.link_replica == replicas.mine:
            return fleet.grace_ends_at is None or now >= fleet.grace_ends_at
        return self._plans() and fleet.link(node.node_id, now) is Link.DOWN


def _why(fleet: Fleet, node: NodeRow) -> str:
    """The cause of a link's end that is found in its row: this replica's own, or a lost one's."""
    ours = fleet.replicas is None or node.link_replica == fleet.replicas.mine
    return "unwritten" if ours else "replica_lost"
