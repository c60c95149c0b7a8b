"""A node of RFC v2's model whose kernel is a process, as tests see it from beside its userspace."""

from __future__ import annotations

import asyncio
import errno
import json
import os
import subprocess
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import pytest

from node_agent.kernel.emulated import synctokens
from node_agent.kernel.emulated.client import ProcessKernel
from node_agent.kernel.emulated.syncclient import control, facts, open_device
from node_agent.ports import KexecImage

RELEASE = "6.16.0-rfc2"
COMMAND_LINE = "kho=on liveupdate=on"


class Node:
    """Its userspace does nothing; the test is the agent. The device is opened when first asked for."""

    def __init__(self, root: Path, process: asyncio.subprocess.Process, lines: asyncio.StreamReader) -> None:
        self.path, self.root = root, str(root)
        self.process, self._lines = process, lines
        self._device = -1

    @property
    def device(self) -> int:
        if self._device < 0:
            self._device = open_device(self.root)
        return self._device

    @property
    def state(self) -> str:
        return synctokens.get_state(self.device)

    @property
    def log(self) -> list[str]:
        return control(self.root, "log").splitlines()

    def facts(self) -> dict[str, str]:
        return facts(self.root)

    def view(self, path: str) -> str:
        """A file under the node's root."""
        return (self.path / path).read_text()

    def control(self, *words: str) -> str:
        return control(self.root, *words)

    def image(self, release: str = RELEASE, **properties: object) -> KexecImage:
        """Of the same model, unless told."""
        path = self.path.parent / f"vmlinuz-{release}"
        path.write_bytes(b"a kernel")
        Path(f"{path}.emulated.json").write_text(json.dumps({"model": "rfc-v2", **properties}))
        return KexecImage(str(path), "", COMMAND_LINE, release)

    def load(self, release: str = RELEASE, **properties: object) -> None:
        image = self.image(release, **properties)
        control(self.root, "load", image.kernel_path, "", image.command_line, image.release)

    async def kexec(self, release: str = RELEASE, **properties: object) -> None:
        """Load and jump, whatever LUO's state, and wait for the next userspace."""
        self.load(release, **properties)
        await self.jump()

    async def jump(self) -> None:
        """A refused reboot raises OSError."""
        reboot = asyncio.ensure_future(asyncio.to_thread(control, self.root, "reboot"))
        up = asyncio.ensure_future(self.boot())
        await asyncio.wait((reboot, up), return_when=asyncio.FIRST_COMPLETED)
        if reboot.done() and not up.done():
            cause = reboot.exception()
            assert isinstance(cause, OSError)
            if cause.errno != errno.ESHUTDOWN:
                up.cancel()
                raise cause
        await up
        with suppress(OSError):
            await reboot

    async def boot(self) -> None:
        """Wait for userspace."""
        assert await self._lines.readline(), "the kernel process ended"
        self.close()

    def kernel(self) -> ProcessKernel:
        return ProcessKernel(self.root)

    def close(self) -> None:
        if self._device >= 0:
            os.close(self._device)
            self._device = -1


@asynccontextmanager
async def running(root: Path, *options: str) -> AsyncIterator[Node]:
    """One node; nothing of it is left afterwards."""
    told, tell = os.pipe()
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-W", "error", "-m", "node_agent.kernel.emulated.process"),
        *("--root", str(root), "--release", RELEASE, "--luo-model", "rfc-v2", "--notify-fd", str(tell)),
        *(*options, "--", "sleep", "600"),
        pass_fds=[tell],
        stdin=subprocess.DEVNULL,
    )
    os.close(tell)
    lines = asyncio.StreamReader()
    pipe, _ = await asyncio.get_running_loop().connect_read_pipe(
        lambda: asyncio.StreamReaderProtocol(lines), os.fdopen(told, "rb")
    )
    node = Node(root, process, lines)
    try:
        await node.boot()
        yield node
    finally:
        node.close()
        process.terminate()
        assert await process.wait() == 0
        pipe.close()
    assert not (root / "sys").exists()


def memfd(content: bytes = b"memory") -> int:
    fd = os.memfd_create("memory", os.MFD_CLOEXEC)
    os.write(fd, content)
    return fd


def refused(call: Callable[[], object]) -> str:
    with pytest.raises(OSError) as caught:
        call()
    # ENOTSUP is the same number, and Python's name of it.
    return errno.errorcode[caught.value.errno or 0].replace("ENOTSUP", "EOPNOTSUPP")


def preserved(node: Node, content: bytes = b"memory") -> int:
    """A token; the file itself is closed again."""
    fd = memfd(content)
    try:
        return synctokens.preserve(node.device, fd)
    finally:
        os.close(fd)
