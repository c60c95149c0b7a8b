"""What the service, not a rollout, decides: fleet-wide budgets and the service's own patience.

Set in the orchestrator's settings; the same for every rollout, so that rollouts compose.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta

from orchestrator.core.spec import Amount


@dataclass(frozen=True, slots=True)
class FleetPolicy:
    """Bounds above all rollouts. Percentages here are of all enrolled nodes."""

    max_unavailable: Amount | None = None
    """None: only the rollouts' own budgets hold."""
    max_in_blackout: Amount | None = None
    max_staging: int = 50
    """Nodes that may be told to fetch an artifact at the same time: bounds the herd on the
    artifact server. Beyond it, fetches wait their turn."""
    restart_grace: timedelta = timedelta(seconds=60)
    """After a start, how long an unheard-of link is UNKNOWN rather than down (Nomad uses 300 s
    for 10,000 clients; agents here reconnect within seconds)."""
    silence: timedelta = timedelta(seconds=30)
    """A link that carries nothing for this long while its node should beat is down."""
    active_heartbeat: timedelta = timedelta(seconds=5)
    """In-flight and baking nodes."""
    idle_heartbeat_rate: float = 50.0
    """Heartbeats per second over the whole idle fleet; the idle interval grows with it."""
    min_idle_heartbeat: timedelta = timedelta(seconds=10)
    stage_retry: timedelta = timedelta(seconds=30)
    """After a STAGE whose error says so, when it is tried again; doubled each time (staging.py)."""
    stage_retry_max: timedelta = timedelta(minutes=10)
    clock_slack: timedelta = timedelta(seconds=2)
    """Added to every lease before its absence counts as evidence."""
