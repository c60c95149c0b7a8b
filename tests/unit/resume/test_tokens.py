"""Sessions made of tokens after a kexec: a kernel with sessions as far as its callers can tell, over one that
gives each file out once."""

from __future__ import annotations

import errno
import os
import posix
import select
import socket
import threading
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import pytest

from node_agent.kernel import abi, rfc2_abi
from node_agent.kernel.emulated import syncclient, wire
from node_agent.resume import fdpass, tokens
from node_agent.resume.tokens import TokenServer
from node_agent.runtime import keeper_process
from tests.descriptors import descriptors
from tests.unit.resume.rfc2_device import WAIT_S, Kernel, listening

VM, OTHER = "lr.7-a.vm", "lr.7-a.other"


class Node:
    """A server of two sessions, on a thread, and the ends of their fds."""

    def __init__(self) -> None:
        self.kernel = Kernel({50: b"vm's memory", 51: b"vm's state", 60: b"other's"})
        self.server = TokenServer(self.kernel.open())
        self.fds = {
            VM: self._session(VM, {0: 50, 7: 51, 8: 99}),
            OTHER: self._session(OTHER, {0: 60}),
        }
        self.thread = threading.Thread(target=self.server.run)

    def _session(self, name: str, tokens: dict[int, int]) -> int:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.server.serve(name, ours, tokens)
        return theirs.detach()

    @property
    def vm(self) -> int:
        return self.fds[VM]

    def end(self) -> None:
        self.kernel.go.set()
        while self.fds:
            os.close(self.fds.popitem()[1])
        self.ended()
        self.kernel.close()

    def ended(self) -> None:
        """The server's end, by itself."""
        self.thread.join(WAIT_S)
        assert not self.thread.is_alive()


@pytest.fixture
def node() -> Iterator[Node]:
    """Counts descriptors: nothing may be left of it."""
    before = descriptors()
    node = Node()
    node.thread.start()
    yield node
    node.end()
    assert not descriptors() - before


def text(fd: int) -> bytes:
    content = os.pread(fd, 100, 0)
    os.close(fd)
    return content


def errno_of(call: Callable[..., object], *arguments: object) -> str:
    with pytest.raises(OSError) as caught:
        call(*arguments)
    return errno.errorcode[caught.value.errno or 0]


def test_a_file_is_restored_when_it_is_asked_for_and_once(node: Node) -> None:
    assert node.kernel.asked == []
    first = syncclient.retrieve_fd(node.vm, 0)
    again = syncclient.retrieve_fd(node.vm, 0)
    assert node.kernel.asked == [50]
    assert os.fstat(first).st_ino == os.fstat(again).st_ino
    assert not os.get_inheritable(first)
    assert (text(first), text(again)) == (b"vm's memory", b"vm's memory")
    assert text(syncclient.retrieve_fd(node.vm, 7)) == b"vm's state"
    assert text(syncclient.retrieve_fd(node.fds[OTHER], 0)) == b"other's"


def test_a_session_says_its_name_and_takes_no_file(node: Node) -> None:
    assert syncclient.session_name(node.vm) == VM
    with open("/dev/null") as nothing:
        assert errno_of(syncclient.preserve_fd, node.vm, nothing.fileno(), 1) == "EINVAL"


def test_what_is_not_there_is_enoent_and_what_the_kernel_says_is_passed_on(node: Node) -> None:
    assert errno_of(syncclient.retrieve_fd, node.vm, 60) == "ENOENT"
    assert node.kernel.asked == []
    assert errno_of(syncclient.retrieve_fd, node.vm, 8) == "ENOENT"
    assert node.kernel.asked == [99]


def test_after_finish_nothing_is_given_out_and_the_others_go_on(node: Node) -> None:
    held = syncclient.retrieve_fd(node.vm, 0)
    syncclient.finish(node.vm)
    syncclient.finish(node.vm)
    assert errno_of(syncclient.retrieve_fd, node.vm, 0) == "ENOENT"
    assert errno_of(syncclient.retrieve_fd, node.vm, 7) == "ENOENT"
    assert text(held) == b"vm's memory"
    assert text(syncclient.retrieve_fd(node.fds[OTHER], 0)) == b"other's"
    assert node.kernel.asked == [50, 60]


def test_it_ends_with_the_last_finish_whoever_holds_on(node: Node) -> None:
    for fd in node.fds.values():
        syncclient.finish(fd)
    node.ended()
    assert errno_of(syncclient.retrieve_fd, node.vm, 0) == "ESHUTDOWN"


def test_it_ends_with_the_last_copy_of_the_last_session(node: Node) -> None:
    copy = os.dup(node.vm)
    held = syncclient.retrieve_fd(copy, 0)
    for fd in node.fds.values():
        os.close(fd)
    node.fds.clear()
    assert syncclient.session_name(copy) == VM
    os.close(copy)
    node.ended()
    assert text(held) == b"vm's memory"


def test_it_ends_with_its_kernel(node: Node) -> None:
    node.kernel.end()
    node.ended()
    assert errno_of(syncclient.retrieve_fd, node.vm, 0) == "ESHUTDOWN"


def ask(fd: int, token: int) -> socket.socket:
    """RETRIEVE_FD without waiting for it."""
    sock = syncclient.ask(fd, abi.SESSION_RETRIEVE_FD, abi.pack_fd(-1, token))
    return socket.socket(fileno=sock.detach())


def answer(reply: socket.socket) -> tuple[int, bytes | None]:
    """(result, content of the fd); the reply socket is closed."""
    with reply:
        reply.settimeout(WAIT_S)
        body, fds, _, _ = socket.recv_fds(reply, 100, 1)
    result = wire.RESULT.unpack_from(body)[0]
    return result, text(fds[0]) if fds else None


def test_two_that_claim_at_once_get_the_same_file(node: Node) -> None:
    node.kernel.go.clear()
    first = ask(node.vm, 0)
    assert node.kernel.was_asked.acquire(timeout=WAIT_S)
    copy = os.dup(node.vm)
    second = ask(copy, 0)
    os.close(copy)
    # Answered in order, so both questions have been heard when this is.
    assert syncclient.session_name(node.vm) == VM
    node.kernel.go.set()
    assert answer(first) == answer(second) == (0, b"vm's memory")
    assert node.kernel.asked == [50]


def test_a_kernel_that_hangs_in_one_file_holds_nobody_else_up(node: Node) -> None:
    node.kernel.go.clear()
    stuck = ask(node.vm, 0)
    assert node.kernel.was_asked.acquire(timeout=WAIT_S)
    assert syncclient.session_name(node.fds[OTHER]) == OTHER
    syncclient.finish(node.vm)
    assert answer(stuck) == (-errno.ENOENT, None)
    node.kernel.go.set()
    # What comes after FINISH is given up.
    assert text(syncclient.retrieve_fd(node.fds[OTHER], 0)) == b"other's"


def test_who_dies_before_the_answer_has_lost_nothing(node: Node) -> None:
    node.kernel.go.clear()
    gone = ask(node.vm, 0)
    assert node.kernel.was_asked.acquire(timeout=WAIT_S)
    gone.close()
    node.kernel.go.set()
    assert text(syncclient.retrieve_fd(node.vm, 0)) == b"vm's memory"
    assert node.kernel.asked == [50]


def test_a_success_without_a_file_is_none(node: Node) -> None:
    node.kernel.without_fd.add(50)
    assert errno_of(syncclient.retrieve_fd, node.vm, 0) == "EIO"


def test_requests_that_wait_are_bounded_for_each_session(node: Node) -> None:
    """Each of them is a descriptor of the server's."""
    node.kernel.go.clear()
    asked = [ask(node.vm, 0) for _ in range(tokens.WAITING_MAX)]
    assert errno_of(syncclient.retrieve_fd, node.vm, 0) == "EBUSY"
    assert errno_of(syncclient.retrieve_fd, node.vm, 7) == "EBUSY"
    other = ask(node.fds[OTHER], 0)
    node.kernel.go.set()
    assert [answer(reply) for reply in asked] == [(0, b"vm's memory")] * tokens.WAITING_MAX
    assert answer(other) == (0, b"other's")
    assert text(syncclient.retrieve_fd(node.vm, 7)) == b"vm's state"


def test_without_room_for_the_answer_the_kernel_is_not_asked(
    node: Node, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(fd: int) -> int:
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))

    with monkeypatch.context() as patch:
        patch.setattr(posix, "dup", full)
        assert errno_of(syncclient.retrieve_fd, node.vm, 0) == "EMFILE"
    assert node.kernel.asked == []
    assert text(syncclient.retrieve_fd(node.vm, 0)) == b"vm's memory"


def told(node: Node, body: bytes) -> int:
    """The result of a raw message."""
    mine, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with theirs, socket.socket(fileno=os.dup(node.vm)) as session:
        socket.send_fds(session, [body], [theirs.fileno()])
    return answer(mine)[0]


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        (b"x", errno.EINVAL),
        (wire.NUMBER.pack(abi.CREATE_SESSION) + bytes(abi.pack_session("x")), errno.EINVAL),
        (wire.NUMBER.pack(abi.SESSION_FINISH | 0xFF00_0000) + bytes(8), errno.ENOTTY),
        (wire.NUMBER.pack(abi.SESSION_RETRIEVE_FD) + bytes(abi.pack_fd(-1, 0))[:-1], errno.EINVAL),
        (wire.NUMBER.pack(abi.SESSION_RETRIEVE_FD) + abi.FD_STRUCT.pack(8, -1, 0), errno.EINVAL),
        (wire.NUMBER.pack(abi.SESSION_RETRIEVE_FD) + abi.FD_STRUCT.pack(24, -1, 0) + b"\1" * 8, errno.E2BIG),
        (wire.NUMBER.pack(abi.SESSION_PRESERVE_FD) + bytes(abi.pack_fd(0, 9)), errno.EINVAL),
        (wire.NUMBER.pack(abi.SESSION_PRESERVE_FD) + bytes(8), errno.EINVAL),
    ],
)
def test_a_bad_request_is_refused_as_the_kernel_does(node: Node, body: bytes, expected: int) -> None:
    with pytest.raises(OSError) as kernel:
        abi.decode(body, *abi.SESSION_IOCTLS, refused=(abi.SESSION_PRESERVE_FD,))
    assert kernel.value.errno == expected
    assert told(node, body) == -expected
    assert node.kernel.asked == []


def test_a_longer_struct_of_zeros_is_taken(node: Node) -> None:
    body = wire.NUMBER.pack(abi.SESSION_GET_NAME) + abi.NAME_STRUCT.pack(80, 0, b"") + bytes(8)
    assert told(node, body) == 0


def test_whoever_breaks_the_rules_hurts_nobody(node: Node) -> None:
    """No reply socket, one that is none, one that nobody reads, fds without number, an empty message, more
    than any ioctl."""
    request = wire.NUMBER.pack(abi.SESSION_RETRIEVE_FD) + bytes(abi.pack_fd(-1, 0))
    full, unread = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    full.setblocking(False)
    with full, unread, open("/dev/null") as nothing, socket.socket(fileno=os.dup(node.vm)) as session:
        with pytest.raises(BlockingIOError):
            while True:
                full.send(b"x")
        session.send(request)
        socket.send_fds(session, [request], [nothing.fileno()])
        socket.send_fds(session, [request], [full.fileno()])
        socket.send_fds(session, [request], [nothing.fileno()] * 100)
        socket.send_fds(session, [b""], [nothing.fileno()])
        session.send(b"")
        session.send(b"x" * 40_000)
        assert text(syncclient.retrieve_fd(node.vm, 0)) == b"vm's memory"


class Polls:
    """A poll object that counts what it returns."""

    def __init__(self, poll: select.poll) -> None:
        self.poll_object, self.rounds = poll, 0
        self.register, self.modify, self.unregister = poll.register, poll.modify, poll.unregister

    def poll(self) -> list[tuple[int, int]]:
        self.rounds += 1
        return self.poll_object.poll()


def test_a_session_that_is_shut_is_silent_until_its_end(monkeypatch: pytest.MonkeyPatch) -> None:
    """Shut by one holder, it is shut for all, and readable for ever. What was sent before is answered."""
    polls: list[Polls] = []
    real = select.poll

    def counted() -> Polls:
        polls.append(Polls(real()))
        return polls[-1]

    with monkeypatch.context() as patch:
        patch.setattr(select, "poll", counted)
        node = Node()
    with socket.socket(fileno=os.dup(node.vm)) as session:
        session.send(b"")
        early = ask(node.vm, 0)
        session.shutdown(socket.SHUT_WR)
    node.thread.start()
    assert answer(early) == (0, b"vm's memory")
    assert errno_of(syncclient.retrieve_fd, node.vm, 0) == "ESHUTDOWN"
    # The others' turns are counted: each is one question, and what the kernel answers.
    for _ in range(10):
        assert syncclient.session_name(node.fds[OTHER]) == OTHER
    before = polls[0].rounds
    for _ in range(50):
        assert syncclient.session_name(node.fds[OTHER]) == OTHER
    assert polls[0].rounds - before <= 51
    node.end()


@pytest.fixture
def kernel(tmp_path: Path) -> Iterator[Kernel]:
    with listening(tmp_path) as kernel:
        yield kernel


Start = Callable[[str, Mapping[str, Mapping[int, int]]], dict[str, int]]
SESSIONS = {VM: {0: 50}, OTHER: {0: 60}}


@pytest.mark.parametrize("start", [tokens.start, keeper_process.serve_tokens], ids=["forked", "program"])
def test_a_process_of_its_own_serves_them(kernel: Kernel, tmp_path: Path, start: Start) -> None:
    fds = start(str(tmp_path), SESSIONS)
    assert set(fds) == set(SESSIONS)
    assert not any(os.get_inheritable(fd) for fd in fds.values())
    with socket.socket(fileno=os.dup(fds[VM])) as session:
        poll = select.poll()
        poll.register(session, select.POLLHUP)
        assert text(syncclient.retrieve_fd(fds[VM], 0)) == b"vm's memory"
        assert text(syncclient.retrieve_fd(fds[OTHER], 0)) == b"other's"
        for fd in fds.values():
            syncclient.finish(fd)
            os.close(fd)
        # Its end is seen at the other ends.
        assert poll.poll(WAIT_S * 1000)


@pytest.mark.parametrize("start", [tokens.start, keeper_process.serve_tokens], ids=["forked", "program"])
def test_as_many_files_as_anybody_has(kernel: Kernel, tmp_path: Path, start: Start) -> None:
    """More than a word of a command line holds."""
    fds = start(str(tmp_path), {VM: {mine: 50 + mine for mine in range(20_000)}})
    assert text(syncclient.retrieve_fd(fds[VM], 0)) == b"vm's memory"
    assert text(syncclient.retrieve_fd(fds[VM], 10)) == b"other's"
    fdpass.close_all(list(fds.values()))


@pytest.mark.parametrize("start", [tokens.start, keeper_process.serve_tokens], ids=["forked", "program"])
def test_a_starter_that_dies_before_anybody_asked_loses_nothing(
    kernel: Kernel, tmp_path: Path, start: Start
) -> None:
    """The window in which a session of a kernel's own would be lost."""
    fdpass.close_all(list(start(str(tmp_path), SESSIONS).values()))
    again = start(str(tmp_path), SESSIONS)
    assert kernel.asked == []
    assert text(syncclient.retrieve_fd(again[VM], 0)) == b"vm's memory"
    fdpass.close_all(list(again.values()))


def test_without_files_that_came_in_nothing_is_started(kernel: Kernel, tmp_path: Path) -> None:
    kernel.state = rfc2_abi.NORMAL
    assert errno_of(tokens.start, str(tmp_path), SESSIONS) == "ENOENT"
    assert errno_of(tokens.start, str(tmp_path / "gone"), SESSIONS) == "ENOENT"
    assert errno_of(keeper_process.serve_tokens, str(tmp_path / "gone"), SESSIONS) == "ENOENT"


def test_what_cannot_be_forked_leaves_nothing_open(
    kernel: Kernel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fork() -> int:
        raise OSError(errno.EAGAIN, "fork")

    monkeypatch.setattr(posix, "fork", fork)
    assert errno_of(tokens.start, str(tmp_path), SESSIONS) == "EAGAIN"
