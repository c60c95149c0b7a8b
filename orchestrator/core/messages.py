"""What a node says over its link, and how it is welcomed, in the words of model.py.

Mirrors protos/liveroll/v1/agent.proto; rpc/convert.py translates. Nothing here decides
anything (transitions.py does), and nothing is trusted: a message is a claim.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import timedelta

from orchestrator.core.model import EMPTY, Artifact, Mark, Problem, Sample, Stamp
from orchestrator.core.phases import Kind, Phase, Verdict

BY_HAND = "by_hand"
"""Field of a problem, and of the event that tells of it."""


@dataclass(frozen=True, slots=True)
class AttemptRef:
    """One attempt at one node; unique for ever."""

    node_id: str
    generation: int
    incarnation: str


@dataclass(frozen=True, slots=True)
class NodeStatus:
    """What a node says of itself in every message that carries its state."""

    attempt: AttemptRef | None = None
    """The attempt it is in or last settled; None if it never had one."""
    phase: Phase = Phase.IDLE
    seq: int = 0
    """Journal record of the newest report for this attempt."""
    healthy: bool = True
    problem: Problem | None = None
    """Why it is unhealthy, or why it is quarantined."""
    not_ready: Problem | None = None
    """Why it would refuse a PREPARE now; None if it would not, or in an attempt of ours."""


@dataclass(frozen=True, slots=True)
class AttemptMemory:
    """What a node remembers of its attempt, for a store that has forgotten it."""

    kind: Kind
    artifact: Artifact
    from_release: str
    from_boot_id: str
    verdict: Verdict | None


@dataclass(frozen=True, slots=True)
class Hello:
    """Who is calling and where it stands; the first message of a link."""

    node_id: str
    installation_id: str
    boot_id: str
    release: str
    hardware_model: str = ""
    capabilities: frozenset[str] = frozenset()
    labels: Mapping[str, str] = field(default_factory=lambda: EMPTY)
    highest_generation: int = 0
    highest_incarnation: str = ""
    highest_incarnation_serial: int = 0
    status: NodeStatus = NodeStatus()
    boot_verdict: Verdict | None = None
    agent_version: str = ""
    staged_artifacts: frozenset[str] = frozenset()
    rollback_artifact: str = ""
    command_line: str = ""
    acknowledged_seq: int = 0
    """Reports up to here were acknowledged to the node; it does not send them again."""
    memory: AttemptMemory | None = None
    """Of the attempt in status."""
    other_luo: frozenset[str] = frozenset()
    """LUO's ABI strings of another model than its own; it refuses a target that speaks one."""


@dataclass(frozen=True, slots=True)
class Heartbeat:
    """Still here, and where it stands. Sent every few seconds; hardly ever persisted."""

    status: NodeStatus
    stamp: Stamp | None = None
    unacknowledged: int = 0


@dataclass(frozen=True, slots=True)
class MemoryCheck:
    """Whether workloads found their memory as they left it. Those that do not check are not
    counted."""

    workloads: int
    intact: int
    bytes_checked: int


@dataclass(frozen=True, slots=True)
class StageResult:
    """How fetching and verifying an artifact ended."""

    artifact_digest: str
    verified: bool
    problem: Problem | None = None


@dataclass(frozen=True, slots=True)
class CommandRefusal:
    """A command that the node cannot follow."""

    command_id: str
    problem: Problem


@dataclass(frozen=True, slots=True)
class Report:
    """One journalled event of an attempt, or, without attempt, of the node at rest."""

    seq: int
    """Journal sequence number: rises by node, gaps allowed."""
    event: str
    """The saga's event, in the past tense: Loaded, Drained, Preserved, …"""
    phase: Phase
    """The phase after the event."""
    attempt: AttemptRef | None = None
    marks: tuple[Mark, ...] = ()
    samples: tuple[Sample, ...] = ()
    problem: Problem | None = None
    stamp: Stamp | None = None
    boot_verdict: Verdict | None = None
    release: str = ""
    boot_id: str = ""
    healthy: bool = True
    stage: StageResult | None = None
    refusal: CommandRefusal | None = None
    brownout: timedelta | None = None
    memory_check: MemoryCheck | None = None
    rollback_artifact: str = ""
    left_behind: tuple[tuple[str, Problem], ...] = ()
    """(workload, why it could not be preserved): the node drained these and goes on without them."""

    @property
    def by_hand(self) -> str:
        """What an operator did on the node to bring it into this boot; empty if nobody did."""
        return self.problem.fields.get(BY_HAND, "") if self.problem is not None else ""


@dataclass(frozen=True, slots=True)
class Welcome:
    """The first answer on a link. Sent only after the Hello's change is committed."""

    incarnation: str
    incarnation_serial: int
    link_epoch: int
    """Of this link; reports under an older one are rejected."""
    active_heartbeat: timedelta
    idle_heartbeat: timedelta
    acknowledged_seq: int
    """Reports up to here are committed."""
