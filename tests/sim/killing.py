"""Killing seeds: for each mutant one world in which the predicted promise fails, recorded and replayed.

Recorded are the provocation's name and the seed. What a seed draws changes with the simulation; a
seed that no longer kills is found again by `make mutants RECORD=1`.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from pathlib import Path

from tests.sim.draw import Scenario, draw
from tests.sim.mutant import Mutant
from tests.sim.provocations import calm
from tests.sim.world import Result, run_scenario

FILE = Path(__file__).with_name("killing_seeds.json")


@dataclass(frozen=True, slots=True)
class Kill:
    """How a mutant was caught."""

    seed: int
    provocation: str
    invariant: str
    virtual_s: float
    """When the promise failed, in the world's time."""
    took_s: float
    """By the wall, mutated and true run together, on the machine that recorded it."""


@dataclass(slots=True)
class Hunt:
    """What became of the search for one mutant."""

    name: str
    kill: Kill | None = None
    tried: int = 0
    others: Counter[str] = field(default_factory=Counter)
    """Promises that failed in its place."""
    impure: list[str] = field(default_factory=list)
    """Seeds on which the true code fails, too: bugs of the system or of the simulation."""
    message: str = ""
    """What the failing promise said."""


def run_mutated(mutant: Mutant, seed: int) -> Result:
    """The provoked world with the mistake in it."""
    scenario = _world(mutant, seed)
    with mutant.apply():
        return run_scenario(scenario)


def run_true(mutant: Mutant, seed: int) -> Result:
    """The same world without it."""
    return run_scenario(_world(mutant, seed))


def _world(mutant: Mutant, seed: int) -> Scenario:
    """What the seed draws, without its faults: nothing goes wrong but what the provocation asks for, so that
    a killing seed outlives most changes of what is drawn."""
    return mutant.provoke(calm(draw(seed)))


def hunt(mutant: Mutant, seeds: Iterable[int]) -> Hunt:
    """The first of the seeds that kills it, cleanly."""
    found = Hunt(mutant.name)
    for seed in seeds:
        found.tried += 1
        mutated = run_mutated(mutant, seed)
        if mutated.violation is None:
            continue
        if mutated.violation.invariant != mutant.promise:
            found.others[mutated.violation.invariant] += 1
            continue
        true = run_true(mutant, seed)
        if true.violation is not None:
            found.impure.append(f"{seed}: {str(true.violation).splitlines()[0]}")
            continue
        found.message = mutated.violation.message
        found.kill = Kill(
            seed,
            mutant.provoke.__name__,
            mutant.promise,
            round(mutated.virtual_s, 1),
            round(mutated.took_s + true.took_s, 1),
        )
        break
    return found


def recorded() -> dict[str, Kill]:
    """By mutant."""
    if not FILE.exists():
        return {}
    return {name: Kill(**kill) for name, kill in json.loads(FILE.read_text()).items()}


def record(kills: dict[str, Kill]) -> None:
    """Writes them all, in the order given."""
    FILE.write_text(json.dumps({name: asdict(kill) for name, kill in kills.items()}, indent=1) + "\n")
