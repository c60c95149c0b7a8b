"""The blackout path against a broker's clients: who gets what back, and what is left to the broker.

The kernel here is the emulated one's model on a thread of its own loop, because the path blocks.
"""

from __future__ import annotations

import array
import asyncio
import contextlib
import fcntl
import json
import os
import socket
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import ClassVar

import pytest

from node_agent.kernel.emulated import syncclient
from node_agent.kernel.emulated.clock import EmulatedClock, HostBase
from node_agent.ports import JournalRecord
from node_agent.resume import blackout, claims
from node_agent.resume.handover import Handover
from node_agent.runtime.broker import Broker
from node_agent.runtime.broker_handover import HandoverKernel, marks
from node_agent.runtime.broker_record import BrokerTimeouts
from node_agent.runtime.journal_format import MAGIC, encode_record
from tests.descriptors import descriptors
from tests.unit.resume.patience import Patience

UID = os.getuid()


class Sessions:
    """Stands for the kernel's sessions: a retrieved one is a pipe end, whose close shows."""

    def __init__(self, *names: str) -> None:
        self.there = set(names)
        self.ends: dict[str, int] = {}
        self.busy = 0

    def retrieve(self, root: str, name: str) -> int:
        if self.busy:
            self.busy -= 1
            raise OSError(16, "open(/dev/liveupdate)")
        if name not in self.there:
            raise OSError(2, "LIVEUPDATE_IOCTL_RETRIEVE_SESSION")
        self.there.discard(name)
        self.ends[name], fd = os.pipe()
        return fd

    def token(self, text: bytes) -> Callable[[int, int], int]:
        def retrieve_fd(session_fd: int, token: int) -> int:
            fd = os.memfd_create("token")
            os.write(fd, text)
            return fd

        return retrieve_fd


class Node:
    """State directory with a journal, and the kernel's answers."""

    def __init__(self, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.path = path
        self.socket = str(path / "b.sock")
        self.sessions = Sessions("lr.7-a.agent", "lr.7-a.vm")
        self.boot_id = "new"
        self._monkeypatch = monkeypatch
        monkeypatch.setattr(syncclient, "retrieve_session", self.sessions.retrieve)
        monkeypatch.setattr(syncclient, "facts", lambda root: {"boot_id": self.boot_id})
        self.set_token(b'{"attempt":"7-a"}')
        self.write(sessions={"vm": "lr.7-a.vm"}, bindings={"vm": {"uid": UID, "unit": "", "suspend": True}})

    def set_token(self, text: bytes) -> None:
        self._monkeypatch.setattr(syncclient, "retrieve_fd", self.sessions.token(text))

    def write(self, **changed: object) -> None:
        body = {"attempt": "7-a", "agent_session": "lr.7-a.agent", "boot_id": "old", **changed}
        records = (JournalRecord(1, "installation", {}), JournalRecord(2, "jump_intent", body))
        (self.path / "journal").write_bytes(MAGIC + b"".join(map(encode_record, records)))

    def resume(self) -> Handover:
        """The deadline passes once all scripts have said what they say."""
        Patience(Script.talking).install(self._monkeypatch)
        self.handover = blackout.resume(
            root="/r", journal_path=str(self.path / "journal"), socket_path=self.socket
        )
        return self.handover

    def close(self) -> None:
        """What a full agent would take over."""
        left = self.handover
        fds = [left.journal_fd, left.listener_fd, left.agent_session_fd, left.token_fd]
        fds += [client.fd for client in left.clients] + [fd for _, fd in left.sessions.values()]
        for fd in [*(fd for fd in fds if fd >= 0), *self.sessions.ends.values()]:
            os.close(fd)


@pytest.fixture
def node(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Node]:
    """Counts descriptors: what is not in the Handover must be closed."""
    before = descriptors()
    node = Node(tmp_path, monkeypatch)
    yield node
    Script.close_all()
    node.close()
    assert not descriptors() - before


class Script(threading.Thread):
    """A client that says its lines once the socket is there, each after one event heard."""

    started: ClassVar[list[Script]] = []

    def __init__(self, path: str, *lines: object, hang_up: bool = False) -> None:
        super().__init__()
        self.started.append(self)
        self.path, self.lines, self.hang_up = path, lines, hang_up
        self.heard: list[dict[str, object]] = []
        self.fds: list[int] = []
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(10)

    def run(self) -> None:
        while self.sock.connect_ex(self.path):
            pass
        for line in self.lines:
            if line is None:
                self.hear()
            else:
                self.sock.sendall(line if isinstance(line, bytes) else json.dumps(line).encode() + b"\n")
        if self.hang_up:
            self.sock.close()

    @classmethod
    def talking(cls) -> bool:
        """One that is not started yet will talk."""
        return any(script.ident is None or script.is_alive() for script in cls.started)

    @classmethod
    def close_all(cls) -> None:
        while cls.started:
            script = cls.started.pop()
            script.sock.close()
            for fd in script.fds:
                os.close(fd)

    def hear(self) -> None:
        data = b""
        while not data.endswith(b"\n"):
            part, ancillary, _, _ = self.sock.recvmsg(1, 64)
            for _, _, payload in ancillary:
                self.fds.extend(array.array("i", payload))
            if not part:
                return
            data += part
        self.heard.append(json.loads(data))


CLAIM = {"cmd": "CLAIM", "id": "vm", "extensions": ["suspend"]}
RESUMED = {"cmd": "RESUMED", "duration_s": 1.25, "uncertainty_s": 0.1, "clock": "tsc", "memory_intact": True}


def run_with(node: Node, *scripts: Script) -> Handover:
    for script in scripts:
        script.start()
    handover = node.resume()
    for script in scripts:
        script.join()
    return handover


def test_sessions_token_and_claims(node: Node) -> None:
    script = Script(node.socket, CLAIM, None, None, RESUMED)
    handover = run_with(node, script)
    assert script.heard == [{"event": "CLAIMED", "id": "vm"}, {"event": "RESUME"}]
    assert len(script.fds) == 1
    assert handover.errors == {}
    assert (handover.attempt, json.loads(handover.token)) == ("7-a", {"attempt": "7-a"})
    assert list(handover.marks) == ["kernel_start", "userspace_start", "retrieved", "resume"]
    (client,) = handover.clients
    assert (client.workload, client.suspends, json.loads(client.resumed)) == ("vm", True, RESUMED)
    assert os.get_inheritable(handover.journal_fd) is False


RUNNING = {"cmd": "RUNNING"}


def test_a_workload_runs_before_it_reports(node: Node) -> None:
    script = Script(node.socket, CLAIM, None, None, RUNNING)
    handover = run_with(node, script)
    assert "resume" in handover.marks
    assert handover.errors == {"lr.7-a.vm": "not claimed and resumed in time"}
    (client,) = handover.clients
    assert (client.workload, client.pending, client.resumed) == ("vm", b"", b"")


def test_a_workload_that_runs_and_dies_does_not_run(node: Node) -> None:
    script = Script(node.socket, CLAIM, None, None, RUNNING, hang_up=True)
    handover = run_with(node, script)
    assert "resume" not in handover.marks


def test_running_is_no_report(node: Node) -> None:
    handover = run_with(node, Script(node.socket, CLAIM, None, None, RUNNING, RESUMED))
    assert json.loads(handover.clients[0].resumed) == RESUMED
    assert handover.errors == {}


def test_a_plain_luo_agent_client_is_back_with_its_claim(node: Node) -> None:
    script = Script(node.socket, {"cmd": "CLAIM", "id": "vm"}, None)
    handover = run_with(node, script)
    assert script.heard == [{"event": "CLAIMED", "id": "vm"}]
    assert handover.errors == {}
    assert not handover.clients[0].suspends


def test_a_workload_that_dies_in_between_may_claim_again(node: Node) -> None:
    first = Script(node.socket, CLAIM, None, None, hang_up=True)
    first.start()
    second = Script(node.socket, CLAIM, None, None, RESUMED)

    def after_first() -> None:
        first.join()
        second.start()

    chain = threading.Thread(target=after_first)
    chain.start()
    handover = node.resume()
    chain.join()
    second.join()
    assert second.heard[0] == {"event": "CLAIMED", "id": "vm"}
    assert "resume" in handover.marks


@pytest.mark.parametrize(
    "line",
    [
        {"cmd": "CLAIM", "id": "other"},
        {"cmd": "SUBSCRIBE", "id": "vm"},
        {"cmd": "RESUMED"},
        {"cmd": "CLAIM", "id": 7},
        b"nonsense\n",
    ],
)
def test_what_is_not_understood_is_left_to_the_broker(node: Node, line: object) -> None:
    handover = run_with(node, Script(node.socket, line))
    (client,) = handover.clients
    said = line if isinstance(line, bytes) else json.dumps(line).encode() + b"\n"
    assert (client.workload, client.pending) == ("", said)
    assert handover.errors == {"lr.7-a.vm": "not claimed and resumed in time"}
    assert "resume" not in handover.marks


@pytest.mark.parametrize("binding", [{"uid": UID + 1, "unit": ""}, {"uid": UID, "unit": "qemu.service"}])
def test_a_claim_of_anothers_memory_gets_nothing(node: Node, binding: dict[str, object]) -> None:
    node.write(sessions={"vm": "lr.7-a.vm"}, bindings={"vm": binding})
    script = Script(node.socket, CLAIM)
    handover = run_with(node, script)
    assert script.heard == []
    assert handover.clients[0].workload == ""


@pytest.mark.parametrize("flood", [b"x" * 9000, b'{"cmd":"READY"'])
def test_floods_and_fds_are_cut_off(node: Node, flood: bytes) -> None:
    script = Script(node.socket)
    if flood.startswith(b"x"):
        script.lines = (flood,)
    else:
        script.run = lambda: _send_fds(script, flood)  # type: ignore[method-assign]
    handover = run_with(node, script)
    assert handover.clients == []


def _send_fds(script: Script, data: bytes) -> None:
    while script.sock.connect_ex(script.path):
        pass
    socket.send_fds(script.sock, [data], [0, 1, 2])


def test_beyond_max_clients_nobody_is_accepted(node: Node, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(claims, "MAX_CLIENTS", 1)
    handover = run_with(node, Script(node.socket), Script(node.socket))
    assert len(handover.clients) == 1


def test_a_busy_device_is_waited_for(node: Node, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(blackout, "BUSY_S", 30.0)
    node.sessions.busy = 3
    assert run_with(node, Script(node.socket, CLAIM, None, None, RESUMED)).errors == {}


def test_a_device_that_stays_busy_is_waited_for_once(node: Node, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not once a session: a hundred workloads would wait minutes for their broker."""
    waits = 0
    monkeypatch.setattr(blackout, "BUSY_S", 0.02)
    ids = [f"vm{n}" for n in range(50)]
    names = {id: f"lr.7-a.{id}" for id in ids}
    node.write(sessions=names, bindings={id: {"uid": UID, "unit": ""} for id in ids})
    node.sessions.busy = 10**9
    sleep = time.sleep

    def counted(seconds: float) -> None:
        nonlocal waits
        waits += 1
        sleep(seconds)

    monkeypatch.setattr(time, "sleep", counted)
    left = node.resume()
    assert left.errors == dict.fromkeys(["lr.7-a.agent", *names.values()], "EBUSY")
    assert waits <= 20


def test_a_session_that_did_not_cross_stops_none_of_the_others(node: Node) -> None:
    me = {"uid": UID, "unit": ""}
    node.write(sessions={"gone": "lr.7-a.gone", "vm": "lr.7-a.vm"}, bindings={"gone": me, "vm": me})
    node.sessions.there.discard("lr.7-a.agent")
    handover = run_with(node, Script(node.socket, CLAIM, None, None, RESUMED))
    assert handover.errors == {"lr.7-a.gone": "ENOENT", "lr.7-a.agent": "ENOENT"}
    assert "resume" in handover.marks


def test_a_foreign_token_is_said(node: Node) -> None:
    node.set_token(b'{"attempt":"6-a"}')
    handover = run_with(node, Script(node.socket, CLAIM, None, None, RESUMED))
    assert handover.errors == {"token": "it names another attempt"}


def test_the_same_boot_retrieves_nothing_and_keeps_the_lock(node: Node) -> None:
    node.boot_id = "old"
    handover = node.resume()
    assert (handover.attempt, handover.sessions, handover.listener_fd) == ("", {}, -1)
    assert node.sessions.ends == {}
    with open(node.path / "journal") as other, pytest.raises(BlockingIOError):
        fcntl.flock(other, fcntl.LOCK_EX | fcntl.LOCK_NB)


def test_without_the_lock_nothing_is_touched(node: Node) -> None:
    with open(node.path / "journal") as other:
        fcntl.flock(other, fcntl.LOCK_EX)
        handover = node.resume()
    assert (handover.journal_fd, handover.errors) == (-1, {"journal": "EAGAIN"})
    assert node.sessions.ends == {}


def test_a_lock_that_only_outlives_its_agent_is_waited_for(node: Node) -> None:
    """A keeper that was forked a moment before has it too, until it first runs."""
    held = os.open(node.path / "journal", os.O_RDWR)
    fcntl.flock(held, fcntl.LOCK_EX)
    tries = threading.Semaphore(0)
    sleep = time.sleep

    def slept(seconds: float) -> None:
        tries.release()
        sleep(seconds)

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(time, "sleep", slept)
        patched.setattr(blackout, "LOCK_S", 30.0)
        child = threading.Thread(target=lambda: (tries.acquire(), os.close(held)))
        child.start()
        node.boot_id = "old"
        handover = node.resume()
        child.join()
    assert (handover.journal_fd >= 0, handover.errors) == (True, {})


def test_a_new_node_has_no_journal(node: Node) -> None:
    (node.path / "journal").unlink()
    handover = node.resume()
    assert (handover.journal_fd, handover.errors, handover.attempt) == (-1, {}, "")


def test_a_socket_that_cannot_be_bound_is_said(node: Node) -> None:
    node.socket = str(node.path / "journal" / "b.sock")
    assert node.resume().errors == {"socket": "ENOTDIR"}


class HeldSession:
    """A session over a handed-over fd."""

    def __init__(self, name: str, fd: int) -> None:
        self.name, self.fd, self.finished = name, fd, False

    def fileno(self) -> int:
        return self.fd

    async def finish(self) -> None:
        self.finished = True

    async def close(self) -> None:
        os.close(self.fd)


async def test_the_broker_goes_on_where_the_blackout_path_stopped(node: Node) -> None:
    me = {"uid": UID, "unit": "", "suspend": True}
    node.write(sessions={"vm": "lr.7-a.vm", "slow": "lr.7-a.slow"}, bindings={"vm": me, "slow": me})
    node.sessions.there.add("lr.7-a.slow")
    back = Script(node.socket, CLAIM, None, None, RESUMED)
    early = Script(node.socket, b'{"cmd":"CLAIM","id":"slow","ext')
    for script in (back, early):
        script.start()
    handover = await asyncio.to_thread(node.resume)
    wrapped: list[HeldSession] = []

    def wrap(name: str, fd: int) -> HeldSession:
        wrapped.append(HeldSession(name, fd))
        return wrapped[-1]

    kernel = HandoverKernel(None, handover, wrap)  # type: ignore[arg-type]
    broker = Broker(node.socket, timeouts=BrokerTimeouts(claim_s=5, resume_s=5))
    broker.adopt(handover)
    task = asyncio.create_task(broker.run())
    assert set(kernel.untaken) == {"lr.7-a.vm", "lr.7-a.slow", "lr.7-a.agent"}
    await broker.retrieve(kernel, {"vm": "lr.7-a.vm", "slow": "lr.7-a.slow"})
    resume = asyncio.create_task(broker.resume())
    early.join()
    early.sock.sendall(b'ensions":["suspend"]}\n')
    await asyncio.to_thread(early.hear)
    await asyncio.to_thread(early.hear)
    assert early.heard == [{"event": "CLAIMED", "id": "slow"}, {"event": "RESUME"}]
    early.sock.sendall(json.dumps(RESUMED).encode() + b"\n")
    pauses = {p.workload: p.duration_s for p in await resume}
    assert pauses == {"vm": 1.25, "slow": 1.25}
    assert sorted(await broker.subscribers()) == ["slow", "vm"]
    await broker.finish()
    assert [s.finished for s in wrapped] == [True, True]
    kernel.close()
    task.cancel()
    await asyncio.wait({task})
    # All of the handover was taken over and closed, but for what is the journal's.
    node.handover = Handover()
    node.handover.journal_fd = handover.journal_fd


def test_marks_go_back_from_a_later_reading(node: Node) -> None:
    handover = run_with(node, Script(node.socket, CLAIM, None, None, RESUMED))
    base = HostBase()
    clock = EmulatedClock(base, kernel_started_s=base.now() - 100, powered_on_s=base.now() - 1000)
    found = {mark.name: mark for mark in marks(handover, clock, "b")}
    assert found["kernel_start"].boottime_s == 0
    assert found["kernel_start"].tsc == pytest.approx(900e9, rel=1e-3)
    assert 90 < found["userspace_start"].boottime_s <= found["resume"].boottime_s < 200
    assert found["resume"].realtime_at >= found["retrieved"].realtime_at


@contextlib.asynccontextmanager
async def handed_back_in_vain(node: Node) -> AsyncIterator[tuple[Broker, HandoverKernel, Script]]:
    """A broker that took over from a blackout path whose one client had RESUME and did not answer in time."""
    node.write(sessions={"vm": "lr.7-a.vm"}, bindings={"vm": {"uid": UID, "unit": "", "suspend": True}})
    slow = Script(node.socket, CLAIM, None, None)
    slow.start()
    handover = await asyncio.to_thread(node.resume)
    await asyncio.to_thread(slow.join)
    assert [event["event"] for event in slow.heard] == ["CLAIMED", "RESUME"]
    kernel = HandoverKernel(None, handover, HeldSession)  # type: ignore[arg-type]
    broker = Broker(node.socket, timeouts=BrokerTimeouts(claim_s=5, resume_s=5))
    broker.adopt(handover)
    task = asyncio.create_task(broker.run())
    try:
        yield broker, kernel, slow
        await broker.finish()
    finally:
        kernel.close()
        task.cancel()
        await asyncio.wait({task})
        node.handover = Handover()
        node.handover.journal_fd = handover.journal_fd


@pytest.mark.parametrize("asked_first", [False, True])
async def test_a_workload_that_resumes_after_the_deadline_is_heard_and_not_asked_again(
    node: Node, asked_first: bool
) -> None:
    async with handed_back_in_vain(node) as (broker, kernel, slow):
        await broker.retrieve(kernel, {"vm": "lr.7-a.vm"})
        resuming = asyncio.create_task(broker.resume())
        if asked_first:
            await asyncio.sleep(0)
        slow.sock.sendall(json.dumps(RESUMED).encode() + b"\n")
        (pause,) = await resuming
        assert (pause.workload, pause.duration_s) == ("vm", 1.25)
        slow.sock.setblocking(False)
        with pytest.raises(BlockingIOError):  # neither a second RESUME nor a refusal, and still connected
            slow.sock.recv(1)


async def test_an_answer_that_came_before_the_broker_asked_is_taken(node: Node) -> None:
    async with handed_back_in_vain(node) as (broker, kernel, slow):
        await broker.listening.wait()
        slow.sock.sendall(json.dumps(RESUMED).encode() + b"\n")
        for _ in range(10):  # the broker's reader has had its turns before anybody asks
            await asyncio.sleep(0)
        await broker.retrieve(kernel, {"vm": "lr.7-a.vm"})
        assert [pause.duration_s for pause in await broker.resume()] == [1.25]
