"""An event loop whose time is virtual: it jumps to the next timer whenever nothing is ready.

Nothing in a simulation may wait for a file descriptor or a thread; a loop with neither timers
nor ready callbacks can never go on, and says so instead of hanging.

Tasks and futures are hashed by the order in which they were made, not by their address, so that
sets of them (task groups cancel by walking one) have the same order in every run.
"""

from __future__ import annotations

import asyncio
import selectors
from collections.abc import Callable, Coroutine
from contextvars import Context
from datetime import UTC, datetime, timedelta
from typing import Any, TypeVar, TypeVarTuple

EPOCH = datetime(2026, 1, 5, 12, 0, tzinfo=UTC)
"""A Monday noon: inside working-hours windows, far from month ends and clock changes."""


GRAIN_S = 1e-6
"""No timer is finer: no machine's is, and a float of some hours' seconds is good for 1e-11."""

T = TypeVar("T")
_Ts = TypeVarTuple("_Ts")


class Stalled(RuntimeError):
    """Every task waits for something that nobody will do."""


class _Selector(selectors.SelectSelector):
    """Never blocks: a timeout is granted by moving the clock."""

    def __init__(self) -> None:
        super().__init__()
        self.now_s = 0.0
        self._calls = 0

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        ready: list[tuple[selectors.SelectorKey, int]] = []
        self._calls += 1
        # The loop's own pipe is there for signals only: a look now and then is enough.
        if len(self.get_map()) > 1 or timeout is None or self._calls % 256 == 0:
            ready = super().select(0)
        if ready:
            return ready
        if timeout is None:
            raise Stalled("no task is ready and no timer is set")
        self.now_s += max(timeout, 0.0)
        return ready


class _Task(asyncio.Task[Any]):
    """Hashed by its number, which it must have before it registers itself."""

    def __init__(self, number: int, coro: Coroutine[Any, Any, Any], **how: Any) -> None:
        self.number = number
        super().__init__(coro, **how)

    def __hash__(self) -> int:
        return self.number


class _Future(asyncio.Future[Any]):
    """Hashed by its number."""

    number = 0

    def __hash__(self) -> int:
        return self.number


class VirtualLoop(asyncio.SelectorEventLoop):
    """`time()` is the virtual clock, in seconds since the simulation began."""

    def __init__(self) -> None:
        self._virtual = _Selector()
        super().__init__(self._virtual)
        # Timers closer together than this run in one go; virtual time needs no slack.
        self._clock_resolution = 1e-9
        self._made = 0
        self.set_task_factory(self._make_task)  # type: ignore[arg-type]  # newer stubs pass more

    def time(self) -> float:
        return self._virtual.now_s

    def call_later(
        self,
        delay: float,
        callback: Callable[[*_Ts], object],
        *args: *_Ts,
        context: Context | None = None,
    ) -> asyncio.TimerHandle:
        """A wait for less than the clock can tell would never let time pass."""
        if delay > 0:
            delay = max(delay, GRAIN_S)
        return super().call_later(delay, callback, *args, context=context)

    def create_future(self) -> asyncio.Future[Any]:
        self._made += 1
        future = _Future(loop=self)
        future.number = self._made
        return future

    def _make_task(
        self,
        loop: asyncio.AbstractEventLoop,
        coro: Coroutine[Any, Any, Any],
        context: Context | None = None,
    ) -> asyncio.Task[Any]:
        self._made += 1
        return _Task(self._made, coro, loop=loop, context=context)


def run(main: Coroutine[Any, Any, T]) -> T:
    """asyncio.run under virtual time."""
    with asyncio.Runner(loop_factory=VirtualLoop) as runner:
        return runner.run(main)


class VirtualClock:
    """orchestrator.ports.Clock over the running virtual loop, optionally skewed."""

    def __init__(self, skew: timedelta = timedelta(0)) -> None:
        self.skew = skew

    def now(self) -> datetime:
        return EPOCH + timedelta(seconds=asyncio.get_running_loop().time()) + self.skew

    def monotonic_s(self) -> float:
        return asyncio.get_running_loop().time()

    async def sleep_until(self, at: datetime) -> None:
        await asyncio.sleep(max(0.0, (at - self.now()).total_seconds()))

    async def sleep(self, duration: timedelta) -> None:
        await asyncio.sleep(duration.total_seconds())
