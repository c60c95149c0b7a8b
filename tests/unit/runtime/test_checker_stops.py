"""A violation found while the fleet stands still: if the stop is released meanwhile, it is stopped again."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Sequence
from typing import Any

from orchestrator.core.fleet import Fleet
from orchestrator.core.model import Change, FleetRow, Row, guarding
from orchestrator.core.policy import FleetPolicy
from orchestrator.errors import Conflict
from orchestrator.ports import Committed
from orchestrator.runtime.checker import Checker
from orchestrator.runtime.observer import NullObserver
from tests.sim.virtual import VirtualClock
from tests.unit.runtime.test_trouble import Check


class Broken:
    invariant = "I1"
    message = "a budget is overrun"


def found(_: Sequence[Row]) -> list[Any]:
    return [Broken()]


def test_a_stop_that_is_released_meanwhile_is_no_stop() -> None:
    fleet = Fleet(FleetPolicy(), "inc")
    stood = FleetRow(revision=3, stopped="OPERATOR")
    fleet.apply(stood)
    commits: list[Change] = []
    work: list[Coroutine[Any, Any, None]] = []

    async def commit(change: Change) -> Committed:
        commits.append(change)
        if len(commits) == 1:
            fleet.apply(FleetRow(revision=4))
            raise Conflict("a row has changed since it was read")
        return Committed((), ())

    async def main() -> None:
        checker = Checker(
            make=Check(found).begin,
            policy=FleetPolicy(),
            clock=VirtualClock(),
            observer=NullObserver(),
            spawn=work.append,
            commit=commit,
            fleet=lambda: fleet,
        )
        checker.begin(fleet, 0)
        checker.committed(Committed((), ()), contiguous=True)
        await work[0]

    asyncio.run(main())
    assert commits[0].guards == (guarding(stood),)
    (row,) = commits[1].writes
    assert isinstance(row, FleetRow)
    assert row.stopped == "INVARIANT_VIOLATED"
