"""A workload's way back, before it has imported anything, against a broker over the emulated kernel."""

from __future__ import annotations

import asyncio
import os
import socket
import subprocess
import sys
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from node_agent.runtime.broker import Broker
from node_agent.workloads import example, memory_head
from node_agent.workloads.client import Client, Lost
from node_agent.workloads.early import Back, come_back
from node_agent.workloads.example_life import Example
from node_agent.workloads.memory import MEMORY_TOKEN, GuestMemory
from node_agent.workloads.node_clock import MachineClock
from node_agent.workloads.pause import Stamp
from node_agent.workloads.protocol import Resume, Resumed, StartPreservation
from tests.unit.broker.support import QUICK, Machine, open_fds, running

STAMP = Stamp(time.time_ns(), 1, 0, 0.0, "b")
REPOSITORY = Path(__file__).resolve().parents[3]
CODE = """
import sys
sys.path.insert(0, sys.argv[1])
before = set(sys.modules)
import node_agent.workloads.example
print("\\n".join(sorted(set(sys.modules) - before)))
"""
PINNED = {
    "__future__",
    "_json",
    "_socket",
    "_struct",
    "errno",
    "fcntl",
    "node_agent",
    "node_agent.kernel",
    "node_agent.kernel.abi",
    "node_agent.kernel.emulated",
    "node_agent.kernel.emulated.syncclient",
    "node_agent.resume",
    "node_agent.resume.words",
    "node_agent.workloads",
    "node_agent.workloads.early",
    "node_agent.workloads.example",
    "node_agent.workloads.memory_head",
    "zlib",
}


def test_nothing_else_is_imported_before_the_workload_runs_again() -> None:
    done = subprocess.run(
        [sys.executable, "-I", "-S", "-c", CODE, str(REPOSITORY)], capture_output=True, text=True, check=True
    )
    assert set(done.stdout.split()) <= PINNED


@pytest.fixture
async def machine() -> AsyncIterator[Machine]:
    before = open_fds()
    machine = Machine()
    yield machine
    machine.close()
    assert open_fds() == before


@pytest.fixture
def path(tmp_path: Path) -> str:
    return str(tmp_path / "b.sock")


async def crossed(machine: Machine, path: str) -> Broker:
    """A broker of the next boot, which holds the session of `vm` with three ticks in it."""
    memory = GuestMemory.create(64 * memory_head.PAGE, 5, STAMP)
    memory.advance(3, STAMP)
    memory.suspend()

    def before() -> None:
        with Client(path, "vm", answer_s=10) as c:
            c.subscribe()
            assert c.next_event(10) == StartPreservation()
            c.preserve(memory.fd, MEMORY_TOKEN)
            c.ready()
            assert c.next_event(10) == Lost()

    async with running(Broker(path, timeouts=QUICK)) as broker:
        thread = asyncio.create_task(asyncio.to_thread(before))
        while not await broker.subscribers():
            await asyncio.sleep(0)
        sessions, bindings = await broker.preserve(machine.kernel, "1-a"), broker.bindings()
    await thread
    memory.close()
    kernel = await machine.kexec()
    broker = Broker(path, timeouts=QUICK)
    broker.restore(bindings)
    await broker.retrieve(kernel, sessions)
    return broker


async def test_it_ticks_at_once_and_the_library_does_the_rest(machine: Machine, path: str) -> None:
    told: list[object] = []

    def after() -> None:
        # The broker is not there yet: it is waited for.
        back = come_back(path, "vm", MEMORY_TOKEN, 10)
        assert back is not None
        assert back.resumed_at > 0
        ticked = GuestMemory.attach(os.dup(back.memory_fd))
        told.append((ticked.ticks, ticked.suspended, ticked.stamp, ticked.verify().intact))
        ticked.close()
        with Client.adopt(path, "vm", back, answer_s=10) as c:
            assert not c.is_suspended
            life = Example(c, MachineClock(), 1, 0.01, back)
            told.append(life.memory.verify().intact)
            assert c.session_fd == -1
            assert c.next_event(10) == Lost()
            life.memory.close()

    broker = await crossed(machine, path)
    thread = asyncio.create_task(asyncio.to_thread(after))
    await asyncio.sleep(0)
    async with running(broker):
        (pause,) = await broker.resume()
        assert (pause.memory_intact, pause.bytes_checked) == (True, 64 * memory_head.PAGE)
        await broker.finish()
    await thread
    assert told == [(4, False, STAMP, True), True]


async def test_without_a_session_the_library_starts_afresh(machine: Machine, path: str) -> None:
    def fresh() -> None:
        back = come_back(path, "vm", MEMORY_TOKEN, 10)
        assert back is not None
        assert (back.memory_fd, back.session_fd, back.resumed_at) == (-1, -1, 0)
        with Client.adopt(path, "vm", back, answer_s=10) as c:
            life = Example(c, MachineClock(), 8192, 0.01, back)
            assert life.memory.ticks == 0
            life.memory.close()

    async with running(Broker(path, timeouts=QUICK)):
        await asyncio.to_thread(fresh)


async def test_a_clock_that_was_set_by_decades_rejects_the_pause_and_no_more(
    machine: Machine, path: str
) -> None:
    def after() -> None:
        back = come_back(path, "vm", MEMORY_TOKEN, 10)
        assert back is not None
        long_ago = GuestMemory.attach(os.dup(back.memory_fd))
        long_ago.resume(Stamp(1, 1, 0, 0.0, "b"))
        long_ago.close()
        with Client.adopt(path, "vm", back, answer_s=10) as c:
            Example(c, MachineClock(), 1, 0.01, back).memory.close()
            assert c.next_event(10) == Lost()

    broker = await crossed(machine, path)
    async with running(broker):
        thread = asyncio.create_task(asyncio.to_thread(after))
        (pause,) = await broker.resume()
        assert (pause.duration_s, pause.memory_intact) == (0.0, True)
        assert "cannot be" in pause.rejected
    await thread


def test_nobody_answers(path: str) -> None:
    assert come_back(path, "vm", MEMORY_TOKEN, 0.01) is None
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(path)
        listener.listen()
        back = come_back(path, "vm", MEMORY_TOKEN, 0.02)
        assert back is not None
        assert (back.memory_fd, back.pending) == (-1, b""), "the library says who did not answer"
        os.close(back.sock_fd)


async def test_a_broker_that_hangs_up_is_asked_again(path: str) -> None:
    def served(listener: socket.socket) -> None:
        for answer in (b"", b'{"event":"ERROR","reason":"NOT_YOURS","message":"no"}\n'):
            peer, _ = listener.accept()
            assert peer.recv(4096) == b'{"cmd":"CLAIM","id":"vm","extensions":["suspend"]}\n'
            peer.sendall(answer)
            peer.close()

    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(path)
        listener.listen()
        thread = asyncio.create_task(asyncio.to_thread(served, listener))
        back = await asyncio.to_thread(come_back, path, "vm", MEMORY_TOKEN, 10)
        await thread
    assert back is not None
    assert b"NOT_YOURS" in back.pending, "what the broker refuses is the library's to tell"
    os.close(back.sock_fd)


async def test_claimed_and_not_resumed_it_waits_suspended(machine: Machine, path: str) -> None:
    def after() -> Back | None:
        return come_back(path, "vm", MEMORY_TOKEN, 0.3)

    broker = await crossed(machine, path)
    async with running(broker):
        back = await asyncio.to_thread(after)
        assert back is not None
        assert back.memory_fd >= 0
        assert back.resumed_at == 0

        def rest() -> None:
            with Client.adopt(path, "vm", back, answer_s=10) as c:
                assert c.is_suspended
                memory = GuestMemory.attach(back.memory_fd)
                assert memory.ticks == 3
                assert c.next_event(10) == Resume()
                c.resumed(Resumed(1.0, 0.1, "tsc", memory.verify().intact, memory.size_bytes))
                memory.close()

        thread = asyncio.create_task(asyncio.to_thread(rest))
        (pause,) = await broker.resume()
        assert pause.memory_intact
        await thread


def test_a_tick_on_what_is_no_memory(tmp_path: Path) -> None:
    fd = os.memfd_create("x")
    os.write(fd, bytes(8192))
    assert not memory_head.tick(fd)
    os.close(fd)


@pytest.mark.parametrize("ticks", [0, 62, 63, 64, 1000])
def test_a_tick_is_a_tick_of_the_librarys(ticks: int) -> None:
    memory = GuestMemory.create(64 * memory_head.PAGE, 3, STAMP)
    memory.advance(ticks, STAMP)
    assert memory_head.tick(memory.fd)
    found = GuestMemory.attach(memory.fd)
    assert (found.ticks, found.verify().intact) == (ticks + 1, True)
    found.close()


SOCKET = ["--socket", "/s", "--id", "vm"]


@pytest.mark.parametrize(
    ("words", "understood"),
    [
        (SOCKET, True),
        ([*SOCKET, "--mib", "64", "--tick-ms", "1", "--answer-s", "5"], True),
        ([*SOCKET, "--mib", "0"], False),
        ([*SOCKET, "--mib", "many"], False),
        ([*SOCKET, "--help"], False),
        ([*SOCKET, "--colour", "red"], False),
        (["--socket", "/s"], False),
        (["--socket", "/s", "--id", 'a"b'], False),
        ([], False),
    ],
)
def test_only_plain_options_are_in_a_hurry(words: list[str], understood: bool) -> None:
    assert bool(example.plain(words)) is understood


async def test_asked_again_without_another_suspend_it_repeats_what_it_said(
    machine: Machine, path: str
) -> None:
    def after() -> None:
        back = come_back(path, "vm", MEMORY_TOKEN, 10)
        assert back is not None
        with Client.adopt(path, "vm", back, answer_s=10) as c:
            life = Example(c, MachineClock(), 1, 0.01, back)
            while (event := c.next_event(10)) != Lost():
                assert isinstance(event, Resume)
                life._on(event)
            life.memory.close()

    broker = await crossed(machine, path)
    thread = asyncio.create_task(asyncio.to_thread(after))
    async with running(broker):
        (first,) = await broker.resume()
        broker._workloads["vm"].pause = None  # as an agent that did not live to hear it
        (second,) = await broker.resume()
        assert second == first
        await broker.finish()
    await thread
