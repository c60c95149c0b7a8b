"""Worlds that have found a mistake, each kept as it was found: the mistake must not come back.

A seed's world changes with what is drawn; a seed that no longer meets its mistake costs nothing and says
nothing, and the unit test that came with the fix stays.
"""

from __future__ import annotations

import pytest

from tests.sim.draw import brief, draw
from tests.sim.world import run_scenario

WHOLE = {
    60057: "a node's attempt ended under numbers that a machine with a copy of its journal had used",
    67109: "the simulation's own: a replica killed as it had begun a new incarnation told nobody of that",
    910128: "the simulation's own: nobody took a node out of the count whose journal had been set aside",
    319: "a node whose rollback a restore had undone was taken for another rollout's, and never brought back",
}
"""Seed → what it found, in the whole world."""

BRIEF: dict[int, str] = {
    303: "a node that came back in an attempt of a lost future was noted as back before that was taken in: "
    "nobody committed it",
    126: "a canary that was tried again from the new kernel waited for its own turn to end",
    62134: "a STAGE was answered under a number that a machine with a copy of the journal had used",
    27: "a node that was kexec'd by hand after its commit was taken in as unproven by a store gone back",
}
"""The same in the brief one, as `make test` runs it."""


@pytest.mark.timeout(300)
@pytest.mark.parametrize("seed", WHOLE)
def test_a_world_that_found_a_mistake_keeps_every_promise(seed: int) -> None:
    result = run_scenario(draw(seed))
    assert result.violation is None, f"{WHOLE[seed]}\n{result}"


@pytest.mark.timeout(300)
@pytest.mark.parametrize("seed", BRIEF)
def test_a_brief_world_that_found_a_mistake_keeps_every_promise(seed: int) -> None:
    result = run_scenario(brief(seed))
    assert result.violation is None, f"{BRIEF[seed]}\n{result}"
