"""Creating, retrieving and looking for sessions through a device that only one process may have open.

Rules: our own calls wait for each other; EBUSY from another user of /dev/liveupdate (systemd
carries fd stores through it) is normal and waited out, bounded. This is the only place that
waits: a kernel of ports.Kernel says DEVICE_BUSY at once, whichever kernel it is.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import TypeVar

from node_agent.errors import KernelError

T = TypeVar("T")

WAITS_S = (0.01, 0.02, 0.05, *(0.1,) * 49)
"""Five seconds in all. Others open the device for the length of one ioctl, so the first waits are
short; one that keeps it longer than this is stuck, and the step's own deadline is near."""
TRIES = len(WAITS_S) + 1


class Device:
    """One node's turn-taking.

    Args:
        sleep: of the node's clock.
    """

    def __init__(self, sleep: Callable[[float], Awaitable[None]]) -> None:
        self._sleep = sleep
        self._turn = asyncio.Lock()

    async def in_turn(self, call: Callable[[], Awaitable[T]]) -> T:
        """call(), a create_session, retrieve_session or is_free, in its turn. Raises KernelError."""
        async with self._turn:
            return await when_free(self._sleep, call)


async def when_free(sleep: Callable[[float], Awaitable[None]], call: Callable[[], Awaitable[T]]) -> T:
    """call(), again after each of WAITS_S while somebody else has the device open. KernelError."""
    for wait_s in WAITS_S:
        try:
            return await call()
        except KernelError as error:
            if error.reason != "DEVICE_BUSY":
                raise
        await sleep(wait_s)
    return await call()
