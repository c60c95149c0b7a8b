"""syncclient: what it imports, and that a real LUO fd gets a real ioctl."""

from __future__ import annotations

import errno
import fcntl
import os
import resource
import socket
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

from node_agent.kernel import abi
from node_agent.kernel.emulated import syncclient
from node_agent.kernel.failure import failure

ALLOWED = {"_socket", "_struct", "errno", "fcntl", "posix", "sys"}
"""Interpreter builtins (or their shared objects); anything else lengthens every blackout."""


def imported_with(module: ModuleType) -> set[str]:
    """What importing a module of this package brings along that is not the package's own."""
    program = (
        "import sys; before = set(sys.modules)\n"
        f"sys.path.insert(0, {str(Path(syncclient.__file__).parents[3])!r})\n"
        f"import {module.__name__}\n"
        "print(*sorted(set(sys.modules) - before))"
    )
    run = subprocess.run(
        [sys.executable, "-I", "-S", "-c", program], capture_output=True, text=True, check=True
    )
    names = run.stdout.split()
    assert module.__name__ in names
    return {name for name in names if not name.startswith("node_agent")}


def test_the_blackout_path_imports_builtins_only() -> None:
    assert imported_with(syncclient) <= ALLOWED


class _Kernel:
    """Stands in for ioctl(2) on a real device, which a test machine has not."""

    def __init__(self) -> None:
        self.calls: list[tuple[int, bytes]] = []
        self.errno = 0

    def ioctl(self, fd: int, number: int, argument: bytearray, mutate: bool) -> int:
        assert mutate
        self.calls.append((number, bytes(argument)))
        if self.errno:
            raise OSError(self.errno, "the host's text")
        if number in (abi.CREATE_SESSION, abi.RETRIEVE_SESSION, abi.SESSION_RETRIEVE_FD):
            argument[4:8] = os.open("/dev/null", os.O_RDWR | os.O_CLOEXEC).to_bytes(4, sys.byteorder)
        if number == abi.SESSION_GET_NAME:
            argument[8:10] = b"ab"
        return 0


@pytest.fixture
def kernel(monkeypatch: pytest.MonkeyPatch) -> _Kernel:
    kernel = _Kernel()
    monkeypatch.setattr(fcntl, "ioctl", kernel.ioctl)
    return kernel


@pytest.fixture
def root(tmp_path: Path) -> str:
    (tmp_path / "dev").mkdir()
    (tmp_path / "dev" / "liveupdate").touch()
    return str(tmp_path)


def test_a_real_device_gets_ioctls(kernel: _Kernel, root: str) -> None:
    session = syncclient.open_session_create(root, "ab")
    syncclient.preserve_fd(session, 5, 9)
    os.close(session)
    session = syncclient.retrieve_session(root, "ab")
    os.close(syncclient.retrieve_fd(session, 9))
    assert syncclient.session_name(session) == "ab"
    syncclient.finish(session)
    os.close(session)
    assert [number for number, _ in kernel.calls] == [
        abi.CREATE_SESSION,
        abi.SESSION_PRESERVE_FD,
        abi.RETRIEVE_SESSION,
        abi.SESSION_RETRIEVE_FD,
        abi.SESSION_GET_NAME,
        abi.SESSION_FINISH,
    ]
    assert kernel.calls[1][1] == abi.pack_fd(5, 9)


def test_a_failing_ioctl_carries_its_call(kernel: _Kernel, root: str) -> None:
    kernel.errno = errno.EEXIST
    before = len(os.listdir("/proc/self/fd"))
    with pytest.raises(OSError) as caught:
        syncclient.open_session_create(root, "ab")
    error = failure(caught.value)
    assert (error.reason, error.call) == ("SESSION_EXISTS", "LIVEUPDATE_IOCTL_CREATE_SESSION")
    assert len(os.listdir("/proc/self/fd")) == before


def test_a_device_that_is_not_there_is_enoent_at_open(tmp_path: Path) -> None:
    with pytest.raises(OSError) as caught:
        syncclient.retrieve_session(str(tmp_path), "ab")
    assert failure(caught.value).reason == "LUO_OFF"


def test_a_name_without_room_for_its_nul_is_refused_before_the_kernel(kernel: _Kernel, root: str) -> None:
    with pytest.raises(OSError) as caught:
        syncclient.open_session_create(root, "n" * 64)
    assert failure(caught.value).reason == "SESSION_NAME_INVALID"
    assert not kernel.calls


def test_an_errno_without_a_row_keeps_the_defaults() -> None:
    error = failure(OSError(errno.ENOTTY, "LIVEUPDATE_SESSION_FINISH"))
    assert (error.reason, error.errno) == ("KERNEL_CALL_FAILED", errno.ENOTTY)
    assert failure(OSError(errno.EAGAIN, "reboot(LINUX_REBOOT_CMD_KEXEC)")).reason == "FREEZE_REFUSED"


def test_an_answer_whose_fd_finds_no_room_is_no_success() -> None:
    """The kernel of the host drops it, and says so in a flag alone."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    argument = abi.pack_fd(-1, 9)
    with ours, theirs:
        socket.send_fds(theirs, [bytes(4), bytes(argument)], [theirs.fileno()])
        free = os.dup(ours.fileno())
        os.close(free)
        with pytest.raises(OSError) as caught:
            try:
                resource.setrlimit(resource.RLIMIT_NOFILE, (free, hard))
                syncclient.take(ours, argument, "call")
            finally:
                resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert (caught.value.errno, caught.value.strerror) == (errno.EMFILE, "call")
    assert abi.unpack_fd(argument)[0] == -1
