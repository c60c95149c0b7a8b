"""Stamps of PRESERVED nodes, written down for a planner that does not hear them itself.

A PROCEED echoes a fresh stamp (attempts.py). The planner knows those of its own links from their
heartbeats, which are never written. A node whose link is at another replica would wait for ever, so
that replica writes a newer stamp whenever the stored one is older than half the PROCEED lease: then
the planner could not use it any more.
"""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime

from orchestrator.core.fleet import Fleet
from orchestrator.core.model import Change, Stamp
from orchestrator.core.phases import Phase


def renewal(fleet: Fleet, node_id: str, stamp: Stamp | None, now: datetime) -> Change:
    """What the replica that heard the stamp has to write; mostly nothing."""
    a = fleet.open_attempt(node_id)
    if a is None or stamp is None or a.phase is not Phase.PRESERVED or stamp.boot_id != a.expected_boot_id:
        return Change()
    rollout = fleet.rollouts.get(a.rollout_id)
    waits = rollout is not None and not a.cancel_cause and (a.proceed_until is None or a.proceed_until <= now)
    if rollout is None or not waits:
        return Change()
    if a.stamp_at is not None and now - a.stamp_at < rollout.spec.proceed_lease / 2:
        return Change()
    return Change((replace(a, stamp=stamp, stamp_at=now),))
