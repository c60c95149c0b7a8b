"""The agent's journal on disk: append-only, checksummed, fsync'd before append() returns.

Rules
1. One process holds it (flock on the file itself): the one that may call reboot.
2. File and directory are fsync'd. A failed fsync is never retried, because the kernel may have
   dropped the very pages: the journal is closed, and everything after it raises.
3. A ballast file beside it is given up when the disk is full, so that an attempt that has begun
   can always be unwound; without ballast nothing new begins (ensure_room). A record that finds
   no room is refused and leaves the journal as it was.
4. A torn tail is cut when it is opened. Damage raises JournalCorrupt; set_aside() keeps the file
   for inspection and begins a new one in its place, quarantined from its first record on.
5. When it has grown, what `history.retained` drops is left out of a new file that replaces it
   by rename.

Blocking calls run in a thread of the journal's own.
"""

from __future__ import annotations

import asyncio
import errno
import fcntl
import os
import uuid
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Executor, ThreadPoolExecutor
from pathlib import Path
from typing import Self

from node_agent.core.history import INSTALLATION, retained
from node_agent.errors import JournalCorrupt, JournalLocked, JournalUnavailable
from node_agent.ports import JournalRecord
from node_agent.runtime.journal_format import MAGIC, decode_file, encode_record

COMPACT_BYTES = 512 << 10
"""Some ten attempts. Reading it is on the blackout path, so it must stay small."""
NO_SPACE = (errno.ENOSPC, errno.EDQUOT)
BALLAST_BYTES = 1 << 20
"""An attempt's records, compaction not counted, with 128 workloads and as many files as RFC v2 takes: each
record from Preserved to Finished tells them all. One with more may find no room on a full disk: it is undone,
or brought back, without a record, and the node stands still."""


class _DiskFull(OSError):
    """No room for the record, and the file is as it was before."""


class FileJournal:
    """ports.Journal over one file. Use open().

    Not safe for two threads; its own thread orders the writes.
    """

    def __init__(self, path: Path, fd: int, executor: Executor, compact_bytes: int) -> None:
        self._path = path
        self._fd = fd
        self._executor = executor
        self._compact_bytes = compact_bytes
        self._end = 0
        self._size_after_compaction = 0
        self._records: list[JournalRecord] = []
        self._broken: JournalUnavailable | None = None
        self._floor = 0

    @classmethod
    def open(
        cls,
        path: Path,
        *,
        fd: int = -1,
        installation_id: str = "",
        executor: Executor | None = None,
        compact_bytes: int = COMPACT_BYTES,
    ) -> Self:
        """Lock, read and repair the journal, or make a new one. Blocks.

        Args:
            fd: open for reading and writing and flock'ed already (by the resume path), or -1.
            installation_id: for a new journal; a random one by default.
            executor: where writes run, one after the other; a thread of its own by default.

        Raises:
            JournalLocked: another process holds it and may be inside reboot.
            JournalCorrupt: see set_aside().
            JournalUnavailable: it can be neither read nor made.
        """
        fd = fd if fd >= 0 else _lock(path)
        own = executor or ThreadPoolExecutor(max_workers=1, thread_name_prefix="journal")
        journal = cls(path, fd, own, compact_bytes)
        try:
            journal._load(installation_id)
        except OSError as error:
            journal._shut()
            raise _unavailable(error, path) from error
        except JournalCorrupt:
            journal._shut()
            raise
        return journal

    @classmethod
    def set_aside(
        cls,
        path: Path,
        note: Callable[[Path, Sequence[JournalRecord]], Mapping[str, object]] = lambda _kept, _readable: {},
    ) -> tuple[Path, str]:
        """Keep a corrupt journal under another name; a new one takes its place by one rename, so
        that no crash leaves a node that has forgotten both its past and that it has one.

        Args:
            note: given where it is kept and what of it is readable, the words of the new journal's
                first record beside the installation.

        Returns:
            Where it is kept, and the installation id ("" if its first record is damaged too),
            so that the node can still be recognised when it reports itself QUARANTINED.

        Raises:
            JournalLocked: another process holds it.
            JournalUnavailable: the new one cannot be made; the corrupt one is still in its place.
        """
        fd = _lock(path)
        try:
            records = decode_file(path.read_bytes()).records
            kept = path.with_name(f"{path.name}.corrupt-{uuid.uuid4().hex[:8]}")
            kept.hardlink_to(path)
            installation_id = str(records[0].body.get("installation_id", "")) if records else ""
            body = {**note(kept, records), "installation_id": installation_id or uuid.uuid4().hex}
            beside = path.with_name(path.name + ".new")
            first = JournalRecord(_first_seq(path), INSTALLATION, body)
            os.close(_write_file(beside, MAGIC + encode_record(first)))
            beside.rename(path)
            _sync_directory(path.parent)
        except OSError as error:
            raise _unavailable(error, path) from error
        finally:
            os.close(fd)
        return kept, installation_id

    @property
    def installation_id(self) -> str:
        """Made with the journal."""
        return str(self._records[0].body["installation_id"])

    @property
    def records(self) -> Sequence[JournalRecord]:
        """All that compaction left, oldest first."""
        return tuple(self._records)

    async def append(self, kind: str, body: Mapping[str, object]) -> JournalRecord:
        """Write a record and fsync it.

        Raises:
            JournalUnavailable: it is not durable, and nothing more will be.
        """
        loop = asyncio.get_running_loop()
        # Cutting the wait short does not stop the write: the thread finishes it, in order.
        return await loop.run_in_executor(self._executor, self._append, kind, dict(body))

    def number_from(self, seq: int) -> None:
        """See ports.Journal."""
        self._floor = max(self._floor, seq)

    async def ensure_room(self) -> None:
        """See ports.Journal."""
        await asyncio.get_running_loop().run_in_executor(self._executor, self._ensure_room)

    async def close(self) -> None:
        """See ports.Journal."""
        await asyncio.get_running_loop().run_in_executor(self._executor, self._shut)
        self._executor.shutdown(wait=False)

    def let_go(self) -> None:
        """close(), where there is no loop yet. Blocks."""
        self._shut()

    def _load(self, installation_id: str) -> None:
        data = self._path.read_bytes()
        decoded = decode_file(data)
        if decoded.corrupt is not None:
            raise decoded.corrupt
        if not decoded.records:
            # New, or a crash while it was made: nothing was ever promised on its ground.
            first = JournalRecord(
                _first_seq(self._path), INSTALLATION, {"installation_id": installation_id or uuid.uuid4().hex}
            )
            data = MAGIC + encode_record(first)
            _write_all(self._fd, data, 0)
            decoded = decode_file(data)
        if decoded.records[0].kind != INSTALLATION:
            raise JournalCorrupt("the journal does not begin with its installation", offset=len(MAGIC))
        os.ftruncate(self._fd, decoded.good_bytes)
        os.fsync(self._fd)
        _sync_directory(self._path.parent)
        self._records = list(decoded.records)
        self._end = self._size_after_compaction = decoded.good_bytes

    def _append(self, kind: str, body: Mapping[str, object]) -> JournalRecord:
        if self._broken is not None:
            raise self._broken
        if self._fd < 0:
            raise JournalUnavailable("the journal is closed", reason="JOURNAL_CLOSED")
        record = JournalRecord(max(self._records[-1].seq, self._floor) + 1, kind, body)
        data = encode_record(record)
        try:
            self._write(data)
            os.fsync(self._fd)
        except _DiskFull as error:
            raise _unavailable(error, self._path) from error
        except OSError as error:
            self._broken = _unavailable(error, self._path)
            raise self._broken from error
        self._records.append(record)
        self._end += len(data)
        if self._end > self._compact_bytes and self._end > 2 * self._size_after_compaction:
            self._compact()
        return record

    def _write(self, data: bytes) -> None:
        """A failed write, unlike a failed fsync, has promised nothing and may be repeated."""
        try:
            try:
                _write_all(self._fd, data, self._end)
            except OSError as error:
                if error.errno not in NO_SPACE or not self._ballast.exists():
                    raise
                os.ftruncate(self._fd, self._end)
                self._ballast.unlink()
                _write_all(self._fd, data, self._end)
        except OSError as error:
            if error.errno not in NO_SPACE:
                raise
            os.ftruncate(self._fd, self._end)
            raise _DiskFull(*error.args) from error

    def _compact(self) -> None:
        """Replace the file by one without what nobody needs. If that fails, the old one stays."""
        keep = retained(self._records)
        data = MAGIC + b"".join(encode_record(record) for record in keep)
        beside = self._path.with_name(self._path.name + ".new")
        try:
            fd = _write_file(beside, data)
        except OSError:
            beside.unlink(missing_ok=True)
            self._size_after_compaction = self._end
            return
        # Held before it gets the name: whoever opens the name finds it locked.
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        try:
            beside.rename(self._path)
            _sync_directory(self._path.parent)
        except OSError as error:
            os.close(fd)
            self._broken = _unavailable(error, self._path)
            raise self._broken from error
        os.close(self._fd)
        self._fd, self._records = fd, keep
        self._end = self._size_after_compaction = len(data)

    @property
    def _ballast(self) -> Path:
        return self._path.with_name(self._path.name + ".ballast")

    def _ensure_room(self) -> None:
        if self._broken is not None:
            raise self._broken
        held = self._ballast.stat().st_size if self._ballast.exists() else 0
        if held >= BALLAST_BYTES:
            return
        try:
            # Written, not merely allocated: some file systems promise more than they have.
            _grow(self._ballast, held, BALLAST_BYTES)
        except OSError as error:
            # An attempt may be under way that an older agent began over a smaller one, and may need it.
            if held:
                os.truncate(self._ballast, held)
            else:
                self._ballast.unlink(missing_ok=True)
            raise _unavailable(error, self._path) from error

    def _shut(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1


def lock_when_free(path: Path) -> int:
    """An fd for FileJournal.open(), locked, once nobody else holds the lock. Blocks without end.

    Raises:
        JournalUnavailable: it can be neither opened nor made.
    """
    return _lock(path, wait=True)


def _lock(path: Path, *, wait: bool = False) -> int:
    """Open and lock the file that bears the name now; make it if there is none."""
    while True:
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise _unavailable(error, path) from error
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
            if _bears_name(fd, path):
                return fd
        except BlockingIOError as error:
            os.close(fd)
            raise JournalLocked(
                "another process holds the journal",
                remedy="The old agent may still be inside reboot. Wait for it, or end it if it hangs; "
                "never start a second agent over the same state directory.",
                path=path,
            ) from error
        # Compaction gave the name to another file between open and lock.
        os.close(fd)


def _first_seq(path: Path) -> int:
    """Above all that a journal set aside may have reported: the orchestrator takes a seq that it has
    acknowledged for a repetition, for the life of the installation. What was beyond the damage
    cannot be read, so each new journal takes the next 2**32. Raises OSError."""
    kept = [decode_file(file.read_bytes()).records for file in path.parent.glob(f"{path.name}.corrupt-*")]
    reached = [(records[-1].seq >> 32) + 1 for records in kept if records]
    return (max([len(kept), *reached]) << 32) + 1


def _bears_name(fd: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(fd), path.stat())
    except FileNotFoundError:
        return False


def _write_file(path: Path, data: bytes) -> int:
    """Write and fsync a new file; its fd."""
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    try:
        _write_all(fd, data, 0)
        os.fsync(fd)
    except BaseException:
        os.close(fd)
        raise
    return fd


def _grow(path: Path, held: int, size: int) -> None:
    """Fill a file that holds so many bytes up to this size, and fsync it."""
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        _write_all(fd, b"\xff" * (size - held), held)
        os.fsync(fd)
    finally:
        os.close(fd)


def _write_all(fd: int, data: bytes, offset: int) -> None:
    while data:
        written = os.pwrite(fd, data, offset)
        data, offset = data[written:], offset + written


def _sync_directory(path: Path) -> None:
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def _unavailable(error: OSError, path: Path) -> JournalUnavailable:
    name = errno.errorcode.get(error.errno or 0, "EIO")
    if error.errno in NO_SPACE:
        return JournalUnavailable(
            "the disk with the journal is full",
            reason="JOURNAL_FULL",
            remedy=f"Free at least 2 MiB in {path.parent}; the agent then goes on by itself.",
            errno=name,
            path=path,
        )
    return JournalUnavailable(
        "the journal cannot be written",
        remedy=f"Check the disk that holds {path.parent} and its permissions, then restart the agent.",
        errno=name,
        path=path,
    )
