"""Tells whoever waits that others may have committed something; truth is in the store.

A hint carries nothing: several count as one, any may be lost.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator


class Hints:
    """Any number of listeners, each with its own pace."""

    def __init__(self) -> None:
        self._moved = asyncio.Event()
        self._closed = False

    def open(self) -> None:
        self._closed = False

    def tell(self) -> None:
        moved, self._moved = self._moved, asyncio.Event()
        moved.set()

    def close(self) -> None:
        """Every listener ends."""
        self._closed = True
        self.tell()

    def listen(self) -> AsyncIterator[None]:
        """What is told from this call on, not only from the first step of the iteration."""
        return self._listen(self._moved)

    async def _listen(self, moved: asyncio.Event) -> AsyncIterator[None]:
        while not self._closed:
            await moved.wait()
            moved = self._moved
            if not self._closed:
                yield
