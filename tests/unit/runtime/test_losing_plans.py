"""A plan that only loses: to others it is asked again, to nothing that is known all is read anew."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime

import pytest

from orchestrator.core.actions import Action
from orchestrator.core.fleet import Fleet
from orchestrator.core.model import Change, FleetRow, NewEvent, guarding
from orchestrator.runtime.reconciler import FUTILE
from tests.unit.runtime.world import World, run


@pytest.mark.parametrize(("revision", "reloads"), [(0, False), (1_000_000, True)])
def test_only_what_nothing_explains_makes_it_load_again(revision: int, reloads: bool) -> None:
    """A zone that goes down makes starts void many times over; that is no reason to drop all links."""

    def lose(fleet: Fleet, now: datetime) -> Sequence[Action]:
        if not fleet.row.revision:
            return [Action("stop", Change((replace(fleet.row, stop_message="x"),)))]
        relied = guarding(FleetRow(revision=revision))
        return [Action("start", Change(guards=(relied,), events=(NewEvent("x", "x"),)))]

    async def main() -> None:
        world = World()
        world.planned.decide = lose
        async with world.running() as orchestrator:
            before = orchestrator.fleet
            await world.passes(1)
            assert world.heard.conflicts > FUTILE
            assert (orchestrator.fleet is not before) is reloads

    run(main())


def test_what_loading_again_does_not_mend_is_no_reason_to_load_again_and_again() -> None:
    """Every load drops all links."""
    relied = guarding(FleetRow(revision=1_000_000))
    losing = [Action("start", Change(guards=(relied,), events=(NewEvent("x", "x"),)))]

    async def main() -> None:
        world = World()
        fleets: list[Fleet] = []

        def lose(fleet: Fleet, now: datetime) -> Sequence[Action]:
            if fleet not in fleets:
                fleets.append(fleet)
            return losing

        world.planned.decide = lose
        async with world.running():
            await world.passes(60)
            assert 2 < len(fleets) < 15
            losing.clear()

    run(main())
