"""What the saga asks of the runner: effects, how long each may take, and how to undo it.

An effect is an instruction, performed by runtime/runner_effects.py, that returns events.
Every effect may be repeated: after a crash nobody knows whether it was done.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping
from dataclasses import dataclass

from node_agent.core.attempt import Attempt
from node_agent.core.model import StepTimeouts
from node_agent.core.phases import Phase


class Effect(enum.StrEnum):
    """One instruction to the runner."""

    LOAD = "LOAD"
    """Preflight, then kexec_file_load."""
    DRAIN = "DRAIN"
    PRESERVE = "PRESERVE"
    AWAIT_PROCEED = "AWAIT_PROCEED"
    SUSPEND = "SUSPEND"
    RECORD_INTENT = "RECORD_INTENT"
    """fsync the JumpIntent."""
    REBOOT = "REBOOT"
    """Check the lease once more, then reboot(KEXEC)."""
    RETRIEVE = "RETRIEVE"
    RESUME = "RESUME"
    VERIFY = "VERIFY"
    FINISH = "FINISH"
    WATCH = "WATCH"
    SET_DEFAULT = "SET_DEFAULT"
    """A cold boot starts the new kernel from now on."""
    UNWIND = "UNWIND"
    """Every undo of undo_plan()."""
    BRING_BACK = "BRING_BACK"
    """Resume whatever can still be resumed; reports nothing, changes no state."""


class Undo(enum.StrEnum):
    """One part of unwinding."""

    RESUME = "RESUME"
    RELEASE = "RELEASE"
    UNDRAIN = "UNDRAIN"
    UNLOAD = "UNLOAD"


@dataclass(frozen=True, slots=True)
class Step:
    """How an effect is bounded and whether it may be cut short."""

    timeout: str | None
    """Field of StepTimeouts, or None where the effect bounds itself."""
    cancellable: bool = True
    """False: it runs to its end in the runner's own task."""


STEPS: Mapping[Effect, Step] = {
    Effect.LOAD: Step("loading_s"),
    Effect.DRAIN: Step("draining_s"),
    Effect.PRESERVE: Step("preserving_s"),
    Effect.AWAIT_PROCEED: Step(None),
    Effect.SUSPEND: Step("suspending_s"),
    # The intent may be durable although the call was cut short; reboot may already be on its way.
    Effect.RECORD_INTENT: Step(None, cancellable=False),
    Effect.REBOOT: Step(None, cancellable=False),
    Effect.RETRIEVE: Step("retrieving_s"),
    Effect.RESUME: Step("resuming_s"),
    Effect.VERIFY: Step("verifying_s"),
    Effect.FINISH: Step("finishing_s"),
    Effect.WATCH: Step(None),
    Effect.SET_DEFAULT: Step("finishing_s"),
    Effect.UNWIND: Step("unwinding_s"),
    Effect.BRING_BACK: Step("resuming_s"),
}

UNDO: Mapping[Phase, Undo] = {
    Phase.LOADING: Undo.UNLOAD,
    Phase.DRAINING: Undo.UNDRAIN,
    Phase.PRESERVING: Undo.RELEASE,
    Phase.SUSPENDING: Undo.RESUME,
}
"""What a step before the jump leaves behind, and what takes it away."""

BEFORE_JUMP: tuple[Phase, ...] = (
    Phase.LOADING,
    Phase.DRAINING,
    Phase.PRESERVING,
    Phase.PRESERVED,
    Phase.SUSPENDING,
    Phase.JUMPING,
)
"""In order; JUMPING belongs here until its JumpIntent is recorded, and again if reboot returns."""


def undo_plan(furthest: Phase) -> tuple[Undo, ...]:
    """The undos for an attempt whose last begun step is `furthest`, in the order to do them.

    The step itself is included: it was begun, and it may have been done.
    """
    begun = BEFORE_JUMP[: BEFORE_JUMP.index(furthest) + 1]
    return tuple(UNDO[phase] for phase in reversed(begun) if phase in UNDO)


def timeout_s(effect: Effect, attempt: Attempt) -> float | None:
    """How long the effect may take for this attempt; None where it bounds itself.

    VERIFY gets its hold on top: verifying_s bounds how long the probes may take to become good.
    """
    name = STEPS[effect].timeout
    if name is None:
        return None
    bounds: StepTimeouts = attempt.timeouts
    limit: float = getattr(bounds, name)
    return limit + attempt.health_hold_s if effect is Effect.VERIFY else limit
