"""A blackout as three vantage points measured it: as it is stored, and as an operator is shown it."""

from __future__ import annotations

import sqlite3
from collections.abc import Mapping
from contextlib import closing
from pathlib import Path
from typing import Any

from orchestrator.core.model import AttemptRow, Sample
from orchestrator.store import codec


def stored(service: Path, node: str) -> dict[str, Sample]:
    """Vantage → sample of a node's newest attempt, from the database in the orchestrator's directory."""
    with closing(sqlite3.connect(f"file:{service / 'liveroll.db'}?mode=ro", uri=True)) as store:
        found = store.execute(
            "select doc from attempts where node_id = ? order by generation desc limit 1", (node,)
        ).fetchone()
    row = codec.decode(AttemptRow, found[0])
    return {sample.vantage.lower(): sample for sample in row.samples}


def shown(rollout: Mapping[str, Any]) -> dict[str, float]:
    """Vantage → seconds, as `liveroll get -o json` has it."""
    return {
        entry["vantage"].rpartition("_")[2].lower(): float(entry["max"].removesuffix("s"))
        for entry in rollout["blackout"]["vantages"]
    }
