"""The stop of a fleet whose store is known to have gone back in time."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime

from orchestrator.core.model import Change, FleetRow, NewEvent


def stop_regressed(row: FleetRow, why: str, now: datetime) -> Change:
    """Nothing starts until a person has seen it."""
    stopped = replace(
        row, stopped="STORE_REGRESSED", stop_message=why, stopped_by="orchestrator", stopped_at=now
    )
    return Change((stopped,), events=(NewEvent("fleet.stopped", why, cause="STORE_REGRESSED"),))
