"""What a plan costs in the middle of a rollout over 10,000 nodes, and after one node's report.

Beside it, as the raw limit of the same run, one pass over the same rows that does nothing: what
a planner would pay at least that looked at every node.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta

from orchestrator.core.fleet import Fleet
from orchestrator.core.model import AttemptRow, Row
from orchestrator.core.phases import Phase
from orchestrator.core.planner import plan
from orchestrator.core.spec import Amount, DomainBudget
from tests.bench.result import Result
from tests.unit.core_planner.builders import INCARNATION, World, nodes, spec

NODES = 10_000
ROUNDS = 30


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
    w.settle_plans()
    for node_id in w.open_nodes()[:100]:
        while w.step(node_id):
            pass
    return w


def measure(act: Callable[[], object], rounds: int = ROUNDS) -> float:
    """Median, in milliseconds."""
    taken = []
    for _ in range(rounds):
        start = time.perf_counter()
        act()
        taken.append((time.perf_counter() - start) * 1000)
    return statistics.median(taken)


def run() -> list[Result]:
    """All figures of this bench."""
    w = world()
    rows = list(w.rows.values())
    beside = f"a pass over all {len(rows):,} rows"
    limit = measure(lambda: sum(isinstance(row, AttemptRow) for row in rows))
    made = w.plan()
    busy = measure(lambda: plan(w.fleet, w.now))
    w.settle_plans()
    under_way = next(n for n in w.open_nodes() if w.attempt(n).phase is not Phase.PRESERVED)

    def one_report() -> None:
        a = w.attempt(under_way)
        w.fleet.apply(replace(a, seq=a.seq + 1))

    def report_and_plan() -> None:
        one_report()
        plan(w.fleet, w.now)

    figures = [
        (f"plan() with {len(made.actions)} actions, {NODES:,} nodes", busy, "under 20 ms"),
        (f"plan() with nothing to do, {NODES:,} nodes", measure(lambda: plan(w.fleet, w.now)), "under 20 ms"),
        ("one node's report applied", measure(one_report), ""),
        ("one node's report applied and planned", measure(report_and_plan), "no unchanged node visited"),
        ("the fleet rebuilt from its rows", measure(lambda: rebuild(w, rows), 3), ""),
    ]
    return [Result(name, value, "ms", beside, limit, aim) for name, value, aim in figures]


def rebuild(w: World, rows: list[Row]) -> Fleet:
    return Fleet.rebuild(w.policy, INCARNATION, rows)


def main() -> None:
    for r in run():
        print(f"{r.name:45} {r.value:9.3f} {r.unit}   {r.beside}: {r.limit:.3f}")


if __name__ == "__main__":
    main()
