"""The store's clock, as this process can tell it between two looks at it.

Rules
1. Instants in rows are the store's, whichever replica writes them: what a host's wall clock says
   plays no part once the store has been asked.
2. Between two looks it runs by the monotonic clock, so that a host whose wall clock is set, or
   wrong, changes nothing.
3. The store read its clock at some moment of the call, so the truth lies in a span as wide as the
   call was long. What was believed stands while it is in that span; else the nearer end is taken: a
   slow answer moves nothing, and a quick one only as far as it must.
4. Before the first look it is the host's.
"""

from __future__ import annotations

from datetime import datetime, timedelta

from orchestrator.ports import Clock

CLOCK_SET = timedelta(seconds=5)
"""A clock has moved so much against the monotonic one: it was set, the machine slept, or another machine is
the store now. Well below every lease."""

LOOK_AGAIN = timedelta(seconds=60)
"""Longest sleep towards an instant without asking where the clock stands by now."""


class StoreClock:
    """A Clock over the host's."""

    def __init__(self, host: Clock) -> None:
        self._host = host
        self._anchor: tuple[datetime, float] | None = None
        """The store's instant at a monotonic second."""
        self.uncertainty = timedelta(0)
        """Half the width of the last span: how wrong it may be."""

    def now(self) -> datetime:
        if self._anchor is None:
            return self._host.now()
        at, monotonic_s = self._anchor
        return at + timedelta(seconds=self._host.monotonic_s() - monotonic_s)

    def monotonic_s(self) -> float:
        return self._host.monotonic_s()

    async def sleep_until(self, at: datetime) -> None:
        """Returns at or after `at`, also if the store's clock is set meanwhile."""
        left = at - self.now()
        while left > timedelta(0):
            await self._host.sleep(min(left, LOOK_AGAIN))
            left = at - self.now()

    async def sleep(self, duration: timedelta) -> None:
        await self._host.sleep(duration)

    def error(self, store_now: datetime, asked_s: float, answered_s: float) -> timedelta:
        """How far now() would have to move, learnt from a call between two monotonic seconds in
        which the store read store_now. Zero: what is believed is possible."""
        earliest = store_now
        latest = store_now + timedelta(seconds=answered_s - asked_s)
        believed = self._believed(answered_s)
        if believed is None:
            return timedelta(0)
        if believed < earliest:
            return earliest - believed
        return latest - believed if believed > latest else timedelta(0)

    def learn(self, store_now: datetime, asked_s: float, answered_s: float) -> None:
        """Rule 3."""
        width = timedelta(seconds=answered_s - asked_s)
        self.uncertainty = width / 2
        believed = self._believed(answered_s)
        if believed is None:
            self._anchor = (store_now + width / 2, answered_s)
            return
        self._anchor = (believed + self.error(store_now, asked_s, answered_s), answered_s)

    def _believed(self, monotonic_s: float) -> datetime | None:
        if self._anchor is None:
            return None
        at, then_s = self._anchor
        return at + timedelta(seconds=monotonic_s - then_s)
