"""What the node can be told to do: the link's commands (proto Command) and luoctl's.

Sending one twice is the same as once. `admission.classify_command` decides whether a
command is accepted, already done or refused; nothing here decides anything.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from node_agent.core.model import ArtifactRef, AttemptKind, AttemptRef, BootStamp, Method, StepTimeouts


@dataclass(frozen=True, slots=True)
class Stage:
    """Fetch, verify and keep an artifact. Takes no slot and is no part of an attempt."""

    command_id: str
    artifact: ArtifactRef


@dataclass(frozen=True, slots=True)
class Prepare:
    """Begin an attempt."""

    command_id: str
    attempt: AttemptRef
    kind: AttemptKind
    artifact: ArtifactRef
    command_line: str
    expected_release: str = ""
    """What the node must be running, or it refuses; empty: not checked."""
    expected_boot_id: str = ""
    """In which boot; empty: not checked."""
    method: Method = Method.LIVE
    timeouts: StepTimeouts = field(default_factory=StepTimeouts)
    health_hold_s: float = 0.0
    """How long probes must hold before the attempt counts as healthy."""
    rollback_none: bool = False
    """The operator said aloud that there is no way back."""
    operator_word: bool = False
    """A person asked for this attempt: admits it where the last one settled in
    QUARANTINED or COLD_BOOTED."""
    skip_preflight: bool = False
    """A person on the node said aloud that nothing is to be looked at; never comes over the link."""


@dataclass(frozen=True, slots=True)
class Proceed:
    """Jump. Obeyed only in the stamp's boot and before stamp + valid_for."""

    command_id: str
    attempt: AttemptRef
    stamp: BootStamp
    valid_for_s: float


@dataclass(frozen=True, slots=True)
class Cancel:
    """Unwind if that is still possible; raises the floor for PREPARE."""

    command_id: str
    attempt: AttemptRef
    reason: str = ""


@dataclass(frozen=True, slots=True)
class Commit:
    """Make the new kernel what a cold boot starts."""

    command_id: str
    attempt: AttemptRef


@dataclass(frozen=True, slots=True)
class LocalPrepare:
    """luoctl: begin an attempt here, with the next generation and incarnation `local`."""

    command_id: str
    artifact_digest: str
    command_line: str = ""
    """Empty: the running kernel's."""
    kind: AttemptKind = AttemptKind.FORWARD
    timeouts: StepTimeouts = field(default_factory=StepTimeouts)
    health_hold_s: float = 0.0
    rollback_none: bool = False
    operator_word: bool = False
    skip_preflight: bool = False


@dataclass(frozen=True, slots=True)
class LocalKexec:
    """luoctl: PROCEED for the current attempt, stamped here and now."""

    command_id: str
    valid_for_s: float = 30.0


@dataclass(frozen=True, slots=True)
class LocalCancel:
    """luoctl: CANCEL for the current attempt."""

    command_id: str
    reason: str = "asked for on the node"


@dataclass(frozen=True, slots=True)
class LocalCommit:
    """luoctl: COMMIT for the current attempt."""

    command_id: str


LinkCommand = Stage | Prepare | Proceed | Cancel | Commit
LocalCommand = LocalPrepare | LocalKexec | LocalCancel | LocalCommit
Command = LinkCommand | LocalCommand
