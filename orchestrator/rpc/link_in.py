"""What a node says over its link: proto → core messages, or InvalidSpec with every fault.

Nothing a node sends is trusted: sizes are bounded, unknown enum numbers and LOST (which only
the orchestrator may say) are refused, prose is cleaned of control characters.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import timedelta
from types import MappingProxyType

from liveroll.v1 import agent_pb2, common_pb2

from orchestrator.core import messages as core
from orchestrator.core.model import Artifact, Mark, Problem, Sample, Stamp
from orchestrator.core.phases import Kind, Phase, Verdict
from orchestrator.errors import Retry
from orchestrator.wire.check import Checker

MAX_STAGED = 64
"""Artifacts that a node may keep."""
MAX_CAPABILITIES = 32
MAX_OTHER_LUO = 64
"""ABI strings: one for each version that there ever was."""
MAX_MARKS = 64
MAX_SAMPLES = 1024
MAX_LEFT_BEHIND = 64
"""One for each workload of an attempt."""
MAX_FIELDS = 32
MAX_COMMAND_LINE = 4096
"""COMMAND_LINE_SIZE is 2048 on x86 and 4096 on s390; more cannot have been booted."""
MAX_SEQ = 2**63 - 1
MAX_GENERATION = 2**62
"""The next ones must fit into the store, too: a row that does not is refused with its whole transaction."""
MAX_UPTIME = timedelta(days=36500)

_PHASES = {v.number: v.name for v in common_pb2.Phase.DESCRIPTOR.values}
_VERDICTS = {v.number: v.name for v in common_pb2.BootVerdict.DESCRIPTOR.values}
_KINDS = {v.number: v.name for v in agent_pb2.Prepare.Kind.DESCRIPTOR.values}
_RETRIES = {v.number: v.name for v in common_pb2.RetryClass.DESCRIPTOR.values}
_VANTAGES = {
    common_pb2.BlackoutSample.VANTAGE_WORKLOAD: "workload",
    common_pb2.BlackoutSample.VANTAGE_HOST: "host",
    common_pb2.BlackoutSample.VANTAGE_LINK: "link",
}


def read_hello(proto: agent_pb2.Hello) -> core.Hello:
    check = Checker()
    hello = core.Hello(
        node_id=check.name(proto.node_id, "hello.node_id"),
        installation_id=check.name(proto.installation_id, "hello.installation_id", most=128),
        boot_id=check.name(proto.boot_id, "hello.boot_id", most=64),
        release=check.name(proto.kernel_release, "hello.kernel_release", most=128),
        hardware_model=check.prose(proto.hardware_model, "hello.hardware_model", most=200),
        capabilities=frozenset(
            check.names(proto.capabilities, "hello.capabilities", most=MAX_CAPABILITIES, length=64)
        ),
        labels=check.labels(proto.labels, "hello.labels"),
        highest_generation=check.count(
            proto.highest_generation, "hello.highest_generation", most=MAX_GENERATION
        ),
        highest_incarnation=check.name(
            proto.highest_incarnation, "hello.highest_incarnation", required=False, most=128
        ),
        highest_incarnation_serial=check.count(
            proto.highest_incarnation_serial, "hello.highest_incarnation_serial", most=MAX_SEQ
        ),
        status=_status(check, proto, "hello.status"),
        boot_verdict=_verdict(check, proto.boot_verdict, "hello.boot_verdict"),
        agent_version=check.prose(proto.agent_version, "hello.agent_version", most=64),
        staged_artifacts=frozenset(
            check.names(proto.staged_artifacts, "hello.staged_artifacts", most=MAX_STAGED, length=128)
        ),
        rollback_artifact=check.name(
            proto.rollback_artifact, "hello.rollback_artifact", required=False, most=128
        ),
        command_line=check.prose(proto.command_line, "hello.command_line", most=MAX_COMMAND_LINE),
        acknowledged_seq=check.count(proto.acknowledged_seq, "hello.acknowledged_seq", most=MAX_SEQ),
        other_luo=frozenset(check.names(proto.other_luo, "hello.other_luo", most=MAX_OTHER_LUO, length=64)),
        memory=_remembered(check, proto.attempt_memory) if proto.HasField("attempt_memory") else None,
    )
    check.done("the hello is malformed")
    return hello


def read_heartbeat(proto: agent_pb2.Heartbeat) -> core.Heartbeat:
    check = Checker()
    beat = core.Heartbeat(
        status=_status(check, proto, "heartbeat.status"),
        stamp=_stamp(check, proto.stamp, "heartbeat.stamp") if proto.HasField("stamp") else None,
        unacknowledged=check.count(proto.unacknowledged, "heartbeat.unacknowledged", most=MAX_SEQ),
    )
    check.done("the heartbeat is malformed")
    return beat


def read_report(proto: agent_pb2.Report) -> core.Report:
    check = Checker()
    if len(proto.marks) > MAX_MARKS:
        check.bad("report.marks", f"it has {len(proto.marks)} items", f"Send at most {MAX_MARKS}.")
    if len(proto.samples) > MAX_SAMPLES:
        check.bad("report.samples", f"it has {len(proto.samples)} items", f"Send at most {MAX_SAMPLES}.")
    if len(proto.left_behind) > MAX_LEFT_BEHIND:
        check.bad(
            "report.left_behind",
            f"it has {len(proto.left_behind)} items",
            f"Send at most {MAX_LEFT_BEHIND}.",
        )
    check.done("the report is malformed")
    report = core.Report(
        seq=check.count(proto.seq, "report.seq", least=1, most=MAX_SEQ),
        event=check.name(proto.event, "report.event", most=64),
        phase=_phase(check, proto.phase, "report.phase", required=proto.HasField("attempt")),
        attempt=_attempt(check, proto.attempt, "report.attempt") if proto.HasField("attempt") else None,
        marks=tuple(_mark(check, m, f"report.marks[{i}]") for i, m in enumerate(proto.marks)),
        samples=tuple(_sample(check, s, f"report.samples[{i}]") for i, s in enumerate(proto.samples)),
        problem=_problem(check, proto.problem, "report.problem") if proto.HasField("problem") else None,
        stamp=_stamp(check, proto.stamp, "report.stamp") if proto.HasField("stamp") else None,
        boot_verdict=_verdict(check, proto.boot_verdict, "report.boot_verdict"),
        release=check.name(proto.kernel_release, "report.kernel_release", required=False, most=128),
        boot_id=check.name(proto.boot_id, "report.boot_id", required=False, most=64),
        healthy=proto.healthy,
        stage=_stage(check, proto.stage) if proto.HasField("stage") else None,
        refusal=_refusal(check, proto.refusal) if proto.HasField("refusal") else None,
        brownout=check.duration(proto.brownout, "report.brownout", most=MAX_UPTIME)
        if proto.HasField("brownout")
        else None,
        memory_check=_memory(check, proto.memory_check) if proto.HasField("memory_check") else None,
        rollback_artifact=check.name(
            proto.rollback_artifact, "report.rollback_artifact", required=False, most=128
        ),
        left_behind=tuple(
            (
                check.name(left.workload, f"report.left_behind[{i}].workload", most=64),
                _problem(check, left.problem, f"report.left_behind[{i}].problem"),
            )
            for i, left in enumerate(proto.left_behind)
        ),
    )
    check.done("the report is malformed")
    return report


def _status(check: Checker, holder: agent_pb2.Hello | agent_pb2.Heartbeat, path: str) -> core.NodeStatus:
    if not holder.HasField("status"):
        return core.NodeStatus()
    proto = holder.status
    has_attempt = proto.HasField("attempt")
    return core.NodeStatus(
        attempt=_attempt(check, proto.attempt, f"{path}.attempt") if has_attempt else None,
        phase=_phase(check, proto.phase, f"{path}.phase", required=has_attempt),
        seq=check.count(proto.seq, f"{path}.seq", most=MAX_SEQ),
        healthy=proto.healthy,
        problem=_problem(check, proto.problem, f"{path}.problem") if proto.HasField("problem") else None,
        not_ready=_problem(check, proto.not_ready, f"{path}.not_ready")
        if proto.HasField("not_ready")
        else None,
    )


def _attempt(check: Checker, proto: common_pb2.AttemptRef, path: str) -> core.AttemptRef:
    return core.AttemptRef(
        node_id=check.name(proto.node_id, f"{path}.node_id"),
        generation=check.count(proto.generation, f"{path}.generation", least=1, most=MAX_GENERATION),
        incarnation=check.name(proto.incarnation, f"{path}.incarnation", most=128),
    )


def _remembered(check: Checker, proto: agent_pb2.AttemptMemory) -> core.AttemptMemory:
    path = "hello.attempt_memory"
    artifact = Artifact(
        name=check.prose(proto.artifact.name, f"{path}.artifact.name", most=128),
        digest=check.name(proto.artifact.digest, f"{path}.artifact.digest", required=False, most=128),
        release=check.name(
            proto.artifact.kernel_release, f"{path}.artifact.kernel_release", required=False, most=128
        ),
        url="",
        emulated=proto.emulated,
    )
    return core.AttemptMemory(
        kind=check.member(Kind, proto.kind, _KINDS, "KIND_", f"{path}.kind", None),
        artifact=artifact,
        from_release=check.name(proto.from_release, f"{path}.from_release", required=False, most=128),
        from_boot_id=check.name(proto.from_boot_id, f"{path}.from_boot_id", required=False, most=64),
        verdict=_verdict(check, proto.boot_verdict, f"{path}.boot_verdict"),
    )


def _phase(check: Checker, number: int, path: str, *, required: bool) -> Phase:
    phase = check.member(Phase, number, _PHASES, "PHASE_", path, None if required else Phase.IDLE)
    if phase is Phase.LOST:
        check.bad(path, "it is LOST, which only the orchestrator can say", "Send the phase the node is in.")
    return phase


def _verdict(check: Checker, number: int, path: str) -> Verdict | None:
    if number == 0:
        return None
    return check.member(Verdict, number, _VERDICTS, "BOOT_VERDICT_", path, None)


def _problem(check: Checker, proto: common_pb2.Problem, path: str) -> Problem:
    return Problem(
        reason=check.name(proto.reason, f"{path}.reason", most=64),
        retry=check.member(Retry, proto.retry, _RETRIES, "RETRY_CLASS_", f"{path}.retry", Retry.NEVER),
        message=check.prose(proto.message, f"{path}.message"),
        remedy=check.prose(proto.remedy, f"{path}.remedy"),
        fields=_fields(check, proto.fields, f"{path}.fields"),
    )


def _fields(check: Checker, fields: Mapping[str, str], path: str) -> Mapping[str, str]:
    # Cut, like all text for people: a report that is refused is sent again for ever.
    return MappingProxyType(
        {
            check.prose(key, path, most=64): check.prose(value, path, most=500)
            for key, value in sorted(fields.items())[:MAX_FIELDS]
        }
    )


def _stamp(check: Checker, proto: common_pb2.BootStamp, path: str) -> Stamp:
    return Stamp(
        boot_id=check.name(proto.boot_id, f"{path}.boot_id", most=64),
        boottime=check.duration(proto.boottime, f"{path}.boottime", most=MAX_UPTIME),
    )


def _mark(check: Checker, proto: common_pb2.Mark, path: str) -> Mark:
    return Mark(
        name=check.name(proto.name, f"{path}.name", most=64),
        realtime=check.instant(proto.realtime, f"{path}.realtime"),
        boottime=check.duration(proto.boottime, f"{path}.boottime", most=MAX_UPTIME),
        tsc=proto.tsc,
        boot_id=check.name(proto.boot_id, f"{path}.boot_id", required=False, most=64),
    )


def _sample(check: Checker, proto: common_pb2.BlackoutSample, path: str) -> Sample:
    vantage = _VANTAGES.get(proto.vantage, "")
    if not vantage:
        check.bad(f"{path}.vantage", f"it is {proto.vantage}", "Say workload, host or link.")
    return Sample(
        vantage=vantage,
        duration=check.duration(proto.duration, f"{path}.duration", least=-MAX_UPTIME, most=MAX_UPTIME),
        uncertainty=check.duration(proto.uncertainty, f"{path}.uncertainty", most=MAX_UPTIME),
        clock=check.name(proto.clock, f"{path}.clock", required=False, most=32),
        workload=check.prose(proto.workload, f"{path}.workload", most=200),
        rejected=check.prose(proto.rejected, f"{path}.rejected", most=200)
        or ("negative" if proto.duration.seconds < 0 or proto.duration.nanos < 0 else ""),
        emulated=proto.emulated,
    )


def _stage(check: Checker, proto: agent_pb2.StageResult) -> core.StageResult:
    problem = None
    if proto.HasField("problem"):
        problem = _problem(check, proto.problem, "report.stage.problem")
    return core.StageResult(
        artifact_digest=check.name(proto.artifact_digest, "report.stage.artifact_digest", most=128),
        verified=proto.verified,
        problem=problem,
    )


def _refusal(check: Checker, proto: agent_pb2.CommandRefusal) -> core.CommandRefusal:
    return core.CommandRefusal(
        command_id=check.name(proto.command_id, "report.refusal.command_id", most=200),
        problem=_problem(check, proto.problem, "report.refusal.problem"),
    )


def _memory(check: Checker, proto: agent_pb2.MemoryCheck) -> core.MemoryCheck:
    if proto.intact > proto.workloads:
        check.bad("report.memory_check.intact", "it is more than workloads", "Count each workload once.")
    return core.MemoryCheck(
        workloads=proto.workloads,
        intact=proto.intact,
        bytes_checked=check.count(proto.bytes_checked, "report.memory_check.bytes_checked", most=MAX_SEQ),
    )
