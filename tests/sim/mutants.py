"""All mistakes that are put into the system on purpose (mutant.py says what one is), by where they are."""

from __future__ import annotations

from tests.sim import (
    mutants_agent,
    mutants_devices,
    mutants_journal,
    mutants_luo,
    mutants_planner,
    mutants_replicas,
    mutants_runtime,
    mutants_store,
)
from tests.sim.mutant import MUTANTS

__all__ = ["MUTANTS", "WHERE"]

WHERE = (
    mutants_planner,
    mutants_runtime,
    mutants_replicas,
    mutants_store,
    mutants_agent,
    mutants_journal,
    mutants_luo,
    mutants_devices,
)
"""Importing a module enlists its mutants."""
