"""RFC v2's device as an agent of the simulation has it: each ioctl a place to be killed at, or cut short."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Sequence
from typing import TYPE_CHECKING

from node_agent.errors import KernelError
from node_agent.ports import TokenDevice, TokenFile

if TYPE_CHECKING:
    from tests.sim.node import SimNode


class SimTokens:
    """tokens.TokenDevice. As with a thread in the kernel, who is cut short may have done it all the same."""

    def __init__(self, node: SimNode, device: TokenDevice) -> None:
        self._node, self._device = node, device

    async def state(self) -> str:
        return await self._device.state()

    async def preserve(self, fd: int) -> int:
        return await self._node.passing("FD_PRESERVE", lambda: self._device.preserve(fd))

    async def unpreserve(self, token: int) -> None:
        await self._node.passing("FD_UNPRESERVE", lambda: self._device.unpreserve(token))

    async def restore(self, token: int) -> int:
        """Whoever dies with a descriptor closes it; nobody is cut short between the call and its answer."""
        await self._node.point("FD_RESTORE")
        fd = await self._device.restore(token)
        try:
            await self._node.point("FD_RESTORE done", at_once=True)
        except asyncio.CancelledError:
            os.close(fd)
            raise
        return fd

    async def prepare(self) -> None:
        try:
            await self._node.passing("PREPARE", self._device.prepare)
        except KernelError as error:
            self._node.world.story.count(f"PREPARE refused: {error.reason}")
            raise

    async def freeze(self) -> None:
        await self._node.passing("FREEZE", self._device.freeze)

    async def cancel(self) -> None:
        await self._node.passing("CANCEL", self._device.cancel)

    async def finish(self) -> None:
        await self._node.passing("FINISH", self._device.finish)

    async def registered(self) -> Sequence[int]:
        return await self._device.registered()

    async def files(self) -> Sequence[TokenFile]:
        return await self._device.files()
