"""What gates say of samples: every result, each for its own reason."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta

import pytest

from orchestrator.core.gates import Evidence, judge
from orchestrator.core.model import Sample
from orchestrator.core.phases import Outcome, Phase
from orchestrator.core.spec import BlackoutGate, HealthGate
from tests.unit.core_planner.builders import START, node, settled_attempt


def ms(count: float) -> timedelta:
    return timedelta(milliseconds=count)


def sample(duration: float, vantage: str = "workload", rejected: str = "") -> Sample:
    return Sample(vantage, ms(duration), ms(1), "emulated", "w", rejected)


def member(
    *samples: Sample, phase: Phase = Phase.COMMITTED, healthy: bool = True, **changes: object
) -> Evidence:
    a = replace(settled_attempt(node("n1"), phase), samples=samples, **changes)  # type: ignore[arg-type]
    outcome = Outcome.UPDATED if phase is Phase.COMMITTED else Outcome.FAILED
    return Evidence("n1", a, outcome, healthy)


GATE = BlackoutGate(0.5, ms(500), ms(900), 1)


@pytest.mark.parametrize(
    ("gate", "evidence", "result", "says"),
    [
        (GATE, [], "PASS", "nothing was updated"),
        (GATE, [member(sample(300))], "PASS", "p50 of 1 samples is 0.300 s"),
        (GATE, [member(sample(300)), member(sample(800))], "PASS", "0.300 s"),
        (GATE, [member(sample(600)), member(sample(800))], "FAIL", "0.600 s"),
        (GATE, [member(sample(300)), member(sample(901))], "FAIL", "n1 stood still for 0.901 s"),
        (GATE, [member(sample(300)), member(phase=Phase.LOST)], "FAIL", "has no end"),
        (GATE, [member(sample(300)), member(blackout_open_at=START)], "FAIL", "has no end"),
        (BlackoutGate(1.0, ms(500)), [member(sample(300)), member(phase=Phase.LOST)], "FAIL", "endless (n1)"),
        (BlackoutGate(0.5, ms(500)), [member(phase=Phase.LOST)] * 5, "FAIL", "and 2 more"),
        (BlackoutGate(0.5, ms(500)), [member(sample(300)), member(phase=Phase.LOST)], "PASS", "0.300 s"),
        (replace(GATE, min_samples=2), [member(sample(300))], "INCONCLUSIVE", "1 usable samples, 2"),
        (replace(GATE, min_samples=2), [member(sample(600))], "INCONCLUSIVE", "1 usable samples, 2"),
        (GATE, [member(sample(300, rejected="backwards"))], "INCONCLUSIVE", "0 usable"),
        (GATE, [member(sample(300)), member(sample(1, rejected="x"))], "INCONCLUSIVE", "were rejected"),
        (GATE, [member(sample(300), sample(1, rejected="x"))], "PASS", "1 samples"),
        (GATE, [member(sample(300, "host"))], "PASS", "0.300 s"),
        (GATE, [member(sample(300, "WORKLOAD"), sample(5000, "host"))], "PASS", "1 samples"),
        (GATE, [member(sample(300, "link"))], "INCONCLUSIVE", "0 usable"),
        (replace(GATE, min_samples=0), [member()], "PASS", "no samples were wanted"),
        (replace(GATE, quantile=1.5), [member(sample(300))], "ERROR", "1.5"),
        (HealthGate(100), [member()], "PASS", "1 of 1"),
        (HealthGate(50), [member(), member(healthy=False)], "PASS", "50.0 %"),
        (HealthGate(51), [member(), member(phase=Phase.QUARANTINED)], "FAIL", "1 of 2 nodes"),
    ],
)
def test_judge(gate: BlackoutGate | HealthGate, evidence: list[Evidence], result: str, says: str) -> None:
    verdict = judge(gate, evidence, 3)
    assert (verdict.result, verdict.wave) == (result, 3)
    assert says in verdict.evidence
