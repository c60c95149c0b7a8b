"""Errors of the orchestrator.

LiverollError
├── InvalidSpec        a rollout or a request that cannot work; carries every violation
├── NotFound           no such rollout, node, wave or artifact
│   └── OutOfRange     events after this cursor are gone, or it is another store's
├── AlreadyExists      the name or key is taken with another body
├── IllegalTransition  an action in a state that does not allow it
├── Blocked            allowed, but something stands in the way (carries blockers)
├── Conflict           a row changed under the plan, or a fenced epoch: plan again
├── StaleGeneration    a report or hello under an older generation or link epoch
├── Capacity           a queue, a stream or a message is over its bound
├── NotLeader          this replica does not hold the planner lease
│   └── NotServing     this replica has no fresh view of the store
├── StoreUnavailable   the database cannot be reached, is full or is locked
├── Unsupported        asked of a store, node or method that cannot do it
├── Unauthenticated    no or an unacceptable certificate
├── PermissionDenied   a certificate of the wrong role, or for another node
├── CorruptState       the store contradicts itself or the fleet
├── StoreRegressed     the database went back in time (a CorruptState)
├── SettingsError      a configuration that cannot work
└── InvariantViolated  a promise of the system is broken: fleet stop
"""

from __future__ import annotations

import enum
from collections.abc import Mapping, Sequence
from dataclasses import dataclass


class Retry(enum.StrEnum):
    """What an error asks of whoever sees it (proto RetryClass)."""

    CALL = "CALL"
    REPLAN = "REPLAN"
    FIX_STATE = "FIX_STATE"
    NEVER = "NEVER"


@dataclass(frozen=True, slots=True)
class Violation:
    """One thing wrong with a request: where, what, and how to mend it."""

    path: str
    """For instance budgets.max_unavailable, or waves[1].size."""
    problem: str
    remedy: str = ""
    line: int | None = None


class LiverollError(Exception):
    """Base of all errors here: a stable reason, a retry class, a remedy, and fields.

    Args:
        message: lower case, no full stop, without the cause's text.
        reason: stable UPPER_SNAKE; the class's default if omitted.
        remedy: a sentence that tells an operator how to mend it.
        fields: strings for machines.
    """

    reason = "INTERNAL"
    retry = Retry.NEVER
    remedy = ""

    def __init__(
        self, message: str, *, reason: str | None = None, remedy: str | None = None, **fields: object
    ) -> None:
        super().__init__(message)
        self.message = message
        if reason is not None:
            self.reason = reason
        if remedy is not None:
            self.remedy = remedy
        self.fields: Mapping[str, str] = {k: str(v) for k, v in fields.items()}


class InvalidSpec(LiverollError):
    """A request that cannot work; all violations at once, nothing was changed."""

    reason = "INVALID_SPEC"

    def __init__(self, violations: Sequence[Violation], message: str = "the request is invalid") -> None:
        super().__init__(
            message, remedy="correct every field listed, then send it again; nothing was created"
        )
        self.violations = tuple(violations)


class NotFound(LiverollError):
    reason = "NOT_FOUND"


class OutOfRange(NotFound):
    """A cursor that no event follows any more (trimmed), or of another incarnation."""

    reason = "OUT_OF_RANGE"


class AlreadyExists(LiverollError):
    reason = "ALREADY_EXISTS"


class IllegalTransition(LiverollError):
    """Fields: state, allowed (comma-separated actions)."""

    reason = "ILLEGAL_TRANSITION"


class Blocked(LiverollError):
    reason = "BLOCKED"
    retry = Retry.FIX_STATE


class Conflict(LiverollError):
    reason = "CONFLICT"
    retry = Retry.REPLAN


class StaleGeneration(LiverollError):
    reason = "STALE_GENERATION"
    retry = Retry.REPLAN


class Capacity(LiverollError):
    reason = "CAPACITY"
    retry = Retry.CALL


class NotLeader(LiverollError):
    reason = "NOT_LEADER"
    retry = Retry.CALL


class NotServing(NotLeader):
    """Loading, stopping, or cut off from the store: another replica answers."""

    reason = "NOT_SERVING"


class StoreUnavailable(LiverollError):
    reason = "STORE_UNAVAILABLE"
    retry = Retry.CALL


class Unsupported(LiverollError):
    reason = "UNSUPPORTED"


class Unauthenticated(LiverollError):
    reason = "UNAUTHENTICATED"


class PermissionDenied(LiverollError):
    reason = "PERMISSION_DENIED"


class CorruptState(LiverollError):
    reason = "CORRUPT_STATE"
    retry = Retry.FIX_STATE


class StoreRegressed(CorruptState):
    reason = "STORE_REGRESSED"


class NodeIdConflict(PermissionDenied):
    """Another installation_id under a node id that is taken."""

    reason = "NODE_ID_CONFLICT"


class SettingsError(LiverollError):
    reason = "SETTINGS_INVALID"


class InvariantViolated(LiverollError):
    reason = "INVARIANT_VIOLATED"
