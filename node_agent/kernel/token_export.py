"""TokenExport: a session made of tokens as a real fd, so that a workload speaks to it as to a kernel's.

Its calls are SESSION_PRESERVE_FD, RETRIEVE_FD, FINISH and GET_NAME; errors are errnos, as sessions give them.
A call that is under way goes on when its caller is gone, as one in a kernel does.
"""

from __future__ import annotations

import asyncio
import errno
from collections.abc import Callable, Coroutine
from typing import Any, Protocol

from node_agent.errors import KernelError
from node_agent.kernel import abi
from node_agent.kernel import failure as calls
from node_agent.kernel.emulated import wire
from node_agent.kernel.emulated.export import Export

_AS_A_SESSION = {(calls.FD_PRESERVE, errno.EEXIST): errno.EBUSY}
"""What a token's call says → what a session's says for the same: the file is preserved already."""


class Files(Protocol):
    """A session, whoever has its fd. Every call raises KernelError."""

    incoming: bool

    @property
    def name(self) -> str: ...
    async def put(self, fd: int, token: int) -> None: ...
    async def take(self, token: int) -> int: ...
    async def end(self) -> None: ...


class TokenExport:
    """One session's fd.

    Args:
        own: makes a task of a call; whoever owns it ends it.
        closed: its last copy is closed.
    """

    def __init__(
        self,
        files: Files,
        own: Callable[[Coroutine[Any, Any, None]], asyncio.Task[None]],
        closed: Callable[[], None],
    ) -> None:
        self._files, self._own = files, own
        self._export = Export(self._call, closed)
        self.fd = self._export.client_fd
        """The caller's."""

    def reap(self) -> None:
        """See Export.reap."""
        self._export.reap()

    def end(self) -> None:
        """See Export.end."""
        self._export.end()

    def _call(self, request: wire.Request) -> None:
        number, argument = wire.decode_session(request.body, incoming=self._files.incoming)
        task = self._own(self._answer(request, number, argument))
        # Also of one that was cancelled before it began.
        task.add_done_callback(lambda _: request.close())

    async def _answer(self, request: wire.Request, number: int, argument: bytes) -> None:
        try:
            wire.answer(request, *await self._perform(number, argument, request.fd))
        except KernelError as error:
            request.answer(-_AS_A_SESSION.get((error.call, error.errno), error.errno))

    async def _perform(self, number: int, argument: bytes, fd: int) -> tuple[bytes, int]:
        match number:
            case abi.SESSION_PRESERVE_FD:
                await self._files.put(fd, abi.unpack_fd(argument)[1])
            case abi.SESSION_RETRIEVE_FD:
                return argument, await self._files.take(abi.unpack_fd(argument)[1])
            case abi.SESSION_FINISH:
                await self._files.end()
            case _:
                return bytes(abi.pack_name(self._files.name.encode())), -1
        return argument, -1
