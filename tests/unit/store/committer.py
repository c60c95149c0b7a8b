"""A process that commits without end and says what was acknowledged; made to be killed.

Each writer owns a node: a commit raises its release to the next number and tells it in two
events, and only after the commit the number is printed.
"""

from __future__ import annotations

import asyncio
import os
import sys
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

from orchestrator.core.model import Change, NewEvent, NodeRow
from orchestrator.store.sql import SqlStore
from orchestrator.store.sqlite import Sqlite

WRITERS = 8


async def write(store: SqlStore, epoch: int, name: str) -> None:
    node = NodeRow(name)
    for number in range(1, 1_000_000):
        told = tuple(NewEvent(kind, str(number), node_id=name) for kind in ("begun", "done"))
        change = Change((replace(node, release=str(number)),), events=told)
        committed = await store.commit(epoch, change)
        row = committed.rows[0]
        assert isinstance(row, NodeRow)
        node = row
        os.write(1, f"{name} {number} {committed.events[-1].seq}\n".encode())


async def main(path: str) -> None:
    store = SqlStore(Sqlite(Path(path)))
    await store.open()
    lease = await store.acquire("child", timedelta(hours=1))
    async with asyncio.TaskGroup() as group:
        for number in range(WRITERS):
            group.create_task(write(store, lease.epoch, f"n{number}-{lease.epoch}"))


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1]))
