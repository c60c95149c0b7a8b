"""An event loop whose time is virtual: it jumps to the next timer whenever nothing is ready.

Nothing in a simulation may wait for a file descriptor or a thread; a loop with neither timers
nor ready callbacks can never go on, and says so instead of hanging.

Tasks and futures are hashed by the order in which they were made, not by their address, so that
sets of them (task groups cancel by walking one) have the same order in every run.

A Process is what SIGSTOP can stop: all that runs in a context which names it. Stopped, none of its
callbacks and timers run, while the clock and everybody else go on; what was due meanwhile runs, late,
when it is let go again.
"""

from __future__ import annotations

import asyncio
import heapq
import selectors
from collections.abc import Callable, Coroutine
from contextvars import Context, ContextVar, copy_context
from datetime import UTC, datetime, timedelta
from typing import Any, TypeVar, TypeVarTuple

EPOCH = datetime(2026, 1, 5, 12, 0, tzinfo=UTC)
"""A Monday noon: inside working-hours windows, far from month ends and clock changes."""


GRAIN_S = 1e-6
"""No timer is finer: no machine's is, and a float of some hours' seconds is good for 1e-11."""

T = TypeVar("T")
_Ts = TypeVarTuple("_Ts")


NOBODY = Context()
"""Of what belongs to no process: messages under way, the world itself."""


class Process:
    """Something that can be stopped and let go again."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.stopped = False
        self._held: list[asyncio.Handle] = []

    def context(self) -> Context:
        """For a task of this process; whatever it starts is the process's too."""
        context = copy_context()
        context.run(PROCESS.set, self)
        return context

    def stop(self) -> None:
        """SIGSTOP. Idempotent."""
        if not self.stopped:
            self.stopped = True
            loop = asyncio.get_running_loop()
            assert isinstance(loop, VirtualLoop)
            self._held = loop.hold(self)

    def go(self) -> None:
        """SIGCONT. Idempotent."""
        if self.stopped:
            self.stopped = False
            loop = asyncio.get_running_loop()
            assert isinstance(loop, VirtualLoop)
            held, self._held = self._held, []
            loop.release(self, held)

    def hold(self, handle: asyncio.Handle) -> None:
        """This was due while it was stopped."""
        self._held.append(handle)


PROCESS: ContextVar[Process | None] = ContextVar("process", default=None)


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
        self._stopped: list[Process] = []
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

    def _call_soon_of_the_running(
        self, callback: Callable[[*_Ts], object], *args: *_Ts, context: Context | None = None
    ) -> asyncio.Handle:
        """call_soon while some process is stopped."""
        handle = super().call_soon(callback, *args, context=context)
        process = handle._context.get(PROCESS)
        if process is not None and process.stopped:
            self._ready.pop()
            process.hold(handle)
        return handle

    def hold(self, process: Process) -> list[asyncio.Handle]:
        """Takes out what the process has ready, then its timers in their order."""
        if not self._stopped:
            self.call_soon = self._call_soon_of_the_running  # type: ignore[assignment]
        self._stopped.append(process)
        held: list[asyncio.Handle] = []
        nothing = asyncio.Handle(_nothing, (), self, NOBODY)
        nothing.cancel()
        for index, handle in enumerate(self._ready):
            if handle._context.get(PROCESS) is process:
                held.append(handle)
                # The loop counts on as many as there were when its round began.
                self._ready[index] = nothing
        timers = [timer for timer in self._scheduled if timer._context.get(PROCESS) is process]
        if timers:
            self._scheduled = [t for t in self._scheduled if t._context.get(PROCESS) is not process]
            heapq.heapify(self._scheduled)
        for timer in sorted(timers, key=lambda t: t.when()):
            timer._scheduled = False
            held.append(timer)
        return held

    def release(self, process: Process, held: list[asyncio.Handle]) -> None:
        """Puts back what was held."""
        self._stopped.remove(process)
        if not self._stopped:
            del self.call_soon
        for handle in held:
            if handle.cancelled():
                continue
            if isinstance(handle, asyncio.TimerHandle) and handle.when() > self.time():
                handle._scheduled = True
                heapq.heappush(self._scheduled, handle)
            else:
                self._ready.append(handle)

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


def _nothing() -> None:
    return


def run(main: Coroutine[Any, Any, T]) -> T:
    """asyncio.run under virtual time."""
    with asyncio.Runner(loop_factory=VirtualLoop) as runner:
        return runner.run(main)


class VirtualBase:
    """kernel.emulated.clock.BaseClock over the running virtual loop."""

    def now(self) -> float:
        return asyncio.get_running_loop().time()

    async def sleep(self, seconds: float, /) -> None:
        await asyncio.sleep(seconds)


class VirtualClock:
    """orchestrator.ports.Clock over the running virtual loop. Its wall clock may be wrong, and may be
    set while it runs (skew)."""

    def __init__(self, skew: timedelta = timedelta(0)) -> None:
        self.skew = skew

    def now(self) -> datetime:
        return EPOCH + timedelta(seconds=asyncio.get_running_loop().time()) + self.skew

    def monotonic_s(self) -> float:
        return asyncio.get_running_loop().time()

    async def sleep_until(self, at: datetime) -> None:
        await asyncio.sleep(max(0.0, (at - self.now()).total_seconds()))

    async def sleep(self, duration: timedelta) -> None:
        # Some time passes in every sleep, also in one that rounds to nothing: a loop that sleeps until an
        # instant would else never reach it.
        await asyncio.sleep(max(duration.total_seconds(), GRAIN_S))
