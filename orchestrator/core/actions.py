"""What a plan is: decided changes, the reasons for what is not done, and the next look.

Everything is decided here; whoever executes an Action commits its `change` and then hints
its nodes, nothing more. No two actions of a plan write the same row, and none guards a row
that another one writes, so each stands or falls by itself.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from types import MappingProxyType

from orchestrator.core.blockers import Blocker
from orchestrator.core.model import Change


@dataclass(frozen=True, slots=True)
class Action:
    """One decision.

    kind: prepare, proceed, cancel, commit, stage, settle, lost, clear, progress, end.
    """

    kind: str
    change: Change
    hint: tuple[str, ...] = ()
    """Nodes whose desired command changed: to be told after the commit."""
    rollout_id: str = ""


@dataclass(frozen=True, slots=True)
class Plan:
    """What to do now. After its commits the planner is asked again: some actions make way
    for others (a rollout's row is never changed and relied upon in the same plan)."""

    actions: tuple[Action, ...] = ()
    blockers: Mapping[str, tuple[Blocker, ...]] = field(default_factory=lambda: MappingProxyType({}))
    """By rollout id, for every rollout that has not ended."""
    next_wake: datetime | None = None
    """When to plan again even if no fact arrives."""
