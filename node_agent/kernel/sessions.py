"""LUO as merged: sessions, and no state for the machine. What ports.Sessions asks beyond them is nothing."""

from __future__ import annotations

import errno

from node_agent.errors import KernelError
from node_agent.kernel import failure as calls
from node_agent.ports import Sessions, TokenDevice, Tokens


class SessionModel(Sessions):
    """The part of ports.Sessions that a kernel with sessions needs no code of its own for."""

    async def is_free(self, name: str) -> bool:
        """No kernel says it, or when a session goes: it is tried."""
        try:
            tried = await self.create_session(name)
        except KernelError as error:
            if error.errno != errno.EEXIST:
                raise
            return False
        await tried.close()
        return True

    async def prepare(self) -> Tokens:
        """A session is ready as soon as its files are preserved."""
        return {}

    async def cancel(self) -> None:
        """Closing a session undoes it."""

    async def finish(self) -> None:
        """Every session is finished by itself."""

    async def recall(self, tokens: Tokens) -> None:
        """Sessions are found by their names."""

    async def ready_to_jump(self) -> None:
        """reboot(KEXEC) freezes every session, or is refused."""

    def luo(self) -> TokenDevice | None:
        """There is one for each session only."""
        return None


class SessionFd:
    """A session as a descriptor, until it is closed.

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
        return self._open(calls.GET_NAME)

    def _open(self, call: str) -> int:
        """For this call. Raises KernelError (EBADF) once it is closed."""
        if self._fd < 0:
            raise KernelError(errno.EBADF, call)
        return self._fd
