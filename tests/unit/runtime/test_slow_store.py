"""A store, or one connection to it, that answers late: a replica goes on, and does not load for ever."""

from __future__ import annotations

import asyncio

from tests.unit.runtime.replicas import Replicas, Way, passes
from tests.unit.runtime.test_replicas import create, with_replicas
from tests.unit.runtime.world import hello


class Slow(Way):
    """Answers what it is told to after a while."""

    def __init__(self, what: str, takes_s: float, times: int) -> None:
        super().__init__()
        self._what, self._takes_s, self._times = what, takes_s, times

    async def reading(self, what: str) -> None:
        await super().reading(what)
        if what == self._what and self._times:
            self._times -= 1
            await asyncio.sleep(self._takes_s)


def slow(world: Replicas, name: str, way: Slow) -> None:
    world.all[name].way = way
    world.all[name].orchestrator._store._hooks = way  # type: ignore[attr-defined]


def test_a_load_that_takes_longer_than_the_lease_is_of_use_all_the_same() -> None:
    async def work(world: Replicas) -> None:
        a = await world.start("a")
        await create(a, "n1")
        slow(world, "a", Slow("load", 20, times=99))
        a._doubt("whatever")
        await passes(60)
        assert a.role == "planner"
        assert world.all["a"].way.reads.count("load") == 1

    with_replicas(work)


def test_a_read_that_hangs_ends_no_links() -> None:
    async def work(world: Replicas) -> None:
        a = await world.start("a")
        b = await world.start("b")
        await b.open_link(hello("n1"))
        slow(world, "b", Slow("changes", 70, times=1))
        await create(a, "n2")
        await passes(40)
        assert b.links == 1
        assert "n2" in b.fleet.nodes

    with_replicas(work)
