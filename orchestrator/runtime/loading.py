"""A fleet from what was read of the store as a whole."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from orchestrator.core.facts import GraceEnds, Replicas
from orchestrator.core.fleet import Fleet
from orchestrator.core.policy import FleetPolicy
from orchestrator.core.transitions_regression import stop_regressed
from orchestrator.ports import Snapshot, Store


@dataclass(frozen=True, slots=True)
class Loaded:
    """The fleet, complete up to a batch and its newest event."""

    fleet: Fleet
    batch: int
    head_seq: int


async def loaded(
    store: Store, snapshot: Snapshot, policy: FleetPolicy, replicas: Replicas, now: datetime
) -> Loaded:
    """Nothing is known of links but what living replicas vouch for, until the grace ends. A store that
    has gone back in time is stopped; Conflict: another replica was quicker, read it again."""
    fleet = Fleet.rebuild(policy, snapshot.incarnation, snapshot.rows)
    fleet.incarnation_serial = snapshot.incarnation_serial
    fleet.apply(replicas)
    fleet.apply(GraceEnds(now + policy.restart_grace))
    if not snapshot.regressed:
        return Loaded(fleet, snapshot.batch, snapshot.head_seq)
    committed = await store.commit(None, stop_regressed(fleet.row, snapshot.regressed, now))
    fleet.take(committed.rows)
    if committed.batch > snapshot.batch + 1:  # others have written in between: the follower reads it
        return Loaded(fleet, snapshot.batch, snapshot.head_seq)
    return Loaded(fleet, committed.batch, committed.events[-1].seq)
