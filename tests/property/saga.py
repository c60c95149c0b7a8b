"""A node as the orchestrator's core sees it: a saga without effects, and a journal of reports."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta

from orchestrator.core.messages import (
    AttemptRef,
    CommandRefusal,
    Hello,
    MemoryCheck,
    NodeStatus,
    Report,
)
from orchestrator.core.model import (
    DesiredCancel,
    DesiredCommit,
    DesiredPrepare,
    DesiredProceed,
    Problem,
    Stamp,
)
from orchestrator.core.phases import SETTLED, Kind, Phase, Verdict
from orchestrator.errors import Retry
from tests.unit.core_ops.build import ARTIFACT, INCARNATION, NEW, OLD

AFTER = {
    Phase.LOADING: ("Loaded", Phase.DRAINING),
    Phase.DRAINING: ("Drained", Phase.PRESERVING),
    Phase.PRESERVING: ("Preserved", Phase.PRESERVED),
    Phase.SUSPENDING: ("Suspended", Phase.JUMPING),
    Phase.JUMPING: ("BootClassified", Phase.RETRIEVING),
    Phase.RETRIEVING: ("Retrieved", Phase.RESUMING),
    Phase.RESUMING: ("Resumed", Phase.VERIFYING),
    Phase.VERIFYING: ("Healthy", Phase.FINISHING),
    Phase.FINISHING: ("Finished", Phase.BAKING),
    Phase.UNWINDING: ("Unwound", Phase.ABORTED),
}
ILL = frozenset({Phase.AWAITING_ROLLBACK, Phase.QUARANTINED, Phase.COLD_BOOTED})
REFUSED = Problem("FREEZE_REFUSED", Retry.REPLAN, "a file refuses to freeze")


@dataclass
class Agent:
    """One node: a saga without effects."""

    node_id: str
    model: str
    release: str = OLD
    boot: int = 1
    seq: int = 0
    epoch: int = 0
    linked: bool = False
    highest: int = 0
    ref: AttemptRef | None = None
    phase: Phase = Phase.IDLE
    kind: Kind = Kind.FORWARD
    to: str = NEW
    problem: Problem | None = None
    fails: str = ""
    """What goes wrong next: freeze, unhealthy, power, memory, relapse."""
    zone: str = ""
    well: bool = True
    staged: frozenset[str] = frozenset({ARTIFACT.digest})
    unsent: tuple[Report, ...] = ()

    @property
    def boot_id(self) -> str:
        return f"{self.node_id}-{self.boot}"

    def status(self) -> NodeStatus:
        healthy = self.well and self.phase is not Phase.AWAITING_ROLLBACK
        return NodeStatus(self.ref, self.phase, self.seq, healthy=healthy)

    def hello(self) -> Hello:
        return Hello(
            self.node_id,
            f"inst-{self.node_id}",
            self.boot_id,
            self.release,
            self.model,
            frozenset({"luo"}),
            {"zone": self.zone or "ab"[int(self.node_id[1:]) % 2]},
            self.highest,
            INCARNATION,
            1,
            self.status(),
            staged_artifacts=self.staged,
            rollback_artifact="r" * 64,
            command_line="root=/dev/vda1",
        )

    def say(self, event: str, phase: Phase, **fields: object) -> None:
        self.seq += 1
        self.phase = phase
        told = Report(
            self.seq,
            event,
            phase,
            self.ref,
            boot_id=self.boot_id,
            release=self.release,
            problem=self.problem,
            healthy=self.well
            and phase not in (Phase.AWAITING_ROLLBACK, Phase.QUARANTINED, Phase.COLD_BOOTED),
            stamp=Stamp(self.boot_id, timedelta(seconds=self.seq)),
            **fields,  # type: ignore[arg-type]
        )
        self.unsent = (*self.unsent, told)

    def step(self) -> None:
        """One effect of the saga; or a relapse while it bakes."""
        if self.phase is Phase.BAKING and self.fails == "relapse":
            self.fails = ""
            self.say("Relapsed", Phase.AWAITING_ROLLBACK)
        if self.phase not in AFTER:
            return
        event, phase = AFTER[self.phase]
        wrong, self.fails = self.fails, ""
        if self.phase is Phase.JUMPING:
            self.boot += 1
            if wrong == "power":
                self.say("BootClassified", Phase.COLD_BOOTED, boot_verdict=Verdict.COLD_BOOT)
                return
            self.release = self.to
            if wrong == "memory":
                self.say("BootClassified", Phase.COLD_BOOTED, boot_verdict=Verdict.STATE_LOST)
                return
            self.say(event, phase, boot_verdict=Verdict.LIVE_UPDATED)
        elif self.phase is Phase.SUSPENDING and wrong == "freeze":
            self.problem = REFUSED
            self.say("StepFailed", Phase.UNWINDING)
        elif self.phase is Phase.RESUMING:
            self.say(event, phase, memory_check=MemoryCheck(1, 1, 8))
        elif self.phase is Phase.FINISHING and wrong == "unhealthy":
            self.say(event, Phase.AWAITING_ROLLBACK if self.kind is Kind.FORWARD else Phase.QUARANTINED)
        else:
            self.fails = wrong
            self.say(event, phase)

    def obey(self, command: object, command_id: str, kind: Kind, word: bool) -> None:
        """Classify the desired command as the real agent would."""
        match command:
            case DesiredPrepare(generation=generation, artifact=artifact):
                if self.ref is not None and self.ref.generation == generation:
                    return
                if generation <= self.highest or self.phase not in SETTLED:
                    self.refuse(command_id, "STALE_GENERATION")
                    return
                self.highest, self.kind, self.to, self.problem = generation, kind, artifact.release, None
                self.ref = AttemptRef(self.node_id, generation, INCARNATION)
                self.say("Prepared", Phase.LOADING)
            case DesiredProceed(generation=generation, stamp=stamp):
                if self.ref is None or self.ref.generation != generation:
                    return
                if self.phase is Phase.PRESERVED and stamp.boot_id == self.boot_id:
                    self.say("Proceeded", Phase.SUSPENDING)
            case DesiredCancel(generation=generation, reason=reason):
                if self.ref is None or self.ref.generation != generation:
                    self.highest = max(self.highest, generation)
                    mine, self.ref = self.ref, AttemptRef(self.node_id, generation, INCARNATION)
                    self.problem = Problem("CANCELLED", Retry.REPLAN, reason)
                    before = self.phase
                    self.say("Unwound", Phase.ABORTED)
                    self.ref, self.phase = mine, before
                elif self.phase in list(AFTER)[:4] or self.phase is Phase.PRESERVED:
                    self.problem = Problem("CANCELLED", Retry.REPLAN, reason)
                    self.say("CancelRequested", Phase.UNWINDING)
            case DesiredCommit(generation=generation):
                if self.ref is not None and self.ref.generation == generation and self.phase is Phase.BAKING:
                    self.say("Committed", Phase.COMMITTED)
            case _:
                pass

    def refuse(self, command_id: str, reason: str) -> None:
        self.seq += 1
        problem = Problem(reason, Retry.REPLAN, "no")
        told = Report(self.seq, "CommandRefused", self.phase, refusal=CommandRefusal(command_id, problem))
        self.unsent = (*self.unsent, told)
