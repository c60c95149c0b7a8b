"""What is SQLite's own: one process, durability in force, its errors, schema, and older copies."""

from __future__ import annotations

import asyncio
import os
import shutil
import sqlite3
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from alembic.autogenerate import compare_metadata
from alembic.runtime.migration import MigrationContext
from sqlalchemy import create_engine, event
from sqlalchemy.exc import OperationalError
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncTransaction

from orchestrator.core.model import FleetRow, NewEvent, NodeRow
from orchestrator.errors import Conflict, CorruptState, SettingsError, StoreUnavailable, Unsupported
from orchestrator.store import sqlite as sqlite_module
from orchestrator.store.admission import Ledger
from orchestrator.store.factory import make_store
from orchestrator.store.migrate import HEAD
from orchestrator.store.schema import metadata
from orchestrator.store.sql import SqlStore
from orchestrator.store.sqlite import Sqlite
from tests.contract.store_backends import opened
from tests.contract.test_store_contract import attempt, put

TTL = timedelta(seconds=10)


class Place:
    """A file to open stores on."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def store(self) -> SqlStore:
        return SqlStore(Sqlite(self.path))


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return Place(tmp_path / "liveroll.db")


async def make(place: Place, *nodes: str) -> int:
    """A store with these nodes, closed again. Its epoch."""
    async with opened(place) as store:  # type: ignore[arg-type]
        lease = await store.acquire("a", TTL)
        for name in nodes:
            await put(store, lease.epoch, NodeRow(name), events=(NewEvent("made", name),))
        return lease.epoch


class TestOneProcess:
    async def test_a_second_one_refuses_to_start_and_says_what_to_do(self, place: Place) -> None:
        async with opened(place):  # type: ignore[arg-type]
            with pytest.raises(StoreUnavailable) as caught:
                await place.store().open()
        assert caught.value.reason == "STORE_IN_USE"
        assert caught.value.fields["pid"] == str(os.getpid())
        assert "PostgreSQL" in caught.value.remedy
        await make(place)

    async def test_the_lease_of_a_dead_process_is_void(self, place: Place) -> None:
        epoch = await make(place)
        async with opened(place) as store:  # type: ignore[arg-type]
            assert (await store.acquire("b", TTL)).epoch == epoch + 1

    async def test_a_directory_that_is_not_there(self, tmp_path: Path) -> None:
        with pytest.raises(StoreUnavailable) as caught:
            await SqlStore(Sqlite(tmp_path / "none" / "liveroll.db")).open()
        assert caught.value.reason == "DATABASE_CANNOT_OPEN"
        assert str(tmp_path / "none") in caught.value.remedy


class TestDurability:
    async def test_the_pragmas_are_in_force_on_every_connection(self, place: Place) -> None:
        async with opened(place) as store:  # type: ignore[arg-type]
            assert isinstance(store, SqlStore)
            assert store._read_engine is not None
            async with store._read_engine.connect() as connection:
                await Sqlite(place.path).check(connection)

    async def test_one_that_is_not_in_force_refuses_the_start(
        self, place: Place, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setitem(sqlite_module.PRAGMAS, "synchronous", ("NORMAL", 2))
        with pytest.raises(StoreUnavailable) as caught:
            await place.store().open()
        assert caught.value.reason == "DURABILITY_NOT_IN_FORCE"
        assert caught.value.fields["pragma"] == "synchronous"


class TestSchema:
    async def test_migrations_make_exactly_the_schema(self, place: Place) -> None:
        await make(place)
        engine = create_engine(f"sqlite:///{place.path}")
        with engine.connect() as connection:
            assert compare_metadata(MigrationContext.configure(connection), metadata) == []
        engine.dispose()

    async def test_a_newer_file_is_refused_and_left_alone(self, place: Place) -> None:
        await make(place, "n1")
        with sqlite3.connect(place.path) as connection:
            connection.execute("UPDATE alembic_version SET version_num = '9999'")
        connection.close()
        with pytest.raises(Unsupported) as caught:
            await place.store().open()
        assert caught.value.reason == "SCHEMA_NEWER"
        assert "9999" in caught.value.message
        with sqlite3.connect(place.path) as connection:
            connection.execute(f"UPDATE alembic_version SET version_num = '{HEAD}'")
        connection.close()
        async with opened(place) as store:  # type: ignore[arg-type]
            assert len((await store.load()).rows) == 1

    async def test_a_file_that_is_no_database(self, place: Place) -> None:
        place.path.write_bytes(b"not a database, by far" * 1000)
        with pytest.raises(CorruptState) as caught:
            await place.store().open()
        assert caught.value.reason == "DATABASE_CORRUPT"

    async def test_i14_holds_in_the_database_itself(self, place: Place) -> None:
        await make(place)
        insert = (
            "INSERT INTO attempts (node_id, generation, rollout_id, open, revision, doc)"
            " VALUES ('n1', ?, 'r', ?, 1, '')"
        )
        with sqlite3.connect(place.path) as connection:
            connection.execute(insert, (1, False))
            connection.execute(insert, (2, True))
            with pytest.raises(sqlite3.IntegrityError):
                connection.execute(insert, (3, True))
        connection.close()


class TestEarlierLives:
    async def test_who_had_the_file_before_vouches_for_no_link(self, place: Place) -> None:
        """A killed orchestrator's lease has most of its time to run when the next one opens the file."""
        async with opened(place) as store:  # type: ignore[arg-type]
            assert (await store.beat("killed", timedelta(seconds=15))).alive == {"killed"}
        async with opened(place) as store:  # type: ignore[arg-type]
            assert (await store.beat("next", timedelta(seconds=15))).alive == {"next"}


class TestOlderCopy:
    async def test_a_restored_copy_is_noticed_and_becomes_another_incarnation(self, place: Place) -> None:
        first = await make(place, "n1")
        copy = place.path.with_name("backup.db")
        shutil.copy(place.path, copy)
        second = await make(place, "n2")
        shutil.copy(copy, place.path)
        async with opened(place) as store:  # type: ignore[arg-type]
            snapshot = await store.load()
            assert f"epoch {first}" in snapshot.regressed
            assert f"epoch {second}" in snapshot.regressed
            lease = await store.acquire("a", TTL)
            assert lease.epoch > second
        async with opened(place) as store:  # type: ignore[arg-type]
            # Whoever read it may have died before the fleet was stopped.
            assert (await store.load()).regressed == snapshot.regressed
            lease = await store.acquire("a", TTL)
            await put(store, lease.epoch, FleetRow(stopped="STORE_REGRESSED"))
        async with opened(place) as store:  # type: ignore[arg-type]
            again = await store.load()
        assert again.regressed == ""
        assert again.incarnation == snapshot.incarnation
        async with opened(Place(copy)) as store:  # type: ignore[arg-type]
            original = await store.load()
        assert original.regressed == ""
        assert snapshot.incarnation != original.incarnation
        assert snapshot.incarnation_serial > original.incarnation_serial

    async def test_a_torn_note_beside_the_database_is_no_obstacle(self, place: Place) -> None:
        await make(place, "n1")
        place.path.with_name("liveroll.db.lock").write_bytes(b"{")
        async with opened(place) as store:  # type: ignore[arg-type]
            assert (await store.load()).regressed == ""


class TestTrouble:
    async def test_a_full_disk_writes_nothing_and_passes(self, place: Place) -> None:
        class Small(Sqlite):
            def writer(self) -> AsyncEngine:
                engine = super().writer()
                event.listen(engine.sync_engine, "connect", small)
                return engine

        pages = 60

        def small(connection: Any, _: Any) -> None:
            connection.execute(f"PRAGMA max_page_count={pages}").close()

        store = SqlStore(Small(place.path))
        await store.open()
        try:
            lease = await store.acquire("a", TTL)
            written = 0
            with pytest.raises(StoreUnavailable) as caught:
                for number in range(1000):
                    await put(store, lease.epoch, NodeRow(f"n{number}", command_line="x" * 2000))
                    written = number + 1
            assert caught.value.reason == "DISK_FULL"
            assert str(place.path) in caught.value.remedy
            assert len((await store.load()).rows) == written > 0
            results = await asyncio.gather(
                *(put(store, lease.epoch, NodeRow(f"m{n}", command_line="x" * 9000)) for n in range(9)),
                return_exceptions=True,
            )
            assert {type(result) for result in results} == {StoreUnavailable}
            pages = 600
            await put(store, lease.epoch, NodeRow(f"n{written}"))
            assert len((await store.load()).rows) == written + 1
        finally:
            await store.close()

    async def test_a_file_that_somebody_holds_locked(
        self, place: Place, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(sqlite_module, "BUSY_TIMEOUT_MS", 1)
        monkeypatch.setitem(sqlite_module.PRAGMAS, "busy_timeout", ("1", 1))
        async with opened(place) as store:  # type: ignore[arg-type]
            lease = await store.acquire("a", TTL)
            other = sqlite3.connect(place.path, isolation_level=None)
            other.execute("BEGIN IMMEDIATE")
            with pytest.raises(StoreUnavailable) as caught:
                await put(store, lease.epoch, NodeRow("n1"))
            assert caught.value.reason == "DATABASE_LOCKED"
            with pytest.raises(StoreUnavailable):
                await store.acquire("a", TTL)
            other.execute("ROLLBACK")
            other.close()
            await put(store, lease.epoch, NodeRow("n1"))

    async def test_an_unreadable_row_is_named(self, place: Place) -> None:
        await make(place, "n1")
        with sqlite3.connect(place.path) as connection:
            connection.execute("UPDATE nodes SET doc = '{}'")
        connection.close()
        async with opened(place) as store:  # type: ignore[arg-type]
            with pytest.raises(CorruptState) as caught:
                await store.load()
        assert caught.value.fields["type"] == "NodeRow"

    async def test_a_row_that_cannot_be_encoded_fails_alone(self, place: Place) -> None:
        async with opened(place) as store:  # type: ignore[arg-type]
            lease = await store.acquire("a", TTL)
            odd = NodeRow("n1", labels={"zone": object()})  # type: ignore[dict-item]
            good, bad = await asyncio.gather(
                put(store, lease.epoch, NodeRow("n2")), put(store, lease.epoch, odd), return_exceptions=True
            )
            assert not isinstance(good, BaseException)
            assert isinstance(bad, TypeError)

    async def test_what_only_the_database_refuses_falls_alone(
        self, place: Place, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(Ledger, "_attempts", lambda self, change: {})
        async with opened(place) as store:  # type: ignore[arg-type]
            lease = await store.acquire("a", TTL)
            await put(store, lease.epoch, attempt("n1", 1))
            results = await asyncio.gather(
                put(store, lease.epoch, NodeRow("n1")),
                put(store, lease.epoch, attempt("n1", 2)),
                put(store, lease.epoch, NodeRow("n2"), events=(NewEvent("a", "b"),)),
                return_exceptions=True,
            )
            assert [isinstance(result, Conflict) for result in results] == [False, True, False]
            assert len((await store.load()).rows) == 3


class TestCommitInDoubt:
    """COMMIT itself failed: it may or may not have happened."""

    @pytest.fixture(params=[True, False], ids=["happened", "did not happen"])
    def happened(self, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> bool:
        original = AsyncTransaction.commit
        failures = iter([True])

        async def commit(transaction: AsyncTransaction) -> None:
            if self.armed and next(failures, False):
                if request.param:
                    await original(transaction)
                raise OperationalError("COMMIT", {}, sqlite3.OperationalError("the disk stumbled"))
            await original(transaction)

        self.armed = False
        monkeypatch.setattr(AsyncTransaction, "commit", commit)
        return bool(request.param)

    async def test_it_is_looked_up(self, place: Place, happened: bool) -> None:
        async with opened(place) as store:  # type: ignore[arg-type]
            lease = await store.acquire("a", TTL)
            (node,) = await put(store, lease.epoch, NodeRow("n1"))
            self.armed = True
            assert isinstance(node, NodeRow)
            again = replace(node, release="6.12.1")
            if happened:
                (row,) = await put(store, lease.epoch, again, events=(NewEvent("a", "b"),))
                assert row.revision == 2
            else:
                with pytest.raises(StoreUnavailable) as caught:
                    await put(store, lease.epoch, again)
                assert caught.value.reason != "COMMIT_IN_DOUBT"
            (found,) = (await store.load()).rows
            assert found.revision == (2 if happened else 1)
            assert (await store.load()).head_seq == int(happened)

    async def test_if_that_cannot_be_done_the_caller_is_told(
        self, place: Place, happened: bool, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        async with opened(place) as store:  # type: ignore[arg-type]
            assert isinstance(store, SqlStore)
            lease = await store.acquire("a", TTL)
            self.armed = True
            writer = store._writer
            connect = writer.connect

            async def broken() -> Any:
                if writer._connection is None:
                    raise OperationalError("connect", {}, sqlite3.OperationalError("no disk"))
                return await connect()

            monkeypatch.setattr(writer, "connect", broken)
            with pytest.raises(StoreUnavailable) as caught:
                await put(store, lease.epoch, NodeRow("n1"))
            assert caught.value.reason == "COMMIT_IN_DOUBT"
            monkeypatch.setattr(writer, "connect", connect)
            assert len((await store.load()).rows) == int(happened)


class TestUrls:
    @pytest.mark.parametrize("url", ["{}", "sqlite:///{}", "sqlite+aiosqlite:///{}"])
    async def test_they_name_a_file(self, tmp_path: Path, url: str) -> None:
        path = tmp_path / "liveroll.db"
        store = make_store(url.format(path))
        await store.open()
        await store.close()
        assert path.exists()

    @pytest.mark.parametrize("url", ["sqlite://", "sqlite:///:memory:", "://"])
    def test_no_file(self, url: str) -> None:
        with pytest.raises(SettingsError):
            make_store(url)

    def test_another_database(self) -> None:
        with pytest.raises(Unsupported):
            make_store("mysql://db/liveroll")
