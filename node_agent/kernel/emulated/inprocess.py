"""ports.Kernel over a LuoModel in this process.

A kernel object is one process's view (see Caller): it dies with that process.
"""

from __future__ import annotations

import errno
from collections.abc import Callable
from typing import NoReturn, Protocol

from node_agent.kernel import failure as calls
from node_agent.kernel.emulated.inprocess_caller import Caller, for_ever
from node_agent.kernel.emulated.inprocess_sessions import InProcessSessions
from node_agent.kernel.emulated.inprocess_tokens import InProcessTokens
from node_agent.kernel.emulated.model import LuoModel
from node_agent.kernel.emulated.rfc2.objects import OPEN_IOMMU, Objects
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
        self._caller = Caller(model, kill)
        self.sessions: _Sessions = (
            InProcessSessions(self._caller)
            if model.rfc2 is None
            else TokenSessions(InProcessTokens(self._caller))
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
        await self._caller.enter("objects", OPEN_IOMMU)
        if self.model.objects is None:
            raise calls.failure(OSError(errno.ENOENT, OPEN_IOMMU))
        return self.model.objects

    def hold_device(self) -> Callable[[], None]:
        """See Caller.hold_device."""
        return self._caller.hold_device()

    async def load(self, image: KexecImage) -> None:
        await self._caller.enter("load", calls.LOAD)
        try:
            self.model.load(image)
        except OSError as cause:
            raise calls.failure(cause) from cause

    async def unload(self) -> None:
        await self._caller.enter("unload", calls.LOAD)
        self.model.unload()

    async def loaded(self) -> bool:
        return self.model.loaded

    async def ready_to_jump(self) -> None:
        await self.sessions.ready_to_jump()

    async def reboot_kexec(self) -> NoReturn:
        """On success the caller is cancelled; what it does while it dies no longer counts. LUO is asked
        nothing: on RFC v2 it is a plain kexec in most states."""
        await self._caller.enter("reboot", calls.REBOOT)
        try:
            self.model.freeze()
        except OSError as cause:
            raise calls.failure(cause) from cause
        self.die(jumped=True)
        self._reboot()
        await for_ever()

    def die(self, *, jumped: bool) -> None:
        """The end of this process, by a kill or by a jump. Idempotent."""
        self._caller.jumped |= jumped
        self.sessions.die()
        self._caller.die()
