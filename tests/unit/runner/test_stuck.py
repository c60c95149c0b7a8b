"""An agent without its journal's lock: what it says, what it refuses, and that it touches nothing."""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import os
import threading
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest
from liveroll.v1 import agent_pb2 as pb
from liveroll.v1 import common_pb2 as common

from node_agent.core.attempt import NodeState
from node_agent.core.history import EVENT, NODE, body_of
from node_agent.core.phases import Phase
from node_agent.errors import JournalLocked, JournalUnavailable, LinkError
from node_agent.kernel.emulated.clock import EmulatedClock, HostBase
from node_agent.ports import BootFacts
from node_agent.runtime import stuck
from node_agent.runtime.journal import FileJournal
from node_agent.runtime.journal_wait import read_unlocked, wait_for_lock
from node_agent.runtime.runner_items import Identity
from node_agent.runtime.supervisor_log import Log
from tests.unit.agent_core.make import attempt
from tests.unit.agent_link.fakes import FakeNetwork, FakeTransport
from tests.unit.runner.lab import Artifacts

LOG = Log("console", "error")


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "journal"


async def held(path: Path, phase: Phase = Phase.JUMPING) -> FileJournal:
    """A journal in which an attempt is in that phase, held by somebody."""
    journal = FileJournal.open(path)
    node = NodeState(attempt=attempt(phase=phase), highest_generation=7, incarnation="inc", boot_id="boot-a")
    await journal.append(EVENT, body_of(node=node))
    return journal


def free(path: Path) -> bool:
    fd = os.open(path, os.O_RDWR)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    finally:
        os.close(fd)
    return True


@contextlib.asynccontextmanager
async def waiting(path: Path, network: FakeNetwork) -> AsyncIterator[asyncio.Task[int]]:
    """wait_stuck() under way on an emulated node."""
    facts = BootFacts("boot-a", "7.2.13", "quiet", "r640", luo=True)
    task = asyncio.create_task(
        stuck.wait_stuck(
            path,
            JournalLocked("held", path=path),
            Identity("node-1", {"zone": "a"}, ("luo",), "1"),
            facts,
            EmulatedClock(HostBase(), kernel_started_s=0, powered_on_s=0),
            Artifacts(),
            network.connect,
            None,
            LOG,
        )
    )
    try:
        yield task
    finally:
        task.cancel()
        await asyncio.wait([task])


async def linked(network: FakeNetwork) -> tuple[FakeTransport, pb.Hello]:
    transport = await network.next()
    hello = (await transport.sent("hello")).hello
    transport.welcome()
    return transport, hello


async def test_it_says_where_the_journal_says_it_stands_and_refuses_every_command(path: Path) -> None:
    journal = await held(path)
    before = path.read_bytes()
    network = FakeNetwork()
    async with waiting(path, network) as task:
        transport, hello = await linked(network)
        assert hello.installation_id == journal.installation_id
        assert (hello.highest_generation, hello.highest_incarnation) == (7, "inc")
        assert hello.boot_verdict == common.BOOT_VERDICT_UNSPECIFIED, "nothing is classified"
        assert hello.status.attempt.generation == attempt().ref.generation
        assert hello.status.phase == common.PHASE_JUMPING
        assert not hello.status.healthy
        assert hello.status.problem.reason == "STUCK"
        assert hello.status.problem.remedy
        await transport.sent("heartbeat")
        ref = hello.status.attempt
        artifact = pb.ArtifactRef(name="k", digest="a" * 64, url="file:///x", kernel_release="7")
        commands = [
            pb.Command(command_id="c1", cancel=pb.Cancel(attempt=ref)),
            pb.Command(command_id="c2", commit=pb.Commit(attempt=ref)),
            pb.Command(command_id="c3", stage=pb.Stage(artifact=artifact)),
        ]
        transport.command(pb.Command(command_id="c0"))
        for command in commands:
            transport.command(command)
            beat = (await transport.sent("heartbeat")).heartbeat
            assert beat.status.problem.reason == "STUCK", command.command_id
            assert not beat.status.healthy
        assert not task.done()
    assert path.read_bytes() == before
    await journal.close()


async def test_with_the_lock_it_ends_its_link_and_hands_the_lock_over(path: Path) -> None:
    journal = await held(path)
    network = FakeNetwork()
    async with waiting(path, network) as task:
        await linked(network)
        await journal.close()
        fd = await task
        assert network.closed == 1
        assert not free(path)
        mine = FileJournal.open(path, fd=fd)
        assert mine.records[-1].kind == EVENT
        await mine.close()


async def test_where_another_agent_has_a_link_it_falls_silent(path: Path) -> None:
    journal = await held(path)
    network = FakeNetwork()
    async with waiting(path, network) as task:
        transport, _ = await linked(network)
        await transport.sent("heartbeat")
        transport.end(LinkError("replaced by a newer link", reason="STALE_LINK"))
        await journal.close()
        os.close(await task)
    assert network.opened.empty()


@pytest.mark.parametrize("content", [b"", b"LRJRNL01", b"no journal at all"])
async def test_a_node_that_does_not_know_who_it_is_says_nothing(path: Path, content: bytes) -> None:
    path.write_bytes(content)
    with path.open("rb") as holder:
        fcntl.flock(holder, fcntl.LOCK_EX)
        network = FakeNetwork()
        async with waiting(path, network) as task:
            assert read_unlocked(path) == ()
            holder.close()
            os.close(await task)
    assert network.opened.empty()


async def test_a_record_that_makes_no_sense_says_nothing_either(path: Path) -> None:
    journal = FileJournal.open(path)
    await journal.append(NODE, {"node": {"healthy": "perhaps"}})
    network = FakeNetwork()
    async with waiting(path, network) as task:
        await journal.close()
        os.close(await task)
    assert network.opened.empty()


async def test_what_is_being_written_is_left_out_and_not_cut(path: Path) -> None:
    journal = await held(path)
    await journal.close()
    whole = path.read_bytes()
    path.write_bytes(whole[:-3])
    assert len(read_unlocked(path)) == 1
    assert path.read_bytes() == whole[:-3]
    assert read_unlocked(path.with_name("nowhere")) == ()


async def test_a_cancelled_wait_ends_at_once_and_lets_go_of_the_lock(path: Path) -> None:
    journal = await held(path)
    wait = asyncio.create_task(wait_for_lock(path))
    await asyncio.sleep(0)
    wait.cancel()
    with pytest.raises(asyncio.CancelledError):
        await wait
    await journal.close()
    again = await wait_for_lock(path)
    assert not free(path)
    os.close(again)


class AtOnce:
    """A thread that has done its work when it has started."""

    def __init__(self, target: Callable[[], None], **_how: object) -> None:
        self.start = target


@pytest.mark.parametrize("turns", [1, 2], ids=["on-its-way", "in-hand"])
async def test_a_wait_cancelled_with_the_lock_lets_go_of_it(
    path: Path, monkeypatch: pytest.MonkeyPatch, turns: int
) -> None:
    journal = await held(path)
    await journal.close()
    monkeypatch.setattr(threading, "Thread", AtOnce)
    wait = asyncio.create_task(wait_for_lock(path))
    for _ in range(turns):
        await asyncio.sleep(0)
    assert not free(path)
    wait.cancel()
    with pytest.raises(asyncio.CancelledError):
        await wait
    await asyncio.sleep(0)
    assert free(path)


async def test_a_journal_that_compaction_has_replaced_is_waited_for_by_its_name(path: Path) -> None:
    journal = await held(path)
    wait = asyncio.create_task(wait_for_lock(path))
    await asyncio.to_thread(journal._compact)
    await journal.append(NODE, {"acked": 1})
    assert not wait.done()
    await journal.close()
    mine = FileJournal.open(path, fd=await wait)
    assert mine.records[-1].kind == NODE
    await mine.close()


async def test_a_journal_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(JournalUnavailable):
        await wait_for_lock(tmp_path / "file" / "journal")
