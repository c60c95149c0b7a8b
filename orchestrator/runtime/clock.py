"""The only reader of time in the orchestrator. Simulations inject one of their own."""

from __future__ import annotations

import asyncio
import time
from datetime import UTC, datetime, timedelta


class SystemClock:
    """The machine's clocks. Sleeps follow the event loop's (monotonic) clock."""

    def now(self) -> datetime:
        return datetime.now(UTC)

    def monotonic_s(self) -> float:
        return time.monotonic()

    async def sleep_until(self, at: datetime) -> None:
        """Returns at or after `at`, also if the wall clock is set back or forward meanwhile."""
        left_s = (at - self.now()).total_seconds()
        while left_s > 0:
            # Short enough to notice that somebody set the clock.
            await asyncio.sleep(min(left_s, LOOK_AGAIN_S))
            left_s = (at - self.now()).total_seconds()

    async def sleep(self, duration: timedelta) -> None:
        await asyncio.sleep(duration.total_seconds())


LOOK_AGAIN_S = 60.0
"""Longest sleep without a look at the wall clock: change windows and leases are wall-clock instants."""
