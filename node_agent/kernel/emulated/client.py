"""ProcessKernel: ports.Kernel over the sockets of a kernel process (see process), on asyncio.

Each call waits on a reply socket of its own: cancelling one loses its answer and nothing else.
"""

from __future__ import annotations

import _socket
import asyncio
import errno
import json
import os
from collections.abc import Callable, Mapping
from typing import Any, NoReturn, TypeVar

from node_agent.errors import KernelError
from node_agent.kernel import abi
from node_agent.kernel import failure as calls
from node_agent.kernel.emulated import syncclient
from node_agent.kernel.emulated.clock import EmulatedClock, HostBase
from node_agent.kernel.sessions import SessionModel
from node_agent.ports import BootFacts, KexecImage, KhoFacts, MemoryFacts

T = TypeVar("T")


class ProcessKernel(SessionModel):
    """The kernel of the node whose root directory this is.

    Args:
        root: as LIVEROLL_NODE_ROOT says.
    """

    def __init__(self, root: str) -> None:
        self._root = root

    async def facts(self) -> BootFacts:
        told = await self._facts()
        return BootFacts(
            boot_id=told["boot_id"],
            release=told["release"],
            command_line=told["command_line"],
            hardware_model=told["hardware_model"],
            luo=told["luo"] == "1",
            poisoned=told["poisoned"] == "1",
            emulated=True,
            previous_release=told["previous_release"],
            kexec_count=int(told["kexec_count"]),
            kho=_kho(json.loads(told["kho"])),
            memory=_memory(json.loads(told["memory"])),
        )

    async def clock(self) -> EmulatedClock:
        """This boot's clocks."""
        told, base = await self._facts(), HostBase()
        return EmulatedClock(
            base,
            kernel_started_s=float(told["kernel_started_s"]),
            powered_on_s=float(told["powered_on_s"]),
            tsc_hz=float(told["tsc_hz"]),
            epoch=base.epoch(),
            rtc_grain_s=float(told["rtc_grain_s"]),
        )

    async def create_session(self, name: str) -> ProcessSession:
        return await self._session(name, abi.CREATE_SESSION)

    async def retrieve_session(self, name: str) -> ProcessSession:
        return await self._session(name, abi.RETRIEVE_SESSION)

    async def load(self, image: KexecImage) -> None:
        await self._control("load", image.kernel_path, image.initrd_path, image.command_line, image.release)

    async def unload(self) -> None:
        await self._control("unload")

    async def loaded(self) -> bool:
        return await self._control("loaded") == "1"

    async def reboot_kexec(self) -> NoReturn:
        """On success this process is killed; one outside the node's userspace gets BOOT_OVER."""
        await self._control("reboot")
        raise AssertionError("a kernel answered a reboot with success")

    async def _facts(self) -> dict[str, str]:
        pairs = (line.partition("=") for line in (await self._control("facts")).splitlines())
        return {key: value for key, _, value in pairs}

    async def _session(self, name: str, number: int) -> ProcessSession:
        call = abi.CALL_NAMES[number]
        if len(name.encode()) >= abi.SESSION_NAME_BYTES:
            raise calls.failure(OSError(errno.EINVAL, call))
        device = await self._open_device()
        try:
            argument = abi.pack_session(name)
            await _ioctl(device, number, argument)
        finally:
            os.close(device)
        return ProcessSession(name, abi.unpack_session(argument)[0])

    async def _open_device(self) -> int:
        try:
            device = syncclient.connect(f"{self._root}/dev/liveupdate")
        except OSError as cause:
            raise calls.failure(OSError(cause.errno, calls.OPEN)) from cause
        try:
            await _answered(device, lambda: syncclient.opened(device))
            return device.detach()
        finally:
            device.close()

    async def _control(self, *words: str) -> str:
        try:
            sock = syncclient.ask_control(self._root, *words)
        except OSError as cause:
            raise _failure(cause) from cause
        try:
            return await _answered(sock, lambda: syncclient.take_control(sock, words[0]))
        finally:
            sock.close()


class ProcessSession:
    """ports.Session over a session fd of a kernel process.

    Args:
        fd: becomes this session's.
    """

    def __init__(self, name: str, fd: int) -> None:
        self._name = name
        self._fd = fd

    @property
    def name(self) -> str:
        return self._name

    def fileno(self) -> int:
        if self._fd < 0:
            raise KernelError(errno.EBADF, calls.GET_NAME)
        return self._fd

    async def preserve_fd(self, fd: int, token: int) -> None:
        await _ioctl(self.fileno(), abi.SESSION_PRESERVE_FD, abi.pack_fd(fd, token), fd)

    async def retrieve_fd(self, token: int) -> int:
        argument = abi.pack_fd(-1, token)
        await _ioctl(self.fileno(), abi.SESSION_RETRIEVE_FD, argument)
        return abi.unpack_fd(argument)[0]

    async def finish(self) -> None:
        await _ioctl(self.fileno(), abi.SESSION_FINISH, abi.pack_finish())

    async def close(self) -> None:
        """Idempotent."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1


def _kho(told: Mapping[str, Any]) -> KhoFacts:
    return KhoFacts(tuple(told["scratch_bytes"]), told["kho_abi"], told["luo_abi"], told["debugfs"])


def _memory(told: Mapping[str, Any] | None) -> MemoryFacts | None:
    return MemoryFacts(**told) if told is not None else None


async def _ioctl(
    fd: int,
    number: int,
    argument: bytearray,
    passed_fd: int | None = None,
    *,
    call: str = "",
    fd_at: int = syncclient.FD_AT,
) -> None:
    call = call or abi.CALL_NAMES[number]
    try:
        reply = syncclient.ask(fd, number, argument, passed_fd, call)
    except OSError as cause:
        raise _failure(cause) from cause
    try:
        await _answered(reply, lambda: syncclient.take(reply, argument, call, fd_at))
    finally:
        reply.close()


async def _answered(sock: _socket.socket, take: Callable[[], T]) -> T:
    """Wait until there is an answer, then take it."""
    loop = asyncio.get_running_loop()
    readable = asyncio.Event()
    loop.add_reader(sock.fileno(), readable.set)
    try:
        await readable.wait()
    finally:
        loop.remove_reader(sock.fileno())
    try:
        return take()
    except OSError as cause:
        raise _failure(cause) from cause


def _failure(cause: OSError) -> KernelError:
    if cause.errno == errno.ESHUTDOWN:
        call = cause.strerror or "unknown call"
        return KernelError(errno.ESHUTDOWN, call, "that boot of the node is over", reason="BOOT_OVER")
    return calls.failure(cause)
