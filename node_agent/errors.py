"""Errors of the node agent.

AgentError
├── KernelError        an ioctl or syscall of LUO, KHO or kexec failed (errno, call)
├── StepFailed         a saga step's effect failed (step, and what to do)
├── CommandRefused     a command that this node cannot follow
├── JournalCorrupt     a full-length record with a wrong checksum: quarantine
├── JournalUnavailable the journal cannot be written any more (disk full, I/O error)
├── JournalLocked      another process holds the journal (it may be inside reboot)
├── ArtifactError      fetching, verifying or staging
├── HookFailed         drain, undrain or health command
├── BrokerError        a workload broke the broker's protocol
├── LinkError          the orchestrator cannot be reached or refused us
└── SettingsError      a configuration that cannot work
"""

from __future__ import annotations

import enum
import errno as errno_names
from collections.abc import Mapping


class Retry(enum.StrEnum):
    """What an error asks of whoever sees it (proto RetryClass)."""

    CALL = "CALL"
    REPLAN = "REPLAN"
    FIX_STATE = "FIX_STATE"
    NEVER = "NEVER"


class AgentError(Exception):
    """Base of all errors here: a stable reason, a retry class, a remedy, and fields.

    Args:
        message: lower case, no full stop, without the cause's text.
        reason: stable UPPER_SNAKE; the class's default if omitted.
        retry: the class's default if omitted.
        remedy: a sentence that tells an operator how to mend it.
        fields: step, errno, ioctl, token, …
    """

    reason = "AGENT_ERROR"
    retry = Retry.NEVER
    remedy = ""

    def __init__(
        self,
        message: str,
        *,
        reason: str | None = None,
        retry: Retry | None = None,
        remedy: str | None = None,
        **fields: object,
    ) -> None:
        super().__init__(message)
        self.message = message
        if reason is not None:
            self.reason = reason
        if retry is not None:
            self.retry = retry
        if remedy is not None:
            self.remedy = remedy
        self.fields: Mapping[str, str] = {k: str(v) for k, v in fields.items()}


class KernelError(AgentError):
    """A kernel call failed.

    Args:
        errno: the positive errno.
        call: the ioctl or syscall by its kernel name, e.g. "LIVEUPDATE_SESSION_PRESERVE_FD".
    """

    reason = "KERNEL_CALL_FAILED"
    retry = Retry.REPLAN

    def __init__(self, errno: int, call: str, message: str = "", **kwargs: object) -> None:
        name = errno_names.errorcode.get(errno, str(errno))
        super().__init__(message or f"{call} failed with {name}", errno=name, call=call, **kwargs)  # type: ignore[arg-type]
        self.errno = errno
        self.call = call


class StepFailed(AgentError):
    """A saga step's effect failed."""

    reason = "STEP_FAILED"
    retry = Retry.REPLAN


class CommandRefused(AgentError):
    """A command that this node cannot follow; nothing was changed."""

    reason = "COMMAND_REFUSED"
    retry = Retry.NEVER


class JournalCorrupt(AgentError):
    """A full-length record fails its checksum; the node is quarantined, nothing is guessed."""

    reason = "JOURNAL_CORRUPT"
    retry = Retry.FIX_STATE


class JournalUnavailable(AgentError):
    """The journal cannot be written: the disk is full, or a write or fsync failed. Nothing that
    needs a record may be begun."""

    reason = "JOURNAL_UNAVAILABLE"
    retry = Retry.FIX_STATE


class JournalLocked(AgentError):
    """Another process holds the journal's lock; it may be inside reboot."""

    reason = "STUCK"
    retry = Retry.FIX_STATE


class ArtifactError(AgentError):
    """An artifact could not be fetched, verified or staged."""

    reason = "ARTIFACT_INVALID"
    retry = Retry.FIX_STATE


class HookFailed(AgentError):
    """A drain, undrain or health command failed or ran out of time."""

    reason = "HOOK_FAILED"
    retry = Retry.REPLAN


class BrokerError(AgentError):
    """A workload broke the broker's protocol or did not answer in time."""

    reason = "WORKLOAD_FAILED"
    retry = Retry.REPLAN


class LinkError(AgentError):
    """The orchestrator cannot be reached, or ended the link with a reason."""

    reason = "LINK_FAILED"
    retry = Retry.CALL


class SettingsError(AgentError):
    """A configuration that cannot work."""

    reason = "SETTINGS_INVALID"
    retry = Retry.NEVER
