"""Metrics count each committed fact once, and Prometheus' own linter finds nothing to say."""

from __future__ import annotations

import shutil
import subprocess
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from prometheus_client.exposition import generate_latest

from orchestrator.core.model import Artifact, AttemptRow, Mark, MemberRow, RolloutRow, Sample
from orchestrator.core.phases import Goal, Kind, Method, Phase, Verdict
from orchestrator.core.spec import RolloutSpec, Target
from orchestrator.web.blackout_parts import PARTS, REASONS
from orchestrator.web.metrics import Metrics

NOW = datetime(2026, 1, 5, 12, tzinfo=UTC)
ARTIFACT = Artifact("k", "d", "6.19.3", "http://x")
OPEN = AttemptRow(
    node_id="a-1",
    generation=1,
    incarnation="i",
    rollout_id="r",
    kind=Kind.FORWARD,
    method=Method.LIVE,
    phase=Phase.LOADING,
    artifact=ARTIFACT,
    from_release="6.19.2",
    to_release="6.19.3",
    hardware_model="m",
    expected_boot_id="b",
    command_line="",
    opened_at=NOW,
    phase_at=NOW,
)


HZ = 2_000_000_000
STARTS_S = {"b": 0.0, "c": 100.75}
"""When a boot's CLOCK_BOOTTIME was 0; the TSC keeps counting."""


def mark(name: str, at: float, boot: str) -> Mark:
    whole_s = STARTS_S[boot] + at
    return Mark(name, NOW + timedelta(seconds=whole_s), timedelta(seconds=at), round(whole_s * HZ), boot)


UPDATED = replace(
    OPEN,
    phase=Phase.BAKING,
    settled_at=NOW,
    verdict=Verdict.LIVE_UPDATED,
    samples=(
        Sample("workload", timedelta(seconds=2), timedelta(0), "tsc", workload="w1"),
        Sample(
            "workload", timedelta(seconds=1), timedelta(0), "tsc", workload="w2", rejected="went backwards"
        ),
        Sample("host", timedelta(seconds=1.5), timedelta(0), "tsc"),
    ),
    marks=(
        mark("suspend", 100, "b"),
        mark("pre_reboot", 100.25, "b"),
        mark("kernel_start", 0, "c"),
        mark("userspace_start", 1, "c"),
        mark("retrieved", 1.5, "c"),
        mark("resume", 1.75, "c"),
    ),
    brownout=timedelta(seconds=4),
    workloads=2,
    memory_intact=1,
)


def value(metrics: Metrics, name: str, **labels: str) -> float | None:
    return metrics.registry.get_sample_value(name, labels)


def test_an_update_is_counted_once_however_often_its_row_is_written() -> None:
    metrics = Metrics()
    metrics.row_applied(None, OPEN)
    metrics.row_applied(OPEN, UPDATED)
    metrics.row_applied(UPDATED, replace(UPDATED, phase=Phase.COMMITTED))
    assert value(metrics, "liveroll_attempts_started_total", kind="forward") == 1
    assert value(metrics, "liveroll_attempts_total", kind="forward", result="succeeded", reason="") == 1
    assert value(metrics, "liveroll_boot_verdicts_total", verdict="live_updated") == 1
    assert value(metrics, "liveroll_blackout_seconds_count", vantage="workload") == 1
    assert value(metrics, "liveroll_blackout_seconds_sum", vantage="workload") == 2
    assert value(metrics, "liveroll_blackout_samples_rejected_total", vantage="workload") == 1
    assert value(metrics, "liveroll_brownout_seconds_sum") == 4
    assert value(metrics, "liveroll_memory_checks_total", result="passed") == 1
    assert value(metrics, "liveroll_memory_checks_total", result="failed") == 1


def test_the_parts_of_the_blackout_come_from_marks_within_a_boot() -> None:
    metrics = Metrics()
    metrics.row_applied(OPEN, UPDATED)
    parts = {
        phase: value(metrics, "liveroll_blackout_phase_seconds_sum", phase=phase, source="marks")
        for phase in ("shutdown", "purgatory", "boot", "userspace", "restore")
    }
    assert parts == {"shutdown": 0.25, "purgatory": 0.5, "boot": 1, "userspace": 0.5, "restore": 0.25}


def test_the_parts_of_the_blackout_come_from_the_kernels_where_they_tell() -> None:
    """The seed: "precise time information about kexec, including shutdown, purgatory, boot"."""
    marks = {mark.name: mark for mark in UPDATED.marks}
    assert marks["pre_reboot"].boottime == timedelta(seconds=100.25)
    told_by_them = (mark("kernel_left", 100.375, "b"), mark("init_start", 0.75, "c"))
    metrics = Metrics()
    metrics.row_applied(OPEN, replace(UPDATED, marks=(*UPDATED.marks, *told_by_them)))

    def part(phase: str, source: str) -> float | None:
        return value(metrics, "liveroll_blackout_phase_seconds_sum", phase=phase, source=source)

    told = {phase: part(phase, "telemetry") for phase in ("shutdown", "purgatory", "boot", "userspace")}
    assert told == {"shutdown": 0.375, "purgatory": 0.375, "boot": 0.75, "userspace": 0.75}
    assert part("restore", "marks") == 0.25
    assert part("boot", "marks") is None


def parts_of(*marks: Mark, samples: tuple[Sample, ...] = UPDATED.samples) -> dict[str, float | str]:
    """Each part in seconds, or why it was rejected; each is counted once, one way or the other."""
    metrics = Metrics()
    metrics.row_applied(OPEN, replace(UPDATED, marks=marks, samples=samples))
    found: dict[str, float | str] = {}
    for phase in PARTS:
        for source in ("marks", "telemetry"):
            if value(metrics, "liveroll_blackout_phase_seconds_count", phase=phase, source=source):
                seconds = value(metrics, "liveroll_blackout_phase_seconds_sum", phase=phase, source=source)
                assert seconds is not None
                assert phase not in found
                found[phase] = seconds
        for reason in REASONS:
            name = "liveroll_blackout_phase_samples_rejected_total"
            if value(metrics, name, phase=phase, reason=reason):
                assert phase not in found
                found[phase] = reason
    return found


WHOLE = {"shutdown": 0.25, "purgatory": 0.5, "boot": 1, "userspace": 0.5, "restore": 0.25}


def test_no_part_hangs_on_a_sample_that_was_told_once_and_lost() -> None:
    """A store that went back in time has no samples of the attempt; its marks come with every report."""
    assert parts_of(*UPDATED.marks, samples=()) == WHOLE


def test_purgatory_is_right_where_the_hosts_gap_is_short() -> None:
    """The gap is read from other clocks than the boot, and was less than it by their uncertainty."""
    short = Sample("host", timedelta(seconds=0.9), timedelta(seconds=1), "realtime")
    assert parts_of(*UPDATED.marks, samples=(short,)) == WHOLE


def test_without_a_tsc_purgatory_is_of_the_wall_clock_and_may_be_rejected() -> None:
    bare = tuple(replace(mark, tsc=0) for mark in UPDATED.marks)
    assert parts_of(*bare) == WHOLE
    set_back = tuple(
        replace(mark, realtime=mark.realtime - timedelta(seconds=1)) if mark.boot_id == "c" else mark
        for mark in bare
    )
    assert parts_of(*set_back) == {**WHOLE, "purgatory": "backwards"}


def test_a_tsc_that_was_set_back_rejects_purgatory_alone() -> None:
    reset = [replace(m, tsc=m.tsc - 99 * HZ) if m.boot_id == "c" else m for m in UPDATED.marks]
    assert parts_of(*reset) == {**WHOLE, "purgatory": "backwards"}


def test_a_part_whose_mark_is_missing_or_of_another_boot_says_so() -> None:
    without = [m for m in UPDATED.marks if m.name != "kernel_start"]
    assert parts_of(*without) == {**WHOLE, "purgatory": "no_mark", "boot": "no_mark"}
    again = [replace(m, boot_id="d") if m.name in ("retrieved", "resume") else m for m in UPDATED.marks]
    assert parts_of(*again) == {**WHOLE, "userspace": "other_boot"}
    late = [replace(m, boot_id="d") if m.name == "userspace_start" else m for m in UPDATED.marks]
    assert parts_of(*late) == {**WHOLE, "boot": "other_boot", "userspace": "other_boot"}
    at_once = [replace(m, boottime=timedelta(0)) if m.name == "userspace_start" else m for m in UPDATED.marks]
    assert parts_of(*at_once) == {**WHOLE, "boot": 0, "userspace": 1.5}
    stayed = [replace(m, boot_id="b") if m.name == "kernel_start" else m for m in UPDATED.marks]
    assert parts_of(*stayed) == {**WHOLE, "boot": "other_boot", "purgatory": "other_boot"}
    early = [replace(m, boottime=timedelta(seconds=2)) if m.name == "retrieved" else m for m in UPDATED.marks]
    assert parts_of(*early) == {**WHOLE, "userspace": 1, "restore": "backwards"}


def test_the_parts_are_counted_when_the_blackout_has_ended_and_once() -> None:
    metrics = Metrics()
    resumed = replace(UPDATED, brownout=None, phase=Phase.VERIFYING)
    metrics.row_applied(OPEN, replace(resumed, marks=resumed.marks[:-1]))
    metrics.row_applied(replace(resumed, marks=resumed.marks[:-1]), resumed)
    metrics.row_applied(resumed, UPDATED)
    for phase in PARTS:
        assert value(metrics, "liveroll_blackout_phase_seconds_count", phase=phase, source="marks") == 1


def test_failures_unwinds_and_rollbacks() -> None:
    metrics = Metrics()
    lost = replace(OPEN, phase=Phase.LOST, settled_at=NOW, failed=True, failure="lost")
    paused = replace(OPEN, phase=Phase.ABORTED, settled_at=NOW, cancel_cause="pause", spares_budget=True)
    back = replace(UPDATED, kind=Kind.ROLLBACK)
    odd = replace(lost, failure="a word of a later version")
    for row in (lost, paused, back, odd):
        metrics.row_applied(OPEN, row)
    assert value(metrics, "liveroll_attempts_total", kind="forward", result="failed", reason="lost") == 1
    assert value(metrics, "liveroll_attempts_total", kind="forward", result="failed", reason="other") == 1
    assert value(metrics, "liveroll_unwinds_total", cause="pause") == 1
    assert value(metrics, "liveroll_rollbacks_total", result="succeeded") == 1


def test_halts_cancellations_and_retries_count_edges() -> None:
    metrics = Metrics()
    row = RolloutRow("r", RolloutSpec("r", Target("k")), ARTIFACT, NOW, "me")
    halted = replace(row, halted="FAILURE_BUDGET")
    cancelled = replace(halted, goal=Goal.CANCEL)
    for before, after in (
        (None, row),
        (row, halted),
        (halted, halted),
        (halted, cancelled),
        (cancelled, cancelled),
    ):
        metrics.row_applied(before, after)
    member = MemberRow("r", "a-1", 0, 0)
    metrics.row_applied(member, replace(member, retries=1))
    assert value(metrics, "liveroll_halts_total") == 1
    assert value(metrics, "liveroll_cancellations_total") == 1
    assert value(metrics, "liveroll_retries_total") == 1


@pytest.mark.skipif(
    shutil.which("promtool") is None, reason="promtool (Debian package prometheus) is not installed"
)
def test_promtool_has_nothing_to_say() -> None:
    metrics = Metrics()
    metrics.row_applied(OPEN, UPDATED)
    metrics.planned(0.001, 2)
    metrics.committed(0.01)
    metrics.conflicted()
    metrics.store_failed("STORE_UNAVAILABLE")
    metrics.violated("I1")
    metrics.link_opened()
    metrics.link_closed("silent")
    checked = subprocess.run(
        ["promtool", "check", "metrics"],
        input=generate_latest(metrics.registry),
        capture_output=True,
        check=False,
    )
    assert (checked.returncode, checked.stdout, checked.stderr) == (0, b"", b"")


@pytest.mark.skipif(
    shutil.which("promtool") is None, reason="promtool (Debian package prometheus) is not installed"
)
@pytest.mark.parametrize(("command", "file"), [("config", "prometheus.yml"), ("rules", "alerts.yml")])
def test_the_shipped_prometheus_files_are_valid(command: str, file: str) -> None:
    checked = subprocess.run(
        ["promtool", "check", command, f"deploy/prometheus/{file}"], capture_output=True, check=False
    )
    assert checked.returncode == 0, checked.stderr.decode()
