"""A change that was committed but cannot be applied: read again, and go on."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

from orchestrator.core.actions import Action
from orchestrator.core.fleet import Fleet
from orchestrator.core.model import Change, Row
from tests.unit.runtime.world import Heard, World, hello, run


class Faulty(Heard):
    """Raises once when asked to."""

    def __init__(self) -> None:
        super().__init__()
        self.raises = False

    def row_applied(self, before: Row | None, after: Row) -> None:
        if self.raises:
            self.raises = False
            raise RuntimeError("a fault of the program")


def test_it_does_not_end_the_planner() -> None:
    async def main() -> None:
        world = World()
        faulty = world.heard = Faulty()

        def decide(fleet: Fleet, now: datetime) -> Sequence[Action]:
            return [Action("clear", Change((fleet.nodes["n1"],)))] if faulty.raises else []

        async with world.running() as orchestrator:
            await orchestrator.open_link(hello("n1"))
            await world.passes(1)
            world.planned.decide = decide
            faulty.raises = True
            orchestrator.wake()
            await world.passes(5)
            assert not faulty.raises
            planned = len(world.planned.times)
            orchestrator.wake()
            await world.passes(1)
            assert len(world.planned.times) > planned
            assert orchestrator.ready() == (True, ())

    run(main())
