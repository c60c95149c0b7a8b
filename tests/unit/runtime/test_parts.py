"""The small parts: alarm, tasks, feed, clock, links, and the memory store's crash points."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from orchestrator.core.model import Change, DesiredCommit, NodeRow
from orchestrator.errors import Capacity, Conflict, NotLeader, StaleGeneration
from orchestrator.runtime.alarm import Alarm
from orchestrator.runtime.clock import SystemClock
from orchestrator.runtime.links import Command, Links
from orchestrator.runtime.tasks import Tasks
from orchestrator.store.memory import Disk, Hooks, MemoryStore
from tests.sim.virtual import VirtualClock
from tests.unit.runtime.world import World, hello, no_store, run, seconds

NOW = datetime(2030, 1, 1, tzinfo=UTC)


class TestAlarm:
    def test_wakes_coalesce_and_the_instant_ends_the_wait(self) -> None:
        async def main() -> None:
            clock = VirtualClock()
            alarm = Alarm(clock)
            began = clock.now()
            alarm.wake()
            alarm.wake()
            await alarm.wait()
            assert clock.now() == began
            await alarm.wait(began + seconds(5))
            assert clock.now() == began + seconds(5)
            asyncio.get_running_loop().call_later(2, alarm.wake)
            await alarm.wait(began + seconds(100))
            assert clock.now() == began + seconds(7)
            assert len(asyncio.all_tasks()) == 1

        run(main())


class TestTasks:
    async def test_errors_go_to_who_asked(self) -> None:
        async def fail() -> None:
            raise ValueError("no")

        async with asyncio.TaskGroup() as group:
            tasks = Tasks(group)
            with pytest.raises(ValueError, match="no"):
                await tasks.finish(fail())

    async def test_work_goes_on_and_its_result_finds_a_taker(self) -> None:
        go = asyncio.Event()
        taken: list[int] = []

        async def work() -> int:
            await go.wait()
            return 7

        async with asyncio.TaskGroup() as group:
            tasks = Tasks(group)
            asker = asyncio.ensure_future(tasks.finish(work(), abandoned=taken.append))
            await asyncio.sleep(0)
            asker.cancel()
            await asyncio.wait({asker})
            assert asker.cancelled()
            go.set()
            await tasks.idle()
        assert taken == [7]

    async def test_nothing_begins_after_the_end(self) -> None:
        async def work() -> int:
            return 7

        async with asyncio.TaskGroup() as group:
            tasks = Tasks(group)
        with pytest.raises(NotLeader) as caught:
            await tasks.finish(work())
        assert caught.value.reason == "SHUTTING_DOWN"


class TestClock:
    async def test_it_tells_utc_and_sleeps_until(self) -> None:
        clock = SystemClock()
        assert clock.now().tzinfo is UTC
        until = clock.now() + timedelta(milliseconds=2)
        began_s = clock.monotonic_s()
        await clock.sleep_until(until)
        assert clock.now() >= until
        await clock.sleep(timedelta(0))
        await clock.sleep_until(until)
        assert clock.monotonic_s() > began_s


class TestLinks:
    def command(self, node_id: str) -> Command:
        return Command(f"i:{self.serial}", node_id, DesiredCommit(1), None, None)

    serial = 1

    async def test_they_are_bounded_but_a_known_node_may_come_again(self) -> None:
        links = Links(self.command, max_links=1)
        links.admit("n1")
        handle = links.register("n1", 1, NOW)
        links.admit("n1")
        with pytest.raises(Capacity):
            links.admit("n2")
        assert links.remove(handle)
        assert not links.remove(handle)
        links.admit("n2")

    async def test_a_hint_without_a_change_sends_nothing(self) -> None:
        links = Links(self.command)
        handle = links.register("n1", 1, NOW)
        assert (await handle.next_command(lambda: NOW)).command_id == "i:1"
        waiting = asyncio.ensure_future(handle.next_command(lambda: NOW))
        links.hint(["n1", "unknown"])
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        assert not waiting.done()
        self.serial = 2
        links.hint(["n1"])
        assert (await waiting).command_id == "i:2"

    async def test_the_first_error_that_closes_it_stands(self) -> None:
        links = Links(self.command)
        handle = links.register("n1", 1, NOW)
        links.close_all(NotLeader("first"))
        handle.close(StaleGeneration("second"))
        with pytest.raises(NotLeader):
            await handle.next_command(lambda: NOW)
        assert len(links) == 0


class Crash(Exception):
    """The process is gone."""


class CrashAt(Hooks):
    def __init__(self, point: str) -> None:
        self.point = point

    async def before(self, changes: object) -> None:
        if self.point == "before":
            raise Crash

    async def after(self, changes: object) -> None:
        if self.point == "after":
            raise Crash


class TestMemoryCrashPoints:
    @pytest.mark.parametrize("point", ["before", "after"])
    async def test_a_restart_finds_what_had_its_effect(self, point: str) -> None:
        clock = VirtualClock()
        disk = Disk()
        earlier = disk.copy()
        hooks = CrashAt(point)
        store = MemoryStore(disk, clock, hooks=hooks)
        await store.open()
        epoch = (await store.acquire("a", seconds(10))).epoch
        results = await asyncio.gather(
            *(store.commit(epoch, Change((NodeRow(name),))) for name in ("n1", "n2")),
            return_exceptions=True,
        )
        assert [type(result) for result in results] == [Crash, Crash]
        again = MemoryStore(disk, clock)
        await again.open()
        assert len((await again.load()).rows) == (2 if point == "after" else 0)
        assert earlier.rows == {}
        second = await again.acquire("a", seconds(10))
        assert second.epoch == epoch + 1
        hooks.point = ""
        with pytest.raises(Conflict):  # the crashed one, had it only been thought dead
            await store.commit(epoch, Change((NodeRow("n3"),)))

    def test_a_hello_whose_answer_was_lost_is_simply_said_again(self) -> None:
        async def main() -> None:
            world = World()
            async with world.running() as orchestrator:
                world.faults.refuse = no_store()
                for _ in range(2):
                    with pytest.raises(type(no_store())):
                        await orchestrator.open_link(hello("n1"))
                world.faults.refuse = None
                assert (await orchestrator.open_link(hello("n1"))).welcome.link_epoch == 1

        run(main())

    def test_who_hangs_up_during_hello_leaves_no_link(self) -> None:
        async def main() -> None:
            world = World()
            world.faults.delay_s = 1
            async with world.running() as orchestrator:
                dialling: asyncio.Future[Any] = asyncio.ensure_future(orchestrator.open_link(hello("n1")))
                await world.passes(0.5)
                dialling.cancel()
                await world.passes(3)
                assert orchestrator.links == 0
                assert not orchestrator.fleet.nodes["n1"].link_up
                assert world.heard.closed == ["abandoned"]

        run(main())
