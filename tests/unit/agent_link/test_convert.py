"""Conversion: what goes up keeps its meaning, what comes down is checked as a whole."""

from __future__ import annotations

import contextlib
from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st
from liveroll.v1 import agent_pb2 as pb
from liveroll.v1 import common_pb2 as common

from node_agent.core import model
from node_agent.core.commands import Cancel, Commit, Prepare, Proceed, Stage
from node_agent.core.phases import Phase, Verdict
from node_agent.core.report import CommandRefusal, NodeStatus, Report, StageResult
from node_agent.errors import CommandRefused, Retry
from node_agent.runtime import convert
from node_agent.runtime.journal_memory import MemoryDisk, MemoryJournal

REF = model.AttemptRef("n1", 7, "incarnation")
PROBLEM = model.Problem("FREEZE_REFUSED", Retry.REPLAN, "no", "do this", {"errno": "EBUSY"})
STAMP = model.BootStamp("boot-1", 12.25)
DIGEST = "a" * 64


def attempt(**changes: object) -> common.AttemptRef:
    fields: dict[str, object] = {"node_id": "n1", "generation": 7, "incarnation": "incarnation", **changes}
    return common.AttemptRef(**fields)  # type: ignore[arg-type]


def artifact(**changes: str) -> pb.ArtifactRef:
    fields = {"name": "k", "digest": DIGEST, "url": "http://x/k", "kernel_release": "7.3.4", **changes}
    return pb.ArtifactRef(**fields)


def prepare(**changes: object) -> pb.Command:
    fields: dict[str, object] = {
        "attempt": attempt(),
        "kind": pb.Prepare.KIND_FORWARD,
        "method": common.UPDATE_METHOD_LIVE,
        "artifact": artifact(),
        "command_line": "quiet",
        **changes,
    }
    return pb.Command(command_id="c1", prepare=pb.Prepare(**fields))  # type: ignore[arg-type]


def read(message: pb.Command) -> object:
    return convert.command(message, node_id="n1")


def refused(message: pb.Command) -> str:
    with pytest.raises(CommandRefused) as caught:
        read(message)
    assert caught.value.reason == "COMMAND_MALFORMED"
    assert caught.value.remedy
    return caught.value.message


def test_every_enum_of_ours_has_its_word_in_the_proto() -> None:
    for phase in Phase:
        status = convert.status(NodeStatus(None, phase, 0, True))
        assert common.Phase.Name(status.phase) == f"PHASE_{phase.name}"
    for verdict in Verdict:
        report = convert.report(
            Report(1, "E", Phase.IDLE, STAMP, "b", "r", True, boot_verdict=verdict)
        ).report
        assert common.BootVerdict.Name(report.boot_verdict) == f"BOOT_VERDICT_{verdict.name}"
    for retry in Retry:
        problem = convert.problem(model.Problem("R", retry, "m"))
        assert problem is not None
        assert common.RetryClass.Name(problem.retry) == f"RETRY_CLASS_{retry.name}"


def test_a_report_carries_all_it_has() -> None:
    at = datetime(2026, 1, 2, 3, 4, 5, 678000, tzinfo=UTC)
    said = Report(
        seq=9,
        event="Resumed",
        phase=Phase.VERIFYING,
        stamp=STAMP,
        boot_id="boot-2",
        release="7.3.4",
        healthy=False,
        attempt=REF,
        marks=(model.Mark("suspend", at, 3.5, 2**64 - 1, "boot-1"), model.Mark("resume", at, 1.0, -5, "b")),
        samples=(model.BlackoutSample(model.Vantage.HOST, 0.25, 0.01, "tsc", "vm", "backwards", True),),
        problem=PROBLEM,
        boot_verdict=Verdict.LIVE_UPDATED,
        stage=StageResult(DIGEST, False, PROBLEM),
        refusal=CommandRefusal("c1", PROBLEM),
        brownout_s=0.0,
        memory_check=model.MemoryCheck(3, 2, 4096),
        rollback_artifact=DIGEST,
        left_behind={f"vm-{i:03}": PROBLEM for i in range(100)},
    )
    report = convert.report(said).report
    assert len(report.left_behind) == convert.LEFT_BEHIND_MAX
    assert (report.left_behind[0].workload, report.left_behind[0].problem.remedy) == ("vm-000", "do this")
    assert (report.seq, report.event, report.phase) == (9, "Resumed", common.PHASE_VERIFYING)
    assert (report.attempt.generation, report.attempt.incarnation) == (7, "incarnation")
    assert report.marks[0].realtime.ToDatetime(tzinfo=UTC) == at
    assert (report.marks[0].tsc, report.marks[1].tsc) == (2**64 - 1, 0)
    assert report.samples[0].duration.ToMilliseconds() == 250
    assert (report.samples[0].rejected, report.samples[0].emulated) == ("backwards", True)
    assert (report.problem.reason, dict(report.problem.fields)) == ("FREEZE_REFUSED", {"errno": "EBUSY"})
    assert (report.stage.verified, report.stage.problem.remedy) == (False, "do this")
    assert report.refusal.command_id == "c1"
    assert report.HasField("brownout"), "a brownout of nothing is a measurement"
    assert report.memory_check.intact == 2
    bare = convert.report(Report(1, "E", Phase.IDLE, STAMP, "b", "r", True)).report
    for absent in ("attempt", "problem", "stage", "refusal", "brownout", "memory_check"):
        assert not bare.HasField(absent)


@given(st.floats(min_value=-1e9, max_value=1e9))
def test_durations_keep_their_nanoseconds(seconds: float) -> None:
    made = convert.duration(seconds)
    assert abs(made.seconds + made.nanos / 1e9 - seconds) < 1e-6


@pytest.mark.parametrize("seconds", [float("nan"), float("inf"), float("-inf")])
def test_what_is_no_number_of_seconds_counts_as_none(seconds: float) -> None:
    assert convert.duration(seconds).ToNanoseconds() == 0


def test_well_formed_commands() -> None:
    assert read(pb.Command(command_id="c", stage=pb.Stage(artifact=artifact()))) == Stage(
        "c", model.ArtifactRef("k", DIGEST, "http://x/k", "7.3.4")
    )
    assert read(pb.Command(command_id="c", cancel=pb.Cancel(attempt=attempt(), reason="r"))) == Cancel(
        "c", REF, "r"
    )
    assert read(pb.Command(command_id="c", commit=pb.Commit(attempt=attempt()))) == Commit("c", REF)
    proceed = pb.Proceed(attempt=attempt(), stamp=convert.stamp(STAMP), valid_for=convert.duration(30))
    assert read(pb.Command(command_id="c", proceed=proceed)) == Proceed("c", REF, STAMP, 30.0)


def test_prepare_takes_what_is_set_and_defaults_for_the_rest() -> None:
    made = read(
        prepare(
            kind=pb.Prepare.KIND_ROLLBACK,
            timeouts=common.StepTimeouts(draining=convert.duration(5)),
            health_hold=convert.duration(2),
            rollback_none=True,
        )
    )
    assert isinstance(made, Prepare)
    assert made.kind is model.AttemptKind.ROLLBACK
    assert made.timeouts == model.StepTimeouts(draining_s=5.0)
    assert (made.health_hold_s, made.rollback_none) == (2.0, True)


@pytest.mark.parametrize(
    ("message", "words"),
    [
        (pb.Command(), ["command_id is empty", "action is none"]),
        (pb.Command(command_id="c" * 201, commit=pb.Commit(attempt=attempt())), ["longer than 200"]),
        (prepare(kind=0), ["prepare.kind"]),
        (prepare(kind=99), ["prepare.kind"]),
        (prepare(method=99), ["prepare.method"]),
        (prepare(command_line="a\0b"), ["control characters"]),
        (prepare(command_line="x" * 2048), ["longer than 2047"]),
        (prepare(timeouts=common.StepTimeouts(loading=convert.duration(0))), ["timeouts.loading"]),
        (prepare(timeouts=common.StepTimeouts(loading=convert.duration(-1))), ["timeouts.loading"]),
        (prepare(timeouts=common.StepTimeouts(loading=convert.duration(1e9))), ["timeouts.loading"]),
        (prepare(health_hold=convert.duration(-1)), ["health_hold"]),
        (prepare(attempt=attempt(node_id="n2")), ["is 'n2', this node is n1"]),
        (prepare(attempt=attempt(generation=0, incarnation="")), ["generation", "incarnation"]),
        (prepare(artifact=artifact(digest="x", kernel_release="a b")), ["digest", "kernel_release"]),
        (pb.Command(command_id="c", stage=pb.Stage(artifact=artifact(url=""))), ["artifact.url is empty"]),
        (pb.Command(command_id="c", proceed=pb.Proceed(attempt=attempt())), ["valid_for", "stamp.boot_id"]),
    ],
)
def test_a_malformed_command_names_every_violation(message: pb.Command, words: list[str]) -> None:
    said = refused(message)
    for word in words:
        assert word in said


@given(st.binary(max_size=200))
def test_no_bytes_make_anything_but_a_refusal(data: bytes) -> None:
    message = pb.Command()
    try:
        message.ParseFromString(data)
    except Exception:
        return
    with contextlib.suppress(CommandRefused):
        read(message)


def test_odd_cadences_are_bounded() -> None:
    terms = convert.welcome(pb.Welcome(incarnation="i"))
    assert (terms.active_heartbeat_s, terms.idle_heartbeat_s) == (5.0, 30.0)
    odd = pb.Welcome(active_heartbeat=convert.duration(1e-6), idle_heartbeat=convert.duration(1e9))
    terms = convert.welcome(odd)
    assert (terms.active_heartbeat_s, terms.idle_heartbeat_s) == (0.05, 3600.0)


@pytest.mark.parametrize("number", [2**63 - 1, 2**64 - 1])
async def test_a_number_beyond_reason_leaves_the_node_numbers_to_report_under(number: int) -> None:
    """What is journalled after it is above it, for the life of the journal; and Hello tells the serial."""
    terms = convert.welcome(pb.Welcome(acknowledged_seq=number, incarnation_serial=number))
    disk = MemoryDisk()
    for _ in range(2):
        journal = MemoryJournal(disk)
        journal.number_from(terms.acknowledged_seq)
        seq = (await journal.append("event", {})).seq
        await journal.close()
    ((_, message),) = convert.reports([told(seq)])
    stored = 2**63 - 1  # what the orchestrator takes at most
    assert 2**62 < message.report.seq < stored
    assert terms.incarnation_serial < stored


def told(seq: int, *, fields: int = 0) -> Report:
    wide = {f"field-{i}": "x" * 200 for i in range(fields)}
    problem = model.Problem("P", Retry.CALL, "a step failed", fields=wide) if fields else None
    return Report(seq, "E", Phase.IDLE, STAMP, "b", "r", True, problem=problem)


def test_reports_that_wait_together_travel_together_in_order() -> None:
    messages = list(convert.reports([told(seq) for seq in range(1, 131)]))
    assert [last for last, _ in messages] == [64, 128, 130]
    seqs = [r.seq for _, message in messages for r in message.reports.reports]
    assert seqs == list(range(1, 131))


def test_one_report_travels_alone_and_none_is_no_message() -> None:
    assert list(convert.reports([])) == []
    ((last, message),) = convert.reports([told(7)])
    assert (last, message.report.seq, message.WhichOneof("message")) == (7, 7, "report")


def test_a_batch_stays_below_the_bound_of_a_message() -> None:
    messages = list(convert.reports([told(seq, fields=30) for seq in range(1, 129)]))
    assert len(messages) > 2
    assert all(message.ByteSize() <= convert.BATCH_BYTES + 1024 for _, message in messages)
    assert [r.seq for _, m in messages for r in m.reports.reports] == list(range(1, 129))
