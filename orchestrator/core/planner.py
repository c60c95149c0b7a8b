"""What to do now: a pure function of the fleet and an instant."""

from __future__ import annotations

from orchestrator.core.actions import Action, Plan
from orchestrator.core.blockers import Blocker

__all__ = ["Action", "Blocker", "Plan"]
