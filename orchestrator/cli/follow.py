"""Reading a stream over the orchestrator's restarts, and on at another one.

Rules
1. A stream that ends because the orchestrator went away is opened again from its cursor, at the next
   of several, about every RETRY_S, until PATIENCE_S have gone by without a message.
2. What was never reached is not sought: a wrong address is told at once.
3. Whoever gives up says from which cursor to go on. If the log has no such place any more, nothing is
   skipped in silence: the stream ends, and says from where it can be read.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterator
from typing import Generic, TypeVar

from orchestrator.cli.client import Stream
from orchestrator.cli.failure import Exit, Failed

T = TypeVar("T")

PATIENCE_S = 120.0
"""A restart with a migration takes seconds; after two minutes a person should know."""
RETRY_S = 1.0
LOST = f"connection lost; trying again for {PATIENCE_S:.0f} s"


class Follow(Generic[T]):
    """Messages of one stream, and None whenever the connection was lost and is being sought.

    Args:
        start: opens the stream behind a cursor.
        cursor_of: the cursor after a message.
        again: how an operator goes on, as a command line without the cursor.
    """

    def __init__(
        self,
        start: Callable[[str], Stream],
        cursor_of: Callable[[T], str],
        cursor: str = "",
        *,
        again: str = "",
    ) -> None:
        self._start, self._cursor_of, self._again = start, cursor_of, again
        self._stream: Stream | None = None
        self.cursor = cursor
        """Behind the newest message."""

    def cancel(self) -> None:
        if self._stream is not None:
            self._stream.cancel()

    @property
    def onward(self) -> str:
        """The command that goes on from here."""
        return f"{self._again} {self.cursor}" if self.cursor else self._again.rpartition(" --")[0]

    def __iter__(self) -> Iterator[T | None]:
        lost_at: float | None = None
        seen = False
        while True:
            self._stream = self._start(self.cursor)
            try:
                for message in self._stream:
                    lost_at, seen, self.cursor = None, True, self._cursor_of(message)
                    yield message
            except Failed as failed:
                seen = seen or failed.reason == "SHUTTING_DOWN"  # it was there a moment ago
                if failed.reason == "OUT_OF_RANGE":
                    raise self._elsewhere(failed) from None
                if not seen or not (failed.exit is Exit.UNREACHABLE or failed.reason == "SLOW_READER"):
                    raise
                lost_at = time.monotonic() if lost_at is None else lost_at
                if time.monotonic() - lost_at > PATIENCE_S:
                    raise Failed(
                        failed.exit,
                        failed.message,
                        failed.reason,
                        f"Once it is back, go on where this ended: {self.onward}",
                        fields=failed.fields,
                    ) from None
                yield None
                time.sleep(RETRY_S * random.uniform(0.2, 1.0))  # noqa: S311 - jitter
            else:
                return

    def _elsewhere(self, failed: Failed) -> Failed:
        """A cursor out of range, with the commands that go on."""
        first, head = failed.fields.get("first_available"), failed.fields.get("head")
        if first and head:
            failed.remedy = f"All that is kept: {self._again} {first}\nOnly what is new: {self._again} {head}"
        return failed
