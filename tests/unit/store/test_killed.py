"""kill -9 in the middle of group commits: what was acknowledged is there, and nothing is torn."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from pathlib import Path

import pytest

from orchestrator.core.model import Event, NodeRow
from orchestrator.ports import Store
from orchestrator.store.factory import make_store

ACKNOWLEDGED = 150
LIVES = 3


def live_and_die(url: str, who: str = "") -> dict[str, tuple[int, int]]:
    """One life of the child: the last (number, seq) it was told for each node."""
    child = subprocess.Popen(
        [sys.executable, "-m", "tests.unit.store.committer", url, who], stdout=subprocess.PIPE, text=True
    )
    assert child.stdout is not None
    told: dict[str, tuple[int, int]] = {}
    with child:
        for count, line in enumerate(child.stdout):
            if count == ACKNOWLEDGED:
                child.kill()
            if line.endswith("\n"):
                name, number, seq = line.split()
                told[name] = (int(number), int(seq))
    assert child.returncode == -9
    return told


async def is_whole(store: Store, told: Mapping[str, tuple[int, int]]) -> None:
    snapshot = await store.load()
    log: list[Event] = []
    while page := await store.events(len(log), limit=1000):
        log += page
    assert [event.seq for event in log] == list(range(1, snapshot.head_seq + 1))
    nodes = {row.node_id: row for row in snapshot.rows if isinstance(row, NodeRow)}
    assert nodes.keys() >= told.keys()
    for name, node in nodes.items():
        number, seq = told.get(name, (0, 0))
        assert int(node.release) >= number
        assert node.revision == int(node.release)
        about = [(event.new.kind, event.new.message) for event in log if event.new.node_id == name]
        expected = [(kind, str(n)) for n in range(1, node.revision + 1) for kind in ("begun", "done")]
        assert about == expected
        if number:
            assert (log[seq - 1].new.node_id, log[seq - 1].new.message) == (name, str(number))


@pytest.mark.integration
async def test_nothing_acknowledged_is_lost_and_every_commit_is_whole(tmp_path: Path) -> None:
    path = tmp_path / "liveroll.db"
    told: dict[str, tuple[int, int]] = {}
    for life in range(LIVES):
        told |= live_and_die(str(path))
        store = make_store(str(path))
        await store.open()  # the killed process's lock is gone with it
        try:
            await is_whole(store, told)
            lease = await store.acquire("parent", timedelta(seconds=10))
        finally:
            await store.close()
        assert lease.epoch == 2 * (life + 1)


@pytest.mark.integration
async def test_nor_when_several_write_and_each_is_killed_in_its_turn(postgres_url: str) -> None:
    told: dict[str, tuple[int, int]] = {}
    with ThreadPoolExecutor(max_workers=LIVES) as pool:
        for each in pool.map(live_and_die, [postgres_url] * LIVES, [f"p{life}" for life in range(LIVES)]):
            told |= each
    store = make_store(postgres_url)
    await store.open()
    try:
        await is_whole(store, told)
        assert (await store.changes(0)).batch == (await store.load()).batch
    finally:
        await store.close()
