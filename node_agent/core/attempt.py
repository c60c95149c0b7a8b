"""An attempt and the node that makes it, as the journal remembers them.

`Attempt` is replaced, never changed; `NodeState` is what a restarted agent knows before
it has asked the kernel anything.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from node_agent.core.commands import Prepare
from node_agent.core.model import (
    ArtifactRef,
    AttemptKind,
    AttemptRef,
    BlackoutSample,
    Lease,
    Mark,
    MemoryCheck,
    Method,
    Problem,
    StepTimeouts,
)
from node_agent.core.phases import Phase, Verdict


@dataclass(frozen=True, slots=True)
class Attempt:
    """One attempt: what was asked, how far it is, what is known."""

    ref: AttemptRef
    kind: AttemptKind
    artifact: ArtifactRef
    command_line: str
    expected_release: str
    expected_boot_id: str
    method: Method
    timeouts: StepTimeouts
    health_hold_s: float
    rollback_none: bool
    from_release: str
    boot_id: str
    """The boot the attempt is in; changes with the kexec."""
    emulated: bool
    phase: Phase = Phase.LOADING
    seq: int = 0
    """Journal record of its newest event."""
    furthest: Phase = Phase.LOADING
    """The last step before the jump that was begun: unwinding undoes it and those before it."""
    lease: Lease | None = None
    jumped: bool = False
    """JumpIntent is recorded: reboot is never called again for this attempt."""
    salvage: bool = False
    """Workloads are being brought back in a boot that can only end in QUARANTINED."""
    interrupted: bool = False
    """Unwinding for a cancel, an expired lease or a restart, not for a failure."""
    committing: bool = False
    was_quarantined: bool = False
    """Begun on an operator's word in QUARANTINED: unwound, it is QUARANTINED again."""
    skip_preflight: bool = False
    """What preflight finds is told and not obeyed."""
    skipped: tuple[str, ...] = ()
    """The reasons that preflight gave and nobody heeded."""
    healthy: bool | None = None
    """The verdict of VERIFYING, kept until FINISHING is done."""
    sessions: Mapping[str, str] = field(default_factory=dict)
    bindings: Mapping[str, Mapping[str, object]] = field(default_factory=dict)
    tokens: Mapping[str, Mapping[int, int]] = field(default_factory=dict)
    """See Preserved; what a later boot finds them by."""
    marks: tuple[Mark, ...] = ()
    tsc_hz: float = 0.0
    """Calibrated in the old kernel; carried over."""
    samples: tuple[BlackoutSample, ...] = ()
    memory: MemoryCheck | None = None
    brownout_s: float | None = None
    verdict: Verdict | None = None
    problem: Problem | None = None

    @property
    def to_release(self) -> str:
        """What `uname -r` must say after the jump."""
        return self.artifact.release

    @classmethod
    def begin(
        cls, prepare: Prepare, *, release: str, boot_id: str, emulated: bool, was_quarantined: bool = False
    ) -> Attempt:
        """The attempt that an accepted PREPARE begins in this boot."""
        return cls(
            ref=prepare.attempt,
            kind=prepare.kind,
            artifact=prepare.artifact,
            command_line=prepare.command_line,
            expected_release=prepare.expected_release,
            expected_boot_id=prepare.expected_boot_id,
            method=prepare.method,
            timeouts=prepare.timeouts,
            health_hold_s=prepare.health_hold_s,
            rollback_none=prepare.rollback_none,
            from_release=release,
            boot_id=boot_id,
            emulated=emulated,
            was_quarantined=was_quarantined,
            skip_preflight=prepare.skip_preflight,
        )


@dataclass(frozen=True, slots=True)
class KexecByHand:
    """A kexec that an operator is about to call (luoctl), beside any attempt."""

    boot_id: str
    """The boot it is called in."""
    kexec_count: int
    """Of that boot."""
    release: str
    """What the artifact says `uname -r` will be."""


@dataclass(frozen=True, slots=True)
class NodeState:
    """What the node knows of itself across restarts."""

    attempt: Attempt | None = None
    highest_generation: int = 0
    """Highest accepted or cancelled: the floor for PREPARE."""
    incarnation: str = ""
    incarnation_serial: int = 0
    boot_id: str = ""
    """The last boot that was classified; empty on a new installation."""
    verdict: Verdict | None = None
    kexec_by_hand: KexecByHand | None = None
    """Journalled before it is called; until it has failed, or the next start has named the boot."""
    by_hand: bool = False
    """A kexec by hand started this boot."""
    healthy: bool = True
    quarantine: Problem | None = None
    """Why the node is quarantined without an attempt being to blame (poisoned, corrupt journal)."""

    @property
    def phase(self) -> Phase:
        """Where the node stands."""
        if self.quarantine is not None:
            return Phase.QUARANTINED
        return self.attempt.phase if self.attempt is not None else Phase.IDLE

    @property
    def problem(self) -> Problem | None:
        """Why it is unhealthy or quarantined, if it is."""
        if self.quarantine is not None:
            return self.quarantine
        return self.attempt.problem if self.attempt is not None else None
