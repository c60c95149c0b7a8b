"""The states of a node's attempt as the orchestrator knows them, and which budgets they spend.

The order follows a healthy update. The same names are spelled out in
protos/liveroll/v1/common.proto and node_agent/core/phases.py; a contract test compares
the three. LOST is the one state that only the orchestrator can say.
"""

from __future__ import annotations

import enum


class Phase(enum.StrEnum):
    """Where a node's attempt stands. LOADING also means: PREPARE committed, not acknowledged."""

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
    LOST = "LOST"


SETTLED = frozenset(
    {
        Phase.IDLE,
        Phase.BAKING,
        Phase.COMMITTED,
        Phase.ABORTED,
        Phase.AWAITING_ROLLBACK,
        Phase.QUARANTINED,
        Phase.COLD_BOOTED,
        Phase.LOST,
    }
)
"""The attempt has ended. All others are open, and I14 allows one open attempt a node."""

UNAVAILABLE = frozenset(Phase) - {Phase.IDLE, Phase.BAKING, Phase.COMMITTED, Phase.ABORTED}
"""Spends max_unavailable and its domain's cap. IDLE, BAKING, COMMITTED and ABORTED nodes are
available if they are also reachable and serving."""

BLACKOUT_SLOT = frozenset(
    {
        Phase.LOADING,
        Phase.DRAINING,
        Phase.PRESERVING,
        Phase.PRESERVED,
        Phase.SUSPENDING,
        Phase.JUMPING,
        Phase.RETRIEVING,
        Phase.RESUMING,
        Phase.UNWINDING,
    }
)
"""Holds a blackout slot: reserved when PREPARE is committed, so that nobody waits PRESERVED
for one, and given back when workloads are known to run again (or the node is LOST)."""

BEFORE_JUMP = frozenset({Phase.LOADING, Phase.DRAINING, Phase.PRESERVING, Phase.PRESERVED, Phase.SUSPENDING})
"""A CANCEL can still unwind it, as far as the orchestrator knows."""

BLIND = frozenset({Phase.SUSPENDING, Phase.JUMPING, Phase.RETRIEVING, Phase.RESUMING})
"""The node may be silent here; past its silence lease it is LOST."""


class Verdict(enum.StrEnum):
    """Which boot this is (proto BootVerdict)."""

    LIVE_UPDATED = "LIVE_UPDATED"
    STATE_LOST = "STATE_LOST"
    COLD_BOOT = "COLD_BOOT"
    SAME_BOOT = "SAME_BOOT"
    WRONG_KERNEL = "WRONG_KERNEL"
    POISONED = "POISONED"
    FOREIGN_KEXEC = "FOREIGN_KEXEC"


class Goal(enum.StrEnum):
    """What a rollout is for now."""

    FORWARD = "FORWARD"
    CANCEL = "CANCEL"
    BACK = "BACK"


class RolloutState(enum.StrEnum):
    """What is shown; always derived from goal, gates and members, never stored."""

    PENDING = "PENDING"
    RUNNING = "RUNNING"
    PAUSED = "PAUSED"
    HALTED = "HALTED"
    CANCELLING = "CANCELLING"
    CANCELLED = "CANCELLED"
    ROLLING_BACK = "ROLLING_BACK"
    ROLLED_BACK = "ROLLED_BACK"
    SUCCEEDED = "SUCCEEDED"
    FAILED = "FAILED"


class Outcome(enum.StrEnum):
    """How a member of a rollout stands."""

    PENDING = "PENDING"
    """Has not had its turn, or waits for a retry."""
    OPEN = "OPEN"
    """An attempt of this rollout is open on it."""
    BAKING = "BAKING"
    """Updated, being watched."""
    UPDATED = "UPDATED"
    """Updated and committed."""
    UNCOMMITTED = "UNCOMMITTED"
    """Updated; a cancel came before COMMIT."""
    ALREADY = "ALREADY"
    """Was running the target release when its turn came."""
    FAILED = "FAILED"
    """Its last attempt failed and no retry is left (or may be made without a person)."""
    ROLLED_BACK = "ROLLED_BACK"
    EXCLUDED = "EXCLUDED"
    """By an operator, with a reason; or left untouched by a cancel or rollback."""
    WRITTEN_OFF = "WRITTEN_OFF"


class WaveState(enum.StrEnum):
    """Where the current wave stands."""

    AWAITING_APPROVAL = "AWAITING_APPROVAL"
    RUNNING = "RUNNING"
    BAKING = "BAKING"
    """All settled; the wave's own healthy wait runs."""
    GATED = "GATED"
    """Baked; a gate has not passed."""
    PASSED = "PASSED"


class Kind(enum.StrEnum):
    """What an attempt is for."""

    FORWARD = "FORWARD"
    ROLLBACK = "ROLLBACK"


class Method(enum.StrEnum):
    """How a node gets into the other kernel."""

    LIVE = "LIVE"
    DRAIN_REBOOT = "DRAIN_REBOOT"


class Link(enum.StrEnum):
    """What is known of a node's link."""

    UP = "UP"
    DOWN = "DOWN"
    UNKNOWN = "UNKNOWN"
    """Not heard of since this planner took over: spends budget, raises no failure yet."""
