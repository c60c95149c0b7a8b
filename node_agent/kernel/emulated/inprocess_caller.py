"""Caller: one process of a node, as its kernel has it. It makes calls, holds handles, and dies.

When it is killed its handles are closed; after a jump they are past, and closing one does nothing. A session
is exported as a real fd that speaks the wire (see wire), served by the running loop, so that another process
or thread can use it through syncclient.
"""

from __future__ import annotations

import asyncio
import errno
from collections.abc import Callable
from typing import NoReturn

from node_agent.errors import KernelError
from node_agent.kernel import failure as calls
from node_agent.kernel.emulated import wire
from node_agent.kernel.emulated.export import Export
from node_agent.kernel.emulated.model import Hang, LuoModel, OutOfMemory
from node_agent.kernel.emulated.session import LuoSession


class Caller:
    """Of the kernel in this process.

    Args:
        kill: called when the OOM killer takes it.
    """

    def __init__(self, model: LuoModel, kill: Callable[[], None]) -> None:
        self.model = model
        self._kill = kill
        self._alive = True
        self.jumped = False
        """A kexec has left it behind."""
        self._holds_device = False
        self._exports: set[Export] = set()

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
            await for_ever()
        finally:
            # A process that a jump ended waited in a kernel whose log is gone.
            if hang is Hang.WAITS and not self.jumped:
                self.model.wait_killed(short)

    def reap(self) -> None:
        """A closed fd counts at once, not when the loop gets round to it."""
        for export in tuple(self._exports):
            export.reap()

    async def out_of_memory(self) -> NoReturn:
        """The OOM killer takes this process."""
        self._kill()
        await for_ever()

    def close(self, state: LuoSession) -> None:
        """A handle of this process's own is closed. One that a jump has left behind closes nothing."""
        if self._alive and not self.jumped:
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
        if self._holds_device and not self.jumped:
            self.model.close_device()
        self._holds_device = False

    def die(self) -> None:
        """Its end. Idempotent. Exported fds follow only where it jumped: other processes may hold them."""
        self._close_device()
        self._alive = False
        self.reap()
        if self.jumped:
            while self._exports:
                self._exports.pop().end()


async def for_ever() -> NoReturn:
    """What a caller that is gone, or is kept by a fault, does."""
    await asyncio.get_running_loop().create_future()
    raise AssertionError("a future nobody can resolve was resolved")
