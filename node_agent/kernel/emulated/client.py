"""ProcessKernel: ports.Kernel over the sockets of a kernel process (see process), on asyncio.

Each call waits on a reply socket of its own: cancelling one loses its answer and nothing else, but that a
call which waits for RFC v2's lock is given up.

What a boot's facts say of its model of LUO decides what a session is: one of the kernel's, or made of tokens.
"""

from __future__ import annotations

import errno
import json
import os
from collections.abc import Mapping
from typing import Any, NoReturn, TypeVar

from node_agent.errors import KernelError
from node_agent.kernel import abi
from node_agent.kernel import failure as calls
from node_agent.kernel.emulated import syncclient
from node_agent.kernel.emulated.asyncclient import control, ioctl, open_device
from node_agent.kernel.emulated.clock import EmulatedClock, HostBase
from node_agent.kernel.emulated.image import RFC2
from node_agent.kernel.emulated.process_tokens import ProcessTokens
from node_agent.kernel.tokens import TokenSessions
from node_agent.ports import (
    BootFacts,
    KexecImage,
    KexecTelemetry,
    KhoFacts,
    MemoryFacts,
    Session,
    TokenDevice,
    Tokens,
)

T = TypeVar("T")


class ProcessKernel:
    """The kernel of the node whose root directory this is.

    Args:
        root: as LIVEROLL_NODE_ROOT says.
    """

    def __init__(self, root: str) -> None:
        self._root = root
        self._model = ""
        """Of this boot; empty until it is known."""
        self._made_of = TokenSessions(ProcessTokens(root))

    async def facts(self) -> BootFacts:
        told = await self._facts()
        self._model = told["luo_model"]
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
            luo_model=told["luo_model"],
            luo_state=told["luo_state"],
            coupling=told["coupling"],
            kho_finalized=told["kho_finalized"] == "1",
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

    async def create_session(self, name: str) -> Session:
        if tokens := await self._tokens():
            return await tokens.create_session(name)
        return await self._session(name, abi.CREATE_SESSION)

    async def retrieve_session(self, name: str) -> Session:
        if tokens := await self._tokens():
            return await tokens.retrieve_session(name)
        return await self._session(name, abi.RETRIEVE_SESSION)

    async def prepare(self) -> Tokens:
        tokens = await self._tokens()
        return await tokens.prepare() if tokens else {}

    async def cancel(self) -> None:
        if tokens := await self._tokens():
            await tokens.cancel()

    async def finish(self) -> None:
        if tokens := await self._tokens():
            await tokens.finish()

    async def recall(self, tokens: Tokens) -> None:
        if made_of := await self._tokens():
            await made_of.recall(tokens)

    async def telemetry(self) -> KexecTelemetry | None:
        told = json.loads(await self._control("telemetry"))
        return None if told is None else KexecTelemetry(**told)

    def luo(self) -> TokenDevice | None:
        """Asks what this boot is, if nothing has yet: a moment in which the loop stands still."""
        self._model = self._model or syncclient.facts(self._root)["luo_model"]
        return self._made_of.device if self._model == RFC2 else None

    async def load(self, image: KexecImage) -> None:
        await self._control("load", image.kernel_path, image.initrd_path, image.command_line, image.release)

    async def unload(self) -> None:
        await self._control("unload")

    async def loaded(self) -> bool:
        return await self._control("loaded") == "1"

    async def ready_to_jump(self) -> None:
        if tokens := await self._tokens():
            await tokens.ready_to_jump()

    async def reboot_kexec(self) -> NoReturn:
        """On success this process is killed; one outside the node's userspace gets BOOT_OVER."""
        await self._control("reboot")
        raise AssertionError("a kernel answered a reboot with success")

    async def _tokens(self) -> TokenSessions | None:
        """What sessions are made of, where this boot has none of its own."""
        if not self._model:
            self._model = (await self._facts())["luo_model"]
        return self._made_of if self._model == RFC2 else None

    async def _facts(self) -> dict[str, str]:
        pairs = (line.partition("=") for line in (await self._control("facts")).splitlines())
        return {key: value for key, _, value in pairs}

    async def _session(self, name: str, number: int) -> ProcessSession:
        call = abi.CALL_NAMES[number]
        if len(name.encode()) >= abi.SESSION_NAME_BYTES:
            raise calls.failure(OSError(errno.EINVAL, call))
        device, _ = await open_device(self._root)
        try:
            argument = abi.pack_session(name)
            await ioctl(device, number, argument)
        finally:
            os.close(device)
        return ProcessSession(name, abi.unpack_session(argument)[0])

    async def _control(self, *words: str) -> str:
        return await control(self._root, *words)


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
        await ioctl(self.fileno(), abi.SESSION_PRESERVE_FD, abi.pack_fd(fd, token), fd)

    async def retrieve_fd(self, token: int) -> int:
        argument = abi.pack_fd(-1, token)
        await ioctl(self.fileno(), abi.SESSION_RETRIEVE_FD, argument)
        return abi.unpack_fd(argument)[0]

    async def finish(self) -> None:
        await ioctl(self.fileno(), abi.SESSION_FINISH, abi.pack_finish())

    async def close(self) -> None:
        """Idempotent."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1


def _kho(told: Mapping[str, Any]) -> KhoFacts:
    return KhoFacts(tuple(told["scratch_bytes"]), told["kho_abi"], told["luo_abi"], told["debugfs"])


def _memory(told: Mapping[str, Any] | None) -> MemoryFacts | None:
    return MemoryFacts(**told) if told is not None else None
