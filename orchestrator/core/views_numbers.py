"""What a rollout's attempts add up to: blackouts, memory checks, and when it began.

Rules
1. Quantiles are by nearest rank over raw samples; histograms answer nothing here.
2. A node's own vantage counts: workloads where there are samples of any, else the host's.
   The link's is not mixed in. Beside it, each vantage is summed up by itself.
3. Rejected samples are counted, not used. Emulated is said if any sample used is.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from orchestrator.core.model import AttemptRow, Sample
from orchestrator.core.report import BlackoutSummary, VantageSummary

VANTAGES = ("workload", "host", "link")


@dataclass(frozen=True, slots=True)
class Totals:
    """One pass over a rollout's attempts."""

    blackout: BlackoutSummary
    memory_passed: int
    memory_failed: int
    started_at: datetime | None


def totals(attempts: Iterable[AttemptRow]) -> Totals:
    """Of all attempts of one rollout, in any order."""
    used: list[Sample] = []
    all_of: dict[str, list[Sample]] = {vantage: [] for vantage in VANTAGES}
    rejected = open_ = passed = failed = 0
    started: datetime | None = None
    for attempt in attempts:
        samples = judged(attempt.samples)
        used += [s for s in samples if not s.rejected]
        rejected += sum(1 for s in samples if s.rejected)
        for sample in attempt.samples:
            all_of.setdefault(sample.vantage.lower(), []).append(sample)
        open_ += attempt.blackout_open_at is not None
        passed += attempt.memory_intact
        failed += max(0, attempt.workloads - attempt.memory_intact)
        if started is None or attempt.opened_at < started:
            started = attempt.opened_at
    durations = sorted(s.duration for s in used)
    return Totals(
        BlackoutSummary(
            samples=len(durations),
            rejected=rejected,
            p50=quantile(durations, 0.5),
            p99=quantile(durations, 0.99),
            max=durations[-1] if durations else None,
            open=open_,
            emulated=any(s.emulated for s in used),
            vantages=tuple(_vantage(name, seen) for name, seen in all_of.items() if seen),
        ),
        passed,
        failed,
        started,
    )


def _vantage(name: str, samples: Sequence[Sample]) -> VantageSummary:
    used = [s for s in samples if not s.rejected]
    durations = sorted(s.duration for s in used)
    return VantageSummary(
        vantage=name,
        samples=len(durations),
        rejected=len(samples) - len(used),
        p50=quantile(durations, 0.5),
        p99=quantile(durations, 0.99),
        max=durations[-1] if durations else None,
        uncertainty=max((s.uncertainty for s in used), default=None),
    )


def judged(samples: Iterable[Sample]) -> tuple[Sample, ...]:
    """The samples of the vantage that counts (rule 2)."""
    by_vantage: dict[str, list[Sample]] = {}
    for sample in samples:
        by_vantage.setdefault(sample.vantage.lower(), []).append(sample)
    return tuple(by_vantage.get("workload") or by_vantage.get("host") or ())


def quantile(ordered: Sequence[timedelta], q: float) -> timedelta | None:
    """Nearest rank: the smallest value that at least q of all do not exceed. 0 < q ≤ 1."""
    if not ordered:
        return None
    return ordered[max(1, math.ceil(q * len(ordered) - 1e-9)) - 1]
