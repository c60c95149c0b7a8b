"""Parked sessions outlive the agent: with a keeper process, or in systemd's fd store.

A session is a pipe's end here: the other end tells when its last copy is closed.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import pytest

from node_agent.resume import fdpass, keeper, parking
from node_agent.resume.parking import Parking, decode_name, encode_name
from node_agent.runtime import keeper_process
from tests.conftest import children
from tests.descriptors import descriptors

REPOSITORY = Path(__file__).resolve().parents[3]
Start = Callable[[str, Mapping[str, int]], None]


class Session:
    """Stands for a retrieved one."""

    def __init__(self) -> None:
        self.end, self.fd = os.pipe()

    def is_held(self, wait_ms: int = 0) -> bool:
        """By anybody. wait_ms: how long to wait for the last close."""
        poll = select.poll()
        poll.register(self.end, select.POLLHUP)
        return not poll.poll(wait_ms)

    def drop(self) -> None:
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1

    def close(self) -> None:
        self.drop()
        os.close(self.end)


class Place:
    """A keeper's socket, and what is parked through it."""

    def __init__(self, path: Path) -> None:
        self.path = str(path / "k" / "keeper.sock")
        self.parking = Parking(self.path, {}, os.getpid())
        self.made: list[Session] = []

    def session(self) -> Session:
        self.made.append(Session())
        return self.made[-1]

    def keeper_pid(self) -> int:
        """0 if there is none."""
        while True:
            sock = parking.connect(self.path)
            if sock is None:
                return 0
            with socket.socket(fileno=sock.detach()) as connected:
                raw = connected.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12)
            pid = int.from_bytes(raw[:4], sys.byteorder)
            if pid != os.getpid():  # it listened first, on the keeper's behalf
                return pid

    def names(self) -> set[str]:
        found = self.parking.sessions()
        fdpass.close_all(list(found.values()))
        return set(found)


def ended(fd: int) -> None:
    poll = select.poll()
    poll.register(fd, select.POLLIN)
    assert poll.poll(10_000), "it lives on"
    os.close(fd)


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Place]:
    """Whatever a test parks is dropped in the end, and then no keeper may be left."""
    # This process may have others, its PostgreSQL for one.
    others, before = children(), descriptors()
    place = Place(tmp_path)
    yield place
    pid = place.keeper_pid()
    if pid:
        watch = os.pidfd_open(pid)
        for name in place.names():
            place.parking.drop(name)
        ended(watch)
    for session in place.made:
        session.close()
    assert not descriptors() - before
    for pid in children() - others:
        os.waitpid(pid, 0)


@pytest.fixture(params=[keeper.start, keeper_process.start], ids=["forked", "spawned"])
def start(request: pytest.FixtureRequest) -> Start:
    found: Start = request.param
    return found


def test_what_is_parked_outlives_its_owners_copy(place: Place, start: Start) -> None:
    one, two = place.session(), place.session()
    place.parking.park({"lr.7-a.vm": one.fd, "lr.7-a.agent": two.fd}, start)
    one.drop()
    two.drop()
    assert one.is_held()
    assert place.names() == {"lr.7-a.vm", "lr.7-a.agent"}
    fd = place.parking.copy("lr.7-a.vm")
    assert not os.get_inheritable(fd)
    place.parking.drop("lr.7-a.vm")
    assert one.is_held()
    os.close(fd)
    assert not one.is_held(5000)
    assert place.parking.copy("lr.7-a.vm") == -1
    assert two.is_held()


def test_the_keeper_ends_with_the_last_session_and_not_before(place: Place, start: Start) -> None:
    one = place.session()
    place.parking.park({"a": one.fd}, start)
    pid = place.keeper_pid()
    watch = os.pidfd_open(pid)
    assert os.getsid(pid) == pid != os.getsid(0)
    place.parking.drop("nonsense")
    assert place.keeper_pid() == pid
    place.parking.drop("a")
    ended(watch)
    assert place.parking.sessions() == {}
    place.parking.drop("a")


def test_the_keeper_holds_nothing_else(place: Place, start: Start) -> None:
    """A descriptor of the agent's in the keeper would keep the journal locked, or a pipe open."""
    one, other = place.session(), place.session()
    os.set_inheritable(other.fd, True)
    place.parking.park({"a": one.fd}, start)
    pid = place.keeper_pid()
    other.drop()
    assert not other.is_held(5000)
    place.names()
    held = []
    for fd in os.listdir(f"/proc/{pid}/fd"):
        with contextlib.suppress(FileNotFoundError):  # it is only now hanging up on us
            held.append(os.readlink(f"/proc/{pid}/fd/{fd}"))
    pipes = [name for name in held if name.startswith("pipe:")]
    listeners = [name for name in held if name.startswith("socket:")]
    assert held.count("/dev/null") == 3
    assert len(pipes) == 1
    assert len(held) == 3 + 1 + len(listeners)


AGENT = """
import os, signal, sys
sys.path.insert(0, sys.argv[1])
from node_agent.resume import keeper
from node_agent.resume.parking import Parking
Parking(sys.argv[2], {}, os.getpid()).park({"lr.7-a.vm": int(sys.argv[3])}, keeper.start)
os.kill(os.getpid(), signal.SIGKILL)
"""


def test_an_agent_killed_with_minus_9_loses_nothing(place: Place) -> None:
    one = place.session()
    argv = [sys.executable, "-c", AGENT, str(REPOSITORY), place.path, str(one.fd)]
    done = subprocess.run(argv, pass_fds=[one.fd], check=False, timeout=30)
    assert done.returncode == -signal.SIGKILL
    one.drop()
    assert one.is_held()
    assert place.names() == {"lr.7-a.vm"}


def test_a_killed_keeper_is_replaced_by_the_next_one(place: Place, start: Start) -> None:
    one, two = place.session(), place.session()
    place.parking.park({"a": one.fd}, start)
    pid = place.keeper_pid()
    watch = os.pidfd_open(pid)
    os.kill(pid, signal.SIGKILL)
    ended(watch)
    assert place.parking.sessions() == {}
    place.parking.park({"b": two.fd}, start)
    assert place.names() == {"b"}


def test_a_second_parking_goes_to_the_keeper_that_is_there(place: Place, start: Start) -> None:
    one, two, again = place.session(), place.session(), place.session()
    place.parking.park({"a": one.fd}, start)
    pid = place.keeper_pid()
    place.parking.park({"b": two.fd, "a": again.fd}, start)
    assert place.keeper_pid() == pid
    assert place.names() == {"a", "b"}
    one.drop()
    assert not one.is_held(5000), "the copy that was replaced is closed"


def test_a_session_whose_kernel_is_gone_is_dropped(place: Place) -> None:
    ours, kernels = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    place.parking.park({"a": ours.fileno()}, keeper.start)
    watch = os.pidfd_open(place.keeper_pid())
    ours.close()
    kernels.close()
    ended(watch)


def test_many_sessions_take_several_messages(place: Place) -> None:
    one = place.session()
    names = {f"lr.7-a.{n}": one.fd for n in range(2 * fdpass.FDS_A_MESSAGE + 1)}
    place.parking.park(names, keeper.start)
    assert place.names() == set(names)


def test_questions_that_break_the_rules_are_hung_up_on(place: Place) -> None:
    one = place.session()
    place.parking.park({"a": one.fd}, keeper.start)
    for question in (b"", b"NONSENSE", b"PARK\0b", b"DROP\0\xff"):
        sock = parking.connect(place.path)
        assert sock is not None
        fdpass.send(sock, question)
        assert fdpass.receive(sock) == (b"", [])
        sock.close()
    sock = parking.connect(place.path)
    assert sock is not None
    fdpass.send(sock, b"TAKE")
    assert fdpass.receive(sock)[0] == b"NONE"
    sock.close()
    assert place.names() == {"a"}


@pytest.mark.skipif(os.getuid() != 0, reason="takes another user")
def test_another_user_gets_nothing(place: Place) -> None:
    one = place.session()
    place.parking.park({"a": one.fd}, keeper.start)
    assert os.stat(place.path).st_mode & 0o777 == 0o600
    os.chmod(place.path, 0o666)
    connected = parking.connect(place.path)
    assert connected is not None
    code = (
        "import os, socket, sys\nos.setgroups([]); os.setgid(65534); os.setuid(65534)\n"
        "s = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)\n"
        "os.chdir('/proc/self/fd/' + sys.argv[1]); s.connect('keeper.sock')\n"
        "s.settimeout(10)\ntry:\n    s.send(b'LIST'); print(s.recv(100))\nexcept OSError: print(b'')\n"
    )
    directory = os.open(os.path.dirname(place.path), os.O_RDONLY)
    code = code.replace("os.setgroups", "os.chdir('/proc/self/fd/' + sys.argv[1]); os.setgroups")
    code = code.replace("os.chdir('/proc/self/fd/' + sys.argv[1]); s.connect", "s.connect")
    done = subprocess.run(
        [sys.executable, "-c", code, str(directory)],
        pass_fds=[directory],
        capture_output=True,
        text=True,
        check=True,
        timeout=30,
    )
    os.close(directory)
    connected.close()
    assert done.stdout.strip() == "b''"


# -- systemd's fd store ----------------------------------------------------------------------


class Manager:
    """A service manager's notification socket."""

    def __init__(self, address: str) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.sock.bind("\0" + address[1:] if address.startswith("@") else address)
        self.sock.settimeout(10)
        self.environ = {b"NOTIFY_SOCKET": address.encode(), b"FDSTORE": b"64"}
        self.stored: dict[str, int] = {}

    def serve(self, count: int) -> list[str]:
        """The next messages; what they store is stored."""
        said = []
        for _ in range(count):
            data, fds, _, _ = socket.recv_fds(self.sock, 4096, 4)
            words = dict(line.split("=", 1) for line in data.decode().splitlines())
            said.append(data.decode())
            if "FDSTORE" in words:
                self.stored[words["FDNAME"]] = fds.pop()
            fdpass.close_all(fds)
        return said


@pytest.fixture(params=["path", "abstract"])
def manager(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Manager]:
    address = f"{tmp_path}/n" if request.param == "path" else f"@liveroll-test-{os.getpid()}"
    manager = Manager(address)
    yield manager
    manager.sock.close()
    fdpass.close_all(list(manager.stored.values()))


def test_the_fd_store_keeps_them_and_gives_them_back(
    place: Place, manager: Manager, monkeypatch: pytest.MonkeyPatch
) -> None:
    one, other = place.session(), place.session()
    monkeypatch.setattr(parking, "BARRIER_MS", 0)
    first = Parking(place.path, manager.environ, os.getpid())
    first.park({"lr.7-a.v m:1": one.fd}, keeper.start)
    name = encode_name("lr.7-a.v m:1")
    said = manager.serve(2)
    assert said[0].splitlines() == ["FDSTORE=1", "FDPOLL=0", f"FDNAME={name}"]
    assert said[1] == "BARRIER=1"
    assert place.keeper_pid() == 0
    one.drop()
    # The next start: what is stored comes as descriptors 3, 4, …; here they begin elsewhere.
    monkeypatch.setattr(parking, "LISTEN_FDS_START", 200)
    os.dup2(other.fd, 200)
    os.dup2(manager.stored[name], 201)
    listed = {b"LISTEN_PID": str(os.getpid()).encode(), b"LISTEN_FDS": b"2"}
    listed[b"LISTEN_FDNAMES"] = f"varlink:{name}".encode()
    again = Parking(place.path, {**manager.environ, **listed}, os.getpid())
    found = again.sessions()
    assert list(found) == ["lr.7-a.v m:1"]
    assert not os.get_inheritable(201)
    fdpass.close_all(list(found.values()))
    os.close(manager.stored.pop(name))
    first.drop("lr.7-a.v m:1")
    again.drop("lr.7-a.v m:1")
    assert manager.serve(1) == [f"FDSTOREREMOVE=1\nFDNAME={name}"]
    assert not one.is_held()
    assert again.sessions() == {}
    os.close(200)


@pytest.mark.parametrize(
    "environ",
    [
        {b"NOTIFY_SOCKET": b"/nowhere"},
        {b"NOTIFY_SOCKET": b"/nowhere", b"FDSTORE": b"0"},
        {b"NOTIFY_SOCKET": b"/nowhere", b"FDSTORE": b"many"},
        {b"FDSTORE": b"5", b"LISTEN_PID": b"1", b"LISTEN_FDS": b"1", b"LISTEN_FDNAMES": b"luo-a"},
    ],
)
def test_no_fd_store_means_a_keeper(place: Place, environ: dict[bytes, bytes]) -> None:
    one = place.session()
    Parking(place.path, environ, os.getpid()).park({"a": one.fd}, keeper.start)
    assert place.names() == {"a"}


@pytest.mark.parametrize("name", ["lr.7-a.vm", "a:b", "ü%", " ", "\x01\x7f", "x" * 63])
def test_names_are_valid_fdnames(name: str) -> None:
    encoded = encode_name(name)
    assert decode_name(encoded) == name
    assert len(encoded) <= 255
    assert all(33 <= ord(c) < 127 and c != ":" for c in encoded)


@pytest.mark.parametrize("name", ["stored", "varlink", "luo-%", "luo-%zz", "luo-%FF", "luo-ü"])
def test_others_names_are_not_ours(name: str) -> None:
    assert decode_name(name) == ""


def test_a_keeper_that_ends_over_a_question_has_ended() -> None:
    """The last DROP ends it, whoever else is about to ask."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with ours:
        ours.send(b"DROP\0a")
        theirs.close()
        assert fdpass.receive(ours) == (b"", [])
