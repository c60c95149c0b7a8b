"""A database of every earlier schema, with rows of every kind, opens and has lost nothing.

golden/store/schema_NNNN.json holds what the last release of a schema wrote, table by table. A new
migration adds the file of the schema before it; the files are never edited.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any, Protocol

import pytest
from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, MetaData, insert
from sqlalchemy.ext.asyncio import AsyncConnection

from orchestrator.core.model import AttemptRow, Change, IdempotencyRow, NewEvent, Row, row_key
from orchestrator.core.phases import Phase
from orchestrator.errors import Unsupported
from orchestrator.store import codec
from orchestrator.store.database import Database
from orchestrator.store.factory import make_database
from orchestrator.store.migrate import HEAD
from orchestrator.store.schema import metadata
from orchestrator.store.sql import SqlStore

TTL = timedelta(seconds=10)
GOLDEN = Path(__file__).parent.parent / "golden" / "store"
EARLIER = sorted(path.stem.removeprefix("schema_") for path in GOLDEN.glob("schema_*.json"))


class Place(Protocol):
    def database(self) -> Database: ...


@pytest.fixture(params=["sqlite", "postgres"])
def database(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Place]:
    class Made:
        def __init__(self, url: str) -> None:
            self._url = url

        def database(self) -> Database:
            return make_database(self._url)

    if request.param == "sqlite":
        yield Made(str(tmp_path / "liveroll.db"))
    else:
        yield Made(request.getfixturevalue("postgres_url"))


def migrations(connection: Connection | None = None) -> Config:
    config = Config()
    config.set_main_option("script_location", "orchestrator.store:migrations")
    config.attributes["connection"] = connection
    return config


@asynccontextmanager
async def connected(place: Place) -> AsyncIterator[AsyncConnection]:
    engine = place.database().writer()
    try:
        async with engine.begin() as connection:
            yield connection
    finally:
        await engine.dispose()


def fill(connection: Connection, schema: str) -> None:
    command.upgrade(migrations(connection), schema)
    tables = MetaData()
    tables.reflect(connection)
    for name, rows in written(schema).items():
        connection.execute(insert(tables.tables[name]), rows)


def written(schema: str) -> dict[str, list[dict[str, Any]]]:
    found: dict[str, list[dict[str, Any]]] = json.loads((GOLDEN / f"schema_{schema}.json").read_text())
    return found


def documents(schema: str) -> list[dict[str, Any]]:
    """Of the rows that load() gives."""
    tables = written(schema)
    return [
        json.loads(row["doc"])
        for name in ("nodes", "attempts", "members", "rollouts", "fleet", "capacity")
        for row in tables.get(name, [])
    ]


def again(row: Row) -> dict[str, Any]:
    document: dict[str, Any] = json.loads(codec.encode(row))
    return document


def told_of(written: Any, now: Any) -> Any:
    """What is said now of the fields that were written then, at any depth."""
    if isinstance(written, dict) and isinstance(now, dict):
        return {name: told_of(value, now[name]) for name, value in written.items() if name in now}
    if isinstance(written, list) and isinstance(now, list) and len(written) == len(now):
        return [told_of(*pair) for pair in zip(written, now, strict=True)]
    return now


def test_the_programs_newest_schema_is_the_newest_migration() -> None:
    script = ScriptDirectory.from_config(migrations())
    assert script.get_current_head() == HEAD
    assert [*EARLIER, HEAD] == sorted(revision.revision for revision in script.walk_revisions())


async def test_migrations_make_exactly_the_schema(database: Place) -> None:
    async with connected(database) as connection:
        await connection.run_sync(lambda c: command.upgrade(migrations(c), "head"))

        def difference(c: Connection) -> list[Any]:
            return list(compare_metadata(MigrationContext.configure(c), metadata))

        assert await connection.run_sync(difference) == []


@pytest.mark.parametrize("schema", EARLIER)
async def test_an_earlier_schema_opens_and_loads_equal(database: Place, schema: str) -> None:
    async with connected(database) as connection:
        await connection.run_sync(fill, schema)
    tables = written(schema)
    store = SqlStore(database.database())
    await store.open()
    try:
        snapshot = await store.load()
        assert snapshot.incarnation == tables["meta"][0]["incarnation"]
        assert snapshot.incarnation_serial == tables["meta"][0]["serial"]
        assert (snapshot.head_seq, snapshot.batch) == (
            tables["meta"][0]["event_seq"],
            tables["meta"][0]["batch"],
        )
        assert snapshot.regressed == ""
        # Every field that was written is there as it was; what is new has its default.
        for row, document in zip(snapshot.rows, documents(schema), strict=True):
            assert told_of(document, again(row)) == document
            assert row.revision == document["revision"]
        log = await store.events(0, limit=100)
        assert [(event.seq, json.loads(codec.encode(event.new))) for event in log] == [
            (event["seq"], json.loads(event["doc"])) for event in tables["events"]
        ]
        for record in tables["idempotency"]:
            recalled = await store.recall(record["actor"], record["idempotency_key"])
            assert recalled is not None
            assert codec.encode(recalled) == record["doc"]
    finally:
        await store.close()


@pytest.mark.parametrize("schema", EARLIER)
async def test_it_goes_on_where_it_was(database: Place, schema: str) -> None:
    async with connected(database) as connection:
        await connection.run_sync(fill, schema)
    before = written(schema)["meta"][0]
    store = SqlStore(database.database())
    await store.open()
    try:
        snapshot = await store.load()
        lease = await store.acquire("new", TTL)
        assert lease.epoch == written(schema)["fence"][0]["epoch"] + 1
        told = (NewEvent("test.said", "on"),)
        done = await store.commit(lease.epoch, Change(snapshot.rows, events=told, shrinks=True))
        assert (done.batch, done.events[0].seq) == (before["batch"] + 1, before["event_seq"] + 1)
        changes = await store.changes(snapshot.batch)
        assert {row_key(row): row for row in changes.rows} == {row_key(row): row for row in done.rows}
        assert {row_key(row) for row in done.rows} > {row_key(row) for row in snapshot.rows}
        is_open = next(
            row for row in done.rows if isinstance(row, AttemptRow) and row.phase is Phase.PRESERVED
        )
        with pytest.raises(Exception, match="open attempt"):  # I14's columns are right, too
            await store.commit(lease.epoch, Change((replace(is_open, generation=99, revision=0),)))
        assert not any(isinstance(row, IdempotencyRow) for row in changes.rows)
    finally:
        await store.close()


async def test_processes_that_start_together_make_one_store(postgres_url: str) -> None:
    stores = [SqlStore(make_database(postgres_url)) for _ in range(5)]
    try:
        await asyncio.gather(*(store.open() for store in stores))
        snapshots = await asyncio.gather(*(store.load() for store in stores))
        assert len({snapshot.incarnation for snapshot in snapshots}) == 1
        done = [await store.commit(None, Change(events=(NewEvent("a", "b"),))) for store in stores]
        assert [committed.batch for committed in done] == [1, 2, 3, 4, 5]
    finally:
        for store in stores:
            await store.close()


@pytest.mark.parametrize("schema", EARLIER)
async def test_processes_that_start_together_migrate_once(postgres_url: str, schema: str) -> None:
    class There:
        def database(self) -> Database:
            return make_database(postgres_url)

    async with connected(There()) as connection:
        await connection.run_sync(fill, schema)
    stores = [SqlStore(make_database(postgres_url)) for _ in range(3)]
    try:
        await asyncio.gather(*(store.open() for store in stores))
        loaded = [(await store.load()).rows for store in stores]
        assert loaded[0] == loaded[1] == loaded[2]
        assert len(loaded[0]) == len(documents(schema))
    finally:
        for store in stores:
            await store.close()


@pytest.mark.parametrize("what", ["commit", "changes", "load"])
async def test_a_release_whose_schema_was_migrated_under_it_stops(database: Place, what: str) -> None:
    """The newer one may run already; the older must not write beside it."""
    store = SqlStore(database.database())
    await store.open()
    try:
        await store.commit(None, Change(events=(NewEvent("a", "before"),)))
        async with connected(database) as connection:
            await connection.exec_driver_sql("UPDATE alembic_version SET version_num = '9999'")
        calls = {
            "commit": lambda: store.commit(None, Change(events=(NewEvent("a", "after"),))),
            "changes": lambda: store.changes(0),
            "load": store.load,
        }
        with pytest.raises(Unsupported) as caught:
            await calls[what]()
        assert caught.value.reason == "SCHEMA_NEWER"
        assert [event.new.message for event in await store.events(0, limit=9)] == ["before"]
    finally:
        await store.close()
