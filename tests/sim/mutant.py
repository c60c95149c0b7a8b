"""What a mutant is: one mistake, put into the system on purpose, and the promise that it breaks.

A mutant counts as caught only if the *predicted* promise is the first to fail, and the true code
keeps all of them in the same world. What fails otherwise (another promise first) proves less than
it seems: that the checker noticed something, not that it watches this.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass

from tests.sim.draw import Scenario

Provocation = Callable[[Scenario], Scenario]
"""A drawn world made more likely to bring a mistake to light. The true code passes it, too."""


@dataclass(frozen=True, slots=True)
class Mutant:
    """apply() breaks `rule` for as long as it lasts; `promise` is what must fail then."""

    name: str
    side: str
    """planner, runtime, store, agent, journal or luo"""
    rule: str
    promise: str
    provoke: Provocation
    apply: Callable[[], AbstractContextManager[None]]


MUTANTS: dict[str, Mutant] = {}
"""By name, in the order in which their modules spell them out."""


def mutant(
    side: str, promise: str, provoke: Provocation
) -> Callable[[Callable[[], Iterator[None]]], Callable[[], AbstractContextManager[None]]]:
    """Enlist a context manager. Its docstring is the rule that it breaks."""

    def enlist(body: Callable[[], Iterator[None]]) -> Callable[[], AbstractContextManager[None]]:
        apply = contextmanager(body)
        name = body.__name__
        assert name not in MUTANTS, name
        rule = " ".join((body.__doc__ or "").split())
        MUTANTS[name] = Mutant(name, side, rule, promise, provoke, apply)
        return apply

    return enlist
