"""A node of a transcript: an honest agent without effects, which can be told what goes wrong.

It takes one step of the saga a round, speaks only in messages, and says nothing while it is
between two kernels: what it has to report then is told after its next Hello.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta

from orchestrator.core.messages import (
    AttemptMemory,
    AttemptRef,
    CommandRefusal,
    Heartbeat,
    Hello,
    MemoryCheck,
    NodeStatus,
    Report,
    StageResult,
)
from orchestrator.core.model import (
    Desired,
    DesiredCancel,
    DesiredCommit,
    DesiredPrepare,
    DesiredProceed,
    DesiredStage,
    Problem,
    Sample,
    Stamp,
)
from orchestrator.core.phases import SETTLED, Kind, Phase, Verdict
from orchestrator.errors import Retry

AFTER = {
    Phase.LOADING: ("Loaded", Phase.DRAINING),
    Phase.DRAINING: ("Drained", Phase.PRESERVING),
    Phase.PRESERVING: ("Preserved", Phase.PRESERVED),
    Phase.SUSPENDING: ("JumpIntentRecorded", Phase.JUMPING),
    Phase.RETRIEVING: ("Retrieved", Phase.RESUMING),
    Phase.RESUMING: ("Resumed", Phase.VERIFYING),
    Phase.VERIFYING: ("Healthy", Phase.FINISHING),
    Phase.FINISHING: ("Finished", Phase.BAKING),
    Phase.UNWINDING: ("Unwound", Phase.ABORTED),
}
CANCELLABLE = (Phase.LOADING, Phase.DRAINING, Phase.PRESERVING, Phase.PRESERVED, Phase.SUSPENDING)
SILENT = (Phase.JUMPING, Phase.RETRIEVING, Phase.RESUMING)
"""Between the kernels: no link before workloads run again."""
LEASE = timedelta(seconds=30)
"""How long an agent stays PRESERVED without a link."""


@dataclass
class Faults:
    """What goes wrong; every word is used up when it happens, `times` times."""

    stop_at: str = ""
    """It stays in this phase until told otherwise."""
    fail_at: str = ""
    """This step fails by itself."""
    retry: Retry = Retry.REPLAN
    times: int = 1
    jump: str = ""
    """lost, power, memory or wrong: how the kexec ends."""
    unhealthy: bool = False
    """The new kernel's probes fail."""
    deaf: bool = False
    """It follows no command."""
    blackout: timedelta = timedelta(milliseconds=300)


@dataclass
class Agent:
    """One node, its kernel and its journal."""

    node_id: str
    release: str
    model: str
    labels: Mapping[str, str]
    boot_at: datetime
    staged: frozenset[str] = frozenset()
    default: str = ""
    """What a cold boot starts; made so by COMMIT."""
    boot: int = 1
    seq: int = 0
    epoch: int = 0
    linked: bool = False
    down_since: datetime | None = None
    reachable: bool = True
    """False: no link can be made, whoever wants one."""
    healthy: bool = True
    highest: int = 0
    highest_incarnation: str = ""
    ref: AttemptRef | None = None
    memory: AttemptMemory | None = None
    """What its journal says of that attempt; None if it is only claimed."""
    phase: Phase = Phase.IDLE
    kind: Kind = Kind.FORWARD
    to: str = ""
    problem: Problem | None = None
    not_ready: Problem | None = None
    """Somebody drives its LUO by hand."""
    verdict: Verdict | None = None
    faults: Faults = field(default_factory=Faults)
    unsent: list[Report] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.default = self.default or self.release

    @property
    def boot_id(self) -> str:
        return f"{self.node_id}-boot-{self.boot}"

    def stamp(self, now: datetime) -> Stamp:
        return Stamp(self.boot_id, now - self.boot_at)

    def hello(self, incarnation: str, serial: int) -> Hello:
        return Hello(
            self.node_id,
            f"i-{self.node_id}",
            self.boot_id,
            self.release,
            self.model,
            frozenset({"luo"}),
            self.labels,
            self.highest,
            self.highest_incarnation or incarnation,
            serial,
            self._status(),
            boot_verdict=self.verdict,
            staged_artifacts=self.staged,
            rollback_artifact=f"sha-{self.release}",
            command_line="quiet",
            acknowledged_seq=(self.unsent[0].seq - 1 if self.unsent else self.seq) if self.memory else 0,
            memory=replace(self.memory, verdict=self.verdict) if self.memory else None,
        )

    def heartbeat(self, now: datetime) -> Heartbeat:
        return Heartbeat(self._status(), self.stamp(now))

    def _status(self) -> NodeStatus:
        problem = None if self.well else self.problem
        not_ready = self.not_ready if self.phase in SETTLED else None
        return NodeStatus(self.ref, self.phase, self.seq, self.well, problem, not_ready)

    @property
    def well(self) -> bool:
        """Whether its probes hold; a quarantined node is never well."""
        return self.healthy and self.phase is not Phase.QUARANTINED

    # --- the saga --------------------------------------------------------------------

    def step(self, now: datetime) -> None:
        """One effect, if there is anything to do."""
        faults = self.faults
        if self.phase.value == faults.stop_at:
            return
        if self.phase is Phase.PRESERVED and self.down_since is not None and now - self.down_since >= LEASE:
            self.problem = Problem("LEASE_EXPIRED", Retry.REPLAN, "nobody renewed the wait for PROCEED")
            self._say("LeaseExpired", Phase.UNWINDING, now)
        elif self.phase is Phase.BAKING and not self.healthy:
            self.problem = Problem("RELAPSED", Retry.FIX_STATE, "a probe fails while baking")
            self._say("Relapsed", Phase.AWAITING_ROLLBACK, now)
        elif self.phase.value == faults.fail_at and faults.times > 0:
            faults.times -= 1
            self.problem = Problem("FREEZE_REFUSED", faults.retry, "a file refuses to freeze")
            self._say("StepFailed", Phase.UNWINDING if self.phase in CANCELLABLE else Phase.QUARANTINED, now)
        elif self.phase is Phase.JUMPING:
            self._boot(now)
        elif self.phase in AFTER:
            self._advance(now)

    def _advance(self, now: datetime) -> None:
        event, phase = AFTER[self.phase]
        if phase is Phase.VERIFYING:
            sample = Sample("workload", self.faults.blackout, timedelta(0), "tsc", "db", emulated=True)
            self._say(event, phase, now, samples=(sample,), memory_check=MemoryCheck(1, 1, 4096))
        elif phase is Phase.FINISHING and self.faults.unhealthy and self.kind is Kind.FORWARD:
            self.healthy = False
            self.problem = Problem("UNHEALTHY", Retry.FIX_STATE, "probe http fails on the new kernel")
            self._say("Unhealthy", phase, now)
        elif phase is Phase.BAKING and not self.healthy:
            self._say(event, Phase.AWAITING_ROLLBACK, now)
        else:
            if phase is Phase.FINISHING:
                self.healthy = True
            self._say(event, phase, now)

    def _boot(self, now: datetime) -> None:
        how = self.faults.jump
        if how == "lost":
            return
        self.boot, self.boot_at, self.faults.jump = self.boot + 1, now, ""
        match how:
            case "power":
                self.release = self.default
                self._classified(Verdict.COLD_BOOT, Phase.COLD_BOOTED, now)
            case "memory":
                self.release = self.to
                self._classified(Verdict.STATE_LOST, Phase.COLD_BOOTED, now)
            case "wrong":
                self.release = "5.0.0-rescue"
                self._classified(Verdict.WRONG_KERNEL, Phase.QUARANTINED, now)
            case _:
                self.release = self.to
                self._classified(Verdict.LIVE_UPDATED, Phase.RETRIEVING, now)

    def _classified(self, verdict: Verdict, phase: Phase, now: datetime) -> None:
        self.verdict = verdict
        self._say("BootClassified", phase, now, boot_verdict=verdict)

    # --- commands --------------------------------------------------------------------

    def obey(self, command: Desired, command_id: str, incarnation: str, kind: Kind, now: datetime) -> None:
        """Classify the desired command as the real agent would: accept, done already, refuse."""
        if self.faults.deaf:
            return
        if isinstance(command, DesiredStage):
            digest = command.artifact.digest
            self.staged |= {digest}
            self._tell(Report(self._next(), "Staged", self.phase, stage=StageResult(digest, True)), now)
            return
        mine = self.ref is not None and self.ref.generation == command.generation
        match command:
            case DesiredPrepare(generation=generation, artifact=artifact) if not mine:
                if generation <= self.highest or self.phase not in SETTLED:
                    self._refuse(command_id, "STALE_GENERATION", now)
                    return
                self.highest, self.kind, self.to, self.problem = generation, kind, artifact.release, None
                self.ref = AttemptRef(self.node_id, generation, incarnation)
                self.memory = AttemptMemory(kind, artifact, self.release, self.boot_id, None)
                self._say("Prepared", Phase.LOADING, now)
            case DesiredProceed(stamp=stamp, valid_for=valid_for) if mine and self.phase is Phase.PRESERVED:
                if stamp.boot_id == self.boot_id and now - self.boot_at < stamp.boottime + valid_for:
                    self._say("Proceeded", Phase.SUSPENDING, now)
                else:
                    self._refuse(command_id, "LEASE_EXPIRED", now)
            case DesiredCancel(reason=reason) if mine and self.phase in CANCELLABLE:
                self.problem = Problem("CANCELLED", Retry.REPLAN, reason)
                self._say("CancelRequested", Phase.UNWINDING, now)
            case DesiredCancel(generation=generation, reason=reason) if (
                not mine and generation > self.highest
            ):
                self.highest = generation
                problem = Problem("CANCELLED", Retry.REPLAN, reason)
                ref = AttemptRef(self.node_id, generation, incarnation)
                self._tell(Report(self._next(), "Unwound", Phase.ABORTED, ref, problem=problem), now)
            case DesiredCommit() if mine and self.phase is Phase.BAKING:
                self.default = self.release
                self._say("Committed", Phase.COMMITTED, now)
            case _:
                pass

    def _refuse(self, command_id: str, reason: str, now: datetime) -> None:
        problem = Problem(reason, Retry.REPLAN, "too late")
        refusal = CommandRefusal(command_id, problem)
        self._tell(Report(self._next(), "CommandRefused", self.phase, refusal=refusal), now)

    # --- the journal -----------------------------------------------------------------

    def _next(self) -> int:
        self.seq += 1
        return self.seq

    def _say(self, event: str, phase: Phase, now: datetime, **more: object) -> None:
        self.phase = phase
        report = Report(
            self._next(),
            event,
            phase,
            self.ref,
            problem=self.problem,
            boot_id=self.boot_id,
            release=self.release,
            healthy=self.well,
            **more,  # type: ignore[arg-type]
        )
        self._tell(report, now)

    def _tell(self, report: Report, now: datetime) -> None:
        self.unsent.append(replace(report, stamp=self.stamp(now)))
