"""How many transitions a second the store takes: grouped, one transaction each, and bare SQLite.

A transition is what a node's report costs: its node row, its attempt row and an event, durable.
All three write the same text with the same pragmas on the same disk in the same run; the bare
ones have neither codec, checks nor event loop.
"""

from __future__ import annotations

import asyncio
import itertools
import sqlite3
import tempfile
import time
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

from orchestrator.core.model import Artifact, AttemptRow, Change, NewEvent, NodeRow, Row
from orchestrator.core.phases import Kind, Method, Phase
from orchestrator.store import codec
from orchestrator.store.sql import SqlStore
from orchestrator.store.sqlite import PRAGMAS, Sqlite
from tests.bench.result import Result

NODES = 2000
ROUNDS = 5
SINGLES = 400
AT = datetime(2030, 1, 1, tzinfo=UTC)
ARTIFACT = Artifact("kernel", "d" * 64, "6.12.1", "http://artifacts.example/kernel")


def first_rows(index: int) -> tuple[NodeRow, AttemptRow]:
    node_id = f"node-{index:05}"
    labels = {"zone": f"z{index % 3}", "rack": f"r{index % 40}"}
    node = NodeRow(
        node_id,
        installation_id="i" * 32,
        labels=labels,
        release="6.12.0",
        boot_id="b" * 36,
        command_line="root=/dev/vda quiet",
        capabilities=frozenset({"luo", "kho"}),
        staged=frozenset({ARTIFACT.digest}),
    )
    attempt = AttemptRow(
        node_id,
        1,
        "incarnation",
        "rollout",
        Kind.FORWARD,
        Method.LIVE,
        Phase.LOADING,
        ARTIFACT,
        from_release="6.12.0",
        to_release="6.12.1",
        hardware_model="model",
        expected_boot_id="b" * 36,
        command_line="root=/dev/vda quiet",
        opened_at=AT,
        phase_at=AT,
        domains=labels,
    )
    return node, attempt


def transition(rows: Sequence[Row]) -> Change:
    event = NewEvent("attempt.loaded", "loaded", "rollout", rows[0].key[0], 1, fields={"phase": "DRAINING"})
    return Change(tuple(rows), events=(event,))


async def store_rates(path: Path) -> tuple[float, float]:
    """(grouped, one at a time) transitions a second."""
    store = SqlStore(Sqlite(path))
    await store.open()
    try:
        epoch = (await store.acquire("bench", timedelta(hours=1))).epoch
        made = await asyncio.gather(
            *(store.commit(epoch, transition(first_rows(index))) for index in range(NODES))
        )
        rows = [committed.rows for committed in made]
        began = time.perf_counter()
        for _ in range(ROUNDS):
            done = await asyncio.gather(*(store.commit(epoch, transition(each)) for each in rows))
            rows = [committed.rows for committed in done]
        grouped = ROUNDS * NODES / (time.perf_counter() - began)
        began = time.perf_counter()
        for each in rows[:SINGLES]:
            await store.commit(epoch, transition(each))
        return grouped, SINGLES / (time.perf_counter() - began)
    finally:
        await store.close()


def bare_rates(path: Path) -> tuple[float, float]:
    """(all in transactions of 512, a transaction each) transitions a second, on sqlite3 itself."""
    connection = sqlite3.connect(path, isolation_level=None)
    for name, (wanted, _) in PRAGMAS.items():
        connection.execute(f"PRAGMA {name}={wanted}")
    connection.execute("CREATE TABLE nodes (id TEXT PRIMARY KEY, revision INTEGER, doc TEXT)")
    connection.execute("CREATE TABLE attempts (id TEXT PRIMARY KEY, revision INTEGER, doc TEXT)")
    connection.execute("CREATE TABLE events (seq INTEGER PRIMARY KEY, doc TEXT)")
    sets = []
    for index in range(NODES):
        node, attempt = first_rows(index)
        event = codec.encode(transition((node,)).events[0])
        sets.append((node.node_id, codec.encode(replace(node, revision=1)), codec.encode(attempt), event))

    seq = itertools.count(1)

    def write(each: tuple[str, str, str, str]) -> None:
        name, node_doc, attempt_doc, event = each
        connection.execute("INSERT OR REPLACE INTO nodes VALUES (?, 1, ?)", (name, node_doc))
        connection.execute("INSERT OR REPLACE INTO attempts VALUES (?, 1, ?)", (name, attempt_doc))
        connection.execute("INSERT INTO events VALUES (?, ?)", (next(seq), event))

    began = time.perf_counter()
    for start in range(0, NODES, 512):
        connection.execute("BEGIN IMMEDIATE")
        for each in sets[start : start + 512]:
            write(each)
        connection.execute("COMMIT")
    together = NODES / (time.perf_counter() - began)
    began = time.perf_counter()
    for each in sets[:SINGLES]:
        connection.execute("BEGIN IMMEDIATE")
        write(each)
        connection.execute("COMMIT")
    alone = SINGLES / (time.perf_counter() - began)
    connection.close()
    return together, alone


def run() -> list[Result]:
    """The figures, on the disk that holds the working directory."""
    with tempfile.TemporaryDirectory(dir=".") as directory:
        together, alone = bare_rates(Path(directory) / "bare.db")
        grouped, single = asyncio.run(store_rates(Path(directory) / "store.db"))
    return [
        Result(
            "store: transitions a second",
            grouped,
            "/s",
            "a transaction each, same store",
            single,
            "≥ 20 ×",
        ),
        Result(
            "store: transitions a second",
            grouped,
            "/s",
            "a transaction each, bare sqlite3",
            alone,
        ),
        Result(
            "store: transitions a second",
            grouped,
            "/s",
            "bare sqlite3, 512 a transaction",
            together,
        ),
    ]
