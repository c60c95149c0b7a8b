"""LUO as merged: sessions, and no state for the machine. What ports.Sessions asks beyond them is nothing."""

from __future__ import annotations

from node_agent.ports import TokenDevice, Tokens


class SessionModel:
    """The part of ports.Sessions that a kernel with sessions needs no code for."""

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
