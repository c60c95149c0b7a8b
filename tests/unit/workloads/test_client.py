"""The client library in a thread of its own against a broker over the emulated kernel."""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from node_agent.errors import BrokerError
from node_agent.runtime.broker import Broker
from node_agent.workloads.client import Client, Lost
from node_agent.workloads.memory import MEMORY_TOKEN, GuestMemory
from node_agent.workloads.pause import Stamp
from node_agent.workloads.protocol import Release, Resume, Resumed, StartPreservation, Suspend
from tests.unit.broker.support import QUICK, Machine, open_fds, running

STAMP = Stamp(1, 1, 0, 0.0, "b")


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


def client(path: str, **more: float) -> Client:
    return Client(path, "vm", **{"answer_s": 10.0, **more})


async def test_preserve_suspend_resume_and_release(machine: Machine, path: str) -> None:
    seen: list[object] = []

    def workload() -> None:
        memory = GuestMemory.create(8192, 1, STAMP)
        with client(path) as c:
            assert c.claim() is None
            c.subscribe()
            assert c.fileno() >= 0
            for event in c.events():
                seen.append(event)
                match event:
                    case StartPreservation():
                        c.preserve(memory.fd, MEMORY_TOKEN)
                        c.ready()
                    case Suspend():
                        c.suspended()
                    case Resume():
                        c.resumed(Resumed(0.5, 0.1, "tsc", memory.verify().intact, 8192))
                    case Release():
                        c.released()
                        break
        memory.close()
        assert c.fileno() == -1

    async with running(Broker(path, timeouts=QUICK)) as broker:
        thread = asyncio.create_task(asyncio.to_thread(workload))
        await _subscribed(broker)
        assert await broker.preserve(machine.kernel, "1-a") == {"vm": "lr.1-a.vm"}
        await broker.suspend()
        (pause,) = await broker.resume()
        assert (pause.duration_s, pause.memory_intact) == (0.5, True)
        await broker.release()
        await thread
    assert seen == [StartPreservation(), Suspend(), Resume(), Release()]


async def test_memory_is_claimed_after_a_kexec(machine: Machine, path: str) -> None:
    memory = GuestMemory.create(8192, 5, STAMP)
    memory.advance(3, STAMP)

    def before() -> None:
        with client(path) as c:
            c.subscribe()
            assert c.next_event(10) == StartPreservation()
            c.preserve(memory.fd, MEMORY_TOKEN)
            c.ready()
            assert c.next_event(10) == Lost()

    async with running(Broker(path, timeouts=QUICK)) as broker:
        thread = asyncio.create_task(asyncio.to_thread(before))
        await _subscribed(broker)
        sessions, bindings = await broker.preserve(machine.kernel, "1-a"), broker.bindings()
    await thread
    memory.close()
    kernel = await machine.kexec()

    def after() -> int:
        with client(path) as c:
            assert c.claim() is not None
            found = GuestMemory.attach(c.retrieve(MEMORY_TOKEN))
            c.drop_session()
            assert c.next_event(10) == Resume()
            c.resumed(Resumed(1.0, 0.1, "tsc", found.verify().intact, found.size_bytes))
            assert c.next_event(10) == Lost()
            found.close()
            return found.ticks

    broker = Broker(path, timeouts=QUICK)
    broker.restore(bindings)
    thread = asyncio.create_task(asyncio.to_thread(after))
    async with running(broker):
        await broker.retrieve(kernel, sessions)
        (pause,) = await broker.resume()
        assert pause.memory_intact
        await broker.finish()
    assert await thread == 3


async def test_it_comes_back_after_the_broker_and_says_that_it_is_suspended(
    machine: Machine, path: str
) -> None:
    def workload() -> list[object]:
        with client(path) as c:
            c.subscribe()
            seen: list[object] = [c.next_event(10)]
            c.ready()
            seen.append(c.next_event(10))
            c.suspended()
            seen.append(c.next_event(10))
            assert c.session_fd == -1
            # No broker yet, or not heard of yet: a timeout is no error.
            while (event := c.next_event(0.01)) is None:
                pass
            seen.append(event)
            c.resumed(Resumed())
            return seen

    broker = Broker(path, timeouts=QUICK)
    async with running(broker):
        thread = asyncio.create_task(asyncio.to_thread(workload))
        await _subscribed(broker)
        await broker.preserve(machine.kernel, "1-a")
        await broker.suspend()
        bindings = broker.bindings()
        for record in broker._workloads.values():
            await record.session.close()
    again = Broker(path, timeouts=QUICK)
    again.restore(bindings)
    async with running(again):
        (pause,) = await again.resume()
        assert pause.rejected
        seen = await thread
    assert seen == [StartPreservation(), Suspend(), Lost(), Resume()]


async def test_a_refusal_reaches_the_agent_with_its_words(machine: Machine, path: str) -> None:
    def workload() -> None:
        with client(path) as c:
            c.subscribe()
            c.next_event(10)
            with pytest.raises(OSError, match="PRESERVE_FD") as caught, open(os.devnull) as device:
                c.preserve(device.fileno(), 1)
            c.refuse("PRESERVE_FAILED", str(caught.value.strerror))
            c.next_event(10)

    async with running(Broker(path, timeouts=QUICK)) as broker:
        thread = asyncio.create_task(asyncio.to_thread(workload))
        await _subscribed(broker)
        with pytest.raises(BrokerError) as caught:
            await broker.preserve(machine.kernel, "1-a")
        assert caught.value.fields["says"] == "PRESERVE_FAILED"
        release = asyncio.create_task(broker.release())
        await thread
        await release


async def test_what_the_broker_refuses_is_raised(machine: Machine, path: str) -> None:
    broker = Broker(path, timeouts=QUICK)
    broker.restore({"vm": {"uid": os.getuid() + 1, "unit": ""}})
    async with running(broker):
        for verb in ("claim", "subscribe"):
            with client(path) as c, pytest.raises(BrokerError) as caught:
                await asyncio.to_thread(getattr(c, verb))
            assert caught.value.reason == "NOT_YOURS"


def test_no_broker_is_said_in_time(path: str) -> None:
    with client(path, answer_s=0.02) as c, pytest.raises(BrokerError) as caught:
        c.claim()
    assert caught.value.reason == "NO_BROKER"
    assert caught.value.remedy


def test_a_broker_that_hangs_up_at_once_is_no_broker(path: str) -> None:
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(path)
        listener.listen()
        with client(path, answer_s=0.02) as c, pytest.raises(BrokerError) as caught:
            c.claim()
        assert caught.value.reason == "NO_BROKER"


def test_events_need_a_subscription(path: str) -> None:
    with client(path) as c, pytest.raises(BrokerError) as caught:
        c.next_event(0)
    assert caught.value.reason == "NOT_SUBSCRIBED"


def test_a_session_announced_without_its_fd_is_a_breach(path: str) -> None:
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(path)
        listener.listen()
        with client(path) as c:
            assert c._connect(None)
            connection, _ = listener.accept()
            connection.sendall(b'{"event":"CLAIMED","id":"vm"}\n')
            with connection, pytest.raises(BrokerError) as caught:
                c.claim()
            assert caught.value.reason == "NO_SESSION_FD"


async def _subscribed(broker: Broker) -> None:
    async with asyncio.timeout(10):
        while not await broker.subscribers():
            await asyncio.sleep(0)
