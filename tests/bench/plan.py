"""What a plan costs in the middle of a rollout over 10,000 nodes, and after one node's report.

Beside it, as the raw limit of the same run, one pass over the same rows that does nothing: what
a planner would pay at least that looked at every node.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import timedelta

from orchestrator.core.fleet import Fleet
from orchestrator.core.model import AttemptRow
from orchestrator.core.phases import Phase
from orchestrator.core.planner import plan
from orchestrator.core.spec import Amount, DomainBudget
from tests.unit.core_planner.builders import INCARNATION, World, nodes, spec

NODES = 10_000
ROUNDS = 5


@dataclass(frozen=True, slots=True)
class Result:
    """One figure, in milliseconds, and what it is."""

    name: str
    median_ms: float
    worst_ms: float


def world() -> World:
    """Mid-rollout: the canary has passed, a third is committed, hundreds are under way or bake."""
    w = World(nodes(NODES, zone="abc"))
    w.rollout(
        spec(
            waves=[Amount(percent=50), None],
            unavailable=500,
            blackout=500,
            bake=timedelta(minutes=5),
            budgets={"domain": DomainBudget("zone", Amount(percent=10))},
        )
    )
    w.settle_plans()
    w.run(bound=60, until="BAKING")
    while w.row().wave == 0:
        w.settle_plans()
        w.agents()
        w.tick(timedelta(seconds=60))
    for _ in range(9):
        w.settle_plans()
        w.agents()
    return w


def measure(name: str, act: Callable[[], object], before: Callable[[], object] = lambda: None) -> Result:
    taken = []
    for _ in range(ROUNDS):
        before()
        start = time.perf_counter()
        act()
        taken.append((time.perf_counter() - start) * 1000)
    return Result(name, statistics.median(taken), max(taken))


def run() -> list[Result]:
    """All figures of this bench."""
    w = world()
    w.settle_plans()
    under_way = [n for n in w.open_nodes() if w.attempt(n).phase is not Phase.PRESERVED]
    rows = list(w.rows.values())

    def one_report() -> None:
        node_id = under_way[0]
        a = w.fleet.newest_attempt(node_id)
        assert a is not None
        w.fleet.apply(replace(a, seq=a.seq + 1))

    def report_and_plan() -> None:
        one_report()
        plan(w.fleet, w.now)

    return [
        measure("a pass over all rows", lambda: sum(isinstance(row, AttemptRow) for row in rows)),
        measure("plan, nothing to do", lambda: plan(w.fleet, w.now)),
        measure("one report applied", one_report),
        measure("one report applied and planned", report_and_plan),
        measure("rebuild from scratch", lambda: Fleet.rebuild(w.policy, INCARNATION, rows)),
    ]


def main() -> None:
    for result in run():
        print(f"{result.name:34} median {result.median_ms:9.3f} ms   worst {result.worst_ms:9.3f} ms")


if __name__ == "__main__":
    main()
