"""What is known of nodes' links: what this process heard itself, and who vouches for the others.

Rules
1. Links of this process are UNKNOWN until the node is heard of or the grace ends, DOWN after LinkDown
   or when nothing was carried for policy.silence (idle nodes: on top of their heartbeat interval).
2. A link at another replica is what its row says, as long as that replica's own lease runs: it ends
   silent links itself, and heartbeats are never written. Once the lease has run out, nobody knows:
   UNKNOWN for policy.restart_grace from then on (or until this process's own grace ends), then DOWN.
3. No silence lease is counted while a living replica vouches for the link; afterwards it counts from
   the instant at which the link was known to have ended, or from the end of this process's own grace if
   that is later: whoever vouches may have been stopped as well.
"""

from __future__ import annotations

from datetime import datetime, timedelta

from orchestrator.core.facts import Heard, LinkDown, Replicas
from orchestrator.core.model import AttemptRow, NodeRow
from orchestrator.core.phases import Link, Phase
from orchestrator.core.policy import FleetPolicy
from orchestrator.core.standing import is_open


class LinkStates:
    """The fleet's memory of links; told of facts by Fleet.apply. Rows are given by who asks."""

    def __init__(self, policy: FleetPolicy) -> None:
        self._policy = policy
        self.heard: dict[str, Heard] = {}
        """The newest sign of life of each node since this process began."""
        self.down: dict[str, datetime] = {}
        self.grace_ends_at: datetime | None = None
        self.replicas: Replicas | None = None
        """None: this process is the only one there ever was."""

    def hear_of(self, fact: Replicas) -> frozenset[str] | None:
        """Which replicas' links may stand otherwise than before; None: all."""
        before, self.replicas = self.replicas, fact
        if before is None or before.mine != fact.mine:
            return None
        graces = before.gone.items() ^ fact.gone.items()
        return (before.alive ^ fact.alive) | {replica for replica, _ in graces}

    def end(self, fact: LinkDown) -> None:
        self.down[fact.node_id] = fact.at

    def forget(self, node_id: str) -> None:
        self.heard.pop(node_id, None)
        self.down.pop(node_id, None)

    def is_elsewhere(self, node: NodeRow | None) -> bool:
        """Its newest link is, or was, another process's."""
        if node is None or self.replicas is None:
            return False
        return node.link_replica not in ("", self.replicas.mine)

    def unvouched_until(self, replica: str) -> datetime | None:
        """When the links of a replica whose lease has run out count as down; None: never yet."""
        gone = self.replicas.gone.get(replica) if self.replicas is not None else None
        if gone is None:
            return self.grace_ends_at
        ends = gone + self._policy.restart_grace
        return ends if self.grace_ends_at is None else max(ends, self.grace_ends_at)

    def state(
        self, node_id: str, node: NodeRow | None, newest: AttemptRow | None, idle: timedelta, now: datetime
    ) -> tuple[Link, datetime | None]:
        """The link's state, and when it changes unless something is heard.

        idle: how often an idle node beats.
        """
        if node is not None and self.is_elsewhere(node):
            return self._elsewhere(node, now)
        heard = self.heard.get(node_id)
        down = self.down.get(node_id)
        if down is not None and (heard is None or down >= heard.at):
            return Link.DOWN, None
        if heard is None:
            if self.grace_ends_at is None:
                return Link.UNKNOWN, None
            return (Link.UNKNOWN, self.grace_ends_at) if now < self.grace_ends_at else (Link.DOWN, None)
        until = self._silent_at(newest, heard.at, idle)
        return (Link.UP, until) if now < until else (Link.DOWN, None)

    def alive_at(self, node_id: str, node: NodeRow | None, link: Link) -> datetime | None:
        """What a silence lease counts from: the newest sign of life or, of nodes not heard of
        since this process began, the end of the grace. None: it may not be counted."""
        if node is not None and self.is_elsewhere(node):
            return self._ended_elsewhere(node) if link is Link.DOWN else None
        heard = self.heard.get(node_id)
        if heard is not None:
            return heard.at
        down = self.down.get(node_id)
        if down is not None:
            return down
        return self.grace_ends_at if link is Link.DOWN else None

    def _elsewhere(self, node: NodeRow, now: datetime) -> tuple[Link, datetime | None]:
        if self._is_vouched_for(node):
            return (Link.UP if node.link_up else Link.DOWN), None
        until = self.unvouched_until(node.link_replica)
        if until is None or now < until:
            return Link.UNKNOWN, until
        return Link.DOWN, None

    def _ended_elsewhere(self, node: NodeRow) -> datetime | None:
        """When a link that is down at another replica was known to have ended."""
        if not self._is_vouched_for(node):
            return self.unvouched_until(node.link_replica)
        changed, grace = node.link_changed_at, self.grace_ends_at
        # The one that vouches now may have been away itself: this process has listened since its grace.
        return max(changed, grace) if changed is not None and grace is not None else changed

    def _is_vouched_for(self, node: NodeRow) -> bool:
        return self.replicas is not None and node.link_replica in self.replicas.alive

    def _silent_at(self, newest: AttemptRow | None, heard_at: datetime, idle: timedelta) -> datetime:
        if newest is not None and (is_open(newest) or newest.phase is Phase.BAKING):
            return max(heard_at, newest.opened_at) + self._policy.silence
        since = max(heard_at, newest.settled_at or heard_at) if newest is not None else heard_at
        return since + idle + self._policy.silence
