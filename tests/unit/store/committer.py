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

from orchestrator.core.model import Change, NewEvent, NodeRow
from orchestrator.store.factory import make_store
from orchestrator.store.sql import SqlStore

WRITERS = 8


async def write(store: SqlStore, epoch: int | None, name: str) -> None:
    node = NodeRow(name)
    for number in range(1, 1_000_000):
        told = tuple(NewEvent(kind, str(number), node_id=name) for kind in ("begun", "done"))
        change = Change((replace(node, release=str(number)),), events=told)
        committed = await store.commit(epoch, change)
        row = committed.rows[0]
        assert isinstance(row, NodeRow)
        node = row
        os.write(1, f"{name} {number} {committed.events[-1].seq}\n".encode())


async def main(url: str, who: str) -> None:
    """Under the planner's epoch, or, as one of several (who), without."""
    store = make_store(url)
    await store.open()
    epoch = None if who else (await store.acquire("child", timedelta(hours=1))).epoch
    async with asyncio.TaskGroup() as group:
        for number in range(WRITERS):
            group.create_task(write(store, epoch, f"n{number}-{who or epoch}"))


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], sys.argv[2]))
