"""Operators' calls: once, whatever is repeated, races or goes away."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from orchestrator.core.fleet import Fleet
from orchestrator.core.model import Change, NewEvent, NodeRow
from orchestrator.errors import (
    AlreadyExists,
    Blocked,
)
from tests.unit.runtime.world import World, run


class TestOperate:
    async def call(self, orchestrator: Any, key: str = "k", request: str = "h", method: str = "M") -> Any:
        def operation(fleet: Fleet, now: object) -> tuple[Change, str]:
            name = f"made-{len(fleet.nodes)}"
            return Change((NodeRow(name),), events=(NewEvent("made", name),)), name

        return await orchestrator.operate(
            actor="alice", idempotency_key=key, method=method, request_hash=request, operation=operation
        )

    def test_the_same_key_gets_the_first_answer(self) -> None:
        async def main() -> None:
            world = World()
            async with world.running() as orchestrator:
                first = await self.call(orchestrator)
                again = await self.call(orchestrator)
                assert (first.response, first.replayed) == ("made-0", False)
                assert (again.response, again.replayed) == ("made-0", True)
                with pytest.raises(AlreadyExists) as caught:
                    await self.call(orchestrator, request="other")
                assert caught.value.reason == "IDEMPOTENCY_KEY_REUSED"
                with pytest.raises(AlreadyExists):
                    await self.call(orchestrator, method="Other")
                assert list(orchestrator.fleet.nodes) == ["made-0"]
            async with world.running() as orchestrator:  # over a restart too
                assert (await self.call(orchestrator)).replayed

        run(main())

    def test_two_at_once_with_one_key_are_one(self) -> None:
        async def main() -> None:
            world = World()
            async with world.running() as orchestrator:
                answers = await asyncio.gather(*(self.call(orchestrator) for _ in range(5)))
                assert sorted(answer.replayed for answer in answers) == [False] + [True] * 4
                assert list(orchestrator.fleet.nodes) == ["made-0"]

        run(main())

    def test_calls_that_race_are_redone_on_the_fleet_as_it_then_is(self) -> None:
        async def main() -> None:
            world = World()
            async with world.running() as orchestrator:
                await asyncio.gather(*(self.call(orchestrator, key=str(n)) for n in range(5)))
                assert sorted(orchestrator.fleet.nodes) == [f"made-{n}" for n in range(5)]
                assert world.heard.conflicts == 10

        run(main())

    def test_a_call_outlives_its_caller(self) -> None:
        async def main() -> None:
            world = World()
            world.faults.delay_s = 1
            async with world.running() as orchestrator:
                call = asyncio.ensure_future(self.call(orchestrator))
                await world.passes(0.5)
                call.cancel()
                await world.passes(1)
                assert call.cancelled()
                assert list(orchestrator.fleet.nodes) == ["made-0"]
                assert (await self.call(orchestrator)).replayed

        run(main())

    def test_what_the_operation_raises_leaves_the_key_free(self) -> None:
        async def main() -> None:
            world = World()

            def refuse(fleet: Fleet, now: object) -> tuple[Change, str]:
                raise Blocked("not now")

            async with world.running() as orchestrator:
                with pytest.raises(Blocked):
                    await orchestrator.operate(
                        actor="alice", idempotency_key="k", method="M", request_hash="h", operation=refuse
                    )
                assert not (await self.call(orchestrator)).replayed

        run(main())
