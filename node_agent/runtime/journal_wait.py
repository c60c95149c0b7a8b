"""The journal while another process holds it: read without the lock, and the wait for the lock.

Reading changes nothing: what the other process is writing at that moment is a torn tail, which is
left out and not cut.
"""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from node_agent.errors import JournalUnavailable
from node_agent.ports import JournalRecord
from node_agent.runtime.journal import lock_when_free
from node_agent.runtime.journal_format import decode_file


def read_unlocked(path: Path) -> Sequence[JournalRecord]:
    """What the journal says as far as it can be read; nothing if it cannot. Blocks."""
    with suppress(OSError):
        return decode_file(path.read_bytes()).records
    return ()


async def wait_for_lock(path: Path) -> int:
    """An fd for FileJournal.open(fd=…), locked. Waits without end in a thread of its own.

    Cancelled, it returns at once. flock(2) cannot be cut short: the thread stays, lets go of the
    lock as soon as it has it, and does not keep the process from ending.

    Raises:
        JournalUnavailable: it can be neither opened nor made.
    """
    loop = asyncio.get_running_loop()
    got: asyncio.Future[int] = loop.create_future()

    def deliver(fd: int, error: JournalUnavailable | None) -> None:
        if got.done():
            _close(fd)
        elif error is not None:
            got.set_exception(error)
        else:
            got.set_result(fd)

    def wait() -> None:
        fd, error = -1, None
        try:
            fd = lock_when_free(path)
        except JournalUnavailable as caught:
            error = caught
        try:
            loop.call_soon_threadsafe(deliver, fd, error)
        except RuntimeError:
            _close(fd)  # the loop has ended meanwhile

    threading.Thread(target=wait, name="journal lock", daemon=True).start()
    try:
        return await got
    except asyncio.CancelledError:
        if not got.cancelled() and got.exception() is None:
            _close(got.result())
        raise


def _close(fd: int) -> None:
    if fd >= 0:
        os.close(fd)
