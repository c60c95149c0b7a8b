"""The order of a jump, and that everything is as before when it is refused or comes too late."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

import pytest

from node_agent.errors import KernelError, StepFailed
from node_agent.runtime.freeze import Disk
from node_agent.runtime.quiesce import Quiesce
from node_agent.runtime.quiesce_marker import Marker, left_over
from tests.unit.quiesce.fakes import FakeDisk, FakeGuard, FakeNode

KERNEL = cast(Any, None)


class Bench:
    """A Quiesce over fakes. The disks are in freezing order."""

    def __init__(self, directory: Path) -> None:
        self.node = FakeNode()
        self.disks = [
            FakeDisk(self.node, 3, "b"),
            FakeDisk(self.node, 2, "a"),
            FakeDisk(self.node, 1, "root"),
        ]
        self.guards: list[FakeGuard] = []
        self.complaints: list[str] = []
        self.path = directory / "frozen"
        self.opened = 0
        self.quiesce = Quiesce(
            Marker(self.path, "boot-1"),
            self.node.reboot,
            open_all=self.open_all,
            guarded=self.guarded,
            sync=self.node.sync,
            complain=lambda what, _why: self.complaints.append(what),
        )

    def open_all(self) -> Sequence[Disk]:
        self.opened += 1
        return list(self.disks)

    def guarded(self, _disks: Sequence[Disk]) -> FakeGuard:
        self.guards.append(FakeGuard())
        return self.guards[-1]

    async def jump(self, left_s: float = 20.0) -> None:
        await self.quiesce.jump(KERNEL, lambda: self.node.told.append("last"), left_s)


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return Bench(tmp_path)


async def test_the_order_of_a_jump_and_of_a_refusal(bench: Bench) -> None:
    seen: list[str] = []
    bench.node.in_reboot = lambda: seen.extend(bench.path.read_text().splitlines())
    await bench.quiesce.settle()
    with pytest.raises(KernelError) as refused:
        await bench.jump()
    assert refused.value.reason == "FREEZE_REFUSED"
    assert bench.node.told == [
        *("sync", "freeze b", "freeze a", "freeze root", "last", "reboot"),
        *("thaw root", "thaw a", "thaw b"),
    ]
    assert bench.node.reboot_meets == ["b", "a", "root"]
    assert seen == ["boot-1", "3 /b", "2 /a", "1 /root"]
    assert not bench.path.exists()
    assert bench.guards[0].marked == []
    assert bench.guards[0].ended
    assert all(disk.closed for disk in bench.disks)


async def test_the_second_write_back_of_an_attempt_is_the_sync_alone(bench: Bench) -> None:
    await bench.quiesce.settle()
    await bench.quiesce.settle()
    assert len(bench.guards) == 1
    assert bench.node.told == ["sync", "sync"]


async def test_what_was_mounted_since_is_frozen_too(bench: Bench) -> None:
    await bench.quiesce.settle()
    bench.disks.insert(0, FakeDisk(bench.node, 4, "new"))
    await bench.quiesce.settle()
    assert [guard.ended for guard in bench.guards] == [True, False]


async def test_a_guard_that_is_gone_is_started_anew(bench: Bench) -> None:
    await bench.quiesce.settle()
    bench.guards[0].is_alive = False
    await bench.quiesce.settle()
    assert len(bench.guards) == 2


async def test_what_cannot_be_frozen_or_is_somebody_elses_is_not_thawed(bench: Bench) -> None:
    bench.disks[0].kind, bench.disks[1].kind = "cannot", "theirs"
    await bench.quiesce.settle()
    with pytest.raises(KernelError):
        await bench.jump()
    assert [word for word in bench.node.told if word.startswith("thaw")] == ["thaw root"]


async def test_what_the_last_act_raises_stops_the_jump(bench: Bench) -> None:
    def too_late() -> None:
        raise LookupError("too late")

    await bench.quiesce.settle()
    with pytest.raises(LookupError):
        await bench.quiesce.jump(KERNEL, too_late, 20.0)
    assert "reboot" not in bench.node.told
    assert bench.node.frozen == []
    assert not bench.path.exists()


async def test_a_freeze_that_hangs_costs_no_more_than_the_lease_and_ends_in_no_jump(
    bench: Bench,
) -> None:
    hanging = bench.disks[1]
    hanging.hangs = threading.Event()
    await bench.quiesce.settle()
    with pytest.raises(TimeoutError):
        await bench.jump(left_s=0.05)
    # What was frozen before it is thawed although the thread still hangs.
    await eventually(lambda: "thaw b" in bench.node.told)
    with pytest.raises(StepFailed) as stalled:
        await bench.quiesce.settle()
    assert stalled.value.reason == "DISK_STALLED"
    await bench.quiesce.let_go()  # leaves to the thread what is the thread's
    assert not hanging.closed
    hanging.hangs.set()
    await eventually(lambda: hanging.closed and not bench.path.exists())
    assert bench.node.frozen == []
    assert "last" not in bench.node.told
    assert "reboot" not in bench.node.told
    await eventually(lambda: not bench.quiesce._flying)
    await bench.quiesce.settle()


async def test_once_reboot_is_called_only_its_answer_counts(bench: Bench) -> None:
    going, answer = threading.Event(), threading.Event()

    def in_reboot() -> None:
        going.set()
        assert answer.wait(20)

    bench.node.in_reboot = in_reboot
    await bench.quiesce.settle()
    jumping = asyncio.create_task(bench.jump(left_s=0.05))
    await asyncio.to_thread(going.wait)
    jumping.cancel()
    done, _ = await asyncio.wait([jumping], timeout=0.2)
    assert not done
    answer.set()
    with pytest.raises(asyncio.CancelledError):
        await jumping
    assert bench.node.frozen == []


async def test_a_cancel_before_reboot_thaws(bench: Bench) -> None:
    hanging = bench.disks[2]
    hanging.hangs = threading.Event()
    await bench.quiesce.settle()
    jumping = asyncio.create_task(bench.jump())
    await asyncio.to_thread(hanging.reached.wait)
    jumping.cancel()
    with pytest.raises(asyncio.CancelledError):
        await jumping
    hanging.hangs.set()
    await eventually(lambda: hanging.closed)
    assert bench.node.frozen == []
    assert "reboot" not in bench.node.told


async def test_no_jump_comes(bench: Bench) -> None:
    await bench.quiesce.settle()
    await bench.quiesce.let_go()
    assert bench.guards[0].ended
    assert all(disk.closed for disk in bench.disks)
    await bench.quiesce.let_go()


async def test_without_a_guard_or_a_filesystem_the_jump_is_made_all_the_same(tmp_path: Path) -> None:
    bench = Bench(tmp_path)

    def fails(_disks: Sequence[Disk]) -> FakeGuard:
        raise OSError(12, "fork")

    bench.quiesce._guarded = fails
    await bench.quiesce.settle()
    assert bench.complaints == ["no guard over frozen filesystems"]
    with pytest.raises(KernelError):
        await bench.jump()
    assert bench.node.reboot_meets == ["b", "a", "root"]

    bench.disks.clear()
    await bench.quiesce.settle()
    with pytest.raises(KernelError):
        await bench.jump()
    assert bench.node.reboot_meets == []


async def test_a_note_that_cannot_be_written_stops_no_jump(tmp_path: Path) -> None:
    bench = Bench(tmp_path / "nowhere")
    await bench.quiesce.settle()
    with pytest.raises(KernelError):
        await bench.jump()
    assert bench.node.reboot_meets == ["b", "a", "root"]


async def test_an_agent_that_stopped_in_the_middle_leaves_a_note(bench: Bench) -> None:
    notes: list[object] = []
    bench.node.in_reboot = lambda: notes.append(left_over(bench.path, "boot-1"))
    await bench.quiesce.settle()
    with pytest.raises(KernelError):
        await bench.jump()
    assert notes[0] is not None


async def eventually(done: Any) -> None:
    async with asyncio.timeout(20):
        while not done():
            await asyncio.sleep(0)
