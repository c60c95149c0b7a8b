"""What is shown of rollouts and nodes, as data: the shapes that views.py fills.

Mirrors the messages Rollout, Node, WaveStatus … of protos/liveroll/v1/rollout.proto.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta

from orchestrator.core.blockers import Blocker
from orchestrator.core.model import GateVerdict, Maintenance, Problem
from orchestrator.core.phases import Goal, Link, Phase, RolloutState, Verdict
from orchestrator.core.spec import RolloutSpec

BlockerView = Blocker
"""proto Blocker: shown as the planner made it."""


@dataclass(frozen=True, slots=True)
class KernelPairView:
    from_release: str
    to_release: str
    hardware_model: str
    nodes: int = 0
    canary: str = ""
    """Chosen or expected; empty if none is yet."""
    passed: bool = False


@dataclass(frozen=True, slots=True)
class WaveView:
    index: int
    name: str
    state: str
    """pending, awaiting_approval, running, baking, gated, passed, ended, undone"""
    members: int = 0
    pending: int = 0
    in_progress: int = 0
    baking: int = 0
    updated: int = 0
    failed: int = 0
    left_out: int = 0
    rolled_back: int = 0
    nodes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class BudgetUse:
    budget: str
    """max_unavailable, max_in_blackout, max_uncommitted, failures, domain:zone=a"""
    limit: int
    used: int = 0


@dataclass(frozen=True, slots=True)
class VantageSummary:
    """What one vantage point saw, of raw samples."""

    vantage: str
    """workload, host or link"""
    samples: int
    rejected: int
    p50: timedelta | None
    p99: timedelta | None
    max: timedelta | None
    uncertainty: timedelta | None
    """The largest of the samples that count."""


@dataclass(frozen=True, slots=True)
class BlackoutSummary:
    """Of raw, unrejected samples of one vantage (workload where there are any, else host)."""

    samples: int = 0
    rejected: int = 0
    p50: timedelta | None = None
    p99: timedelta | None = None
    max: timedelta | None = None
    open: int = 0
    """Blackouts that have not ended yet."""
    emulated: bool = False
    vantages: tuple[VantageSummary, ...] = ()
    """Each that saw any, the one that counts too."""


@dataclass(frozen=True, slots=True)
class RolloutView:
    """proto Rollout."""

    rollout_id: str
    spec: RolloutSpec
    state: RolloutState
    goal: Goal
    paused: str
    """The reason; empty if it is not paused."""
    halted: str
    """UPPER_SNAKE reason; empty if it is not halted."""
    halt_message: str
    created_at: datetime
    created_by: str
    started_at: datetime | None
    """When its first attempt began."""
    ended_at: datetime | None
    waves: tuple[WaveView, ...]
    current_wave: int
    budgets: tuple[BudgetUse, ...]
    blockers: tuple[Blocker, ...]
    gates: tuple[GateVerdict, ...]
    wave_names: tuple[str, ...]
    """By index, for GateVerdict.wave."""
    pairs: tuple[KernelPairView, ...]
    blackout: BlackoutSummary
    retries: int
    memory_checks_passed: int
    memory_checks_failed: int
    uncommitted: tuple[str, ...]
    next_wake: datetime | None
    target_release: str
    revision: int
    members: int
    fleet_stopped: str
    """The reason; empty if the fleet is not stopped."""


@dataclass(frozen=True, slots=True)
class NodeView:
    """proto Node."""

    node_id: str
    labels: Mapping[str, str]
    release: str
    hardware_model: str
    boot_id: str
    link: Link
    link_changed_at: datetime | None
    phase: Phase
    generation: int
    """Of its newest attempt; 0 if it never had one."""
    incarnation: str
    rollout_id: str
    wave: str
    healthy: bool
    problem: Problem | None
    not_ready: Problem | None
    maintenance: Maintenance | None
    rollback_artifact: str
    staged: tuple[str, ...]
    highest_generation: int
    capabilities: tuple[str, ...]
    agent_version: str
    desired: str
    """In words; empty if nothing is wanted of it."""
    written_off: str
    boot_verdict: Verdict | None
    boot_by_hand: bool
    revision: int


@dataclass(frozen=True, slots=True)
class Explanation:
    """proto ExplainResponse."""

    summary: str
    blockers: tuple[Blocker, ...] = ()
    gates: tuple[GateVerdict, ...] = ()
    wave_names: tuple[str, ...] = ()
    next_wake: datetime | None = None


@dataclass(frozen=True, slots=True)
class PlannedWave:
    name: str
    nodes: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class SkippedNode:
    node_id: str
    reason: str
    message: str
    waits: bool = False
    """It waits for something, or else is left out for good."""


@dataclass(frozen=True, slots=True)
class PlannedCommandLine:
    command_line: str
    nodes: int
    example_node: str


@dataclass(frozen=True, slots=True)
class DryRun:
    """proto RolloutPlan."""

    waves: tuple[PlannedWave, ...]
    pairs: tuple[KernelPairView, ...]
    skipped: tuple[SkippedNode, ...]
    budgets: tuple[BudgetUse, ...]
    command_lines: tuple[PlannedCommandLine, ...]
    target_release: str
    artifact_digest: str
    members: int
    warnings: tuple[str, ...] = ()
