"""A process that stops itself (SIGSTOP) before a statement of its commit; made to be woken.

Arguments: URL, epoch (- for none), number of the statement, name of the node that it writes, and
how many milliseconds the server waits. Says
`ready`, stops at that statement, and in the end says what became of the commit.
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from datetime import timedelta
from typing import Any

from sqlalchemy import event
from sqlalchemy.ext.asyncio import AsyncEngine

from orchestrator.core.model import Change, NewEvent, NodeRow
from orchestrator.errors import LiverollError
from orchestrator.store.postgres import Postgres
from orchestrator.store.postgres_url import address
from orchestrator.store.sql import SqlStore


class Freezing(Postgres):
    """Stops the process before the number-th statement after arm()."""

    def __init__(self, url: str, number: int, frozen: timedelta) -> None:
        super().__init__(address(url), frozen=frozen)
        self._number = number
        self._left = 0

    def arm(self) -> None:
        self._left = self._number

    def writer(self) -> AsyncEngine:
        engine = super().writer()
        event.listen(engine.sync_engine, "before_cursor_execute", self._pass)
        event.listen(engine.sync_engine, "commit", self._pass)
        return engine

    def _pass(self, *_: Any) -> None:
        self._left -= 1
        if self._left == 0:
            os.kill(os.getpid(), signal.SIGSTOP)


async def main(url: str, epoch: str, number: str, name: str, frozen_ms: str) -> None:
    database = Freezing(url, int(number), timedelta(milliseconds=int(frozen_ms)))
    store = SqlStore(database)
    await store.open()
    print("ready", flush=True)
    database.arm()
    change = Change((NodeRow(name),), events=(NewEvent("made", name),))
    try:
        committed = await store.commit(None if epoch == "-" else int(epoch), change)
        print("committed", committed.batch, flush=True)
    except LiverollError as error:
        print("refused", error.reason, flush=True)
    finally:
        await store.close()


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
