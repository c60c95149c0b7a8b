"""The orchestrator's Prometheus metrics: counted as rows are committed, read as the fleet stands.

Rules
1. Counters and histograms move only when a committed row first shows the fact, so that a
   replay, a restart or a second look never counts twice. A restart starts them at zero, as
   Prometheus expects.
2. Gauges are read from the fleet at scrape time (gauges.py); nothing is kept twice.
3. No label names a node, an attempt or a rollout; every label's values are a closed set
   (unknown words become "other").
"""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Histogram

from orchestrator.core.model import AttemptRow, MemberRow, RolloutRow, Row
from orchestrator.core.phases import Goal, Kind, Phase
from orchestrator.web import blackout_parts

SECONDS = (
    *(0.01, 0.025, 0.05, 0.1, 0.15, 0.2, 0.25, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0),
    *(1.1, 1.2, 1.3, 1.4, 1.5, 1.75, 2.0, 2.25, 2.5, 2.75, 3.0, 3.5, 4.0, 4.5, 5.0),
    *(6.0, 7.0, 8.0, 9.0, 10.0, 15.0, 20.0, 30.0, 60.0, 120.0, 300.0),
)
"""Blackouts: from an emulated node's tens of milliseconds to a lost node's minutes. Between 0.25 and
10 s, where real ones are, a bucket is at most a third as wide as what it holds: a quantile read
from the histogram is that wrong at worst, and above half a second less than a fifth."""
LATENCY = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.02, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
FAILURES = frozenset(
    {"lost", "state_lost", "cold_booted", "wrong_kernel", "quarantined", "unhealthy", "aborted", "poisoned"}
)
VANTAGES = frozenset({"workload", "host", "link"})
CAUSES = frozenset({"pause", "halt", "window", "embargo", "fleet_stop", "cancel", "lease", "ack_timeout"})
LINK_CAUSES = frozenset({"closed", "replaced", "silent", "shutdown", "cut", "failed"})


class Metrics:
    """Everything that is counted. One per process; the registry is what /metrics shows."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()

        def counter(name: str, text: str, *labels: str) -> Counter:
            return Counter(name, text, labels, registry=self.registry)

        def histogram(name: str, text: str, buckets: tuple[float, ...], *labels: str) -> Histogram:
            return Histogram(name, text, labels, buckets=buckets, registry=self.registry)

        self.blackout = histogram(
            "liveroll_blackout_seconds",
            "How long workloads stood still, by vantage point",
            SECONDS,
            "vantage",
        )
        self.blackout_phase = histogram(
            "liveroll_blackout_phase_seconds",
            "Parts of the blackout, and whether the agent's marks or the kernels' telemetry say so",
            SECONDS,
            "phase",
            "source",
        )
        self.brownout = histogram(
            "liveroll_brownout_seconds", "How long workloads ran degraded around the blackout", SECONDS
        )
        self.rejected = counter(
            "liveroll_blackout_samples_rejected_total", "Samples that must not be used", "vantage"
        )
        self.rejected_phase = counter(
            "liveroll_blackout_phase_samples_rejected_total",
            "Parts of a blackout that could not be told, and why",
            "phase",
            "reason",
        )
        self.attempts = counter(
            "liveroll_attempts_total",
            "Attempts settled, by kind, result and reason",
            "kind",
            "result",
            "reason",
        )
        self.started = counter("liveroll_attempts_started_total", "Attempts begun, by kind", "kind")
        self.verdicts = counter(
            "liveroll_boot_verdicts_total", "Boots after an attempt, by verdict", "verdict"
        )
        self.retries = counter("liveroll_retries_total", "Attempts that repeat a failed one")
        self.unwinds = counter(
            "liveroll_unwinds_total", "Attempts unwound before the jump, by cause", "cause"
        )
        self.rollbacks = counter("liveroll_rollbacks_total", "Rollback attempts settled, by result", "result")
        self.cancellations = counter("liveroll_cancellations_total", "Rollouts that were cancelled")
        self.halts = counter("liveroll_halts_total", "Times a rollout halted itself")
        self.memory = counter("liveroll_memory_checks_total", "Workloads compared after the kexec", "result")
        self.violations = counter(
            "liveroll_invariant_violations_total", "Promises broken, as the checker saw them", "invariant"
        )
        self.plan_seconds = histogram("liveroll_plan_seconds", "Time to plan the whole fleet", LATENCY)
        self.commit_seconds = histogram(
            "liveroll_store_commit_seconds", "Time from asking for a commit to its durability", LATENCY
        )
        self.plan_actions = counter("liveroll_plan_actions_total", "Actions that plans decided on")
        self.batch = histogram(
            "liveroll_store_batch_changes",
            "Changes that shared one transaction",
            (1, 2, 5, 10, 20, 50, 100, 200, 500),
        )
        self.conflicts = counter(
            "liveroll_store_conflicts_total", "Commits that lost to another and were redone"
        )
        self.store_failures = counter(
            "liveroll_store_failures_total", "Commits that the store could not take, by reason", "reason"
        )
        self.links_opened = counter("liveroll_links_opened_total", "Links that agents opened")
        self.links_closed = counter("liveroll_links_closed_total", "Links that ended, by cause", "cause")
        for kind in Kind:
            self.started.labels(kind.lower())
        for cause in sorted(CAUSES):
            self.unwinds.labels(cause)
        for vantage in sorted(VANTAGES):
            self.blackout.labels(vantage)
        for result in ("passed", "failed"):
            self.memory.labels(result)
        for part in blackout_parts.PARTS:
            for reason in sorted(blackout_parts.REASONS):
                self.rejected_phase.labels(part, reason)

    # --- committed rows ------------------------------------------------------------------

    def row_applied(self, before: Row | None, after: Row) -> None:
        """A row was committed; `before` is what it replaces, None if it is new."""
        if isinstance(after, AttemptRow):
            self._attempt(before if isinstance(before, AttemptRow) else None, after)
        elif isinstance(after, RolloutRow):
            previous = before if isinstance(before, RolloutRow) else None
            if after.halted and (previous is None or not previous.halted):
                self.halts.inc()
            if after.goal is Goal.CANCEL and (previous is None or previous.goal is not Goal.CANCEL):
                self.cancellations.inc()
        elif isinstance(after, MemberRow):
            earlier = before.retries if isinstance(before, MemberRow) else 0
            self.retries.inc(max(0, after.retries - earlier))

    def _attempt(self, before: AttemptRow | None, after: AttemptRow) -> None:
        kind = after.kind.lower()
        if before is None:
            self.started.labels(kind).inc()
        if after.verdict is not None and (before is None or before.verdict is not after.verdict):
            self.verdicts.labels(after.verdict.lower()).inc()
        seen = set(before.samples) if before is not None else set()
        for sample in after.samples:
            if sample in seen:
                continue
            vantage = sample.vantage.lower() if sample.vantage.lower() in VANTAGES else "other"
            if sample.rejected:
                self.rejected.labels(vantage).inc()
            else:
                self.blackout.labels(vantage).observe(sample.duration.total_seconds())
        if after.brownout is not None and (before is None or before.brownout is None):
            self.brownout.observe(after.brownout.total_seconds())
        if _has_ended(after) and not _has_ended(before):
            self._phases(after)
        if after.workloads and (before is None or not before.workloads):
            self.memory.labels("passed").inc(after.memory_intact)
            self.memory.labels("failed").inc(after.workloads - after.memory_intact)
        if after.settled_at is not None and (before is None or before.settled_at is None):
            self._settled(kind, after)

    def _settled(self, kind: str, after: AttemptRow) -> None:
        if after.failed:
            result, reason = "failed", after.failure if after.failure in FAILURES else "other"
        elif after.phase is Phase.ABORTED:
            result, reason = "unwound", after.cancel_cause if after.cancel_cause in CAUSES else "other"
        else:
            result, reason = "succeeded", ""
        self.attempts.labels(kind, result, reason).inc()
        if after.phase is Phase.ABORTED:
            self.unwinds.labels(after.cancel_cause if after.cancel_cause in CAUSES else "failure").inc()
        if after.kind is Kind.ROLLBACK:
            self.rollbacks.labels(result).inc()

    def _phases(self, attempt: AttemptRow) -> None:
        for part in blackout_parts.parts(attempt.marks):
            if part.rejected:
                self.rejected_phase.labels(part.name, part.rejected).inc()
            else:
                self.blackout_phase.labels(part.name, part.source).observe(part.duration.total_seconds())

    # --- the service itself (runtime.observer.Observer) ------------------------------------

    def planned(self, seconds: float, actions: int) -> None:
        self.plan_seconds.observe(seconds)
        self.plan_actions.inc(actions)

    def batched(self, size: int) -> None:
        self.batch.observe(size)

    def committed(self, seconds: float) -> None:
        self.commit_seconds.observe(seconds)

    def conflicted(self) -> None:
        self.conflicts.inc()

    def store_failed(self, reason: str) -> None:
        self.store_failures.labels(reason).inc()

    def violated(self, invariant: str) -> None:
        self.violations.labels(invariant).inc()

    def link_opened(self) -> None:
        self.links_opened.inc()

    def link_closed(self, cause: str) -> None:
        self.links_closed.labels(cause if cause in LINK_CAUSES else "other").inc()


def _has_ended(attempt: AttemptRow | None) -> bool:
    """Its blackout, by its marks."""
    return attempt is not None and any(mark.name == blackout_parts.LAST for mark in attempt.marks)
