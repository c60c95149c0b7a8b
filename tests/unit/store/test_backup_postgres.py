"""Backup and restore where several orchestrators share the store, and from one database to another."""

from __future__ import annotations

import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from datetime import timedelta
from pathlib import Path

import pytest

from orchestrator.core.model import Change, FleetRow
from orchestrator.errors import Conflict, NotFound, StoreUnavailable
from orchestrator.ports import Snapshot
from orchestrator.store import backup
from orchestrator.store.backup_file import BackupReader, Line
from orchestrator.store.factory import make_database
from orchestrator.store.postgres import Postgres
from orchestrator.store.postgres_url import address
from orchestrator.store.sql import SqlStore
from orchestrator.store.sqlite import Sqlite
from tests.contract.test_store_contract import attempt, put
from tests.unit.store.test_backup import filled

TTL = timedelta(seconds=30)


@asynccontextmanager
async def opened(url: str) -> AsyncIterator[SqlStore]:
    store = SqlStore(make_database(url))
    await store.open()
    try:
        yield store
    finally:
        await store.close()


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "monday.backup"


async def test_from_sqlite_to_postgresql_and_back(postgres_url: str, file: Path, tmp_path: Path) -> None:
    first = str(tmp_path / "first.db")
    async with opened(first) as store:
        await filled(store)
        before: Snapshot = await store.load()
        events = await store.events(0, limit=100)
        await backup.back_up(make_database(first), file, release="1")
    await backup.restore(make_database(postgres_url), file, actor="a")
    async with opened(postgres_url) as store:
        there = await store.load()
        assert there.rows == before.rows
        assert [e.new for e in await store.events(0, limit=3)] == [e.new for e in events]
        await backup.back_up(make_database(postgres_url), file, release="1")
    last = Sqlite(tmp_path / "last.db")
    await backup.restore(last, file, actor="a")
    async with opened(str(last.path)) as store:
        assert (await store.load()).rows == before.rows
        assert await store.recall("alice", "k1") is not None


async def test_an_empty_database_has_nothing_to_back_up(postgres_url: str, file: Path) -> None:
    with pytest.raises(NotFound) as refused:
        await backup.back_up(make_database(postgres_url), file, release="1")
    assert refused.value.reason == "NO_STORE"
    assert "not-a-secret" not in refused.value.message


async def test_a_backup_sees_one_moment(
    postgres_url: str, file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with opened(postgres_url) as store:
        epoch = await filled(store)
        header = backup._header

        async def meanwhile(*arguments: object) -> object:
            made = await header(*arguments)  # type: ignore[arg-type]
            await put(store, epoch, attempt("node-4"))
            return made

        monkeypatch.setattr(backup, "_header", meanwhile)
        await backup.back_up(make_database(postgres_url), file, release="1")
    assert (await backup.verify(file)).counts["attempts"] == 2, "what came meanwhile is not in it"


async def test_reading_the_file_may_take_longer_than_a_frozen_process_may(
    postgres_url: str, file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = str(tmp_path / "first.db")
    async with opened(first) as store:
        await filled(store)
        await backup.back_up(make_database(first), file, release="1")
    read = BackupReader.lines

    def slowly(reader: BackupReader) -> Iterator[Line]:
        threading.Event().wait(0.5)
        yield from read(reader)

    monkeypatch.setattr(BackupReader, "lines", slowly)
    async with opened(postgres_url):
        pass  # there is a store, with which the file is compared
    await backup.restore(Postgres(address(postgres_url), frozen=timedelta(milliseconds=200)), file, actor="a")
    async with opened(postgres_url) as store:
        assert (await store.load()).rows


async def test_refused_while_a_replica_or_a_planner_lives(postgres_url: str, file: Path) -> None:
    database = make_database(postgres_url)
    async with opened(postgres_url) as store:
        await filled(store)
        await backup.back_up(database, file, release="1")
        before = await store.load()
        await store.beat("replica-7", TTL)
        with pytest.raises(StoreUnavailable) as refused:
            await backup.restore(database, file, actor="a")
        assert refused.value.reason == "STORE_IN_USE"
        assert refused.value.message.startswith("a, replica-7 have this store, for ")
        await store.leave("replica-7")
        with pytest.raises(StoreUnavailable):
            await backup.restore(database, file, actor="a")
        assert await store.load() == before, "nothing was touched"
        await store.release(await store.acquire("a", TTL))
        await backup.restore(database, file, actor="a")
        with pytest.raises(Conflict) as late:
            await store.commit(None, Change((FleetRow(),)))
        assert late.value.reason == "STORE_REPLACED", "who runs on is told, and loads again"
        assert (await store.load()).regressed.startswith("restored from the backup")
