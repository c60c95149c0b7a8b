"""The simulation finds what is there to be found: each mistake put in on purpose is caught.

Replays one recorded world a mutant, twice: with the mistake the predicted promise fails, without it
none does. `make mutants` searches.
"""

from __future__ import annotations

import pytest

from tests.sim.killing import recorded, run_mutated, run_true
from tests.sim.mutants import MUTANTS

AGAIN = "what a seed draws has changed: find others with `make mutants RECORD=1`"
FEWEST = 30
"""Fewer would say little of the checks."""


@pytest.mark.timeout(300)
@pytest.mark.parametrize("name", MUTANTS)
def test_a_mistake_is_caught_and_the_true_code_passes_the_same_seed(name: str) -> None:
    mutant, kill = MUTANTS[name], recorded().get(name)
    assert kill is not None, f"{name} has no killing seed yet; {AGAIN}"
    assert (kill.provocation, kill.invariant) == (mutant.provoke.__name__, mutant.promise), AGAIN
    mutated = run_mutated(mutant, kill.seed)
    found = mutated.violation.invariant if mutated.violation is not None else "nothing"
    assert found == mutant.promise, f"{name} breaks {found}, not {mutant.promise}, on {kill.seed}; {AGAIN}"
    true = run_true(mutant, kill.seed)
    assert true.violation is None, f"the true code fails on seed {kill.seed}, too\n{true}"


def test_mistakes_are_many_and_each_says_what_it_breaks() -> None:
    assert len(MUTANTS) >= FEWEST
    assert set(recorded()) == set(MUTANTS), AGAIN
    assert all(mutant.rule and mutant.promise for mutant in MUTANTS.values())
