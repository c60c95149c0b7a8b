"""What the agent counts and measures of itself, in plain numbers; metrics_http.py shows them.

Rules:
- No node, attempt or otherwise unbounded label: a simulating process adds its nodes up.
- Every histogram has its own buckets, chosen for what it measures; rejected samples are
  counted, never observed.
- Nothing here imports prometheus-client: counting starts before the first Hello, showing after.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field

from node_agent.core import timing
from node_agent.core.model import AttemptRef
from node_agent.core.phases import SETTLED, Phase
from node_agent.core.report import Report

BLACKOUT_BUCKETS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300)
"""From an emulated node's milliseconds to a slow firmware's minutes."""
BROWNOUT_BUCKETS = (0.01, 0.05, 0.1, 0.5, 1, 5, 10, 30, 60, 300, 900, 3600)
FSYNC_BUCKETS = (0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.5, 1)
REASONS_MAX = 40
"""Distinct reasons kept as a label; the rest is OTHER. There are about thirty in the code."""


@dataclass(slots=True)
class Histogram:
    """Counts below each bound, and the sum."""

    bounds: tuple[float, ...]
    counts: list[int] = field(init=False)
    total: float = 0.0

    def __post_init__(self) -> None:
        self.counts = [0] * (len(self.bounds) + 1)

    def observe(self, value: float) -> None:
        """Count one value."""
        self.counts[bisect_left(self.bounds, value)] += 1
        self.total += value

    def cumulative(self) -> list[tuple[str, float]]:
        """(upper bound as text, values at or below it), the last one +Inf."""
        rows, running = [], 0
        for bound, count in zip((*self.bounds, float("inf")), self.counts, strict=True):
            running += count
            rows.append(("+Inf" if bound == float("inf") else repr(float(bound)), float(running)))
        return rows


class Meter:
    """All numbers of one agent process."""

    def __init__(self) -> None:
        self.phases: dict[str, Phase] = {}
        """Node → phase; shown as a count for each phase."""
        self.unhealthy: set[str] = set()
        self.attempts: Counter[tuple[str, str]] = Counter()
        """(result, reason)"""
        self.verdicts: Counter[str] = Counter()
        self.refusals: Counter[str] = Counter()
        self.blackout: dict[str, Histogram] = {
            v: Histogram(BLACKOUT_BUCKETS) for v in ("workload", "host", "link")
        }
        self.blackout_phase: dict[tuple[str, str], Histogram] = {
            (name, source): Histogram(BLACKOUT_BUCKETS)
            for name, _, _, source in (*timing.PHASES, *timing.TOLD_PHASES)
        }
        """(phase, who says when it began and ended)"""
        self.brownout = Histogram(BROWNOUT_BUCKETS)
        self.rejected_samples = 0
        self.memory_checks: Counter[str] = Counter()
        self.fsync = Histogram(FSYNC_BUCKETS)
        self.links_up: set[str] = set()
        self.link_failures: Counter[str] = Counter()
        self.connects = 0
        self.artifact_bytes = 0
        self._reasons: set[str] = set()
        self._settled: dict[str, AttemptRef] = {}

    def report(self, node_id: str, report: Report, *, tsc_hz: float = 0.0) -> None:
        """Count a report as it is made (not as it is sent: it may be sent often).

        Args:
            tsc_hz: of the clock that the marks were read from; 0 if unknown.
        """
        self.phase(node_id, report.phase, healthy=report.healthy)
        if report.refusal is not None:
            self.refusals[self._reason(report.refusal.problem.reason)] += 1
            return
        if report.event == "BootClassified" and report.boot_verdict is not None:
            self.verdicts[report.boot_verdict.value] += 1
        if report.event == "Resumed":
            self._resumed(report, tsc_hz)
        if report.event == "Finished" and report.brownout_s is not None:
            self.brownout.observe(report.brownout_s)
        attempt = report.attempt
        if attempt is not None and report.phase in SETTLED and report.phase is not Phase.IDLE:
            # Baking is a result, and so is what becomes of it; standing still is not a second one.
            if (report.phase is Phase.COMMITTED) or self._settled.get(node_id) != attempt:
                reason = self._reason(report.problem.reason) if report.problem is not None else ""
                self.attempts[report.phase.value, reason] += 1
            self._settled[node_id] = attempt

    def _resumed(self, report: Report, tsc_hz: float) -> None:
        for sample in report.samples:
            if sample.rejected:
                self.rejected_samples += 1
            else:
                self.blackout[sample.vantage.value.lower()].observe(sample.duration_s)
        for name, (span, source) in timing.phases(report.marks, tsc_hz).items():
            if span.rejected:
                self.rejected_samples += 1
            else:
                self.blackout_phase[name, source].observe(span.duration_s)
        if report.memory_check is not None:
            self.memory_checks["intact"] += report.memory_check.intact
            self.memory_checks["differs"] += report.memory_check.workloads - report.memory_check.intact

    def phase(self, node_id: str, phase: Phase, *, healthy: bool) -> None:
        """Where a node stands."""
        self.phases[node_id] = phase
        (self.unhealthy.discard if healthy else self.unhealthy.add)(node_id)

    def link(self, node_id: str, *, up: bool, reason: str = "") -> None:
        """A link's state changed."""
        if up:
            self.links_up.add(node_id)
            self.connects += 1
        else:
            self.links_up.discard(node_id)
            if reason:
                self.link_failures[self._reason(reason)] += 1

    def fetched(self, count: int) -> None:
        """Bytes of artifacts came in."""
        self.artifact_bytes += count

    def synced(self, seconds: float) -> None:
        """A journal record took this long to become durable."""
        self.fsync.observe(seconds)

    def phase_counts(self) -> Mapping[Phase, int]:
        """How many nodes of this process stand in each phase."""
        found = Counter(self.phases.values())
        return {phase: found[phase] for phase in Phase}

    def _reason(self, reason: str) -> str:
        if reason in self._reasons or len(self._reasons) < REASONS_MAX:
            self._reasons.add(reason)
            return reason
        return "OTHER"
