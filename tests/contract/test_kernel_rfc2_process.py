"""RFC v2's LUO on a kernel that is a process: every ioctl over the wire, errors, locks, kexecs."""

from __future__ import annotations

import asyncio
import errno
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack
from pathlib import Path

import pytest

from node_agent.errors import KernelError
from node_agent.kernel import abi, rfc2_abi
from node_agent.kernel.emulated import synctokens
from node_agent.kernel.emulated.syncclient import ioctl, open_device
from tests.contract.rfc2_process import COMMAND_LINE, RELEASE, Node, Start, running


@pytest.fixture
async def start(tmp_path: Path) -> AsyncIterator[Start]:
    async with AsyncExitStack() as stack:

        async def start(*options: str) -> Node:
            return await stack.enter_async_context(running(tmp_path / "node", *options))

        yield start


@pytest.fixture
async def node(start: Start) -> Node:
    return await start()


def memfd(content: bytes = b"memory") -> int:
    fd = os.memfd_create("memory", os.MFD_CLOEXEC)
    os.write(fd, content)
    return fd


def refused(call: Callable[[], object]) -> str:
    with pytest.raises(OSError) as caught:
        call()
    return errno.errorcode[caught.value.errno or 0]


def preserved(node: Node, content: bytes = b"memory") -> int:
    """A token; the file itself is closed again."""
    fd = memfd(content)
    try:
        return synctokens.preserve(node.device, fd)
    finally:
        os.close(fd)


async def test_every_ioctl_from_preserve_to_finish(node: Node) -> None:
    assert node.state == "normal"
    gone, token = preserved(node), preserved(node, b"bit for bit")
    synctokens.unpreserve(node.device, gone)
    synctokens.prepare(node.device)
    assert node.state == "prepared"
    synctokens.cancel(node.device)
    assert node.state == "normal"
    synctokens.prepare(node.device)
    synctokens.freeze(node.device)
    assert node.state == "frozen"
    await node.kexec()
    assert node.state == "updated"
    fd = synctokens.restore(node.device, token)
    assert os.pread(fd, 100, 0) == b"bit for bit"
    os.close(fd)
    synctokens.finish(node.device)
    assert node.state == "normal"


async def test_errnos_in_the_wrong_state(node: Node) -> None:
    token = preserved(node)
    for call in (synctokens.freeze, synctokens.cancel, synctokens.finish):
        assert refused(lambda call=call: call(node.device)) == "EINVAL"  # type: ignore[misc]
    assert refused(lambda: synctokens.restore(node.device, token)) == "EBUSY"
    synctokens.prepare(node.device)
    assert refused(lambda: synctokens.prepare(node.device)) == "EINVAL"
    assert refused(lambda: preserved(node)) == "EBUSY"
    assert refused(lambda: synctokens.unpreserve(node.device, token)) == "EBUSY"
    await node.kexec()
    assert refused(lambda: synctokens.prepare(node.device)) == "EINVAL"
    assert refused(lambda: preserved(node)) == "EBUSY"


async def test_errnos_of_tokens_and_files(node: Node) -> None:
    assert refused(lambda: synctokens.unpreserve(node.device, 7)) == "ENOENT"
    assert refused(lambda: synctokens.preserve(node.device, -1)) == "EBADF"
    reader, writer = os.pipe()
    assert refused(lambda: synctokens.preserve(node.device, reader)) == "ENOENT"
    os.close(reader)
    os.close(writer)
    fd = memfd()
    token = synctokens.preserve(node.device, fd)
    assert refused(lambda: synctokens.preserve(node.device, fd)) == "EEXIST"
    os.close(fd)
    synctokens.prepare(node.device)
    await node.kexec()
    assert refused(lambda: synctokens.restore(node.device, token + 1)) == "ENOENT"
    os.close(synctokens.restore(node.device, token))
    assert refused(lambda: synctokens.restore(node.device, token)) == "EINVAL"


async def test_a_preserve_without_a_descriptor_is_ebadf(node: Node) -> None:
    argument = bytearray(rfc2_abi.FD_STRUCT.pack(3, 0, 0))
    assert refused(lambda: synctokens.call(node.device, rfc2_abi.FD_PRESERVE, argument)) == "EBADF"


@pytest.mark.parametrize(
    ("number", "argument", "error"),
    [
        (abi.CREATE_SESSION, bytes(abi.pack_session("s")), "ENOTTY"),
        (abi.SESSION_PRESERVE_FD, bytes(abi.pack_fd(0, 0)), "ENOTTY"),
        (rfc2_abi.FD_PRESERVE & 0xFFFF, bytes(16), "ENOTTY"),
        (rfc2_abi.FD_PRESERVE | 0x10000, bytes(16), "ENOTTY"),
        (0xBA08, b"", "ENOTTY"),
        (rfc2_abi.FD_RESTORE, bytes(15), "EFAULT"),
        (rfc2_abi.FD_UNPRESERVE, b"", "EFAULT"),
    ],
)
async def test_a_number_is_right_in_every_part_and_its_struct_is_there(
    node: Node, number: int, argument: bytes, error: str
) -> None:
    assert refused(lambda: ioctl(node.device, number, bytearray(argument))) == error



async def test_the_device_is_not_single_open(node: Node) -> None:
    other = open_device(node.root)
    token = preserved(node)
    synctokens.unpreserve(other, token)
    os.close(other)
    assert node.state == "normal"


async def test_what_is_preserved_does_not_depend_on_who_has_the_device_open(node: Node) -> None:
    token = preserved(node)
    node.close()
    synctokens.prepare(node.device)
    node.close()
    await node.kexec()
    os.close(synctokens.restore(node.device, token))
