"""Whether a wave's evidence lets the rollout go on: PASS, FAIL, INCONCLUSIVE or ERROR.

Rules
1. Raw samples are judged, never histograms. A lost node and a blackout that is still open
   count as infinite.
2. FAIL is said as soon as the evidence suffices for it. Too few usable samples, or a node whose
   samples were all rejected, are INCONCLUSIVE. Only PASS promotes.
3. The workloads' own vantage is judged; where a node has none, the host's.
4. A wave in which nothing was updated has nothing to judge: PASS.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import timedelta

from orchestrator.core.model import AttemptRow, GateVerdict, Sample
from orchestrator.core.phases import Outcome, Phase
from orchestrator.core.spec import BlackoutGate, Gate, HealthGate

PASS, FAIL, INCONCLUSIVE, ERROR = "PASS", "FAIL", "INCONCLUSIVE", "ERROR"

GOOD = frozenset({Outcome.BAKING, Outcome.UPDATED, Outcome.UNCOMMITTED})


@dataclass(frozen=True, slots=True)
class Evidence:
    """One member as gates see it: its newest forward attempt, and whether it is well now."""

    node_id: str
    attempt: AttemptRow
    outcome: Outcome
    healthy: bool


def name_of(gate: Gate) -> str:
    """blackout or health."""
    return "blackout" if isinstance(gate, BlackoutGate) else "health"


def judge(gate: Gate, evidence: Sequence[Evidence], wave: int) -> GateVerdict:
    """One gate's word on one wave."""
    name = name_of(gate)
    if not evidence:
        return GateVerdict(name, PASS, "nothing was updated in this wave", wave)
    if isinstance(gate, HealthGate):
        result, text = _health(gate, evidence)
    else:
        result, text = _blackout(gate, evidence)
    return GateVerdict(name, result, text, wave)


def _health(gate: HealthGate, evidence: Sequence[Evidence]) -> tuple[str, str]:
    well = sum(e.healthy and e.outcome in GOOD for e in evidence)
    share = 100 * well / len(evidence)
    text = (
        f"{well} of {len(evidence)} nodes are healthy, {share:.1f} %, wanted {gate.min_healthy_percent:g} %"
    )
    return (PASS if share >= gate.min_healthy_percent else FAIL), text


def _blackout(gate: BlackoutGate, evidence: Sequence[Evidence]) -> tuple[str, str]:
    if not 0 < gate.quantile <= 1:
        return ERROR, f"the quantile {gate.quantile:g} is not within 0 and 1"
    measured: list[tuple[timedelta, str]] = []
    endless: list[str] = []
    unusable: list[str] = []
    for e in evidence:
        if e.attempt.phase is Phase.LOST or e.attempt.blackout_open_at is not None:
            endless.append(e.node_id)
            continue
        usable, all_rejected = _usable(e.attempt.samples)
        measured += [(s.duration, e.node_id) for s in usable]
        if all_rejected:
            unusable.append(e.node_id)
    measured.sort()
    if gate.hard_max is not None:
        if endless:
            return (
                FAIL,
                f"the blackout of {_few(endless)} has no end, the hard maximum is {_s(gate.hard_max)}",
            )
        if measured and measured[-1][0] > gate.hard_max:
            longest, node = measured[-1]
            return FAIL, f"{node} stood still for {_s(longest)}, the hard maximum is {_s(gate.hard_max)}"
    count = len(measured) + len(endless)
    if count:
        at = math.ceil(gate.quantile * count) - 1
        found = f"p{gate.quantile * 100:g} of {count} samples is "
        if at >= len(measured):
            return FAIL, f"{found}endless ({_few(endless)}), the maximum is {_s(gate.max)}"
        value = measured[at][0]
        found += f"{_s(value)}, the maximum is {_s(gate.max)}"
        if value > gate.max and count >= gate.min_samples:
            return FAIL, found
    if count < gate.min_samples:
        return INCONCLUSIVE, f"{count} usable samples, {gate.min_samples} are wanted"
    if unusable:
        return INCONCLUSIVE, f"all samples of {_few(unusable)} were rejected"
    return PASS, found if count else "no samples were wanted"


def _usable(samples: Iterable[Sample]) -> tuple[list[Sample], bool]:
    """The samples to judge of one node, and whether it has some but none of use."""
    own = [s for s in samples if s.vantage.lower() == "workload"]
    seen = own or [s for s in samples if s.vantage.lower() == "host"]
    usable = [s for s in seen if not s.rejected]
    return usable, bool(seen) and not usable


def _few(nodes: Sequence[str]) -> str:
    named = ", ".join(nodes[:3])
    return named if len(nodes) <= 3 else f"{named} and {len(nodes) - 3} more"


def _s(duration: timedelta) -> str:
    return f"{duration.total_seconds():.3f} s"
