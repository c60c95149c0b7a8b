"""The states of a node's attempt, and what each of them means for its workloads.

The order of members follows a healthy update. The same names are spelled out in
protos/liveroll/v1/common.proto and orchestrator/core/phases.py; a contract test compares
the three.
"""

from __future__ import annotations

import enum


class Phase(enum.StrEnum):
    """Where the node's attempt stands."""

    IDLE = "IDLE"
    LOADING = "LOADING"
    DRAINING = "DRAINING"
    PRESERVING = "PRESERVING"
    PRESERVED = "PRESERVED"
    SUSPENDING = "SUSPENDING"
    JUMPING = "JUMPING"
    RETRIEVING = "RETRIEVING"
    RESUMING = "RESUMING"
    VERIFYING = "VERIFYING"
    FINISHING = "FINISHING"
    BAKING = "BAKING"
    COMMITTED = "COMMITTED"
    UNWINDING = "UNWINDING"
    ABORTED = "ABORTED"
    AWAITING_ROLLBACK = "AWAITING_ROLLBACK"
    QUARANTINED = "QUARANTINED"
    COLD_BOOTED = "COLD_BOOTED"


SETTLED: frozenset[Phase] = frozenset(
    {
        Phase.IDLE,
        Phase.BAKING,
        Phase.COMMITTED,
        Phase.ABORTED,
        Phase.AWAITING_ROLLBACK,
        Phase.QUARANTINED,
        Phase.COLD_BOOTED,
    }
)
"""No saga step is under way; a new attempt may be admitted (some only on an operator's word)."""


class Verdict(enum.StrEnum):
    """Which boot this is (proto BootVerdict)."""

    LIVE_UPDATED = "LIVE_UPDATED"
    STATE_LOST = "STATE_LOST"
    COLD_BOOT = "COLD_BOOT"
    SAME_BOOT = "SAME_BOOT"
    WRONG_KERNEL = "WRONG_KERNEL"
    POISONED = "POISONED"
    FOREIGN_KEXEC = "FOREIGN_KEXEC"
