"""What is counted, and how Prometheus sees it."""

from __future__ import annotations

import shutil
import subprocess
import urllib.error
import urllib.request
from asyncio import to_thread
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from node_agent.core.model import (
    AttemptRef,
    BlackoutSample,
    BootStamp,
    Mark,
    MemoryCheck,
    Problem,
    Vantage,
)
from node_agent.core.phases import Phase, Verdict
from node_agent.core.report import CommandRefusal, Report
from node_agent.errors import Retry, SettingsError
from node_agent.runtime.metrics import REASONS_MAX, Histogram, Meter
from node_agent.runtime.metrics_http import serve

REF = AttemptRef("n1", 1, "i")
AT = datetime(2026, 1, 1, tzinfo=UTC)


def report(event: str, phase: Phase, **fields: object) -> Report:
    values: dict[str, object] = {"attempt": REF, "healthy": True, **fields}
    return Report(1, event, phase, BootStamp("b", 1.0), "b", "r", **values)  # type: ignore[arg-type]


def marks() -> tuple[Mark, ...]:
    names = ("suspend", "pre_reboot", "kernel_start", "userspace_start", "retrieved", "resume")
    return tuple(Mark(n, AT + timedelta(seconds=i), float(i), 0, "b") for i, n in enumerate(names))


def test_a_blackout_is_observed_once_by_vantage_and_phase() -> None:
    meter = Meter()
    samples = (
        BlackoutSample(Vantage.WORKLOAD, 0.3, 0.0, "tsc"),
        BlackoutSample(Vantage.HOST, 0.2, 0.0, "tsc"),
        BlackoutSample(Vantage.HOST, -1.0, 0.0, "tsc", rejected="went backwards"),
    )
    meter.report(
        "n1",
        report(
            "Resumed", Phase.VERIFYING, samples=samples, marks=marks(), memory_check=MemoryCheck(2, 1, 10)
        ),
    )
    meter.report("n1", report("Healthy", Phase.FINISHING, samples=samples, marks=marks()))
    assert sum(meter.blackout["workload"].counts) == sum(meter.blackout["host"].counts) == 1
    assert meter.blackout["workload"].total == 0.3
    assert meter.rejected_samples == 1
    seen = {key: h.total for key, h in meter.blackout_phase.items() if h.total}
    assert seen == {
        (phase, "marks"): 1.0 for phase in ("shutdown", "purgatory", "boot", "userspace", "restore")
    }
    assert meter.memory_checks == {"intact": 1, "differs": 1}


def test_a_part_of_a_blackout_that_a_clock_spoilt_is_rejected_and_told() -> None:
    meter = Meter()
    back = tuple(replace(m, boottime_s=9.0) if m.name == "retrieved" else m for m in marks())
    meter.report("n1", report("Resumed", Phase.VERIFYING, marks=back))
    assert meter.rejected_samples == 1
    assert sum(meter.blackout_phase["restore", "marks"].counts) == 0
    assert sum(meter.blackout_phase["boot", "marks"].counts) == 1


def test_results_count_once_an_attempt_and_a_commit_beside_its_bake() -> None:
    meter = Meter()
    problem = Problem("FREEZE_REFUSED", Retry.REPLAN, "no")
    for event, phase in (
        ("Prepared", Phase.LOADING),
        ("Finished", Phase.BAKING),
        ("CommitRequested", Phase.BAKING),
        ("Committed", Phase.COMMITTED),
    ):
        meter.report("n1", report(event, phase, brownout_s=1.0))
    meter.report("n2", report("Unwound", Phase.ABORTED, problem=problem, healthy=False))
    assert meter.attempts == {("BAKING", ""): 1, ("COMMITTED", ""): 1, ("ABORTED", "FREEZE_REFUSED"): 1}
    assert sum(meter.brownout.counts) == 1
    assert meter.phase_counts()[Phase.COMMITTED] == 1
    assert meter.unhealthy == {"n2"}


def test_verdicts_refusals_links_and_bytes() -> None:
    meter = Meter()
    meter.report("n1", report("BootClassified", Phase.IDLE, boot_verdict=Verdict.COLD_BOOT))
    refusal = CommandRefusal("c", Problem("STALE", Retry.NEVER, "old"))
    meter.report("n1", report("CommandRefused", Phase.IDLE, refusal=refusal))
    meter.link("n1", up=True)
    meter.link("n1", up=False, reason="LINK_ENDED")
    meter.fetched(10)
    meter.synced(0.001)
    assert (meter.verdicts, meter.refusals) == ({"COLD_BOOT": 1}, {"STALE": 1})
    assert (meter.connects, meter.links_up, meter.link_failures) == (1, set(), {"LINK_ENDED": 1})
    assert (meter.artifact_bytes, sum(meter.fsync.counts)) == (10, 1)


def test_reasons_are_a_bounded_label() -> None:
    meter = Meter()
    for i in range(REASONS_MAX + 10):
        meter.link("n1", up=False, reason=f"R{i}")
    assert len(meter.link_failures) == REASONS_MAX + 1
    assert meter.link_failures["OTHER"] == 10


def test_a_histogram_counts_at_or_below_each_bound() -> None:
    histogram = Histogram((1.0, 2.0))
    for value in (0.5, 1.0, 1.5, 3.0):
        histogram.observe(value)
    assert histogram.cumulative() == [("1.0", 2.0), ("2.0", 3.0), ("+Inf", 4.0)]


async def test_prometheus_sees_clean_metrics() -> None:
    meter = Meter()
    meter.report("n1", report("Unwound", Phase.ABORTED, problem=Problem("X", Retry.NEVER, "no")))
    async with serve(meter, "127.0.0.1:0", "0.1") as address:
        text = await to_thread(fetch, f"http://{address}/metrics")
        assert await to_thread(fetch, f"http://{address}/healthz") == "ok\n"
        with pytest.raises(SettingsError) as caught:
            async with serve(meter, address, "0.1"):
                raise AssertionError("two servers on one port")
    assert caught.value.reason == "PORT_IN_USE"
    assert 'liveroll_agent_attempts_total{reason="X",result="ABORTED"} 1.0' in text
    assert 'liveroll_blackout_seconds_bucket{le="+Inf",vantage="workload"} 0.0' in text
    assert "n1" not in text, "no label by node"
    promtool = shutil.which("promtool")
    if promtool is None:
        pytest.skip("promtool (package prometheus) is not installed")
    done = await to_thread(
        subprocess.run,
        [promtool, "check", "metrics"],
        input=text,
        text=True,
        capture_output=True,
        check=False,
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def fetch(url: str) -> str:
    with urllib.request.urlopen(url, timeout=10) as answer:
        return str(answer.read().decode())
