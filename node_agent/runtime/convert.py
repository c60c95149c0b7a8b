"""Core dataclasses ↔ the link's protobuf messages, both ways total.

Rules:
- What goes up is ours and always fits.
- What comes down is checked before anything sees it: every violation of a message at once,
  as one CommandRefused(COMMAND_MALFORMED); nothing malformed raises anything else.
- Fields that the sender left unset take the documented default, never a guess from zeros.

Pure. Not here: whether a well-formed command can be followed (core/admission).
"""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime

from google.protobuf.duration_pb2 import Duration
from google.protobuf.timestamp_pb2 import Timestamp
from liveroll.v1 import agent_pb2 as pb
from liveroll.v1 import common_pb2 as common

from node_agent.core import model
from node_agent.core.commands import Cancel, Commit, LinkCommand, Prepare, Proceed, Stage
from node_agent.core.phases import Phase, Verdict
from node_agent.core.report import NodeStatus, Report
from node_agent.errors import CommandRefused, Retry
from node_agent.runtime.convert_memory import attempt_memory
from node_agent.runtime.link_transport import HelloFacts, Terms

COMMAND_LINE_MAX = 2047
"""x86's COMMAND_LINE_SIZE is 2048 with the NUL; kexec_file_load refuses more.
Source: arch/x86/include/asm/setup.h."""
SECONDS_MAX = 7 * 86400.0
"""No step of an attempt waits longer than a week; beyond it a unit was mistaken."""
TEXT_MAX = 2048
_RELEASE = re.compile(r"[!-~]{1,64}")
_DIGEST = re.compile(r"[0-9a-f]{64}")

_PHASES: Mapping[Phase, int] = {p: common.Phase.Value(f"PHASE_{p.name}") for p in Phase}
_VERDICTS: Mapping[Verdict, int] = {v: common.BootVerdict.Value(f"BOOT_VERDICT_{v.name}") for v in Verdict}
_RETRIES: Mapping[Retry, int] = {r: common.RetryClass.Value(f"RETRY_CLASS_{r.name}") for r in Retry}
_VANTAGES: Mapping[model.Vantage, int] = {
    v: common.BlackoutSample.Vantage.Value(f"VANTAGE_{v.name}") for v in model.Vantage
}
_METHODS = {common.UpdateMethod.Value(f"UPDATE_METHOD_{m.name}"): m for m in model.Method}
_KINDS = {pb.Prepare.Kind.Value(f"KIND_{k.name}"): k for k in model.AttemptKind}
_STEPS = tuple(field.name for field in common.StepTimeouts.DESCRIPTOR.fields)


# -- up


BYTES_MAX = 2**63 - 1
"""What every store can keep; protobuf alone would take twice as much."""
COUNT_MAX = 2**62
"""Of a number that this node journals and goes on from: as many are left until no store can keep it."""
FIELDS_MAX = 32
"""As many as the orchestrator takes: a step may fail for every workload of a node, each with a field."""
LEFT_BEHIND_MAX = 64
"""As many as the orchestrator takes."""
BATCH_MOST = 64
"""As many as the orchestrator takes in one message."""
BATCH_BYTES = 128 * 1024
"""Half of the orchestrator's bound of a message; one report alone may be larger."""
DURATION_MAX_S = 315_576_000_000.0
"""Source: google/protobuf/duration.proto, about 10,000 years."""


def duration(seconds: float) -> Duration:
    """Seconds as a protobuf Duration, to the nanosecond. Not a number counts as 0."""
    whole = Duration()
    bounded = min(max(seconds, -DURATION_MAX_S), DURATION_MAX_S)
    whole.FromNanoseconds(round(bounded * 1e9) if math.isfinite(seconds) else 0)
    return whole


def timestamp(at: datetime) -> Timestamp:
    """An aware datetime as a protobuf Timestamp."""
    value = Timestamp()
    value.FromDatetime(at.astimezone(UTC))
    return value


def problem(found: model.Problem | None) -> common.Problem | None:
    """A problem as it travels."""
    if found is None:
        return None
    return common.Problem(
        reason=found.reason,
        retry=_RETRIES[found.retry],  # type: ignore[arg-type]
        message=found.message,
        remedy=found.remedy,
        fields=_fields(found.fields),
    )


def _fields(fields: Mapping[str, str]) -> dict[str, str]:
    if len(fields) <= FIELDS_MAX:
        return dict(fields)
    kept = dict(itertools.islice(fields.items(), FIELDS_MAX - 1))
    return {**kept, "left_out": str(len(fields) - len(kept))}


def attempt(ref: model.AttemptRef | None) -> common.AttemptRef | None:
    """An attempt's name as it travels."""
    if ref is None:
        return None
    return common.AttemptRef(node_id=ref.node_id, generation=ref.generation, incarnation=ref.incarnation)


def stamp(at: model.BootStamp) -> common.BootStamp:
    """A lease's base as it travels."""
    return common.BootStamp(boot_id=at.boot_id, boottime=duration(at.boottime_s))


def status(now: NodeStatus) -> pb.NodeStatus:
    """Where the node stands."""
    return pb.NodeStatus(
        attempt=attempt(now.attempt),
        phase=_PHASES[now.phase],  # type: ignore[arg-type]
        seq=now.seq,
        healthy=now.healthy,
        problem=problem(now.problem),
        not_ready=problem(now.not_ready),
    )


def hello(facts: HelloFacts) -> pb.LinkRequest:
    """The first message up."""
    return pb.LinkRequest(
        hello=pb.Hello(
            node_id=facts.node_id,
            installation_id=facts.installation_id,
            boot_id=facts.boot_id,
            kernel_release=facts.release,
            hardware_model=facts.hardware_model,
            capabilities=facts.capabilities,
            labels=dict(facts.labels),
            highest_generation=facts.highest_generation,
            highest_incarnation=facts.incarnation,
            highest_incarnation_serial=facts.incarnation_serial,
            status=status(facts.status),
            boot_verdict=_verdict(facts.boot_verdict),  # type: ignore[arg-type]
            agent_version=facts.agent_version,
            staged_artifacts=facts.staged_artifacts,
            rollback_artifact=facts.rollback_artifact,
            command_line=facts.command_line,
            acknowledged_seq=facts.acknowledged_seq,
            attempt_memory=attempt_memory(facts.attempt),
            other_luo=facts.other_luo,
        )
    )


def heartbeat(now: NodeStatus, at: model.BootStamp, unacknowledged: int) -> pb.LinkRequest:
    """A sign of life, which also renews the base of leases."""
    return pb.LinkRequest(
        heartbeat=pb.Heartbeat(status=status(now), stamp=stamp(at), unacknowledged=unacknowledged)
    )


def reports(said: Sequence[Report]) -> Iterator[tuple[int, pb.LinkRequest]]:
    """Messages that carry these reports in order, each with the seq of its last one. What waits
    together travels together, up to BATCH_MOST reports or BATCH_BYTES a message."""
    batch: list[pb.Report] = []
    size = 0
    for each in said:
        message = report(each)
        bytes_ = message.ByteSize()
        if batch and (len(batch) >= BATCH_MOST or size + bytes_ > BATCH_BYTES):
            yield batch[-1].seq, _batched(batch)
            batch, size = [], 0
        batch.append(message.report)
        size += bytes_
    if batch:
        yield batch[-1].seq, _batched(batch)


def _batched(batch: Sequence[pb.Report]) -> pb.LinkRequest:
    if len(batch) == 1:
        return pb.LinkRequest(report=batch[0])
    return pb.LinkRequest(reports=pb.ReportBatch(reports=batch))


def report(said: Report) -> pb.LinkRequest:
    """One journalled event."""
    message = pb.Report(
        attempt=attempt(said.attempt),
        seq=said.seq,
        event=said.event,
        phase=_PHASES[said.phase],  # type: ignore[arg-type]
        marks=[_mark(m) for m in said.marks],
        samples=[_sample(s) for s in said.samples],
        problem=problem(said.problem),
        stamp=stamp(said.stamp),
        boot_verdict=_verdict(said.boot_verdict),  # type: ignore[arg-type]
        kernel_release=said.release,
        boot_id=said.boot_id,
        healthy=said.healthy,
        rollback_artifact=said.rollback_artifact,
    )
    if said.stage is not None:
        message.stage.CopyFrom(
            pb.StageResult(
                artifact_digest=said.stage.artifact_digest,
                verified=said.stage.verified,
                problem=problem(said.stage.problem),
            )
        )
    if said.refusal is not None:
        message.refusal.CopyFrom(
            pb.CommandRefusal(command_id=said.refusal.command_id, problem=problem(said.refusal.problem))
        )
    if said.brownout_s is not None:
        message.brownout.CopyFrom(duration(said.brownout_s))
    for workload, why in sorted(said.left_behind.items())[:LEFT_BEHIND_MAX]:
        message.left_behind.append(pb.LeftBehind(workload=workload, problem=problem(why)))
    if said.memory_check is not None:
        check = said.memory_check
        message.memory_check.CopyFrom(
            pb.MemoryCheck(
                workloads=check.workloads,
                intact=check.intact,
                # A sum of what workloads say: one that is too large must not end the link, again and
                # again, since the report is replayed.
                bytes_checked=min(check.bytes_checked, BYTES_MAX),
            )
        )
    return pb.LinkRequest(report=message)


def _verdict(verdict: Verdict | None) -> int:
    return _VERDICTS[verdict] if verdict is not None else 0


def _mark(mark: model.Mark) -> common.Mark:
    return common.Mark(
        name=mark.name,
        realtime=timestamp(mark.realtime_at),
        boottime=duration(mark.boottime_s),
        tsc=max(mark.tsc, 0) & 0xFFFFFFFFFFFFFFFF,
        boot_id=mark.boot_id,
    )


def _sample(sample: model.BlackoutSample) -> common.BlackoutSample:
    return common.BlackoutSample(
        vantage=_VANTAGES[sample.vantage],  # type: ignore[arg-type]
        workload=sample.workload,
        duration=duration(sample.duration_s),
        uncertainty=duration(sample.uncertainty_s),
        clock=sample.clock,
        rejected=sample.rejected,
        emulated=sample.emulated,
    )


# -- down


def welcome(message: pb.Welcome) -> Terms:
    """The orchestrator's terms. Odd intervals and numbers are bounded, never refused."""
    return Terms(
        incarnation=message.incarnation,
        incarnation_serial=min(message.incarnation_serial, COUNT_MAX),
        link_epoch=message.link_epoch,
        active_heartbeat_s=_cadence(message.active_heartbeat, 5.0),
        idle_heartbeat_s=_cadence(message.idle_heartbeat, 30.0),
        acknowledged_seq=min(message.acknowledged_seq, COUNT_MAX),
    )


def _cadence(value: Duration, fallback_s: float) -> float:
    """Within 0.05 s (who beats faster is cut off) and an hour; unset means the fallback."""
    seconds = _seconds(value)
    return min(max(seconds, 0.05), 3600.0) if seconds > 0 else fallback_s


def command(message: pb.Command, *, node_id: str) -> LinkCommand:
    """A command for this node.

    Raises:
        CommandRefused: COMMAND_MALFORMED, with every violation.
    """
    check = _Check(node_id)
    check.text("command_id", message.command_id, 200, required=True)
    which = message.WhichOneof("action")
    made: LinkCommand | None = None
    if which == "stage":
        made = Stage(message.command_id, check.artifact(message.stage.artifact, fetched=True))
    elif which == "prepare":
        made = _prepare(message.command_id, message.prepare, check)
    elif which == "proceed":
        proceed = message.proceed
        made = Proceed(
            message.command_id,
            check.attempt(proceed.attempt),
            check.stamp(proceed.stamp),
            check.seconds("valid_for", proceed.valid_for),
        )
    elif which == "cancel":
        check.text("cancel.reason", message.cancel.reason, TEXT_MAX)
        made = Cancel(message.command_id, check.attempt(message.cancel.attempt), message.cancel.reason)
    elif which == "commit":
        made = Commit(message.command_id, check.attempt(message.commit.attempt))
    else:
        check.fault("action", "is none that this agent knows")
    if check.faults or made is None:
        raise CommandRefused(
            f"malformed command: {'; '.join(check.faults)}",
            reason="COMMAND_MALFORMED",
            remedy="update whichever of agent and orchestrator is older",
            command_id=message.command_id[:200],
        )
    return made


def _prepare(command_id: str, message: pb.Prepare, check: _Check) -> Prepare:
    kind = _KINDS.get(message.kind)
    if kind is None:
        check.fault("prepare.kind", f"is {message.kind}, neither forward nor rollback")
    method = _METHODS.get(message.method)
    if method is None:
        check.fault("prepare.method", f"is {message.method}, none that this agent knows")
    check.text("prepare.command_line", message.command_line, COMMAND_LINE_MAX)
    check.text("prepare.expected_release", message.expected_release, 64)
    check.text("prepare.expected_boot_id", message.expected_boot_id, 64)
    bounds = {
        f"{name}_s": check.seconds(f"timeouts.{name}", getattr(message.timeouts, name))
        for name in _STEPS
        if message.timeouts.HasField(name)
    }
    hold_s = _seconds(message.health_hold)
    if not 0 <= hold_s <= SECONDS_MAX:
        check.fault("prepare.health_hold", f"is {hold_s} s")
    return Prepare(
        command_id=command_id,
        attempt=check.attempt(message.attempt),
        kind=kind or model.AttemptKind.FORWARD,
        artifact=check.artifact(message.artifact, fetched=False),
        command_line=message.command_line,
        expected_release=message.expected_release,
        expected_boot_id=message.expected_boot_id,
        method=method or model.Method.LIVE,
        timeouts=model.StepTimeouts(**bounds),
        health_hold_s=hold_s,
        rollback_none=message.rollback_none,
        operator_word=message.operator_word,
    )


def _seconds(value: Duration) -> float:
    return value.seconds + value.nanos / 1e9


class _Check:
    """Collects what is wrong with one message."""

    def __init__(self, node_id: str) -> None:
        self._node_id = node_id
        self.faults: list[str] = []

    def fault(self, field: str, what: str) -> None:
        self.faults.append(f"{field} {what}")

    def text(self, field: str, value: str, longest: int, *, required: bool = False) -> None:
        if required and not value:
            self.fault(field, "is empty")
        if len(value) > longest:
            self.fault(field, f"is longer than {longest}")
        if any(ord(c) < 32 or ord(c) == 127 for c in value):
            self.fault(field, "holds control characters")

    def seconds(self, field: str, value: Duration) -> float:
        seconds = _seconds(value)
        if not 0 < seconds <= SECONDS_MAX:
            self.fault(field, f"is {seconds} s, not within 0 and {SECONDS_MAX:.0f}")
        return seconds

    def attempt(self, ref: common.AttemptRef) -> model.AttemptRef:
        if ref.node_id != self._node_id:
            self.fault("attempt.node_id", f"is {ref.node_id[:100]!r}, this node is {self._node_id}")
        if ref.generation < 1:
            self.fault("attempt.generation", "is 0")
        self.text("attempt.incarnation", ref.incarnation, 64, required=True)
        return model.AttemptRef(ref.node_id, ref.generation, ref.incarnation)

    def artifact(self, ref: pb.ArtifactRef, *, fetched: bool) -> model.ArtifactRef:
        """fetched: it is to be fetched from its URL. PREPARE names one that the node has staged:
        a rollback's needs no network, so it has none."""
        if not _DIGEST.fullmatch(ref.digest):
            self.fault("artifact.digest", "is not 64 hex digits")
        if not _RELEASE.fullmatch(ref.kernel_release):
            self.fault("artifact.kernel_release", "is not a kernel release")
        self.text("artifact.url", ref.url, TEXT_MAX, required=fetched)
        self.text("artifact.name", ref.name, 200)
        return model.ArtifactRef(ref.name, ref.digest, ref.url, ref.kernel_release)

    def stamp(self, at: common.BootStamp) -> model.BootStamp:
        self.text("stamp.boot_id", at.boot_id, 64, required=True)
        seconds = _seconds(at.boottime)
        if seconds < 0:
            self.fault("stamp.boottime", f"is {seconds} s")
        return model.BootStamp(at.boot_id, seconds)
