"""Creating and retrieving many sessions through a device that only one process may have open.

Rules: our own calls wait for each other; EBUSY from another user of /dev/liveupdate (systemd
carries fd stores through it) is normal and waited out, bounded.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

from node_agent.errors import KernelError
from node_agent.ports import Session

TRIES = 40
WAIT_S = 0.05
"""Two seconds in all: others open it for the length of one ioctl."""


class Device:
    """One node's turn-taking.

    Args:
        sleep: of the node's clock.
    """

    def __init__(self, sleep: Callable[[float], Awaitable[None]]) -> None:
        self._sleep = sleep
        self._turn = asyncio.Lock()

    async def session(self, call: Callable[[], Awaitable[Session]]) -> Session:
        """call(), a create_session or retrieve_session, in its turn. Raises KernelError."""
        async with self._turn:
            for _ in range(TRIES - 1):
                try:
                    return await call()
                except KernelError as error:
                    if error.reason != "DEVICE_BUSY":
                        raise
                await self._sleep(WAIT_S)
            return await call()
