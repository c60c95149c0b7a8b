"""A wake that is only a wake: set by anybody, waited for by one, at the latest until an instant."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from datetime import datetime, timedelta
from typing import Any

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
                await self._race(self._clock.sleep_until(until))
        self._event.clear()

    async def wait_for(self, duration: timedelta) -> None:
        """Returns on a wake, or after `duration`, whatever becomes of the wall clock meanwhile."""
        if not self._event.is_set():
            await self._race(self._clock.sleep(duration))
        self._event.clear()

    async def _race(self, sleep: Coroutine[Any, Any, None]) -> None:
        sleeper = asyncio.ensure_future(sleep)
        waiter = asyncio.ensure_future(self._event.wait())
        try:
            await asyncio.wait({sleeper, waiter}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            sleeper.cancel()
            waiter.cancel()
            await asyncio.gather(sleeper, waiter, return_exceptions=True)
