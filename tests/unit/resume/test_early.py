"""The early init: what its child keeps, how an agent takes it over, and that it always becomes an init."""

from __future__ import annotations

import _socket
import importlib.util
import marshal
import os
import select
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from node_agent.kernel.emulated import syncclient
from node_agent.resume import blackout, bundle, early, fdpass, mounts, parameters, parking
from node_agent.resume.handover import Handover
from node_agent.resume.parameters import Parameters
from node_agent.resume.parking import Parking
from node_agent.resume.take import take
from tests.unit.resume.test_blackout import CLAIM, RESUMED, Node, Script

REPOSITORY = Path(__file__).resolve().parents[3]
INIT = REPOSITORY / "node_agent" / "resume" / "init.py"


class Early:
    """A node whose early init's child runs as a child of this process."""

    def __init__(self, path: Path, node: Node) -> None:
        self.node = node
        self.parameters = Parameters(str(path / "journal"), node.socket)
        self.environ = {b"LIVEROLL_RESUME": f"{self.parameters.journal}:{node.socket}".encode()}
        self.watches: list[int] = []

    def start(self) -> int:
        """Forks before any session is retrieved; the child's pid. Its pipes' ends are nobody's here."""
        pid = os.fork()
        if pid == 0:
            try:
                early.run(self.parameters, root="/r")
            finally:
                os._exit(0)
        self.watches.append(os.pidfd_open(pid))
        return pid

    def take(self) -> Handover:
        handover = take("/r", self.environ)
        assert handover is not None
        return handover

    def ended(self) -> bool:
        return all(select.select([watch], [], [], 10)[0] for watch in self.watches)


@pytest.fixture
def nodes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Early]:
    found = Early(tmp_path, Node(tmp_path, monkeypatch))

    def retrieve(root: str, name: str) -> int:
        if name not in found.node.sessions.there:
            raise OSError(2, "LIVEUPDATE_IOCTL_RETRIEVE_SESSION")
        # No pipe: its other end is closed in the keeper, which takes that for the kernel's end.
        return os.memfd_create(name)

    monkeypatch.setattr(syncclient, "retrieve_session", retrieve)
    yield found
    Script.close_all()
    for watch in found.watches:
        os.waitid(os.P_PIDFD, watch, os.WEXITED)
        os.close(watch)


def close(handover: Handover) -> None:
    fds = [handover.journal_fd, handover.listener_fd, handover.agent_session_fd, handover.token_fd]
    fds += [c.fd for c in handover.clients] + [fd for _, fd in handover.sessions.values()]
    for fd in [fd for fd in fds if fd >= 0] + list(handover.parked.values()):
        os.close(fd)


def until_it_listens(found: Early) -> None:
    while (sock := parking.connect(found.parameters.keeper)) is None:
        assert not select.select(found.watches, [], [], 0)[0], "it ended"
    sock.close()


def test_the_agent_takes_over_all_that_the_early_init_has(nodes: Early) -> None:
    before = set(os.listdir("/proc/self/fd"))
    nodes.start()
    script = Script(nodes.node.socket, CLAIM, None, None, RESUMED)
    script.start()
    script.join()
    until_it_listens(nodes)
    handover = nodes.take()
    assert script.heard == [{"event": "CLAIMED", "id": "vm"}, {"event": "RESUME"}]
    assert (handover.attempt, handover.errors) == ("7-a", {})
    assert {"kernel_start", "userspace_start", "retrieved", "resume"} == set(handover.marks)
    assert handover.jump["attempt"] == "7-a"
    assert handover.token == b'{"attempt":"7-a"}'
    assert [(c.workload, c.suspends) for c in handover.clients] == [("vm", True)]
    assert set(handover.sessions) == {"vm"}
    # The journal's lock came along; what is left there is only parked.
    again = take("/r", nodes.environ)
    assert again is not None
    assert again.errors == {"journal": "EAGAIN"}
    # It may get the lock later, and goes on with what is parked by then; it has no copies before.
    assert again.parking is not None
    assert again.parked == {}
    fd = again.parking.copy("lr.7-a.vm")
    assert fd >= 0
    os.close(fd)
    assert handover.parking is not None
    held = handover.parking.sessions()
    assert set(held) == {"lr.7-a.vm", "lr.7-a.agent"}
    for name, fd in held.items():
        os.close(fd)
        handover.parking.drop(name)
    assert nodes.ended()
    close(handover)
    Script.close_all()
    assert len(os.listdir("/proc/self/fd")) == len(before) + len(nodes.watches)


def test_an_agent_that_comes_too_early_waits_for_the_workloads(nodes: Early) -> None:
    nodes.start()
    until_it_listens(nodes)
    script = Script(nodes.node.socket, CLAIM, None, None, RESUMED)
    came: list[Handover] = []
    agent = threading.Thread(target=lambda: came.append(nodes.take()))
    agent.start()
    script.start()
    agent.join()
    script.join()
    assert "resume" in came[0].marks
    drop_all(came[0])
    close(came[0])
    assert nodes.ended()


def drop_all(handover: Handover) -> None:
    assert handover.parking is not None
    for name in ("lr.7-a.vm", "lr.7-a.agent"):
        handover.parking.drop(name)


def test_late_claims_are_answered_also_after_the_deadline(
    nodes: Early, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(blackout, "DEADLINE_S", 0.0)
    nodes.start()
    until_it_listens(nodes)
    script = Script(nodes.node.socket, CLAIM, None, None, RESUMED)
    script.start()
    script.join()
    assert script.heard[-1] == {"event": "RESUME"}
    handover = nodes.take()
    assert handover.clients[0].workload == "vm"  # RESUMED may be still under way
    drop_all(handover)
    close(handover)
    assert nodes.ended()


def test_an_agent_that_dies_while_it_takes_leaves_all_of_it(nodes: Early) -> None:
    nodes.start()
    until_it_listens(nodes)
    script = Script(nodes.node.socket, CLAIM, None, None, RESUMED)
    script.start()
    script.join()
    sock = parking.connect(nodes.parameters.keeper)
    assert sock is not None
    sock.send(b"TAKE")
    sock.close()
    handover = nodes.take()
    assert (handover.attempt, set(handover.sessions)) == ("7-a", {"vm"})
    drop_all(handover)
    close(handover)
    assert nodes.ended()


def test_an_agent_that_was_too_slow_for_the_keeper_asks_again(
    nodes: Early, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The keeper, which has the journal's lock, hangs up on whoever does not read: no reason to be STUCK."""
    nodes.start()
    until_it_listens(nodes)
    script = Script(nodes.node.socket, CLAIM, None, None, RESUMED)
    script.start()
    script.join()
    cut = [True]
    receive = fdpass.receive

    def cut_once(sock: _socket.socket) -> tuple[bytes, list[int]]:
        if cut.pop() if cut else False:
            sock.shutdown(_socket.SHUT_RDWR)
        return receive(sock)

    monkeypatch.setattr(fdpass, "receive", cut_once)
    handover = nodes.take()
    assert (handover.attempt, handover.errors, cut) == ("7-a", {}, [])
    drop_all(handover)
    close(handover)
    assert nodes.ended()


def test_a_client_is_not_given_what_the_one_before_it_asked_for(nodes: Early) -> None:
    """It may have the number of one that asked and hung up; then it gets what it does not understand."""
    nodes.start()
    until_it_listens(nodes)
    left = parking.connect(nodes.parameters.keeper)
    assert left is not None
    left.send(b"TAKE")
    left.close()
    found = Parking(nodes.parameters.keeper, {}, os.getpid())
    sock = parking.connect(nodes.parameters.keeper)
    assert sock is not None
    script = Script(nodes.node.socket, CLAIM, None, None, RESUMED)
    script.start()
    script.join()
    fdpass.close_all(list(found.sessions().values()))
    with pytest.raises(BlockingIOError):
        sock.recv(64, _socket.MSG_DONTWAIT)
    sock.close()
    handover = nodes.take()
    assert handover.attempt == "7-a"
    drop_all(handover)
    close(handover)
    assert nodes.ended()


def test_without_a_jump_or_a_session_nothing_is_kept(nodes: Early) -> None:
    nodes.node.sessions.there.clear()
    nodes.start()
    assert nodes.ended()
    nodes.node.boot_id = "old"
    nodes.start()
    assert nodes.ended()
    assert not os.path.exists(nodes.parameters.keeper)


# -- what init.py does as a program ----------------------------------------------------------


@pytest.fixture
def installed(tmp_path: Path) -> Path:
    """init.py beside the packages, which become `echo` where a real one becomes /sbin/init."""
    place = tmp_path / "lib"
    place.mkdir()
    text = INIT.read_text().replace('"/sbin/init"', '"/bin/echo"')
    (place / "init").write_text(text.replace("/var/lib/liveroll-agent", str(tmp_path)))
    (place / "node_agent").symlink_to(REPOSITORY / "node_agent")
    return place


def elsewhere(place: Path, conf: str) -> Path:
    """The launcher, with other paths than on a node."""
    launcher = place / "init"
    paths = f"main.__globals__.update(CONF={conf!r}, LAST_RESORTS=['/bin/echo'])"
    text = launcher.read_text()
    launcher.write_text(text.replace("    main(sys.argv)\n", f"    {paths}\n    main(sys.argv)\n"))
    return launcher


def run(place: Path, conf: str) -> str:
    """What its real init says: its arguments."""
    argv = [sys.executable, "-ISE", str(elsewhere(place, conf)), "single", "x=y"]
    return subprocess.run(argv, capture_output=True, text=True, check=False, timeout=30).stdout.strip()


@pytest.mark.parametrize("broken", ["nothing", "bundle", "package", "conf"])
def test_it_becomes_the_real_init_whatever_is_broken(installed: Path, tmp_path: Path, broken: str) -> None:
    conf = tmp_path / "resume.conf"
    conf.write_text(Parameters(str(tmp_path / "none"), str(tmp_path / "s"), init="/bin/echo").text())
    if broken == "conf":
        conf.write_bytes(b"JOURNAL=\xff\nSOCKET=/s\nINIT=/no/such/init\n")
    good = broken in ("nothing", "conf")
    (tmp_path / "resume.bundle").write_bytes(bundle.build() if good else b"nonsense")
    if broken == "package":
        (installed / "node_agent").unlink()
    assert run(installed, str(conf)) == "single x=y"


@pytest.mark.parametrize("broken", [False, True])
def test_the_real_init_starts_as_the_kernel_would_have_started_it(
    installed: Path, tmp_path: Path, broken: bool
) -> None:
    """Python ignores two signals, and sets a locale where there is none; both would go to every service."""
    real = tmp_path / "real"
    real.write_text("#!/bin/sh\nenv | grep -v ^PWD= | sort\ngrep SigIgn /proc/$$/status\nls /proc/$$/fd\n")
    real.chmod(0o755)
    conf = tmp_path / "resume.conf"
    conf.write_text(Parameters(str(tmp_path / "none"), str(tmp_path / "s"), init=str(real)).text())
    launcher = elsewhere(installed, str(conf))
    launcher.write_text(launcher.read_text().replace("/bin/echo", str(real)))
    if broken:
        (installed / "node_agent").unlink()
    argv = [sys.executable, "-ISE", str(launcher)]
    said = subprocess.run(argv, capture_output=True, text=True, check=True, timeout=30, env={"TERM": "linux"})
    directly = subprocess.run([real], capture_output=True, text=True, check=True, env={"TERM": "linux"})
    assert said.stdout == directly.stdout


def test_code_that_others_may_write_is_not_run(installed: Path, tmp_path: Path) -> None:
    conf = tmp_path / "resume.conf"
    conf.write_text(Parameters(str(tmp_path / "none"), str(tmp_path / "s"), init="/bin/echo").text())
    marked = tmp_path / "it ran"
    code = compile(f"import posix; posix.mkdir({str(marked)!r})\ndef main(argv): pass", "x", "exec")
    (tmp_path / "resume.bundle").write_bytes(importlib.util.MAGIC_NUMBER + marshal.dumps([("x", code)]))
    (tmp_path / "resume.bundle").chmod(0o666)
    assert run(installed, str(conf)) == "single x=y"
    assert not marked.exists()
    conf.chmod(0o666)
    assert parameters.read(str(conf)) is None


def test_a_machine_without_a_console_keeps_its_sessions(nodes: Early) -> None:
    """Process 1 then has no standard fds, and the first files opened would get their numbers."""
    pid = os.fork()
    if pid == 0:
        try:
            for fd in (0, 1, 2):
                os.close(fd)
            early.run(nodes.parameters, root="/r")
        finally:
            os._exit(0)
    nodes.watches.append(os.pidfd_open(pid))
    until_it_listens(nodes)
    script = Script(nodes.node.socket, CLAIM, None, None, RESUMED)
    script.start()
    script.join()
    handover = nodes.take()
    assert handover.errors == {}
    for _, fd in handover.sessions.values():
        assert os.readlink(f"/proc/self/fd/{fd}").startswith("/memfd:")
    drop_all(handover)
    close(handover)
    assert nodes.ended()


def test_the_bundle_holds_what_the_plain_modules_are(tmp_path: Path) -> None:
    assert bundle.closure(bundle.ENTRY)[-1] == bundle.ENTRY
    path = str(tmp_path / "b")
    assert bundle.write(path)
    assert not bundle.write(path)
    assert os.stat(path).st_mode & 0o777 == 0o600
    code = (
        "import sys, marshal\nbefore = set(sys.modules)\ndata = open(sys.argv[1], 'rb').read()\n"
        "for name, code in marshal.loads(data[4:]):\n"
        "    m = sys.modules[name] = type(sys)(name)\n    parent, _, child = name.rpartition('.')\n"
        "    parent and setattr(sys.modules[parent], child, m)\n    exec(code, m.__dict__)\n"
        "print(*sorted(set(sys.modules) - before))"
    )
    done = subprocess.run(
        [sys.executable, "-ISE", "-c", code, path], capture_output=True, text=True, check=True, timeout=30
    )
    builtins = {"_json", "_socket", "_struct", "errno", "fcntl", "select", "zlib"}
    assert set(done.stdout.split()) - builtins == {*bundle.PACKAGES, *bundle.closure(bundle.ENTRY)}


# -- parameters and mounts -------------------------------------------------------------------


def test_parameters_are_written_once_and_read_back(tmp_path: Path) -> None:
    path = str(tmp_path / "resume.conf")
    said = Parameters("/j/journal", "/run/b.sock", mode=0o640, gid=7, init="/lib/x", mounts=["/run"])
    assert parameters.write(path, said)
    assert not parameters.write(path, said)
    assert os.stat(path).st_mode & 0o777 == 0o600
    read = parameters.read(path)
    assert read is not None
    assert read.text() == said.text()
    assert (read.keeper, read.mode, read.gid, read.mounts) == ("/j/keeper.sock", 0o640, 7, ("/run",))
    with pytest.raises(ValueError, match="\n"):
        parameters.write(path, Parameters("/j\n", "/s"))


@pytest.mark.parametrize("text", ["", "JOURNAL=/j", "SOCKET=/s", "JOURNAL=/j\nSOCKET=/s\nMODE=9", "=\n\0"])
def test_parameters_that_make_no_sense_are_none(text: str) -> None:
    assert parameters.parse(text) is None


def test_which_file_a_command_line_names() -> None:
    assert parameters.named("quiet liveroll.resume=/a liveroll.resume=/b") == "/b"
    assert parameters.named("quiet") == parameters.CONF
    assert parameters.read("/no/such") is None


def test_what_the_sockets_lie_below_is_mounted_first() -> None:
    assert mounts.wanted("/home/x.sock") == []
    is_mount = os.stat("/proc").st_dev != os.stat("/").st_dev
    assert mounts.wanted("/proc/x", "/home/y") == (["/proc"] if is_mount else [])
    mounts.mount_missing(["/no/such", "/proc"])


def test_a_link_to_what_is_mounted_counts(tmp_path: Path) -> None:
    link = tmp_path / "run"
    link.symlink_to("/proc")
    assert mounts.wanted(f"{link}/b.sock") == mounts.wanted("/proc/b.sock")
