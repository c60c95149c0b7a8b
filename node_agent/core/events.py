"""What can happen to an attempt, in the past tense.

An event's class name is its name in reports and in the journal. Effects return events;
commands become events only after they were classified (`admission`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from node_agent.core.model import BlackoutSample, Lease, Mark, MemoryCheck, Problem
from node_agent.core.phases import Verdict


@dataclass(frozen=True, slots=True)
class Loaded:
    """Preflight passed and the kernel image is loaded."""

    release: str = ""
    """What the staged artifact says `uname -r` will be."""
    skipped: tuple[str, ...] = ()
    """Reasons for which preflight would have refused, on a person's word."""


@dataclass(frozen=True, slots=True)
class Drained:
    """What cannot be preserved has moved off; who will be asked to preserve is known.

    Sessions are named before anybody is given one: an agent that dies while it hands them out
    could not say otherwise which of them a workload still holds.
    """

    sessions: Mapping[str, str] = field(default_factory=dict)
    bindings: Mapping[str, Mapping[str, object]] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Preserved:
    """Every workload preserved what it has; brownout began at its mark."""

    sessions: Mapping[str, str] = field(default_factory=dict)
    """Workload id → session name."""
    bindings: Mapping[str, Mapping[str, object]] = field(default_factory=dict)
    """Workload id → to whom its memory belongs (uid, unit, …), as the broker says it."""
    marks: tuple[Mark, ...] = ()
    tsc_hz: float = 0.0
    left_behind: Mapping[str, Problem] = field(default_factory=dict)
    """Workloads that could not be preserved and were drained instead, and why."""
    tokens: Mapping[str, Mapping[int, int]] = field(default_factory=dict)
    """Session → its token → the kernel's, where the kernel chooses tokens (RFC v2)."""


@dataclass(frozen=True, slots=True)
class Proceeded:
    """A PROCEED with a valid lease was received."""

    lease: Lease


@dataclass(frozen=True, slots=True)
class Suspended:
    """All workloads stand still."""

    marks: tuple[Mark, ...] = ()


@dataclass(frozen=True, slots=True)
class JumpIntentRecorded:
    """The journal holds the JumpIntent: the point of no return."""

    marks: tuple[Mark, ...] = ()


@dataclass(frozen=True, slots=True)
class RebootRefused:
    """reboot(2) returned: nothing has changed."""

    problem: Problem


@dataclass(frozen=True, slots=True)
class LeaseExpired:
    """The lease ran out, or nobody renewed the wait for PROCEED."""

    problem: Problem


@dataclass(frozen=True, slots=True)
class CancelRequested:
    """A CANCEL was accepted."""

    reason: str = ""


@dataclass(frozen=True, slots=True)
class StepFailed:
    """The effect of the current state failed."""

    problem: Problem


@dataclass(frozen=True, slots=True)
class TimedOut:
    """The effect of the current state took longer than its bound."""

    problem: Problem


@dataclass(frozen=True, slots=True)
class BootClassified:
    """The agent started and knows which boot this is."""

    verdict: Verdict
    boot_id: str
    release: str
    marks: tuple[Mark, ...] = ()
    problem: Problem | None = None
    by_hand: Problem | None = None
    """The boot is FOREIGN_KEXEC, and the foreigner an operator with luoctl: what is told of it. Nothing is
    wrong with the node."""


@dataclass(frozen=True, slots=True)
class Retrieved:
    """Sessions and fds are retrieved."""

    marks: tuple[Mark, ...] = ()


@dataclass(frozen=True, slots=True)
class Resumed:
    """Workloads run again; blackout has ended."""

    marks: tuple[Mark, ...] = ()
    samples: tuple[BlackoutSample, ...] = ()
    memory: MemoryCheck | None = None


@dataclass(frozen=True, slots=True)
class Healthy:
    """Probes held for as long as was asked."""


@dataclass(frozen=True, slots=True)
class Unhealthy:
    """Probes did not hold, or a workload's memory differs."""

    problem: Problem


@dataclass(frozen=True, slots=True)
class Finished:
    """Every session is finished, the node is undrained; brownout has ended."""

    marks: tuple[Mark, ...] = ()
    brownout_s: float | None = None


@dataclass(frozen=True, slots=True)
class CommitRequested:
    """A COMMIT was accepted."""


@dataclass(frozen=True, slots=True)
class Committed:
    """A cold boot now starts the new kernel."""


@dataclass(frozen=True, slots=True)
class Relapsed:
    """A baking node became unhealthy and stayed so."""

    problem: Problem


@dataclass(frozen=True, slots=True)
class Unwound:
    """Everything done before the point of no return is undone."""


Event = (
    Loaded
    | Drained
    | Preserved
    | Proceeded
    | Suspended
    | JumpIntentRecorded
    | RebootRefused
    | LeaseExpired
    | CancelRequested
    | StepFailed
    | TimedOut
    | BootClassified
    | Retrieved
    | Resumed
    | Healthy
    | Unhealthy
    | Finished
    | CommitRequested
    | Committed
    | Relapsed
    | Unwound
)
