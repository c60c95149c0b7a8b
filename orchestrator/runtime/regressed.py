"""The stop of a fleet whose store is known to have gone back in time."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime

from orchestrator.core.model import Change, FleetRow, NewEvent
from orchestrator.core.transitions_regression import STOPPED


def stop_regressed(row: FleetRow, why: str, now: datetime) -> Change:
    """Nothing starts until a person has seen it, also where another stop stood."""
    stopped = replace(
        row,
        stopped=STOPPED,
        stop_message=why,
        stopped_by="orchestrator",
        stopped_at=now,
        unheard=frozenset(),
    )
    return Change((stopped,), events=(NewEvent("fleet.stopped", why, cause=STOPPED),))
