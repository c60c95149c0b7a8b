"""How many node transitions a second each store commits, beside what its bare driver does on the same disk.

A transition is what a node's report costs: its node row, its attempt row and an event, durable.
All write the same text, with the same durability, on the disk that holds the working directory, in
the same run; the bare ones have neither codec, checks nor revisions. Alone: one after the other, so
that each waits for its own flush; its mean is the latency. Crowd: many callers at a time, each
waiting for its own.
"""

from __future__ import annotations

import asyncio
import itertools
import math
import sqlite3
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import asyncpg

from orchestrator.core.model import Artifact, AttemptRow, Change, NewEvent, NodeRow, Row
from orchestrator.core.phases import Kind, Method, Phase
from orchestrator.store import codec
from orchestrator.store.factory import make_store
from orchestrator.store.sqlite import PRAGMAS
from tests.bench.result import Result
from tests.postgres import Postgres

NODES = 2000
ROUNDS = 5
SINGLES = 400
CROWD = 64
CROWD_ROUNDS = 20
IN_ONE = 512
AT = datetime(2030, 1, 1, tzinfo=UTC)
ARTIFACT = Artifact("kernel", "d" * 64, "6.12.1", "http://artifacts.example/kernel")


@dataclass(frozen=True, slots=True)
class Rates:
    """Transitions a second; latencies in ms."""

    grouped: float
    alone: float
    alone_p99_ms: float = 0.0
    crowd: float = 0.0
    crowd_p99_ms: float = 0.0


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


def documents() -> list[tuple[str, str, str, str]]:
    """node id, node, attempt, event: of every node, as text."""
    made = []
    for index in range(NODES):
        node, attempt = first_rows(index)
        event = codec.encode(transition((node,)).events[0])
        made.append((node.node_id, codec.encode(replace(node, revision=1)), codec.encode(attempt), event))
    return made


def p99_ms(seconds: Sequence[float]) -> float:
    return sorted(seconds)[math.ceil(0.99 * len(seconds)) - 1] * 1000


async def store_rates(url: str) -> Rates:
    store = make_store(url)
    await store.open()
    try:
        epoch = (await store.acquire("bench", timedelta(hours=1))).epoch
        made = await asyncio.gather(
            *(store.commit(epoch, transition(first_rows(index))) for index in range(NODES))
        )
        rows = [committed.rows for committed in made]

        async def timed(index: int) -> float:
            began = time.perf_counter()
            rows[index] = (await store.commit(epoch, transition(rows[index]))).rows
            return time.perf_counter() - began

        began = time.perf_counter()
        for _ in range(ROUNDS):
            await asyncio.gather(*(timed(index) for index in range(NODES)))
        grouped = ROUNDS * NODES / (time.perf_counter() - began)

        began = time.perf_counter()
        alone = [await timed(index) for index in range(SINGLES)]
        alone_rate = SINGLES / (time.perf_counter() - began)

        async def caller(index: int) -> list[float]:
            return [await timed(index) for _ in range(CROWD_ROUNDS)]

        began = time.perf_counter()
        crowd = [each for one in await asyncio.gather(*map(caller, range(CROWD))) for each in one]
        crowd_rate = CROWD * CROWD_ROUNDS / (time.perf_counter() - began)
        return Rates(grouped, alone_rate, p99_ms(alone), crowd_rate, p99_ms(crowd))
    finally:
        await store.close()


def bare_sqlite(path: Path) -> Rates:
    connection = sqlite3.connect(path, isolation_level=None)
    for name, (wanted, _) in PRAGMAS.items():
        connection.execute(f"PRAGMA {name}={wanted}")
    connection.execute("CREATE TABLE nodes (id TEXT PRIMARY KEY, revision INTEGER, doc TEXT)")
    connection.execute("CREATE TABLE attempts (id TEXT PRIMARY KEY, revision INTEGER, doc TEXT)")
    connection.execute("CREATE TABLE events (seq INTEGER PRIMARY KEY, doc TEXT)")
    sets = documents()
    seq = itertools.count(1)

    def write(each: tuple[str, str, str, str]) -> None:
        name, node_doc, attempt_doc, event = each
        connection.execute("INSERT OR REPLACE INTO nodes VALUES (?, 1, ?)", (name, node_doc))
        connection.execute("INSERT OR REPLACE INTO attempts VALUES (?, 1, ?)", (name, attempt_doc))
        connection.execute("INSERT INTO events VALUES (?, ?)", (next(seq), event))

    began = time.perf_counter()
    for start in range(0, NODES, IN_ONE):
        connection.execute("BEGIN IMMEDIATE")
        for each in sets[start : start + IN_ONE]:
            write(each)
        connection.execute("COMMIT")
    together = NODES / (time.perf_counter() - began)
    took = []
    began = time.perf_counter()
    for each in sets[:SINGLES]:
        one = time.perf_counter()
        connection.execute("BEGIN IMMEDIATE")
        write(each)
        connection.execute("COMMIT")
        took.append(time.perf_counter() - one)
    alone = SINGLES / (time.perf_counter() - began)
    connection.close()
    return Rates(together, alone, p99_ms(took))


async def bare_postgres(url: str) -> Rates:
    connection: asyncpg.Connection[Any] = await asyncpg.connect(url)
    try:
        for table in ("nodes", "attempts"):
            await connection.execute(
                f"CREATE TABLE bare_{table} (id text PRIMARY KEY, revision bigint, doc text)"
            )
        await connection.execute("CREATE TABLE bare_events (seq bigint PRIMARY KEY, doc text)")
        upsert = "INSERT INTO bare_{} VALUES ($1, 1, $2) ON CONFLICT (id) DO UPDATE SET doc = excluded.doc"
        nodes, attempts = upsert.format("nodes"), upsert.format("attempts")
        told = "INSERT INTO bare_events VALUES ($1, $2)"
        sets = documents()
        seq = itertools.count(1)
        began = time.perf_counter()
        for start in range(0, NODES, IN_ONE):
            many = sets[start : start + IN_ONE]
            async with connection.transaction():
                await connection.executemany(nodes, [(name, doc) for name, doc, _, _ in many])
                await connection.executemany(attempts, [(name, doc) for name, _, doc, _ in many])
                await connection.executemany(told, [(next(seq), event) for _, _, _, event in many])
        together = NODES / (time.perf_counter() - began)
        took = []
        began = time.perf_counter()
        for name, node_doc, attempt_doc, event in sets[:SINGLES]:
            one = time.perf_counter()
            async with connection.transaction():
                await connection.execute(nodes, name, node_doc)
                await connection.execute(attempts, name, attempt_doc)
                await connection.execute(told, next(seq), event)
            took.append(time.perf_counter() - one)
        return Rates(together, SINGLES / (time.perf_counter() - began), p99_ms(took))
    finally:
        await connection.close()


def told(database: str, driver: str, store: Rates, bare: Rates) -> list[Result]:
    what = f"{database}: transitions a second"
    crowd = f"{database}: {CROWD} callers"
    return [
        Result(what, store.grouped, "/s", "a transaction each, same store", store.alone, "≥ 20 ×"),
        Result(what, store.grouped, "/s", f"bare {driver}, {IN_ONE} a transaction", bare.grouped),
        Result(f"{database}: alone", store.alone, "/s", f"bare {driver}, a transaction each", bare.alone),
        Result(f"{database}: alone, p99", store.alone_p99_ms, "ms", f"bare {driver}, p99", bare.alone_p99_ms),
        Result(f"{crowd}, each waits", store.crowd, "/s", f"bare {driver}, a transaction each", bare.alone),
        Result(f"{crowd}, p99", store.crowd_p99_ms, "ms", "alone, p99", store.alone_p99_ms),
    ]


def run() -> list[Result]:
    """The figures, on the disk that holds the working directory."""
    with tempfile.TemporaryDirectory(dir=".") as directory:
        bare = bare_sqlite(Path(directory) / "bare.db")
        store = asyncio.run(store_rates(str(Path(directory) / "store.db")))
        results = told("SQLite", "sqlite3", store, bare)
    # Beside it, not within: the server may run as another user, who must get there.
    with Postgres(base=Path()) as server:
        url = server.url(server.create())
        bare = asyncio.run(bare_postgres(url))
        store = asyncio.run(store_rates(url))
        results += told("PostgreSQL", "asyncpg", store, bare)
    return results
