"""LUO as merged: sessions, and no state for the machine. What ports.Sessions asks beyond them is nothing."""

from __future__ import annotations

import errno

from node_agent.errors import KernelError
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
