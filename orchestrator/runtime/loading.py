"""A fleet from what was read of the store as a whole."""

from __future__ import annotations

from datetime import datetime

from orchestrator.core.facts import GraceEnds, Replicas
from orchestrator.core.fleet import Fleet
from orchestrator.core.policy import FleetPolicy
from orchestrator.ports import Snapshot


def loaded(snapshot: Snapshot, policy: FleetPolicy, replicas: Replicas, grace_ends_at: datetime) -> Fleet:
    """Nothing is known of links but what living replicas vouch for, until the grace ends."""
    fleet = Fleet.rebuild(policy, snapshot.incarnation, snapshot.rows)
    fleet.incarnation_serial = snapshot.incarnation_serial
    fleet.apply(replicas)
    return fleet.apply(GraceEnds(grace_ends_at))
