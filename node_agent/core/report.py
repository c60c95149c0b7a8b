"""What the node tells the orchestrator (proto Report, NodeStatus), and how it answers a command."""

from __future__ import annotations

import enum
from collections.abc import Mapping
from dataclasses import dataclass, field

from node_agent.core.model import AttemptRef, BlackoutSample, BootStamp, Mark, MemoryCheck, Problem
from node_agent.core.phases import Phase, Verdict


@dataclass(frozen=True, slots=True)
class NodeStatus:
    """Where the node stands; part of Hello and of every heartbeat."""

    attempt: AttemptRef | None
    phase: Phase
    seq: int
    """Journal record of the newest report for this attempt."""
    healthy: bool
    problem: Problem | None = None
    not_ready: Problem | None = None
    """Why a PREPARE would be refused if it came now; None in an attempt of the orchestrator's."""


@dataclass(frozen=True, slots=True)
class StageResult:
    """How fetching and verifying an artifact ended."""

    artifact_digest: str
    verified: bool
    problem: Problem | None = None


@dataclass(frozen=True, slots=True)
class CommandRefusal:
    """A command that was refused, and why."""

    command_id: str
    problem: Problem


@dataclass(frozen=True, slots=True)
class Report:
    """One journalled event of an attempt (or, with attempt unset, of the node at rest).

    `seq` is the journal record's; gaps are normal. Replayed until acknowledged.
    """

    seq: int
    event: str
    """An event's class name, or Prepared, Staged, CommandRefused, FloorRaised, ByHand and luoctl's verb."""
    phase: Phase
    """The phase after the event."""
    stamp: BootStamp
    boot_id: str
    release: str
    healthy: bool
    attempt: AttemptRef | None = None
    marks: tuple[Mark, ...] = ()
    """All marks of the attempt so far, if the event brought one."""
    samples: tuple[BlackoutSample, ...] = ()
    problem: Problem | None = None
    boot_verdict: Verdict | None = None
    stage: StageResult | None = None
    refusal: CommandRefusal | None = None
    brownout_s: float | None = None
    memory_check: MemoryCheck | None = None
    rollback_artifact: str = ""
    left_behind: Mapping[str, Problem] = field(default_factory=dict)
    """Workloads that were drained because they could not be preserved, and why."""


class Outcome(enum.StrEnum):
    """How a command was classified."""

    ACCEPTED = "ACCEPTED"
    ALREADY_DONE = "ALREADY_DONE"
    REFUSED = "REFUSED"


@dataclass(frozen=True, slots=True)
class Disposition:
    """The answer to a command: what became of it, and where the node stands."""

    outcome: Outcome
    status: NodeStatus
    problem: Problem | None = None
    """Why it was refused."""
    attempt: AttemptRef | None = None
    """The attempt that a local command began or addressed."""
