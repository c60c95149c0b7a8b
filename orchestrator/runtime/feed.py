"""Tells watches that the newest event has moved. A hint: what happened is read from the store."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator


class Feed:
    """EventFeed. A slow reader skips what it missed; nothing is queued for it."""

    def __init__(self) -> None:
        self.head_seq = 0
        self._closed = False
        self._moved = asyncio.Event()

    def publish(self, seq: int) -> None:
        """Events up to seq are committed and applied."""
        if seq > self.head_seq:
            self.head_seq = seq
            self._turn()

    def restart(self, seq: int) -> None:
        """The store was loaded (again): its head is seq, even if that is lower."""
        self.head_seq = seq
        self._turn()

    def close(self) -> None:
        """Every subscription ends."""
        self._closed = True
        self._turn()

    def _turn(self) -> None:
        moved, self._moved = self._moved, asyncio.Event()
        moved.set()

    async def subscribe(self) -> AsyncIterator[int]:
        seen = self.head_seq
        while not self._closed:
            if self.head_seq != seen:
                seen = self.head_seq
                yield seen
            else:
                await self._moved.wait()
