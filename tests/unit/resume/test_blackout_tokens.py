"""The blackout path where the kernel has tokens and no sessions (RFC v2): processes of its own, and a kernel
that gives each file out once."""

from __future__ import annotations

import errno
import json
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from node_agent.kernel import rfc2_abi
from node_agent.kernel.emulated import syncclient
from node_agent.kernel.tokens import FILES_MAX
from node_agent.ports import JournalRecord
from node_agent.resume import blackout, early, fdpass, parking
from node_agent.resume.handover import Handover
from node_agent.resume.parameters import Parameters
from node_agent.resume.take import take
from node_agent.runtime.journal_format import MAGIC, encode_record
from tests.descriptors import descriptors
from tests.unit.resume.rfc2_device import Kernel
from tests.unit.resume.test_blackout import CLAIM, RESUMED, Script

AGENT, VM = "lr.7-a.agent", "lr.7-a.vm"
TOKENS = {AGENT: {"0": 40, "1": 41}, VM: {"0": 50}}


class Node:
    """State directory with a journal, and a kernel."""

    def __init__(self, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.path = path
        self.kernel = Kernel({40: b'{"attempt":"7-a"}', 41: b"marks", 50: b"memory"})
        self.kernel.listen(path)
        self.socket = str(path / "b.sock")
        self.keeper = str(path / "keeper.sock")
        monkeypatch.setattr(syncclient, "facts", lambda root: {"boot_id": "new"})
        self.write(TOKENS)

    def write(self, tokens: object, *, before: int = 0) -> None:
        """before: bytes of a record that comes first."""
        body = {
            "attempt": "7-a",
            "agent_session": AGENT,
            "boot_id": "old",
            "sessions": {"vm": VM},
            "bindings": {"vm": {"uid": os.getuid(), "unit": "", "suspend": True}},
            "tokens": tokens,
            "node": {"attempt": {"phase": "JUMPING", "tokens": tokens}},
        }
        records = (
            JournalRecord(1, "installation", {"x": "x" * before}),
            JournalRecord(2, "jump_intent", body),
        )
        (self.path / "journal").write_bytes(MAGIC + b"".join(map(encode_record, records)))

    def resume(self, *, deadline_s: float = 10.0, keeper_path: str = "") -> Handover:
        return blackout.resume(
            root=str(self.path),
            journal_path=str(self.path / "journal"),
            socket_path=self.socket,
            deadline_s=deadline_s,
            keeper_path=keeper_path,
            environ={},
        )

    def close(self) -> None:
        self.kernel.close()


def die(handover: Handover) -> None:
    """The agent's process ends, with every fd that it has."""
    fds = [handover.journal_fd, handover.listener_fd, handover.agent_session_fd, handover.token_fd]
    fds += [client.fd for client in handover.clients] + [fd for _, fd in handover.sessions.values()]
    fdpass.close_all([fd for fd in (*fds, *handover.parked.values()) if fd >= 0])


@pytest.fixture
def node(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Node]:
    """Counts descriptors: what is not in the Handover must be closed."""
    before = descriptors()
    node = Node(tmp_path, monkeypatch)
    yield node
    Script.close_all()
    node.close()
    assert not descriptors() - before


class Workload(Script):
    """One that has its memory before it says that it runs."""

    memory = b""

    def __init__(self, node: Node) -> None:
        super().__init__(node.socket, CLAIM, None, None, RESUMED)

    def hear(self) -> None:
        super().hear()
        if self.heard[-1]["event"] == "CLAIMED":
            self.memory = content(self.fds[-1], 0)


def content(session_fd: int, token: int) -> bytes:
    fd = syncclient.retrieve_fd(session_fd, token)
    try:
        return os.pread(fd, 100, 0)
    finally:
        os.close(fd)


def test_a_workload_gets_its_memory_when_it_asks_and_the_agent_its_token(node: Node) -> None:
    vm = Workload(node)
    vm.start()
    handover = node.resume()
    vm.join()
    assert vm.memory == b"memory"
    assert handover.errors == {}
    assert (handover.attempt, json.loads(handover.token)) == ("7-a", {"attempt": "7-a"})
    assert list(handover.marks) == ["kernel_start", "userspace_start", "retrieved", "resume"]
    assert node.kernel.asked == [40, 50]
    die(handover)


@pytest.mark.parametrize("before", [0, 10, 10 * blackout.TAIL_BYTES])
def test_a_record_of_as_many_tokens_as_there_may_be_is_found(node: Node, before: int) -> None:
    tokens = {VM: {str(mine): 1_000_000 + mine for mine in range(FILES_MAX)}}
    node.write(tokens, before=before)
    assert (node.path / "journal").stat().st_size > blackout.TAIL_BYTES + before
    handover = blackout.begin(root=str(node.path), journal_path=str(node.path / "journal"))
    assert (handover.attempt, handover.names) == ("7-a", {"vm": VM})
    assert handover.tokens == {VM: {mine: 1_000_000 + mine for mine in range(FILES_MAX)}}
    die(handover)


def test_a_record_is_found_wherever_the_tail_of_the_journal_begins(
    node: Node, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = node.path / "journal"
    node.write(TOKENS, before=1000)
    for tail_bytes in range(1, path.stat().st_size):
        monkeypatch.setattr(blackout, "TAIL_BYTES", tail_bytes)
        handover = blackout.begin(root=str(node.path), journal_path=str(path))
        assert handover.attempt == "7-a", tail_bytes
        die(handover)


def test_an_agent_that_dies_before_anybody_asked_leaves_all_to_the_next(node: Node) -> None:
    die(node.resume(deadline_s=0.0, keeper_path=node.keeper))
    vm = Workload(node)
    vm.start()
    handover = node.resume(keeper_path=node.keeper)
    vm.join()
    assert vm.memory == b"memory"
    assert (handover.errors, node.kernel.asked) == ({}, [40, 50])
    finish_all(handover)
    die(handover)
    wait_gone(node.keeper)


@pytest.mark.parametrize(
    ("tokens", "error"),
    [
        ({AGENT: {"0": 41}, VM: {"0": 50}}, {"token": "it names another attempt"}),
        ({AGENT: {"0": 99}, VM: {"0": 50}}, {"token": "ENOENT"}),
        ({VM: {"0": 50}}, {AGENT: "ENOENT"}),
    ],
    ids=["another", "none", "no session"],
)
def test_tokens_that_are_not_shown_to_be_of_the_jump_are_given_to_nobody(
    node: Node, tokens: object, error: dict[str, str]
) -> None:
    """They count up from nought in every boot. A JumpIntent whose boot was left in another way is found by
    the boot after that one, where its tokens are somebody else's files."""
    node.write(tokens)
    handover = node.resume(deadline_s=0.0)
    assert (handover.errors, handover.sessions, handover.listener_fd) == (error, {}, -1)
    assert 50 not in node.kernel.asked
    # What is there is left to the full agent.
    assert content(handover.parked[VM], 0) == b"memory"
    die(handover)


def test_an_early_init_gives_nobody_what_it_cannot_tell_to_be_theirs(node: Node) -> None:
    node.write({AGENT: {"0": 41}, VM: {"0": 50}})
    parameters = Parameters(str(node.path / "journal"), node.socket)
    environ = {b"LIVEROLL_RESUME": f"{parameters.journal}:{parameters.socket}".encode()}
    pid = os.fork()
    if pid == 0:
        try:
            early.run(parameters, root=str(node.path))
        finally:
            os._exit(0)
    # It is there, once it listens.
    while (sock := parking.connect(parameters.keeper)) is None:
        assert os.waitpid(pid, os.WNOHANG) == (0, 0)
    sock.close()
    handover = take(str(node.path), environ)
    assert handover is not None
    assert handover.errors == {"token": "it names another attempt"}
    assert (handover.sessions, handover.listener_fd) == ({}, -1)
    assert node.kernel.asked == [41]
    assert handover.parking is not None
    handover.sessions["vm"] = VM, handover.parking.copy(VM)
    finish_all(handover)
    os.waitpid(pid, 0)
    die(handover)


def test_a_session_that_only_the_tokens_name_is_not_made(node: Node) -> None:
    """Whoever made it would have to close it: this fixture counts what is open."""
    node.write({**TOKENS, "lr.7-a.nobody": {"0": 60}})
    vm = Workload(node)
    vm.start()
    handover = node.resume()
    vm.join()
    assert (vm.memory, handover.errors) == (b"memory", {})
    die(handover)


def test_what_an_earlier_process_made_is_parked_and_given_out_again(node: Node) -> None:
    """Also what it restored: the kernel would not give it a second time."""
    vm = Workload(node)
    vm.start()
    die(node.resume(keeper_path=node.keeper))
    vm.join()
    opens = node.kernel.opens
    again = Workload(node)
    again.start()
    handover = node.resume(keeper_path=node.keeper)
    again.join()
    assert (vm.memory, again.memory) == (b"memory", b"memory")
    assert handover.errors == {}
    assert json.loads(handover.token) == {"attempt": "7-a"}
    assert (node.kernel.asked, node.kernel.opens) == ([40, 50], opens)
    finish_all(handover)
    die(handover)
    wait_gone(node.keeper)


def test_an_early_init_serves_them_and_hands_all_over(node: Node) -> None:
    parameters = Parameters(str(node.path / "journal"), node.socket)
    environ = {b"LIVEROLL_RESUME": f"{parameters.journal}:{parameters.socket}".encode()}
    pid = os.fork()
    if pid == 0:
        try:
            early.run(parameters, root=str(node.path))
        finally:
            os._exit(0)
    vm = Workload(node)
    vm.start()
    vm.join()
    assert vm.memory == b"memory"
    handover = take(str(node.path), environ)
    assert handover is not None
    assert (handover.errors, handover.token) == ({}, b'{"attempt":"7-a"}')
    assert content(handover.agent_session_fd, 1) == b"marks"
    finish_all(handover)
    os.waitpid(pid, 0)
    assert node.kernel.asked == [40, 50, 41]
    die(handover)


def finish_all(handover: Handover) -> None:
    """As the full agent does it."""
    assert handover.parking is not None
    for name, fd in ((VM, handover.sessions["vm"][1]), (AGENT, handover.agent_session_fd)):
        syncclient.finish(fd)
        handover.parking.drop(name)


def wait_gone(path: str) -> None:
    """The keeper ends once it holds nothing; whoever still gets through to it sees its end."""
    while (sock := parking.connect(path)) is not None:
        try:
            fdpass.send(sock, b"LIST")
            fdpass.receive(sock)
        except OSError:
            pass
        finally:
            sock.close()


@pytest.mark.parametrize("state", [rfc2_abi.NORMAL, rfc2_abi.PREPARED])
def test_where_nothing_came_in_nobody_is_served(node: Node, state: int) -> None:
    node.kernel.state = state
    handover = node.resume()
    assert handover.errors == {AGENT: "ENOENT", VM: "ENOENT"}
    assert (handover.attempt, handover.sessions, handover.listener_fd) == ("7-a", {}, -1)
    die(handover)


def test_a_busy_device_is_waited_for(node: Node) -> None:
    node.kernel.busy = 3
    handover = node.resume(deadline_s=0.0)
    assert handover.errors == {VM: "not claimed and resumed in time"}
    assert node.kernel.opens > 3
    die(handover)


def test_one_that_stays_busy_is_said(node: Node, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(blackout, "BUSY_S", 0.02)
    node.kernel.busy = 10**9
    handover = node.resume()
    assert handover.errors == dict.fromkeys((AGENT, VM), errno.errorcode[errno.EBUSY])
    die(handover)
