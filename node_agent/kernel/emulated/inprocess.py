"""ports.Kernel and ports.Session over a LuoModel in this process.

A kernel object is one process's view: when that process dies, its device and session handles
are closed as a real process's would be; after a jump they are dead, and closing them does
nothing. fileno() exports a session as a real fd that speaks the wire (see wire), served by the
running loop, so that another process or thread can use it through syncclient.
"""

from __future__ import annotations

import asyncio
import errno
import os
from collections.abc import Callable, Sequence
from typing import NoReturn, TypeVar

from node_agent.errors import KernelError
from node_agent.kernel import failure as calls
from node_agent.kernel import rfc2_abi as abi
from node_agent.kernel.emulated import wire
from node_agent.kernel.emulated.export import Export
from node_agent.kernel.emulated.model import Hang, LuoModel, OutOfMemory
from node_agent.kernel.emulated.rfc2.listing import listing
from node_agent.kernel.emulated.rfc2.luo import Luo
from node_agent.kernel.emulated.rfc2.objects import OPEN_IOMMU, Objects
from node_agent.kernel.emulated.session import LuoSession
from node_agent.kernel.tokens import TokenSessions
from node_agent.ports import BootFacts, KexecImage, KexecTelemetry, Session, TokenDevice, TokenFile, Tokens

T = TypeVar("T")


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
        self._sessions: set[InProcessSession] = set()
        self._exports: set[Export] = set()
        self._tokens = TokenSessions(InProcessTokens(self)) if model.rfc2 is not None else None

    async def facts(self) -> BootFacts:
        return self.model.facts()

    async def create_session(self, name: str) -> Session:
        """Opens the device, creates, closes it at once."""
        if self._tokens is not None:
            return await self._tokens.create_session(name)
        return await self._session("create_session", calls.CREATE, self.model.create_session, name)

    async def retrieve_session(self, name: str) -> Session:
        if self._tokens is not None:
            return await self._tokens.retrieve_session(name)
        return await self._session("retrieve_session", calls.RETRIEVE, self.model.retrieve_session, name)

    async def _session(
        self, short: str, call: str, make: Callable[[bytes], LuoSession], name: str
    ) -> InProcessSession:
        await self.enter("open_device", calls.OPEN)
        try:
            self.model.open_device()
        except OSError as cause:
            raise calls.failure(cause) from cause
        self._holds_device = True
        try:
            await self.enter(short, call)
            state = make(name.encode())
        except OSError as cause:
            raise calls.failure(cause) from cause
        finally:
            self._close_device()
        session = InProcessSession(self, state)
        self._sessions.add(session)
        return session

    async def prepare(self) -> Tokens:
        return await self._tokens.prepare() if self._tokens is not None else {}

    async def cancel(self) -> None:
        if self._tokens is not None:
            await self._tokens.cancel()

    async def finish(self) -> None:
        if self._tokens is not None:
            await self._tokens.finish()

    async def recall(self, tokens: Tokens) -> None:
        if self._tokens is not None:
            await self._tokens.recall(tokens)

    async def telemetry(self) -> KexecTelemetry | None:
        return self.model.telemetry()

    def luo(self) -> TokenDevice | None:
        return self._tokens.device if self._tokens is not None else None

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
        if self._tokens is not None:
            await self._tokens.ready_to_jump()

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
        self._reap()
        hang = self.model.hangs(short)
        if not hang:
            return
        try:
            await _for_ever()
        finally:
            # A process that a jump ended waited in a kernel whose log is gone.
            if hang is Hang.WAITS and not self._jumped:
                self.model.wait_killed(short)

    def _reap(self) -> None:
        """A closed fd counts at once, not when the loop gets round to it."""
        for export in tuple(self._exports):
            export.reap()

    def out_of_memory(self) -> None:
        self._kill()

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

    def closed(self, session: InProcessSession, state: LuoSession) -> None:
        self._sessions.discard(session)
        if self._alive:
            self.model.close(state)
        self._reap()

    def die(self, *, jumped: bool) -> None:
        """The end of this process: by a kill (its handles are closed) or by a jump (they are
        past). Idempotent. Exported fds follow only at a jump: other processes may hold them."""
        if self._tokens is not None:
            self._tokens.die()
        for session in tuple(self._sessions):
            session.drop_fd()
            if self._alive and not jumped:
                self.model.close(session.state)
        self._sessions.clear()
        self._jumped = self._jumped or jumped
        self._close_device()
        self._alive = False
        self._reap()
        if jumped:
            while self._exports:
                self._exports.pop().end()


class InProcessTokens:
    """tokens.TokenDevice: /dev/liveupdate of RFC v2 for one process."""

    def __init__(self, kernel: InProcessKernel) -> None:
        self._kernel = kernel

    async def state(self) -> str:
        return str(await self._call("get_state", abi.GET_STATE, lambda luo: luo.state))

    async def preserve(self, fd: int) -> int:
        return await self._call("fd_preserve", abi.FD_PRESERVE, lambda luo: luo.fd_preserve(fd))

    async def unpreserve(self, token: int) -> None:
        await self._call("fd_unpreserve", abi.FD_UNPRESERVE, lambda luo: luo.fd_unpreserve(token))

    async def restore(self, token: int) -> int:
        return await self._call("fd_restore", abi.FD_RESTORE, lambda luo: luo.fd_restore(token))

    async def prepare(self) -> None:
        await self._call("prepare", abi.PREPARE, lambda luo: luo.prepare())

    async def freeze(self) -> None:
        await self._call("freeze", abi.FREEZE, lambda luo: luo.freeze())

    async def cancel(self) -> None:
        await self._call("cancel", abi.CANCEL, lambda luo: luo.cancel())

    async def finish(self) -> None:
        await self._call("finish", abi.FINISH, lambda luo: luo.finish())

    async def registered(self) -> Sequence[int]:
        rfc2 = self._kernel.model.rfc2
        return tuple(rfc2.files.outgoing) if rfc2 is not None else ()

    async def files(self) -> Sequence[TokenFile]:
        rfc2 = self._kernel.model.rfc2
        return tuple(TokenFile(*row) for row in listing(rfc2)) if rfc2 is not None else ()

    async def _call(self, short: str, number: int, call: Callable[[Luo], T]) -> T:
        name = abi.CALL_NAMES[number]
        await self._kernel.enter(short, name)
        rfc2 = self._kernel.model.rfc2
        assert rfc2 is not None
        try:
            return call(rfc2.the_luo(calls.OPEN))
        except OSError as cause:
            raise calls.failure(cause) from cause


class InProcessSession:
    """ports.Session. Made by InProcessKernel only."""

    def __init__(self, kernel: InProcessKernel, state: LuoSession) -> None:
        self._kernel = kernel
        self.state = state
        self._fd = -1
        self._closed = False

    @property
    def name(self) -> str:
        return self.state.name.decode()

    def fileno(self) -> int:
        """Exported on first use, to be served by the running loop; a blocking call on it from
        the loop's own thread would wait for itself."""
        self._check(calls.GET_NAME)
        if self._fd < 0:
            self._fd = self._kernel.export(self.state)
        return self._fd

    async def preserve_fd(self, fd: int, token: int) -> None:
        self._check(calls.PRESERVE_FD)
        await self._kernel.enter("preserve_fd", calls.PRESERVE_FD)
        try:
            self._kernel.model.preserve_fd(self.state, fd, token)
        except OSError as cause:
            raise calls.failure(cause) from cause
        except OutOfMemory:
            self._kernel.out_of_memory()
            await _for_ever()

    async def retrieve_fd(self, token: int) -> int:
        self._check(calls.RETRIEVE_FD)
        await self._kernel.enter("retrieve_fd", calls.RETRIEVE_FD)
        try:
            return self.state.retrieve_fd(token)
        except OSError as cause:
            raise calls.failure(cause) from cause

    async def finish(self) -> None:
        self._check(calls.FINISH)
        await self._kernel.enter("finish", calls.FINISH)
        try:
            self.state.finish()
        except OSError as cause:
            raise calls.failure(cause) from cause

    async def close(self) -> None:
        """Idempotent. Copies of the exported fd in other processes keep the session held."""
        if self._closed:
            return
        self._closed = True
        self.drop_fd()
        self._kernel.closed(self, self.state)

    def drop_fd(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def _check(self, call: str) -> None:
        if self._closed:
            raise KernelError(errno.EBADF, call)


async def _for_ever() -> NoReturn:
    await asyncio.get_running_loop().create_future()
    raise AssertionError("a future nobody can resolve was resolved")
