"""ports.Kernel over a LuoModel in this process.

A kernel object is one process's view: when that process dies, its device and session handles
are closed as a real process's would be; after a jump they are dead, and closing them does
nothing. A session is exported as a real fd that speaks the wire (see wire), served by the
running loop, so that another process or thread can use it through syncclient.
"""

from __future__ import annotations

import asyncio
import errno
from collections.abc import Callable
from typing import NoReturn, Protocol

from node_agent.errors import KernelError
from node_agent.kernel import failure as calls
from node_agent.kernel.emulated import wire
from node_agent.kernel.emulated.export import Export
from node_agent.kernel.emulated.inprocess_sessions import InProcessSessions
from node_agent.kernel.emulated.inprocess_tokens import InProcessTokens
from node_agent.kernel.emulated.model import Hang, LuoModel, OutOfMemory
from node_agent.kernel.emulated.rfc2.objects import OPEN_IOMMU, Objects
from node_agent.kernel.emulated.session import LuoSession
from node_agent.kernel.tokens import TokenSessions
from node_agent.ports import BootFacts, KexecImage, KexecTelemetry, Session, Sessions, TokenDevice, Tokens


class _Sessions(Sessions, Protocol):
    """Of either model."""

    def die(self) -> None:
        """The process does."""
        ...


class InProcessKernel:
    """One process's way into a node's kernel.

    Args:
        model: the node's kernel.
        reboot: called once the kexec is past its point of no return.
        kill: called when the OOM killer takes this process.
    """

    def __init__(self, model: LuoModel, reboot: Callable[[], None], kill: Callable[[], None]) -> None:
        self.model = model
        self._reboot = reboot
        self._kill = kill
        self._alive = True
        self._jumped = False
        self._holds_device = False
        self._exports: set[Export] = set()
        self.sessions: _Sessions = (
            InProcessSessions(self) if model.rfc2 is None else TokenSessions(InProcessTokens(self))
        )
        """Those of the boot's model of LUO."""

    async def facts(self) -> BootFacts:
        return self.model.facts()

    async def create_session(self, name: str) -> Session:
        return await self.sessions.create_session(name)

    async def retrieve_session(self, name: str) -> Session:
        return await self.sessions.retrieve_session(name)

    async def is_free(self, name: str) -> bool:
        return await self.sessions.is_free(name)

    async def prepare(self) -> Tokens:
        return await self.sessions.prepare()

    async def cancel(self) -> None:
        await self.sessions.cancel()

    async def finish(self) -> None:
        await self.sessions.finish()

    async def recall(self, tokens: Tokens) -> None:
        await self.sessions.recall(tokens)

    async def telemetry(self) -> KexecTelemetry | None:
        return self.model.telemetry()

    def luo(self) -> TokenDevice | None:
        return self.sessions.luo()

    async def objects(self) -> Objects:
        """What this process can open beside /dev/liveupdate: /dev/iommu, /dev/vfio, /dev/kvm. Raises
        KernelError: ENOENT, this kernel has no handler for any of them."""
        await self.enter("objects", OPEN_IOMMU)
        if self.model.objects is None:
            raise calls.failure(OSError(errno.ENOENT, OPEN_IOMMU))
        return self.model.objects

    def hold_device(self) -> Callable[[], None]:
        """Open /dev/liveupdate and keep it, as another user of it would; the result closes it.
        Raises KernelError."""
        try:
            self.model.open_device()
        except OSError as cause:
            raise calls.failure(cause) from cause
        self._holds_device = True
        return self._close_device

    def _close_device(self) -> None:
        if self._holds_device and not self._jumped:
            self.model.close_device()
        self._holds_device = False

    async def load(self, image: KexecImage) -> None:
        await self.enter("load", calls.LOAD)
        try:
            self.model.load(image)
        except OSError as cause:
            raise calls.failure(cause) from cause

    async def unload(self) -> None:
        await self.enter("unload", calls.LOAD)
        self.model.unload()

    async def loaded(self) -> bool:
        return self.model.loaded

    async def ready_to_jump(self) -> None:
        await self.sessions.ready_to_jump()

    async def reboot_kexec(self) -> NoReturn:
        """On success the caller is cancelled; what it does while it dies no longer counts. LUO is asked
        nothing: on RFC v2 it is a plain kexec in most states."""
        await self.enter("reboot", calls.REBOOT)
        try:
            self.model.freeze()
        except OSError as cause:
            raise calls.failure(cause) from cause
        self.die(jumped=True)
        self._reboot()
        await _for_ever()

    # --- for sessions and for the node

    async def enter(self, short: str, call: str) -> None:
        """Every call comes through here: a dead process makes none, and a fault may keep it.
        Raises KernelError(ESHUTDOWN)."""
        if not self._alive:
            raise KernelError(errno.ESHUTDOWN, call, "this process died with its boot", reason="BOOT_OVER")
        self.reap()
        hang = self.model.hangs(short)
        if not hang:
            return
        try:
            await _for_ever()
        finally:
            # A process that a jump ended waited in a kernel whose log is gone.
            if hang is Hang.WAITS and not self._jumped:
                self.model.wait_killed(short)

    def reap(self) -> None:
        """A closed fd counts at once, not when the loop gets round to it."""
        for export in tuple(self._exports):
            export.reap()

    async def out_of_memory(self) -> NoReturn:
        """The OOM killer takes this process."""
        self._kill()
        await _for_ever()

    def close(self, state: LuoSession) -> None:
        """A handle of this process's own is closed. One that a jump has left behind closes nothing."""
        if self._alive and not self._jumped:
            self.model.close(state)

    def export(self, state: LuoSession) -> int:
        """A holder of its own, until the last copy of the fd is closed."""

        def call(request: wire.Request) -> None:
            number, argument = wire.decode_session(request.body, incoming=state.incoming)
            if self.model.hangs(wire.CALLS[number]):
                export.keep(request)
                return
            try:
                wire.answer(request, *wire.session_call(self.model, state, number, argument, request.fd))
            except OutOfMemory:
                export.keep(request)
                request.kill_caller()

        def closed() -> None:
            self._exports.discard(export)
            self.model.close(state)

        export = Export(call, closed)
        state.holders += 1
        self._exports.add(export)
        return export.client_fd

    def die(self, *, jumped: bool) -> None:
        """The end of this process: by a kill (its handles are closed) or by a jump (they are
        past). Idempotent. Exported fds follow only at a jump: other processes may hold them."""
        self._jumped = self._jumped or jumped
        self.sessions.die()
        self._close_device()
        self._alive = False
        self.reap()
        if jumped:
            while self._exports:
                self._exports.pop().end()


async def _for_ever() -> NoReturn:
    await asyncio.get_running_loop().create_future()
    raise AssertionError("a future nobody can resolve was resolved")
