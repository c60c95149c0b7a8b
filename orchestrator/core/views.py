"""What rollouts and nodes look like to people and tools: derived from the fleet, never stored."""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING

from orchestrator.core.phases import RolloutState
from orchestrator.core.report import Explanation, NodeView, RolloutView

if TYPE_CHECKING:
    from orchestrator.core.actions import Plan
    from orchestrator.core.fleet import Fleet


def shown_state(fleet: Fleet, rollout_id: str) -> RolloutState:
    """The one word for where a rollout stands. NotFound."""
    raise NotImplementedError


def rollout_view(fleet: Fleet, rollout_id: str, plan: Plan | None, now: datetime) -> RolloutView:
    """plan None: without blockers and next_wake. NotFound."""
    raise NotImplementedError


def node_view(fleet: Fleet, node_id: str, now: datetime) -> NodeView:
    """NotFound."""
    raise NotImplementedError


def explain(fleet: Fleet, rollout_id: str, node_id: str, plan: Plan | None, now: datetime) -> Explanation:
    """Why it stands where it stands; node_id empty: the rollout as a whole. NotFound."""
    raise NotImplementedError
