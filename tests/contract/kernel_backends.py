"""The kernels under contract: one interface for the emulated ones here and the real one (guest_backend).

A backend starts one node whose userspace does nothing; the test is the agent. kexec() loads,
reboots and waits for the next userspace. Sessions of an earlier boot are dead ends, and the
test closes them as it closes any other. Files are made and read through node.os and node.fcntl,
because on a real kernel they are in another machine; a descriptor ends with its boot there, so a
test closes it before a kexec.
"""

from __future__ import annotations

import asyncio
import fcntl
import json
import os
import select
import signal
import socket
import subprocess
import sys
import tempfile
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager, suppress
from pathlib import Path
from typing import Any

from node_agent.errors import KernelError
from node_agent.kernel import abi
from node_agent.kernel.emulated import syncclient, wire
from node_agent.kernel.emulated.client import ProcessKernel
from node_agent.kernel.emulated.image import EmulatedImage, FileImages
from node_agent.kernel.emulated.model import Machine
from node_agent.kernel.emulated.node import Boot, EmulatedNode
from node_agent.kernel.faults import FaultPlan
from node_agent.ports import Kernel, KexecImage, Session, Tokens

ON = "kho=on liveupdate=on"
RFC2_RELEASE = "6.16.0-rfc2"


class Holder(ABC):
    """Another process of the node that holds a copy of a session."""

    @abstractmethod
    async def end(self) -> None:
        """Kill it, and wait until it is gone. Nothing to do if its boot is over."""


class Sleeper(Holder):
    """A process of this machine."""

    def __init__(self, fd: int) -> None:
        self._process = subprocess.Popen(["sleep", "600"], pass_fds=[fd])

    async def end(self) -> None:
        self._process.kill()
        await asyncio.to_thread(self._process.wait)


class Backend(ABC):
    """One running node. kernel is the present boot's."""

    kernel: Kernel
    real = False
    releases = ("7.3.4", "7.3.5")
    """Of two kernels to jump to, other than the first boot's if there are so many."""
    os: Any = os
    fcntl: Any = fcntl

    def __init__(
        self, tmp_path: Path, faults: str = "", *, memory_bytes: int = 0, scratch_bytes: int = 0
    ) -> None:
        self.tmp_path, self.faults = tmp_path, faults
        self.memory_bytes, self.scratch_bytes = memory_bytes, scratch_bytes
        self.named: list[str] = []

    def image(self, release: str = "", command_line: str = ON, **properties: object) -> KexecImage:
        """A kernel file, with a sidecar if it has properties. releases[0] unless told."""
        release = release or self.releases[0]
        path = self.tmp_path / f"vmlinuz-{release}"
        path.write_bytes(b"a kernel")
        if properties:
            Path(f"{path}.emulated.json").write_text(json.dumps(properties))
        return KexecImage(str(path), "", command_line, release)

    def broken_images(self) -> list[KexecImage]:
        """Files that are no kernel."""
        bad, unreadable, empty = (self.image(f"7.4.{n}", bad=True) for n in range(3))
        Path(unreadable.kernel_path + ".emulated.json").write_text("no json")
        Path(empty.kernel_path + ".emulated.json").unlink()
        Path(empty.kernel_path).write_bytes(b"")
        return [bad, unreadable, empty]

    async def kexec(self, image: KexecImage | None = None) -> Kernel:
        """Load and jump, and wait for the next userspace, whatever kernel it runs on."""
        await self.kernel.load(image or self.image())
        return await self.jump()

    async def jump(self) -> Kernel:
        reboot = asyncio.ensure_future(self.kernel.reboot_kexec())
        up = asyncio.ensure_future(self.next_boot())
        await asyncio.wait((reboot, up), return_when=asyncio.FIRST_COMPLETED)
        if not up.done() and reboot.done():
            cause = reboot.exception()
            assert isinstance(cause, KernelError)
            if cause.reason != "BOOT_OVER":
                up.cancel()
                raise cause
        await up
        reboot.cancel()
        with suppress(asyncio.CancelledError, KernelError):
            await reboot
        return self.kernel

    async def preserved(self, name: str = "s", content: bytes = b"memory", token: int = 1) -> Session:
        """A new session with one memfd in it; the memfd itself is closed again."""
        session = await self.kernel.create_session(name)
        fd = self.memfd(content)
        try:
            await session.preserve_fd(fd, token)
        finally:
            self.os.close(fd)
        return session

    def memfd(self, content: bytes = b"memory", flags: int = 0) -> int:
        """A new one, its position behind its content."""
        fd = self.os.memfd_create("memory", flags | os.MFD_CLOEXEC)
        self.os.write(fd, content)
        return int(fd)

    def of_kind(self, kind: str) -> int:
        """A descriptor of something that cannot be preserved."""
        match kind:
            case "file":
                return os.open(self.tmp_path / "file", os.O_RDWR | os.O_CREAT, 0o600)
            case "deleted file":
                fd = os.open(self.tmp_path / "file", os.O_RDWR | os.O_CREAT, 0o600)
                os.unlink(self.tmp_path / "file")
                return fd
            case "directory":
                return os.open(self.tmp_path, os.O_RDONLY)
            case "device":
                return os.open("/dev/null", os.O_RDWR)
            case "eventfd":
                return os.eventfd(0)
            case "epoll":
                with select.epoll() as epoll:
                    return os.dup(epoll.fileno())
            case "socket":
                return socket.socket().detach()
            case _:
                reader, writer = os.pipe()
                os.close(writer)
                return reader

    def shared(self, *, unlinked: bool) -> int:
        """A descriptor of a file in /dev/shm."""
        fd, path = tempfile.mkstemp(dir="/dev/shm")
        if unlinked:
            os.unlink(path)
        else:
            self.named.append(path)  # deleted when the node stops
        return fd

    def forget_names(self) -> None:
        for path in self.named:
            os.unlink(path)

    async def hold(self, session: Session) -> Holder:
        """Another process that holds this session too."""
        return Sleeper(session.fileno())

    async def session_ioctl(self, session: Session, number: int, argument: bytearray) -> None:
        """Raises OSError."""
        await asyncio.to_thread(syncclient.ioctl, session.fileno(), number, argument)

    @abstractmethod
    async def start(self) -> None: ...
    @abstractmethod
    async def stop(self) -> None: ...

    @abstractmethod
    async def next_boot(self) -> Kernel:
        """Wait for the next userspace start; sets and returns kernel."""

    @abstractmethod
    async def power_loss(self) -> Kernel: ...
    @abstractmethod
    async def vanish(self) -> None:
        """Jump with a loaded image, on a node that will not be back."""

    @abstractmethod
    async def press_power(self) -> Kernel:
        """Switch a node on that never came back."""

    @abstractmethod
    async def device_ioctl(self, number: int, argument: bytearray) -> None:
        """Raises OSError."""

    @abstractmethod
    def device_held(self) -> AbstractAsyncContextManager[None]:
        """An async context in which somebody else has the device open."""

    @abstractmethod
    async def kernel_fds(self) -> int:
        """How many descriptors the kernel's process has."""


class InProcess(Backend):
    """EmulatedNode in the test's own process and loop."""

    first: EmulatedImage | None = None
    """Of the first boot, and what a kernel file is like; None: a healthy one with sessions."""

    async def start(self) -> None:
        self.boots: asyncio.Queue[Boot] = asyncio.Queue()
        self.node = EmulatedNode(
            image=self.first,
            images=FileImages(self.first) if self.first is not None else FileImages(),
            faults=FaultPlan.parse(self.faults),
            machine=Machine(memory_bytes=self.memory_bytes, scratch_bytes=self.scratch_bytes),
        )
        self.running = asyncio.ensure_future(self.node.run(self._userspace))
        await self.next_boot()

    async def _userspace(self, boot: Boot) -> None:
        self.boots.put_nowait(boot)
        await asyncio.get_running_loop().create_future()

    async def stop(self) -> None:
        self.forget_names()
        self.running.cancel()
        with suppress(asyncio.CancelledError):
            await self.running

    async def next_boot(self) -> Kernel:
        self.boot = await self.boots.get()
        self.kernel = self.boot.kernel
        return self.kernel

    async def power_loss(self) -> Kernel:
        self.node.power_loss()
        return await self.next_boot()

    async def vanish(self) -> None:
        reboot = asyncio.ensure_future(self.kernel.reboot_kexec())
        while self.node.running:
            await asyncio.sleep(0)
        reboot.cancel()
        await asyncio.wait((reboot,))

    async def press_power(self) -> Kernel:
        return await self.power_loss()

    async def device_ioctl(self, number: int, argument: bytearray) -> None:
        release = self.boot.kernel.hold_device()
        try:
            body = number.to_bytes(4, sys.byteorder) + bytes(argument)
            decoded = abi.decode(body, *abi.DEVICE_IOCTLS)
            model = self.node.model
            model.close(wire.device_call(model, *decoded))
        finally:
            release()

    @asynccontextmanager
    async def device_held(self) -> AsyncIterator[None]:
        release = self.boot.kernel.hold_device()
        yield
        release()

    async def kernel_fds(self) -> int:
        return len(os.listdir("/proc/self/fd"))


class Process(Backend):
    """A kernel process; its userspace is `sleep`, the test stands outside."""

    options: tuple[str, ...] = ()

    async def start(self) -> None:
        self.root = str(self.tmp_path / "node")
        told, tell = os.pipe()
        command = [sys.executable, "-W", "error", "-m", "node_agent.kernel.emulated.process"]
        command += ["--root", self.root, "--notify-fd", str(tell), "--faults", self.faults]
        command += ["--memory-bytes", str(self.memory_bytes), "--scratch-bytes", str(self.scratch_bytes)]
        self.process = await asyncio.create_subprocess_exec(
            *command, *self.options, "--", "sleep", "600", pass_fds=[tell], stdin=subprocess.DEVNULL
        )
        os.close(tell)
        self.lines = asyncio.StreamReader()
        self.pipe, _ = await asyncio.get_running_loop().connect_read_pipe(
            lambda: asyncio.StreamReaderProtocol(self.lines), os.fdopen(told, "rb")
        )
        await self.next_boot()

    async def stop(self) -> None:
        self.forget_names()
        self.process.terminate()
        assert await self.process.wait() == 0
        self.pipe.close()

    async def next_boot(self) -> Kernel:
        assert await self.lines.readline(), "the kernel process ended"
        self.kernel = ProcessKernel(self.root)
        return self.kernel

    async def power_loss(self) -> Kernel:
        with suppress(OSError):
            syncclient.control(self.root, "power_loss")
        return await self.next_boot()

    async def vanish(self) -> None:
        with suppress(KernelError):
            await self.kernel.reboot_kexec()

    async def press_power(self) -> Kernel:
        self.process.send_signal(signal.SIGUSR1)
        return await self.next_boot()

    async def device_ioctl(self, number: int, argument: bytearray) -> None:
        device = syncclient.open_device(self.root)
        try:
            syncclient.ioctl(device, number, argument)
            os.close(int.from_bytes(argument[4:8], sys.byteorder))
        finally:
            os.close(device)

    @asynccontextmanager
    async def device_held(self) -> AsyncIterator[None]:
        device = syncclient.open_device(self.root)
        yield
        os.close(device)

    async def kernel_fds(self) -> int:
        return int(syncclient.control(self.root, "descriptors"))


class OfTokens(Backend):
    """RFC v2's model: sessions made of tokens. Around each kexec it does what the runner does.

    Where LUO cannot be prepared there is no kexec: test_kernel_models tells these differences.
    """

    coupling = "luo-driven"

    async def jump(self) -> Kernel:
        told = await self._ready()
        try:
            await super().jump()
        except KernelError:
            await self.kernel.cancel()
            raise
        await self.kernel.recall(told)
        return self.kernel

    async def vanish(self) -> None:
        await self._ready()
        await super().vanish()

    async def _ready(self) -> Tokens:
        """Whatever came in is finished, and what is to cross is prepared."""
        if not (await self.kernel.facts()).luo:
            return {}
        await self.kernel.finish()
        return await self.kernel.prepare()


class LuoDriven(OfTokens, InProcess):
    first = EmulatedImage.rfc2(RFC2_RELEASE)


class Notifier(OfTokens, InProcess):
    coupling = "notifier"
    first = EmulatedImage.rfc2(RFC2_RELEASE, coupling="notifier")


class ProcessLuoDriven(OfTokens, Process):
    options = ("--luo-model", "rfc-v2", "--release", RFC2_RELEASE)


class ProcessNotifier(OfTokens, Process):
    coupling = "notifier"
    options = (*ProcessLuoDriven.options, "--coupling", "notifier")


BACKENDS: dict[str, type[Backend]] = {"inprocess": InProcess, "process": Process}
OF_TOKENS: dict[str, type[OfTokens]] = {
    "luo-driven": LuoDriven,
    "notifier": Notifier,
    "process-luo-driven": ProcessLuoDriven,
    "process-notifier": ProcessNotifier,
}
"""What of the contract holds there, and what does not, is test_kernel_models'."""
