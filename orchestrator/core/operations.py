"""What operators' calls do to rows: one pure function a call, each giving a Change.

All raise NotFound (with near misses), and where the state forbids the call IllegalTransition
(fields: state, allowed) or Blocked. Nothing is written by a call that raises.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING

from orchestrator.core.model import Artifact, Change, Maintenance
from orchestrator.core.spec import RolloutSpec

if TYPE_CHECKING:
    from orchestrator.core.fleet import Fleet

NOTHING = Change()


@dataclass(frozen=True, slots=True)
class Created:
    """rollout_id is the spec's name. existing: the same body was created before (no change)."""

    rollout_id: str
    change: Change = NOTHING
    existing: bool = False


@dataclass(frozen=True, slots=True)
class OnNodes:
    """A change, and the nodes that it is about."""

    change: Change
    nodes: tuple[str, ...]


def create(fleet: Fleet, spec: RolloutSpec, artifact: Artifact, actor: str, now: datetime) -> Created:
    """Begin a rollout: membership and waves are fixed now. InvalidSpec, AlreadyExists."""
    raise NotImplementedError


def pause(fleet: Fleet, rollout_id: str, reason: str, actor: str, now: datetime) -> Change:
    raise NotImplementedError


def resume(fleet: Fleet, rollout_id: str, reason: str, clear_halt: bool, actor: str, now: datetime) -> Change:
    raise NotImplementedError


def approve(fleet: Fleet, rollout_id: str, wave: str, remark: str, actor: str, now: datetime) -> Change:
    """wave: by name; empty: the one that waits."""
    raise NotImplementedError


def cancel(
    fleet: Fleet, rollout_id: str, reason: str, roll_back_too: bool, actor: str, now: datetime
) -> Change:
    raise NotImplementedError


def roll_back(fleet: Fleet, rollout_id: str, reason: str, actor: str, now: datetime) -> Change:
    raise NotImplementedError


def commit_nodes(
    fleet: Fleet, rollout_id: str, nodes: Sequence[str], reason: str, actor: str, now: datetime
) -> OnNodes:
    """nodes empty: all that are updated and uncommitted."""
    raise NotImplementedError


def retry_nodes(
    fleet: Fleet, rollout_id: str, nodes: Sequence[str], reason: str, actor: str, now: datetime
) -> OnNodes:
    """nodes empty: all that have failed."""
    raise NotImplementedError


def exclude_nodes(
    fleet: Fleet, rollout_id: str, nodes: Sequence[str], reason: str, actor: str, now: datetime
) -> OnNodes:
    raise NotImplementedError


def write_off(fleet: Fleet, nodes: Sequence[str], reason: str, actor: str, now: datetime) -> OnNodes:
    raise NotImplementedError


def fleet_stop(fleet: Fleet, stop: bool, reason: str, actor: str, now: datetime) -> Change:
    """stop False releases it."""
    raise NotImplementedError


def set_maintenance(
    fleet: Fleet, nodes: Sequence[str], maintenance: Maintenance | None, actor: str, now: datetime
) -> OnNodes:
    """maintenance None ends it."""
    raise NotImplementedError
