"""The words that commands, events, attempts and reports share (proto common.proto).

Durations are seconds as floats with `_s` in the name; `_at` is an aware UTC datetime.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime

from node_agent.errors import AgentError, Retry

LOCAL_INCARNATION = "local"
"""Incarnation of attempts that luoctl began; no store ever has it."""

BY_HAND = "LUO_BY_HAND"
"""Reason of what is told of an operator who drives LUO by hand."""


class AttemptKind(enum.StrEnum):
    """Which way an attempt goes (proto Prepare.Kind)."""

    FORWARD = "FORWARD"
    ROLLBACK = "ROLLBACK"


class Method(enum.StrEnum):
    """How a node gets into the other kernel (proto UpdateMethod)."""

    LIVE = "LIVE"
    DRAIN_REBOOT = "DRAIN_REBOOT"


class Vantage(enum.StrEnum):
    """Where a blackout was seen from (proto BlackoutSample.Vantage)."""

    WORKLOAD = "WORKLOAD"
    HOST = "HOST"
    LINK = "LINK"


@dataclass(frozen=True, slots=True)
class AttemptRef:
    """One attempt at one node; unique for ever."""

    node_id: str
    generation: int
    incarnation: str

    @property
    def id(self) -> str:
        """Short and safe in session names and on command lines: `7-1f3a9c02`."""
        short = "".join(c for c in self.incarnation if c.isalnum())[:8]
        return f"{self.generation}-{short or 'none'}"

    @property
    def agent_session(self) -> str:
        """The LUO session that carries the agent's own token and marks."""
        return f"lr.{self.id}.agent"


@dataclass(frozen=True, slots=True)
class ArtifactRef:
    """Where an artifact is and what it must be (proto ArtifactRef)."""

    name: str
    digest: str
    url: str
    release: str


@dataclass(frozen=True, slots=True)
class BootStamp:
    """An instant within one boot: CLOCK_BOOTTIME in that boot, the base of leases."""

    boot_id: str
    boottime_s: float


@dataclass(frozen=True, slots=True)
class Lease:
    """What a PROCEED granted: the jump is allowed in the stamp's boot, before stamp + valid_for."""

    stamp: BootStamp
    valid_for_s: float


@dataclass(frozen=True, slots=True)
class Problem:
    """An error as it travels (proto Problem). Message: lower case, no full stop."""

    reason: str
    retry: Retry
    message: str
    remedy: str = ""
    fields: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def of(cls, error: AgentError, **fields: str) -> Problem:
        """The problem that an error of this package describes, with more fields if given."""
        return cls(error.reason, error.retry, error.message, error.remedy, {**error.fields, **fields})


@dataclass(frozen=True, slots=True)
class KexecTelemetry:
    """When the last kexec passed each of its phases, as the kernels themselves noted it: raw TSC."""

    shutdown_tsc: int
    """reboot(KEXEC) began to shut down devices."""
    purgatory_tsc: int
    """The old kernel was left."""
    kernel_tsc: int
    """The new kernel started."""
    userspace_tsc: int
    """It started its first process."""
    tsc_hz: float


@dataclass(frozen=True, slots=True)
class Mark:
    """A point on the way through an attempt, as one reading of all clocks.

    Names: preserve_done, suspend, pre_reboot, kernel_start, userspace_start, retrieved,
    resume, finish; kernel_left and init_start where the kernel tells them (KexecTelemetry). `tsc` is raw
    cycles, 0 where the node has none to offer.
    """

    name: str
    realtime_at: datetime
    boottime_s: float
    tsc: int
    boot_id: str


@dataclass(frozen=True, slots=True)
class BlackoutSample:
    """How long something stood still, and what is known of the measurement."""

    vantage: Vantage
    duration_s: float
    uncertainty_s: float
    clock: str
    """tsc, realtime, boottime, emulated"""
    workload: str = ""
    rejected: str = ""
    emulated: bool = False


@dataclass(frozen=True, slots=True)
class MemoryCheck:
    """Whether workloads found their memory as they left it. Workloads that do not check
    are not counted."""

    workloads: int
    intact: int
    bytes_checked: int

    @property
    def passed(self) -> bool:
        """No workload that checked found a difference."""
        return self.intact == self.workloads


@dataclass(frozen=True, slots=True)
class StepTimeouts:
    """Bound of each waiting state, in seconds (proto StepTimeouts).

    The defaults serve local attempts and proto fields left unset.
    """

    loading_s: float = 120.0
    draining_s: float = 600.0
    preserving_s: float = 120.0
    preserved_s: float = 300.0
    suspending_s: float = 30.0
    retrieving_s: float = 60.0
    resuming_s: float = 60.0
    verifying_s: float = 120.0
    finishing_s: float = 120.0
    unwinding_s: float = 300.0
