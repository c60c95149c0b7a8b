"""The simulation finds what is there to be found: each mistake put in on purpose is caught."""

from __future__ import annotations

import pytest

from tests.sim.draw import draw
from tests.sim.mutants import MUTANTS, Mutant, Provocation
from tests.sim.world import run_scenario

SEEDS = range(24)
"""Each mistake must show in one of these; most do in the first few."""


@pytest.mark.parametrize(
    ("mutant", "provoke", "promise"), MUTANTS, ids=[mutant.__name__ for mutant, _, _ in MUTANTS]
)
def test_a_mistake_is_caught_and_the_true_code_passes_the_same_seed(
    mutant: Mutant, provoke: Provocation, promise: str
) -> None:
    found: dict[int, str] = {}
    for seed in SEEDS:
        scenario = provoke(draw(seed))
        with mutant():
            result = run_scenario(scenario)
        if result.violation is None:
            continue
        found[seed] = result.violation.invariant
        if result.violation.invariant == promise:
            assert run_scenario(scenario).violation is None, str(result)
            return
    pytest.fail(f"no seed of {SEEDS} broke {promise}; found {found}")
