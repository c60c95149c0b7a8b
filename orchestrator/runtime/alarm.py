"""A wake that is only a wake: set by anybody, waited for by one, at the latest until an instant."""

from __future__ import annotations

import asyncio
from datetime import datetime

from orchestrator.ports import Clock


class Alarm:
    """Any number of wakes before a wait() count as one."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._event = asyncio.Event()

    def wake(self) -> None:
        self._event.set()

    async def wait(self, until: datetime | None = None) -> None:
        """Returns on a wake, or at `until`; None: only on a wake. Either way wakes so far are spent."""
        if not self._event.is_set():
            if until is None:
                await self._event.wait()
            else:
                await self._race(until)
        self._event.clear()

    async def _race(self, until: datetime) -> None:
        sleeper = asyncio.ensure_future(self._clock.sleep_until(until))
        waiter = asyncio.ensure_future(self._event.wait())
        try:
            await asyncio.wait({sleeper, waiter}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            sleeper.cancel()
            waiter.cancel()
            await asyncio.gather(sleeper, waiter, return_exceptions=True)
