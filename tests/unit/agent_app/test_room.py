"""A disk that is full in the middle of an attempt, and has room again."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import Any, cast

import pytest

from node_agent import simulate_journal
from node_agent.core.history import EVENT, body_of
from node_agent.core.model import Problem
from node_agent.core.phases import Phase
from node_agent.core.report import NodeStatus, Report
from node_agent.errors import JournalUnavailable, Retry
from node_agent.kernel.faults import FaultPlan
from node_agent.runtime.journal_format import decode_file
from node_agent.runtime.journal_memory import MemoryDisk, MemoryJournal
from node_agent.runtime.metrics import Meter
from node_agent.runtime.supervisor import JournalTap, NodeLife, RoomAgain
from node_agent.simulate_journal import FILLS_AT, Disk, JournalOnDisk, damaged
from tests.unit.agent_link.fakes import a_report

FULL = Problem("JOURNAL_FULL", Retry.FIX_STATE, "the disk is full", "Free some.")


@dataclass
class Clock:
    """Counts sleeps; at the third there is room."""

    disk: MemoryDisk
    slept: int = 0

    def boottime_s(self) -> float:
        return 0.0

    async def sleep(self, _seconds: float) -> None:
        self.slept += 1
        assert self.slept < 10
        if self.slept == 3:
            self.disk.full = False
        await asyncio.sleep(0)


@dataclass
class Runner:
    phase: Phase
    problem: Problem | None

    def status(self) -> NodeStatus:
        return NodeStatus(None, self.phase, 0, healthy=False, problem=self.problem)


@dataclass
class Ports:
    clock: Clock


def life(disk: MemoryDisk, phase: Phase, problem: Problem | None) -> tuple[NodeLife, JournalTap, Clock]:
    clock = Clock(disk)
    made = NodeLife(cast(Any, None), cast(Any, Ports(clock)), cast(Any, None), Meter(), cast(Any, None))
    made.runner = cast(Any, Runner(phase, problem))
    full = made._full.set
    return (
        made,
        JournalTap(MemoryJournal(disk), cast(Any, clock), Meter(), list[Report]().append, full),
        clock,
    )


async def test_a_runner_that_stands_still_for_want_of_room_is_started_anew_once_there_is_some() -> None:
    disk = MemoryDisk()
    made, tap, clock = life(disk, Phase.QUARANTINED, FULL)
    disk.full = True
    with pytest.raises(JournalUnavailable):
        await tap.append(EVENT, body_of(report=a_report(0)))
    with pytest.raises(RoomAgain) as caught:
        await made._room(tap)
    assert (caught.value.reason, clock.slept) == ("JOURNAL_FULL", 3)
    assert caught.value.remedy


@pytest.mark.parametrize("problem", [None, Problem("POISONED", Retry.FIX_STATE, "x", "y")])
async def test_one_that_goes_on_or_stands_for_another_reason_is_left_alone(problem: Problem | None) -> None:
    disk = MemoryDisk()
    made, tap, clock = life(disk, Phase.QUARANTINED, problem)
    disk.full = True
    watching = asyncio.create_task(made._room(tap))
    for _ in range(2):
        with pytest.raises(JournalUnavailable):
            await tap.append(EVENT, body_of(report=a_report(0)))
        for _ in range(5):
            await asyncio.sleep(0)
    assert not watching.done()
    assert clock.slept == 2, "it looks once for each record that found no room"
    watching.cancel()
    await asyncio.wait([watching])


@dataclass
class Loop:
    now_s: float = 0.0

    def time(self) -> float:
        return self.now_s


async def test_the_emulated_disk_fills_in_the_middle_of_an_attempt_once_for_each_kexec(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    kexecs, loop = 0, Loop()
    monkeypatch.setattr(simulate_journal, "get_running_loop", lambda: loop)
    disk = Disk(FaultPlan.parse("full_disk=2@1"), lambda: kexecs)
    journal = JournalOnDisk(MemoryJournal(MemoryDisk()), disk)
    middle = {"report": {"event": FILLS_AT}}
    await journal.append(EVENT, middle)
    kexecs = 1
    await journal.ensure_room()
    with pytest.raises(JournalUnavailable) as caught:
        await journal.append(EVENT, middle)
    assert caught.value.reason == "JOURNAL_FULL"
    with pytest.raises(JournalUnavailable):
        await journal.ensure_room()
    loop.now_s = 2.0
    await journal.append(EVENT, middle)
    assert [r.seq for r in journal.records] == [1, 2, 3]
    assert journal.installation_id
    await journal.close()


async def test_what_is_torn_reads_as_before_and_what_is_corrupt_does_not() -> None:
    memory = MemoryDisk()
    await MemoryJournal(memory).append(EVENT, {})
    torn = damaged(memory.data, FaultPlan.parse("torn_journal@1"), 1)
    assert torn != memory.data
    assert decode_file(torn) == decode_file(memory.data)
    assert decode_file(damaged(memory.data, FaultPlan.parse("corrupt_journal@1"), 1)).corrupt is not None
    for kexecs, data in ((0, memory.data), (1, b"")):
        assert damaged(data, FaultPlan.parse("torn_journal@1,corrupt_journal@1"), kexecs) == data
