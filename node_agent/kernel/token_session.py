"""TokenSession: ports.Session made of the kernel's tokens (RFC v2). Its owner is tokens.TokenSessions."""

from __future__ import annotations

import asyncio
import errno
import os
from collections.abc import Coroutine
from typing import Any, Protocol

from node_agent.errors import KernelError
from node_agent.kernel import failure as calls
from node_agent.kernel.token_export import TokenExport
from node_agent.ports import TokenDevice


class Owner(Protocol):
    """What a session needs of tokens.TokenSessions, which says it of each."""

    device: TokenDevice

    def own(self, call: Coroutine[Any, Any, None]) -> asyncio.Task[None]: ...
    async def register(self, session: TokenSession, fd: int, token: int) -> None: ...
    async def given_up(self, session: TokenSession) -> None: ...
    async def let_go_or_later(self) -> None: ...
    def forget(self, session: TokenSession) -> None: ...


class TokenSession:
    """ports.Session. Made by TokenSessions only."""

    def __init__(self, owner: Owner, name: str, tokens: dict[int, int] | None) -> None:
        self._owner = owner
        self._name = name
        self.incoming = tokens is not None
        self.tokens: dict[int, int] = dict(tokens or {})
        """The session's token → the kernel's."""
        self.restored: dict[int, int] = {}
        """The session's token → a copy of its fd."""
        self.finished = False
        self.holders = 1
        """This process's own handle, and the fd that it gave out, whoever has copies of that."""
        self._closed = self._dead = False
        self._fd = -1
        self._export: TokenExport | None = None
        self._turn = asyncio.Lock()
        """One call after the other: a workload's come beside the agent's."""

    @property
    def name(self) -> str:
        return self._name

    def fileno(self) -> int:
        """Exported on first use, to be served by the running loop."""
        self._check(calls.GET_NAME)
        if self._export is None:
            self._export = TokenExport(self, self._owner.own, self._fd_closed)
            self._fd = self._export.fd
            self.holders += 1
        return self._fd

    async def preserve_fd(self, fd: int, token: int) -> None:
        """Raises KernelError: what FD_PRESERVE says, or EINVAL, EEXIST, ENOSPC (too many)."""
        self._check(calls.PRESERVE_FD)
        await self.put(fd, token)

    async def retrieve_fd(self, token: int) -> int:
        """Raises KernelError: EINVAL, ENOENT, or what FD_RESTORE says (EINVAL: somebody restored it)."""
        self._check(calls.RETRIEVE_FD)
        return await self.take(token)

    async def finish(self) -> None:
        """What the kernel keeps is kept until TokenSessions.finish()."""
        self._check(calls.FINISH)
        await self.end()

    async def close(self) -> None:
        """Idempotent. The last holder's close gives the files up, or finishes the session."""
        if not self._closed:
            self._closed = True
            self._drop_fd()
            if self._let_go():
                await self._owner.given_up(self)

    # --- for whoever has its fd

    async def put(self, fd: int, token: int) -> None:
        """preserve_fd()."""
        async with self._turn:
            if self.incoming:
                raise calls.failure(OSError(errno.EINVAL, calls.PRESERVE_FD))
            if token in self.tokens:
                raise calls.failure(OSError(errno.EEXIST, calls.PRESERVE_FD))
            await self._owner.register(self, fd, token)
            if not self.holders:
                # Given up meanwhile, without this one.
                await self._owner.given_up(self)

    async def take(self, token: int) -> int:
        """retrieve_fd()."""
        async with self._turn:
            if not self.incoming:
                raise calls.failure(OSError(errno.EINVAL, calls.RETRIEVE_FD))
            if token not in self.restored:
                if self.finished or token not in self.tokens:
                    raise calls.failure(OSError(errno.ENOENT, calls.RETRIEVE_FD))
                fd = await self._owner.device.restore(self.tokens[token])
                if self._is_finished():
                    os.close(fd)
                    raise calls.failure(OSError(errno.ENOENT, calls.RETRIEVE_FD))
                self.restored[token] = fd
            return os.dup(self.restored[token])

    async def end(self) -> None:
        """finish()."""
        async with self._turn:
            if not self.incoming:
                raise calls.failure(OSError(errno.EINVAL, calls.FINISH))
            self.drop()

    # --- for its owner

    def drop(self) -> None:
        """No file is given out any more."""
        self.finished = True
        while self.restored:
            os.close(self.restored.popitem()[1])

    def die(self) -> None:
        """Its process has: nothing of it is left, and nothing is undone."""
        self._closed, self._dead, self.holders = True, True, 0
        self.drop()
        if self._export is not None:
            self._export.end()
        self._drop_fd()

    def _fd_closed(self) -> None:
        """The last copy of its fd is."""
        if self._let_go():
            self._owner.forget(self)
            self._owner.own(self._owner.let_go_or_later())

    def _is_finished(self) -> bool:
        """By now, that is."""
        return self.finished

    def _let_go(self) -> bool:
        """Was it the last holder?"""
        self.holders -= 1
        return not self.holders

    def _drop_fd(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1
            assert self._export is not None
            self._export.reap()

    def reap(self) -> None:
        """A closed fd counts at once, not when the loop gets round to it."""
        if self._export is not None:
            self._export.reap()

    def _check(self, call: str) -> None:
        if self._dead:
            raise KernelError(errno.ESHUTDOWN, call, "this process died with its boot", reason="BOOT_OVER")
        if self._closed:
            raise KernelError(errno.EBADF, call)
