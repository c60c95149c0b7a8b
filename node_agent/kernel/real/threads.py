"""Blocking calls in threads: what to do with an answer that nobody waits for any more.

Rules:
- a thread here is a daemon: a call that the kernel does not return from must not keep the
  process from ending;
- a cancelled caller does not stop its call. The answer goes to `lost`, so that a descriptor in
  it is kept or closed on purpose and not forgotten.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from queue import SimpleQueue
from threading import Thread
from typing import TypeVar

T = TypeVar("T")


def _forget(_answer: object) -> None:
    """What is done with an answer that holds nothing."""


class Worker:
    """One thread that makes one call after another, from its first call until close().

    Args:
        name: the thread's, for whoever looks at a stuck process.
    """

    def __init__(self, name: str) -> None:
        self._name = name
        self._calls: SimpleQueue[Callable[[], None] | None] = SimpleQueue()
        self._started = False

    async def run(self, call: Callable[[], T], lost: Callable[[T], None] = _forget) -> T:
        """call() in this worker's thread. Raises what it raises.

        Args:
            lost: takes the answer, in any thread, if the caller was cancelled.
        """
        if not self._started:
            self._started = True
            Thread(target=self._work, name=self._name, daemon=True).start()
        answer, work = _prepare(call, lost)
        self._calls.put(work)
        return await _await(answer, lost)

    def close(self) -> None:
        """Let the thread end after the calls that wait already."""
        self._calls.put(None)

    def _work(self) -> None:
        while (call := self._calls.get()) is not None:
            call()


async def alone(name: str, call: Callable[[], T]) -> T:
    """call() in a thread of its own."""
    answer, work = _prepare(call, _forget)
    Thread(target=work, name=name, daemon=True).start()
    return await _await(answer, _forget)


async def to_the_end(name: str, call: Callable[[], T]) -> T:
    """call() in a thread of its own, and no return before it: a cancel is raised when it is over."""
    answer, work = _prepare(call, _forget)
    Thread(target=work, name=name, daemon=True).start()
    stopped: asyncio.CancelledError | None = None
    while not answer.done():
        try:
            await asyncio.wait((answer,))
        except asyncio.CancelledError as cancel:
            stopped = cancel
    if stopped is not None:
        raise stopped from answer.exception()
    return answer.result()


def _prepare(
    call: Callable[[], T], lost: Callable[[T], None]
) -> tuple[asyncio.Future[T], Callable[[], None]]:
    """A future of the running loop, and what a thread must do to settle it."""
    loop = asyncio.get_running_loop()
    answer: asyncio.Future[T] = loop.create_future()

    def settle(result: T | None, error: BaseException | None) -> None:
        if error is not None:
            if not answer.done():
                answer.set_exception(error)
        elif answer.done():
            lost(result)  # type: ignore[arg-type]
        else:
            answer.set_result(result)  # type: ignore[arg-type]

    def work() -> None:
        result: T | None = None
        error: BaseException | None = None
        try:
            result = call()
        except BaseException as cause:  # noqa: BLE001 - it is the caller's, whatever it is
            error = cause
        try:
            loop.call_soon_threadsafe(settle, result, error)
        except RuntimeError:  # the loop is closed: nobody waits
            if error is None:
                lost(result)  # type: ignore[arg-type]

    return answer, work


async def _await(answer: asyncio.Future[T], lost: Callable[[T], None]) -> T:
    try:
        return await answer
    except asyncio.CancelledError:
        # The cancel may have come between the answer and the caller's turn.
        if answer.done() and not answer.cancelled() and answer.exception() is None:
            lost(answer.result())
        raise
