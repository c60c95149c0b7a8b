"""synctokens: what it imports, that a real device gets real ioctls, and messages that are none."""

from __future__ import annotations

import errno
import fcntl
import os
import sys
from pathlib import Path

import pytest

from node_agent.kernel import rfc2_abi as abi
from node_agent.kernel.emulated import syncclient, synctokens
from node_agent.kernel.emulated.rfc2 import ioctls
from node_agent.kernel.failure import failure
from tests.unit.kernel.test_syncclient import ALLOWED, imported_with


def test_the_blackout_path_imports_builtins_only() -> None:
    assert imported_with(synctokens) <= ALLOWED


class _Kernel:
    """Stands in for ioctl(2) on a real device of RFC v2's time."""

    def __init__(self) -> None:
        self.calls: list[tuple[int, bytes]] = []
        self.errno = 0

    def ioctl(self, fd: int, number: int, argument: bytearray, mutate: bool) -> int:
        assert mutate
        self.calls.append((number, bytes(argument)))
        if self.errno:
            raise OSError(self.errno, "the host's text")
        if number == abi.FD_PRESERVE:
            argument[8:16] = (7).to_bytes(8, sys.byteorder)
        if number == abi.FD_RESTORE:
            argument[0:4] = os.open("/dev/null", os.O_RDWR | os.O_CLOEXEC).to_bytes(4, sys.byteorder)
        if number == abi.GET_STATE:
            argument[:] = abi.STATE_STRUCT.pack(abi.UPDATED)
        return 0


@pytest.fixture
def kernel(monkeypatch: pytest.MonkeyPatch) -> _Kernel:
    kernel = _Kernel()
    monkeypatch.setattr(fcntl, "ioctl", kernel.ioctl)
    return kernel


@pytest.fixture
def device(tmp_path: Path) -> int:
    (tmp_path / "dev").mkdir()
    (tmp_path / "dev" / "liveupdate").touch()
    return syncclient.open_device(str(tmp_path))


def test_a_real_device_gets_ioctls(kernel: _Kernel, device: int) -> None:
    assert synctokens.preserve(device, 5) == 7
    synctokens.unpreserve(device, 7)
    for event in (synctokens.prepare, synctokens.freeze, synctokens.cancel, synctokens.finish):
        event(device)
    assert synctokens.get_state(device) == "updated"
    fd = synctokens.restore(device, 7)
    os.fstat(fd)
    os.close(fd)
    os.close(device)
    token = (7).to_bytes(8, sys.byteorder)
    assert kernel.calls == [
        (0xC010BA00, abi.FD_STRUCT.pack(5, 0, 0)),
        (0x4008BA01, token),
        *((number, b"") for number in (0xBA04, 0xBA05, 0xBA06, 0xBA07)),
        (0x8004BA03, bytes(4)),
        (0xC010BA02, abi.FD_STRUCT.pack(-1, 0, 7)),
    ]


def test_a_failing_ioctl_carries_its_call(kernel: _Kernel, device: int) -> None:
    kernel.errno = errno.EBUSY
    with pytest.raises(OSError) as caught:
        synctokens.preserve(device, 5)
    os.close(device)
    error = failure(caught.value)
    assert (error.reason, error.call) == ("LUO_NOT_NORMAL", "LIVEUPDATE_IOCTL_FD_PRESERVE")


@pytest.mark.parametrize("body", [b"", b"\0\0\0"])
def test_a_message_without_a_number_is_no_ioctl(body: bytes) -> None:
    with pytest.raises(OSError) as caught:
        ioctls.decode(body)
    assert caught.value.errno == errno.ENOTTY


def test_an_ioctl_reads_what_its_number_says_and_no_more() -> None:
    number = abi.FD_UNPRESERVE.to_bytes(4, sys.byteorder)
    assert ioctls.decode(number + bytes(8) + b"more") == (abi.FD_UNPRESERVE, bytes(8))
