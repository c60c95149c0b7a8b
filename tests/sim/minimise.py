"""Makes a failing world smaller while it still breaks the same promise.

Greedy: each edit (edits.py) is kept if the world without that still fails by the same invariant.
What is left is printed with its story and the command that shows it again.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

from tests.sim.draw import Scenario, draw
from tests.sim.edits import candidates, without
from tests.sim.world import Result, run_scenario

BUDGET_S = 120.0
ROUNDS = 3


@dataclass(frozen=True, slots=True)
class Smaller:
    """edits: what the world is without. result: how it ends."""

    seed: int
    edits: tuple[str, ...]
    result: Result
    tried: int

    @property
    def command(self) -> str:
        """Shows it again."""
        word = f" --without {','.join(self.edits)}" if self.edits else ""
        return f"python -m tests.sim --seed {self.seed}{word} --verbose"

    def __str__(self) -> str:
        return f"{self.result}\nreplay: {self.command}\n"


def minimise(
    failed: Result,
    *,
    budget_s: float = BUDGET_S,
    run: Callable[[Scenario], Result] = run_scenario,
    now: Callable[[], float] = time.monotonic,
) -> Smaller:
    """failed: of a seed, with its violation. run and now: for tests."""
    assert failed.violation is not None
    whole, promise = draw(failed.seed), failed.violation.invariant
    kept: tuple[str, ...] = ()
    smallest, tried = failed, 0
    until = now() + budget_s
    for _ in range(ROUNDS):
        before = kept
        for edit in candidates(without(whole, kept)):
            if now() > until:
                return Smaller(failed.seed, kept, smallest, tried)
            fewer = tuple(e for e in (*kept, *edit) if not _superseded(e, (*kept, *edit)))
            scenario = without(whole, fewer)
            if not scenario.nodes or not scenario.rollouts:
                continue
            tried += 1
            result = run(scenario)
            if result.violation is not None and result.violation.invariant == promise:
                kept, smallest = fewer, result
        if kept == before:
            break
    return Smaller(failed.seed, kept, smallest, tried)


def _superseded(edit: str, edits: tuple[str, ...]) -> bool:
    """Said again, more boldly, later on, or of a node that is gone."""
    kind, _, what = edit.partition(":")
    if kind in ("replicas", "chaos"):
        return any(e.startswith(kind) for e in edits[edits.index(edit) + 1 :])
    if kind in ("faults", "fault"):
        node = what.partition(":")[0]
        return f"node:{node}" in edits or (kind == "fault" and f"faults:{node}" in edits)
    return False
