"""The journal on disk: lock, durability, full disk, damage, compaction; and its twin in memory."""

from __future__ import annotations

import errno
import fcntl
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from node_agent.core.history import INSTALLATION, NODE
from node_agent.errors import JournalCorrupt, JournalLocked, JournalUnavailable
from node_agent.runtime import journal as module
from node_agent.runtime.journal import BALLAST_BYTES, FileJournal
from node_agent.runtime.journal_format import decode_file
from node_agent.runtime.journal_memory import MemoryDisk, MemoryJournal
from node_agent.runtime.journal_over import JournalOver


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "state" / "journal"


def ballast(path: Path) -> Path:
    return path.with_name("journal.ballast")


async def test_records_outlive_the_process(path: Path) -> None:
    journal = FileJournal.open(path)
    identity = journal.installation_id
    first = await journal.append("event", {"n": 1})
    second = await journal.append("event", {"n": "zwei ü"})
    assert (first.seq, second.seq) == (2, 3)
    await journal.close()
    with pytest.raises(RuntimeError):
        await journal.append("event", {})
    again = FileJournal.open(path)
    assert again.installation_id == identity
    assert [(r.seq, r.kind, dict(r.body)) for r in again.records[1:]] == [
        (2, "event", {"n": 1}),
        (3, "event", {"n": "zwei ü"}),
    ]
    await again.close()


async def test_a_closed_journal_with_a_shared_thread_says_so(path: Path) -> None:
    with ThreadPoolExecutor(1) as thread:
        journal = FileJournal.open(path, executor=thread)
        journal._shut()
        with pytest.raises(JournalUnavailable) as caught:
            await journal.append("event", {})
    assert caught.value.reason == "JOURNAL_CLOSED"


async def test_one_process_holds_it(path: Path) -> None:
    journal = FileJournal.open(path)
    with pytest.raises(JournalLocked) as caught:
        FileJournal.open(path)
    assert caught.value.reason == "STUCK"
    with pytest.raises(JournalLocked):
        FileJournal.set_aside(path)
    await journal.close()
    await FileJournal.open(path).close()


async def test_the_resume_paths_lock_is_taken_over(path: Path) -> None:
    await FileJournal.open(path).close()
    fd = os.open(path, os.O_RDWR)
    fcntl.flock(fd, fcntl.LOCK_EX)
    journal = FileJournal.open(path, fd=fd)
    assert (await journal.append("event", {})).seq == 2
    await journal.close()


async def test_a_new_journal_may_keep_its_predecessors_installation(path: Path) -> None:
    journal = FileJournal.open(path, installation_id="kept")
    assert journal.installation_id == "kept"
    await journal.close()


@pytest.mark.parametrize("content", [b"", b"LRJR", b"LRJRNL01", bytes(50)])
async def test_a_journal_that_was_being_made_is_made_again(path: Path, content: bytes) -> None:
    path.parent.mkdir()
    path.write_bytes(content)
    journal = FileJournal.open(path)
    assert [record.kind for record in journal.records] == [INSTALLATION]
    await journal.close()
    assert decode_file(path.read_bytes()).good_bytes == path.stat().st_size


async def test_a_torn_tail_is_cut_and_written_over(path: Path) -> None:
    journal = FileJournal.open(path)
    await journal.append("event", {"n": 1})
    await journal.close()
    whole = path.read_bytes()
    path.write_bytes(whole + b"\x40\0\0\0torn")
    journal = FileJournal.open(path)
    assert path.read_bytes() == whole
    assert (await journal.append("event", {"n": 2})).seq == 3
    await journal.close()
    assert len(decode_file(path.read_bytes()).records) == 3


async def test_a_corrupt_journal_is_kept_aside(path: Path) -> None:
    journal = FileJournal.open(path)
    identity = journal.installation_id
    await journal.append("event", {"n": 1})
    await journal.close()
    damaged = bytearray(path.read_bytes())
    damaged[-2] ^= 1
    path.write_bytes(damaged)
    with pytest.raises(JournalCorrupt):
        FileJournal.open(path)
    kept, installation_id = FileJournal.set_aside(path)
    assert kept.read_bytes() == damaged
    assert installation_id == identity
    journal = FileJournal.open(path, installation_id=installation_id)
    assert [record.seq for record in journal.records] == [2**32 + 1]
    await journal.close()


async def test_seqs_rise_over_every_journal_set_aside_whatever_was_readable(path: Path) -> None:
    """Else the orchestrator would take new reports for those that it has acknowledged."""
    path.parent.mkdir()
    reached = 0
    for damage in (b"nothing readable", b"", b"again"):
        journal = FileJournal.open(path)
        await journal.append("event", {})
        assert journal.records[0].seq > reached
        reached = journal.records[-1].seq
        await journal.close()
        data = bytearray(path.read_bytes())
        path.write_bytes(damage if damage else data[:-2] + b"xx")
        FileJournal.set_aside(path)
    for kept in sorted(path.parent.glob("journal.corrupt-*")):
        if kept.read_bytes()[:1] != b"L":
            kept.unlink()  # somebody cleans up, and keeps the one that can be read
    journal = FileJournal.open(path)
    assert journal.records[0].seq >= 2**33
    await journal.close()


async def test_later_records_come_after_what_another_machine_has_told_in_this_ones_name(path: Path) -> None:
    """The orchestrator takes a number that it has had for an old report's."""
    on_disk, in_memory = FileJournal.open(path), MemoryJournal(MemoryDisk())
    for journal in (on_disk, in_memory):
        await journal.append("event", {})
        journal.number_from(1)
        assert (await journal.append("event", {})).seq == 3
        JournalOver(journal).number_from(40)
        journal.number_from(7)
        assert (await journal.append("event", {})).seq == 41
        assert (await journal.append("event", {})).seq == 42
        await journal.close()
    again = FileJournal.open(path)
    assert [record.seq for record in again.records] == [1, 2, 3, 41, 42]
    await again.close()


async def test_a_journal_without_its_beginning(path: Path) -> None:
    path.parent.mkdir()
    path.write_bytes(b"something else")
    with pytest.raises(JournalCorrupt):
        FileJournal.open(path)
    assert FileJournal.set_aside(path)[1] == ""
    disk = MemoryDisk()
    await MemoryJournal(disk).append("event", {})
    head, body = disk.data[:8], decode_file(disk.data)
    path.write_bytes(head + module.encode_record(body.records[1]))
    with pytest.raises(JournalCorrupt, match="does not begin with its installation"):
        FileJournal.open(path)


def test_a_path_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(JournalUnavailable) as caught:
        FileJournal.open(tmp_path / "file" / "journal")
    assert caught.value.remedy
    (tmp_path / "directory" / "journal").mkdir(parents=True)
    with pytest.raises(JournalUnavailable):
        FileJournal.open(tmp_path / "directory" / "journal")


def failing(error: int, times: int) -> Callable[..., None]:
    real, left = module._write_all, [times]

    def write(fd: int, data: bytes, offset: int) -> None:
        if left[0] > 0:
            left[0] -= 1
            real(fd, data[: len(data) // 2], offset)
            raise OSError(error, os.strerror(error))
        real(fd, data, offset)

    return write


async def test_a_failed_fsync_is_never_retried(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    journal = FileJournal.open(path)
    calls: list[int] = []

    def fsync(fd: int) -> None:
        calls.append(fd)
        raise OSError(errno.EIO, "the disk is gone")

    monkeypatch.setattr(module.os, "fsync", fsync)
    for _ in range(2):
        with pytest.raises(JournalUnavailable) as caught:
            await journal.append("event", {})
        assert caught.value.reason == "JOURNAL_UNAVAILABLE"
    with pytest.raises(JournalUnavailable):
        await journal.ensure_room()
    assert len(calls) == 1
    await journal.close()


async def test_ballast_carries_an_attempt_over_a_full_disk(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    journal = FileJournal.open(path)
    await journal.ensure_room()
    await journal.ensure_room()
    assert ballast(path).stat().st_size == BALLAST_BYTES
    monkeypatch.setattr(module, "_write_all", failing(errno.ENOSPC, 1))
    assert (await journal.append("event", {"n": 1})).seq == 2
    assert not ballast(path).exists()
    await journal.close()
    assert len(decode_file(path.read_bytes()).records) == 2


async def test_without_ballast_nothing_new_begins_and_the_journal_stays_whole(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    journal = FileJournal.open(path)
    monkeypatch.setattr(module, "_write_all", failing(errno.ENOSPC, 2))
    with pytest.raises(JournalUnavailable) as caught:
        await journal.ensure_room()
    assert caught.value.reason == "JOURNAL_FULL"
    assert "Free at least" in caught.value.remedy
    with pytest.raises(JournalUnavailable) as caught:
        await journal.append("event", {"n": 1})
    assert caught.value.reason == "JOURNAL_FULL"
    assert (await journal.append("event", {"n": 2})).seq == 2
    await journal.close()
    assert len(decode_file(path.read_bytes()).records) == 2


async def test_an_older_agents_ballast_grows_and_outlives_a_disk_without_room_for_more(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    journal = FileJournal.open(path)
    ballast(path).write_bytes(b"\xff" * 4096)
    with monkeypatch.context() as full:
        full.setattr(module, "_write_all", failing(errno.ENOSPC, 1))
        with pytest.raises(JournalUnavailable) as caught:
            await journal.ensure_room()
    assert caught.value.reason == "JOURNAL_FULL"
    assert ballast(path).stat().st_size == 4096
    await journal.ensure_room()
    assert ballast(path).read_bytes() == b"\xff" * BALLAST_BYTES
    await journal.close()


async def test_a_write_that_fails_otherwise_ends_it(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    journal = FileJournal.open(path)
    monkeypatch.setattr(module, "_write_all", failing(errno.EIO, 1))
    for _ in range(2):
        with pytest.raises(JournalUnavailable):
            await journal.append("event", {})
    await journal.close()


async def test_compaction_keeps_numbers_lock_and_truth(path: Path) -> None:
    journal = FileJournal.open(path, compact_bytes=20_000)
    identity = journal.installation_id
    for n in range(400):
        await journal.append(NODE, {"n": n, "fill": "x" * 50, "acked": n})
    assert path.stat().st_size < 30_000
    assert journal.records[-1].seq == 401
    with pytest.raises(JournalLocked):
        FileJournal.open(path)
    await journal.close()
    again = FileJournal.open(path)
    assert again.installation_id == identity
    assert (again.records[-1].seq, again.records[-1].body["n"]) == (401, 399)
    await again.close()


async def test_a_compaction_that_finds_no_room_is_put_off(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    journal = FileJournal.open(path, compact_bytes=500)

    def no_room(*_: object) -> int:
        raise OSError(errno.ENOSPC, "full")

    monkeypatch.setattr(module, "_write_file", no_room)
    for n in range(20):
        await journal.append(NODE, {"n": n, "fill": "x" * 50})
    assert len(journal.records) == 21
    await journal.close()


async def test_a_rename_that_cannot_be_made_durable_ends_it(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    journal = FileJournal.open(path, compact_bytes=500)

    def broken(_: Path) -> None:
        raise OSError(errno.EIO, "gone")

    monkeypatch.setattr(module, "_sync_directory", broken)
    with pytest.raises(JournalUnavailable):
        for n in range(20):
            await journal.append(NODE, {"n": n, "fill": "x" * 50})
    await journal.close()


async def test_in_memory_what_was_not_synced_may_be_lost() -> None:
    disk = MemoryDisk()
    journal = MemoryJournal(disk, "inst")
    await journal.append("event", {"n": 1})
    with pytest.raises(JournalLocked):
        MemoryJournal(disk)

    class Crash(Exception):
        pass

    async def crash() -> None:
        raise Crash

    disk.before_sync = crash
    with pytest.raises(Crash):
        await journal.append("event", {"n": 2})
    written = len(disk.data) - disk.synced
    disk.before_sync = None
    disk.power_loss(kept_bytes=written - 1)
    torn = MemoryJournal(disk)
    assert [record.seq for record in torn.records] == [1, 2]
    assert torn.installation_id == "inst"
    await torn.close()
    with pytest.raises(JournalUnavailable):
        await torn.append("event", {})


async def test_in_memory_a_process_that_dies_loses_nothing_that_was_written() -> None:
    disk = MemoryDisk()
    await MemoryJournal(disk).append("event", {})
    disk.process_died()
    assert len(MemoryJournal(disk).records) == 2


async def test_in_memory_disks_fail_as_real_ones_do() -> None:
    disk = MemoryDisk()
    journal = MemoryJournal(disk)
    await journal.ensure_room()
    disk.tight = True
    with pytest.raises(JournalUnavailable):
        await journal.ensure_room()
    disk.full = True
    with pytest.raises(JournalUnavailable) as caught:
        await journal.append("event", {})
    assert caught.value.reason == "JOURNAL_FULL"
    disk.full = disk.tight = False
    disk.fail_sync = True
    for _ in range(2):
        with pytest.raises(JournalUnavailable):
            await journal.append("event", {})
        disk.fail_sync = False
    with pytest.raises(JournalUnavailable):
        await journal.ensure_room()
    disk.data = disk.data[:-3] + b"xyz"
    disk.locked = False
    with pytest.raises(JournalCorrupt):
        MemoryJournal(disk)
