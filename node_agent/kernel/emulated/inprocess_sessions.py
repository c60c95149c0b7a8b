"""InProcessSessions: ports.Sessions, as merged, over a LuoModel in this process."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable

from node_agent.errors import KernelError
from node_agent.kernel import failure as calls
from node_agent.kernel.emulated.inprocess_caller import Caller
from node_agent.kernel.emulated.machine import OutOfMemory
from node_agent.kernel.emulated.session import LuoSession
from node_agent.kernel.sessions import SessionModel


class InProcessSessions(SessionModel):
    """The sessions of one process of a node."""

    def __init__(self, caller: Caller) -> None:
        self._caller = caller
        self._open: set[InProcessSession] = set()

    async def create_session(self, name: str) -> InProcessSession:
        """Opens the device, creates, closes it at once."""
        create = self._caller.model.create_session
        return await self._session("create_session", calls.CREATE, create, name)

    async def retrieve_session(self, name: str) -> InProcessSession:
        retrieve = self._caller.model.retrieve_session
        return await self._session("retrieve_session", calls.RETRIEVE, retrieve, name)

    async def _session(
        self, short: str, call: str, make: Callable[[bytes], LuoSession], name: str
    ) -> InProcessSession:
        await self._caller.enter("open_device", calls.OPEN)
        close_device = self._caller.hold_device()
        try:
            await self._caller.enter(short, call)
            state = make(name.encode())
        except OSError as cause:
            raise calls.failure(cause) from cause
        finally:
            close_device()
        session = InProcessSession(self._caller, state, self._open.discard)
        self._open.add(session)
        return session

    def die(self) -> None:
        """The end of this process: its handles are closed."""
        while self._open:
            self._open.pop().end()


class InProcessSession:
    """ports.Session. Made by InProcessSessions only."""

    def __init__(self, caller: Caller, state: LuoSession, closed: Callable[[InProcessSession], None]) -> None:
        self._caller = caller
        self._tell_closed = closed
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
            self._fd = self._caller.export(self.state)
        return self._fd

    async def preserve_fd(self, fd: int, token: int) -> None:
        self._check(calls.PRESERVE_FD)
        await self._caller.enter("preserve_fd", calls.PRESERVE_FD)
        try:
            self._caller.model.preserve_fd(self.state, fd, token)
        except OSError as cause:
            raise calls.failure(cause) from cause
        except OutOfMemory:
            await self._caller.out_of_memory()

    async def retrieve_fd(self, token: int) -> int:
        self._check(calls.RETRIEVE_FD)
        await self._caller.enter("retrieve_fd", calls.RETRIEVE_FD)
        try:
            return self.state.retrieve_fd(token)
        except OSError as cause:
            raise calls.failure(cause) from cause

    async def finish(self) -> None:
        self._check(calls.FINISH)
        await self._caller.enter("finish", calls.FINISH)
        try:
            self.state.finish()
        except OSError as cause:
            raise calls.failure(cause) from cause

    async def close(self) -> None:
        """Idempotent. Copies of the exported fd in other processes keep the session held."""
        if self._closed:
            return
        self._closed = True
        self._tell_closed(self)
        self.end()
        self._caller.reap()

    def end(self) -> None:
        """Of this handle, by a close or by its process's death."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1
        self._caller.close(self.state)

    def _check(self, call: str) -> None:
        if self._closed:
            raise KernelError(errno.EBADF, call)
