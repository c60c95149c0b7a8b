"""ProcessKernel: ports.Kernel over the sockets of a kernel process (see process), on asyncio.

Each call waits on a reply socket of its own: cancelling one loses its answer and nothing else, but that a
call which waits for RFC v2's lock is given up.

It is that of one boot, the first that was asked. That one's model of LUO decides what a session is: one of
the kernel's, or made of tokens.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, NoReturn

from node_agent.kernel import failure as calls
from node_agent.kernel.emulated import syncclient
from node_agent.kernel.emulated.asyncclient import control
from node_agent.kernel.emulated.clock import EmulatedClock, HostBase
from node_agent.kernel.emulated.image import RFC2
from node_agent.kernel.emulated.process_sessions import ProcessSessions
from node_agent.kernel.emulated.process_tokens import ProcessTokens
from node_agent.kernel.tokens import TokenSessions
from node_agent.ports import (
    BootFacts,
    KexecImage,
    KexecTelemetry,
    KhoFacts,
    MemoryFacts,
    Session,
    Sessions,
    TokenDevice,
    Tokens,
)


class ProcessKernel:
    """The kernel of the node whose root directory this is.

    Args:
        root: as LIVEROLL_NODE_ROOT says.
    """

    def __init__(self, root: str) -> None:
        self._root = root
        self._chosen: Sessions | None = None
        """Of the boot's model of LUO, once that is known."""

    async def facts(self) -> BootFacts:
        told = await self._facts()
        self._choose(told)
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
        return await (await self._sessions()).create_session(name)

    async def retrieve_session(self, name: str) -> Session:
        return await (await self._sessions()).retrieve_session(name)

    async def is_free(self, name: str) -> bool:
        return await (await self._sessions()).is_free(name)

    async def prepare(self) -> Tokens:
        return await (await self._sessions()).prepare()

    async def cancel(self) -> None:
        await (await self._sessions()).cancel()

    async def finish(self) -> None:
        await (await self._sessions()).finish()

    async def recall(self, tokens: Tokens) -> None:
        await (await self._sessions()).recall(tokens)

    async def telemetry(self) -> KexecTelemetry | None:
        told = json.loads(await self._control("telemetry"))
        return None if told is None else KexecTelemetry(**told)

    def luo(self) -> TokenDevice | None:
        """Asks what this boot is, if nothing has yet: a moment in which the loop stands still."""
        return (self._chosen or self._choose(syncclient.facts(self._root))).luo()

    async def load(self, image: KexecImage) -> None:
        await self._control("load", image.kernel_path, image.initrd_path, image.command_line, image.release)

    async def unload(self) -> None:
        await self._control("unload")

    async def loaded(self) -> bool:
        return await self._control("loaded") == "1"

    async def ready_to_jump(self) -> None:
        await (await self._sessions()).ready_to_jump()

    async def reboot_kexec(self) -> NoReturn:
        """On success this process is killed; one outside the node's userspace gets BOOT_OVER."""
        await self._control("reboot")
        raise AssertionError("a kernel answered a reboot with success")

    async def _sessions(self) -> Sessions:
        return self._chosen or self._choose(await self._facts())

    def _choose(self, told: Mapping[str, str]) -> Sessions:
        """Once: two calls may have asked for the facts."""
        if self._chosen is None:
            if told["luo_model"] == RFC2:
                self._chosen = TokenSessions(ProcessTokens(self._root))
            else:
                self._chosen = ProcessSessions(self._root)
        return self._chosen

    async def _facts(self) -> dict[str, str]:
        answer = await self._control("facts")
        try:
            return syncclient.read_facts(answer)
        except OSError as cause:
            raise calls.failure(cause) from cause

    async def _control(self, *words: str) -> str:
        return await control(self._root, *words)


def _kho(told: Mapping[str, Any]) -> KhoFacts:
    return KhoFacts(tuple(told["scratch_bytes"]), told["kho_abi"], told["luo_abi"], told["debugfs"])


def _memory(told: Mapping[str, Any] | None) -> MemoryFacts | None:
    return MemoryFacts(**told) if told is not None else None
