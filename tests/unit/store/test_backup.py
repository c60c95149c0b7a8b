"""Backup and restore of a store: what comes back, what a damaged file does, who is refused."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import sqlite3
from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest

from orchestrator.core.model import AttemptRow, Change, FleetRow, IdempotencyRow, NewEvent, NodeRow
from orchestrator.errors import (
    Conflict,
    CorruptState,
    LiverollError,
    NotFound,
    StoreUnavailable,
    Unsupported,
)
from orchestrator.ports import Snapshot
from orchestrator.store import backup, backup_file
from orchestrator.store.sql import SqlStore
from orchestrator.store.sqlite import Sqlite
from tests.contract.store_backends import opened
from tests.contract.test_store_contract import attempt, put, rollout
from tests.unit.store.test_sqlite import Place

TTL = timedelta(seconds=10)
NAMES = [f"node-{i}" for i in range(5)]


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return Place(tmp_path / "liveroll.db")


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "monday.backup"


def database(place: Place) -> Sqlite:
    return Sqlite(place.path)


async def filled(store: SqlStore) -> int:
    """Nodes, a rollout, attempts, events and an idempotency row. The epoch."""
    lease = await store.acquire("a", TTL)
    row = rollout("kernel")
    await put(store, lease.epoch, row, *(NodeRow(name) for name in NAMES), events=(NewEvent("made", "all"),))
    for name in NAMES[:2]:
        await put(
            store, lease.epoch, attempt(name), events=(NewEvent("began", "ä \t\n\u2028", node_id=name),)
        )
    call = IdempotencyRow("k1", "Pause", "alice", "hash", "", row.created_at)
    await put(store, lease.epoch, call)
    return lease.epoch


async def contents(place: Place) -> tuple[Snapshot, list[NewEvent], IdempotencyRow | None]:
    async with opened(place) as store:  # type: ignore[arg-type]
        events = await store.events(0, limit=1000)
        return await store.load(), [event.new for event in events], await store.recall("alice", "k1")


async def made(place: Place, file: Path) -> backup.Header:
    async with opened(place) as store:  # type: ignore[arg-type]
        assert isinstance(store, SqlStore)
        await filled(store)
        return await backup.back_up(database(place), file, release="1.2.3")


class TestThereAndBack:
    async def test_a_backup_beside_a_running_store_says_what_it_is_of(self, place: Place, file: Path) -> None:
        header = await made(place, file)
        assert (header.release, header.epoch, header.event_seq) == ("1.2.3", 1, 3)
        counted = {"nodes": 5, "attempts": 2, "rollouts": 1, "idempotency": 1, "events": 3}
        assert {name: count for name, count in header.counts.items() if count} == counted
        assert file.stat().st_mode & 0o777 == 0o600
        assert [p.name for p in file.parent.glob(".*")] == []
        assert await backup.verify(file) == header
        first = json.loads(file.read_text().splitlines()[0])
        assert first["liveroll_backup"] == 1, "it says itself what it is"

    async def test_everything_comes_back_into_an_empty_place(
        self, place: Place, file: Path, tmp_path: Path
    ) -> None:
        header = await made(place, file)
        before = await contents(place)
        other = Place(tmp_path / "other.db")
        done = await backup.restore(database(other), file, actor="alice")
        assert not done.lost.anything
        after = await contents(other)
        assert after[0].rows == before[0].rows, "rows and their revisions"
        assert after[1][:-1] == before[1]
        assert after[2] == before[2] is not None
        assert (after[0].incarnation, after[0].incarnation_serial) == (done.incarnation, done.serial)
        assert after[0].incarnation != header.incarnation
        assert after[0].incarnation_serial > header.serial
        assert done.epoch > header.epoch

    async def test_the_restore_is_an_event_and_stops_whoever_loads_it(self, place: Place, file: Path) -> None:
        header = await made(place, file)
        await backup.restore(database(place), file, actor="local:alice")
        snapshot, events, _ = await contents(place)
        assert snapshot.regressed.startswith(f"restored from the backup of {header.created_at}")
        assert (events[-1].kind, events[-1].actor) == ("store.restored", "local:alice")
        assert events[-1].fields["backup_event"] == "3"
        assert snapshot.head_seq == 4, "numbers go on without a gap"

    async def test_a_store_that_was_restored_is_written_on(self, place: Place, file: Path) -> None:
        await made(place, file)
        done = await backup.restore(database(place), file, actor="a")
        async with opened(place) as store:  # type: ignore[arg-type]
            assert isinstance(store, SqlStore)
            lease = await store.acquire("a", TTL)
            assert lease.epoch > done.epoch
            row = next(r for r in (await store.load()).rows if isinstance(r, NodeRow))
            sick = Change((replace(row, healthy=False),), events=(NewEvent("x", "y"),))
            committed = await store.commit(lease.epoch, sick)
            assert [(e.incarnation, e.seq) for e in committed.events] == [(done.incarnation, 5)]
            changes = await store.changes(committed.batch - 1)
            assert len(changes.rows) == 1

    async def test_old_epochs_are_fenced_and_old_handles_are_told(self, place: Place, file: Path) -> None:
        await made(place, file)
        async with opened(place) as store:  # type: ignore[arg-type]
            assert isinstance(store, SqlStore)
            lease = await store.acquire("a", TTL)
            store._database.unlock()
            await backup.restore(database(place), file, actor="a")
            with pytest.raises(Conflict) as refused:
                await put(store, lease.epoch, FleetRow())
        assert refused.value.reason in ("STORE_REPLACED", "EPOCH_FENCED")

    async def test_a_second_backup_takes_the_place_of_the_first(self, place: Place, file: Path) -> None:
        await made(place, file)
        async with opened(place) as store:  # type: ignore[arg-type]
            assert isinstance(store, SqlStore)
            lease = await store.acquire("a", TTL)
            await put(store, lease.epoch, NodeRow("node-9"))
        header = await backup.back_up(database(place), file, release="2")
        assert (await backup.verify(file)).counts["nodes"] == header.counts["nodes"] == 6

    async def test_many_rows_go_in_chunks(
        self, place: Place, file: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(backup, "CHUNK", 2)
        await made(place, file)
        seen: list[tuple[int, int]] = []
        await backup.restore(
            database(place), file, actor="a", progress=lambda done, total: seen.append((done, total))
        )
        assert (12, 12) in seen
        snapshot, events, _ = await contents(place)
        assert len(snapshot.rows) == 8
        assert len(events) == 4

    async def test_what_a_restore_would_lose(self, place: Place, file: Path) -> None:
        await made(place, file)
        assert (await backup.lost_by(database(place), file)).attempts == 0
        async with opened(place) as store:  # type: ignore[arg-type]
            assert isinstance(store, SqlStore)
            lease = await store.acquire("a", TTL)
            await put(store, lease.epoch, rollout("later"))
            await put(store, lease.epoch, attempt("node-3"), events=(NewEvent("began", "it"),))
        lost = await backup.lost_by(database(place), file)
        assert (lost.rollouts, lost.attempts, lost.nodes) == (("later",), 1, ("node-3",))
        assert (lost.event_seq, lost.anything) == (4, True)
        assert lost.event_at
        done = await backup.restore(database(place), file, actor="a")
        assert done.lost == lost

    async def test_looking_into_a_place_where_nothing_is_makes_nothing(
        self, place: Place, file: Path, tmp_path: Path
    ) -> None:
        await made(place, file)
        nowhere = Sqlite(tmp_path / "nothing.db")
        assert not (await backup.lost_by(nowhere, file)).anything
        with pytest.raises(NotFound) as refused:
            await backup.back_up(nowhere, file, release="1")
        assert refused.value.reason == "NO_STORE"
        assert not nowhere.path.exists()
        empty = Sqlite(tmp_path / "empty.db")
        empty.path.touch()
        assert not (await backup.lost_by(empty, file)).anything
        with pytest.raises(NotFound):
            await backup.back_up(empty, file, release="1")


class TestRefused:
    async def test_while_an_orchestrator_has_the_store(self, place: Place, file: Path) -> None:
        await made(place, file)
        async with opened(place):  # type: ignore[arg-type]
            with pytest.raises(StoreUnavailable) as refused:
                await backup.restore(database(place), file, actor="a")
        assert refused.value.reason == "STORE_IN_USE"
        assert "stop every orchestrator" in refused.value.remedy

    async def test_a_database_is_not_overwritten_by_its_backup(self, place: Place, file: Path) -> None:
        await made(place, file)
        before = place.path.read_bytes()
        with pytest.raises(Unsupported) as refused:
            await backup.back_up(database(place), place.path, release="1")
        assert refused.value.reason == "BACKUP_WOULD_OVERWRITE"
        assert place.path.read_bytes() == before

    async def test_a_row_that_the_disk_has_damaged_is_not_taken_along(self, place: Place, file: Path) -> None:
        await made(place, file)
        before = file.read_bytes()
        with contextlib.closing(sqlite3.connect(place.path)) as disk, disk:
            disk.execute("UPDATE nodes SET doc = replace(doc, 'node-3', 'node-7') WHERE node_id = 'node-3'")
        with pytest.raises(CorruptState) as refused:
            await backup.back_up(database(place), file, release="1")
        assert refused.value.reason == "ROW_DAMAGED"
        assert file.read_bytes() == before, "the older backup is as it was"

    async def test_a_place_that_cannot_be_written(self, place: Place, file: Path, tmp_path: Path) -> None:
        await made(place, file)
        for bad in (tmp_path / "absent" / "file", place.path / "below a file"):
            with pytest.raises(StoreUnavailable) as refused:
                await backup.back_up(database(place), bad, release="1")
            assert refused.value.reason == "BACKUP_NOT_WRITTEN"

    async def test_a_disk_that_fills_up_leaves_the_older_backup(
        self, place: Place, file: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        await made(place, file)
        before = file.read_bytes()

        def full(fd: int) -> None:
            raise OSError(28, "No space left on device")

        monkeypatch.setattr(os, "fsync", full)
        with pytest.raises(StoreUnavailable) as refused:
            await backup.back_up(database(place), file, release="1")
        assert "No space left" in refused.value.message
        assert file.read_bytes() == before
        assert [p.name for p in file.parent.glob(".*")] == []

    async def test_a_backup_that_is_broken_off_leaves_the_older_one(
        self, place: Place, file: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        await made(place, file)
        before = file.read_bytes()

        def broken(self: object, line: object) -> None:
            raise KeyboardInterrupt

        monkeypatch.setattr(backup_file.BackupWriter, "add", broken)
        with pytest.raises(KeyboardInterrupt):
            await backup.back_up(database(place), file, release="1")
        assert file.read_bytes() == before
        assert [p.name for p in file.parent.glob(".*")] == []

    async def test_a_file_that_is_not_there(self, place: Place, tmp_path: Path) -> None:
        with pytest.raises(StoreUnavailable) as refused:
            await backup.verify(tmp_path / "absent")
        assert refused.value.reason == "BACKUP_NOT_READ"


async def refusal(place: Place, file: Path) -> LiverollError:
    """What restoring it says; the store must be as it was."""
    with pytest.raises(LiverollError) as refused:
        await backup.restore(database(place), file, actor="a")
    return refused.value


def resealed(file: Path, change: Callable[[list[bytes]], list[bytes]]) -> None:
    """The file with other lines, and a checksum that fits them."""
    *lines, _ = file.read_bytes().splitlines(keepends=True)
    lines = change(lines)
    end = {"end": True, "lines": len(lines) - 1, "sha256": hashlib.sha256(b"".join(lines)).hexdigest()}
    file.write_bytes(b"".join(lines) + json.dumps(end).encode() + b"\n")


class TestDamaged:
    async def test_a_file_cut_anywhere(self, place: Place, file: Path) -> None:
        await made(place, file)
        before = await contents(place)
        whole = file.read_bytes()
        cuts = {0, 1, len(whole) - 1, len(whole) - 2, len(whole) // 2}
        cuts |= {i + 1 for i, byte in enumerate(whole) if byte == 10 and i + 1 < len(whole)}
        for cut in sorted(cuts):
            file.write_bytes(whole[:cut])
            with pytest.raises(CorruptState) as refused:
                backup_file.BackupReader(file).check()
            assert refused.value.reason == "BACKUP_CORRUPT", cut
        assert (await refusal(place, file)).reason == "BACKUP_CORRUPT"
        assert await contents(place) == before

    async def test_a_flipped_bit_anywhere(self, place: Place, file: Path) -> None:
        await made(place, file)
        whole = file.read_bytes()
        for at in {*range(0, len(whole), 97), *range(len(whole) - 120, len(whole)), *range(60)}:
            damaged = bytearray(whole)
            damaged[at] ^= 1 << (at % 8)
            file.write_bytes(damaged)
            with pytest.raises(CorruptState) as refused:
                backup_file.BackupReader(file).check()
            assert refused.value.reason == "BACKUP_CORRUPT", at

    async def test_bytes_after_the_end(self, place: Place, file: Path) -> None:
        await made(place, file)
        for more in (b"x", b"\n", b"x\n"):
            with file.open("ab") as out:
                out.write(more)
            assert (await refusal(place, file)).reason == "BACKUP_CORRUPT"

    async def test_other_files(self, place: Place, file: Path) -> None:
        await made(place, file)
        for content in (b"hello\nworld\n", place.path.read_bytes(), b"\n", b"\0" * 4096):
            file.write_bytes(content)
            assert (await refusal(place, file)).reason == "BACKUP_CORRUPT"

    async def test_a_line_that_is_too_long_for_memory(
        self, place: Place, file: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        await made(place, file)
        monkeypatch.setattr(backup_file, "LINE_BOUND", 40)
        assert (await refusal(place, file)).reason == "BACKUP_CORRUPT"

    @pytest.mark.parametrize(
        ("change", "reason"),
        [
            (lambda lines: [b'{"liveroll_backup":9}\n', *lines[1:]], "BACKUP_NEWER"),
            (lambda lines: [b'{"liveroll_backup":1}\n', *lines[1:]], "BACKUP_CORRUPT"),
            (lambda lines: [b'{"other":1}\n', *lines[1:]], "BACKUP_CORRUPT"),
            (lambda lines: [b"[]\n", *lines[1:]], "BACKUP_CORRUPT"),
            (lambda lines: [lines[0].replace(b'"schema": "', b'"schema": "9'), *lines[1:]], "SCHEMA_NEWER"),
            (lambda lines: [lines[0], b"nonsense\n", *lines[2:]], "BACKUP_CORRUPT"),
            (lambda lines: [lines[0], b'{"table":"nodes"}\n', *lines[2:]], "BACKUP_CORRUPT"),
            (
                lambda lines: [lines[0], b'{"table":"nodes","revision":"1","doc":{}}\n', *lines[2:]],
                "BACKUP_CORRUPT",
            ),
            (
                lambda lines: [lines[0], b'{"table":"nodes","revision":1,"doc":{"node_id":7}}\n', *lines[2:]],
                "BACKUP_CORRUPT",
            ),
            (
                lambda lines: [lines[0], b'{"table":"ghosts","revision":1,"doc":{}}\n', *lines[2:]],
                "BACKUP_CORRUPT",
            ),
            (lambda lines: lines[:-1], "BACKUP_CORRUPT"),
        ],
        ids=[
            "a newer format",
            "a header without its fields",
            "no header",
            "no object",
            "a newer schema",
            "no JSON",
            "no revision",
            "a revision that is no number",
            "a row that cannot be read",
            "an unknown table",
            "fewer rows than it says",
        ],
    )
    async def test_a_file_that_was_written_so(
        self, place: Place, file: Path, change: Callable[[list[bytes]], list[bytes]], reason: str
    ) -> None:
        await made(place, file)
        before = await contents(place)
        resealed(file, change)
        assert (await refusal(place, file)).reason == reason
        with pytest.raises(LiverollError) as refused:
            await backup.verify(file)
        assert refused.value.reason == reason
        assert await contents(place) == before, "nothing was touched"

    async def test_a_file_that_changes_while_it_is_restored(
        self, place: Place, file: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        await made(place, file)
        before = await contents(place)
        compared = backup._lost

        async def spoil(*arguments: object) -> backup.Lost:
            found = await compared(*arguments)  # type: ignore[arg-type]
            content = file.read_bytes()
            file.write_bytes(content.replace(b"node-3", b"node-9"))
            return found

        monkeypatch.setattr(backup, "_lost", spoil)
        assert (await refusal(place, file)).reason == "BACKUP_CORRUPT"
        assert await contents(place) == before

    async def test_fields_and_tables_of_an_older_schema(self, place: Place, file: Path) -> None:
        await made(place, file)
        resealed(
            file,
            lambda lines: [
                lines[0].replace(b'"schema": "0002"', b'"schema": "0001"').replace(b'"release"', b'"was"'),
                *lines[1:],
            ],
        )
        assert (await refusal(place, file)).reason == "BACKUP_CORRUPT", "the header lacks a field"
        resealed(
            file,
            lambda lines: [lines[0].replace(b'"was"', b'"more": 1, "release"'), *lines[1:]],
        )
        await backup.restore(database(place), file, actor="a")
        assert any(isinstance(row, AttemptRow) for row in (await contents(place))[0].rows)
