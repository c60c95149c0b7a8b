"""The backup file: lines of JSON, the same for every database, checksummed to the last byte.

Rules
1. First line: the header, what the backup is of and how much is in it. Then one line a row and one
   an event, in the order of TABLES. Last line: the number of lines before it and their SHA-256.
2. Nothing in a file is believed before the last line has been found to fit all others. Reading
   again compares again, so a file that changes in between is noticed too.
3. A document lies in it as the store has it (codec.py), with its revision; columns that repeat a
   part of it do not. So a backup of one database may be restored into another.
4. A file is complete or absent: written beside its name, synced, and renamed. Only its owner may
   read it.
5. Reading and writing hold one line at a time.

Not here: what is read and written (backup.py).
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import tempfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO, Self

from orchestrator.errors import CorruptState, LiverollError, StoreUnavailable, Unsupported

FORMAT = 1
MARK = "liveroll_backup"
"""Key of the header that holds the format: the first thing in the file."""

LINE_BOUND = 64 * 2**20
"""Longer than any row; what has no line end for so long is no backup, and must not fill the memory."""

EVENTS = "events"

Progress = Callable[[int, int], None]
"""(lines done, lines in all)"""


@dataclass(frozen=True, slots=True)
class Header:
    """What a backup says of itself."""

    release: str
    """Of the program that wrote it."""
    schema: str
    incarnation: str
    serial: int
    epoch: int
    batch: int
    event_seq: int
    """Newest event."""
    event_at: str
    """When that was, ISO 8601; empty if there is none."""
    created_at: str
    """ISO 8601, on the database's clock."""
    counts: Mapping[str, int]
    """Lines by table, events among them."""

    @property
    def lines(self) -> int:
        return sum(self.counts.values())


@dataclass(frozen=True, slots=True)
class Line:
    """One row, or one event."""

    table: str
    number: int
    """A row's revision, an event's seq."""
    at_us: int
    """An event's; 0 of a row."""
    doc: str


def _nothing(done: int, total: int) -> None:
    """For callers that show no progress."""


class BackupWriter:
    """Writes a backup: with BackupWriter(path, header) as out: out.add(...)…

    Raises StoreUnavailable (BACKUP_NOT_WRITTEN) if the file cannot be written, and then leaves what
    was there; Unsupported (BACKUP_WOULD_OVERWRITE) if what is there is no backup.
    """

    def __init__(self, path: Path, header: Header, progress: Progress = _nothing) -> None:
        self._path = path
        self._header = header
        self._progress = progress
        self._digest = hashlib.sha256()
        self._lines = 0
        self._file: BinaryIO | None = None
        self._beside: Path | None = None

    def __enter__(self) -> Self:
        _must_be_backup(self._path)
        try:
            descriptor, name = tempfile.mkstemp(
                dir=self._path.parent, prefix=f".{self._path.name}.", suffix=".tmp"
            )
        except OSError as error:
            raise _not_written(self._path, error) from error
        self._beside = Path(name)  # mkstemp makes it 0600
        self._file = os.fdopen(descriptor, "wb")
        self._write(json.dumps({MARK: FORMAT, **asdict(self._header)}, ensure_ascii=False))
        return self

    def add(self, line: Line) -> None:
        if line.table == EVENTS:
            head = f'{{"table":"{EVENTS}","seq":{line.number},"at_us":{line.at_us},"doc":'
        else:
            head = f'{{"table":"{line.table}","revision":{line.number},"doc":'
        self._write(f"{head}{line.doc}}}")
        self._lines += 1
        self._progress(self._lines, self._header.lines)

    def _write(self, text: str) -> None:
        assert self._file is not None
        raw = text.encode() + b"\n"
        self._digest.update(raw)
        try:
            self._file.write(raw)
        except OSError as error:
            raise _not_written(self._path, error) from error

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._file is not None
        assert self._beside is not None
        try:
            with self._file:
                if kind is None:
                    self._file.write(_end(self._lines, self._digest.hexdigest()))
                    self._file.flush()
                    os.fsync(self._file.fileno())
            if kind is None:
                os.replace(self._beside, self._path)
                _sync_directory(self._path.parent)
        except OSError as failed:
            self._throw_away()
            raise _not_written(self._path, failed) from failed
        if kind is not None:
            self._throw_away()

    def _throw_away(self) -> None:
        assert self._beside is not None
        with contextlib.suppress(OSError):
            self._beside.unlink(missing_ok=True)


class BackupReader:
    """A backup on disk. check() first, then lines() as often as needed.

    Raises CorruptState (BACKUP_CORRUPT), StoreUnavailable (BACKUP_NOT_READ), Unsupported (BACKUP_NEWER).
    """

    def __init__(self, path: Path, progress: Progress = _nothing) -> None:
        self.path = path
        self._progress = progress

    def check(self) -> Header:
        """The header, once the whole file has been found to be as it was written."""
        first = b""
        for number, raw in self._whole():
            if number == 0:
                first = raw
        try:
            header: Any = json.loads(first)
            version = header.pop(MARK)
        except (ValueError, KeyError, AttributeError, TypeError) as error:
            raise corrupt(self.path, "its first line is no header") from error
        if version != FORMAT:
            raise Unsupported(
                f"{self.path} has format {version}, this release reads {FORMAT}",
                reason="BACKUP_NEWER",
                remedy="restore it with the release that wrote it, or a newer one",
                format=version,
            )
        known = {field.name for field in fields(Header)}
        try:
            return Header(**{name: value for name, value in header.items() if name in known})
        except TypeError as error:
            raise corrupt(self.path, "its header is not complete") from error

    def lines(self) -> Iterator[Line]:
        """Rows and events, in order; compared with the checksum again at the end."""
        total = self.check().lines
        done = 0
        for number, raw in self._whole():
            if number == 0:
                continue
            try:
                line = _parsed(raw)
            except (ValueError, KeyError, TypeError) as error:
                raise corrupt(self.path, f"line {number + 1} is not a row") from error
            yield line
            done += 1
            self._progress(done, total)
        if done != total:
            raise corrupt(self.path, f"it has {done} rows, and says it has {total}")

    def _whole(self) -> Iterator[tuple[int, bytes]]:
        """All lines but the last, which must fit them."""
        digest = hashlib.sha256()
        try:
            with self.path.open("rb") as file:
                number = 0
                raw = file.readline(LINE_BOUND)
                while raw:
                    if not raw.endswith(b"\n"):
                        raise corrupt(self.path, "it ends in the middle of a line")
                    following = file.readline(LINE_BOUND)
                    if not following:
                        break
                    digest.update(raw)
                    yield number, raw
                    number += 1
                    raw = following
        except OSError as error:
            raise StoreUnavailable(
                f"cannot read {self.path}",
                reason="BACKUP_NOT_READ",
                remedy="give the path of a backup that this user may read",
                errno=error.errno,
                detail=error.strerror,
            ) from error
        if number == 0:
            raise corrupt(self.path, "it is empty, or not a backup at all")
        if raw != _end(number - 1, digest.hexdigest()):
            raise corrupt(self.path, "its checksum does not fit: bytes are missing or have changed")


def corrupt(path: Path, why: str) -> CorruptState:
    """The refusal of a file that is not as it was written."""
    return CorruptState(
        f"{path} is no backup that can be trusted: {why}",
        reason="BACKUP_CORRUPT",
        remedy="nothing was touched; take another copy of it, or an older backup",
        why=why,
    )


def _parsed(raw: bytes) -> Line:
    found = json.loads(raw)
    doc = json.dumps(found["doc"], separators=(",", ":"), ensure_ascii=False, allow_nan=False)
    table = found["table"]
    if table == EVENTS:
        return Line(table, _number(found["seq"]), _number(found["at_us"]), doc)
    return Line(table, _number(found["revision"]), 0, doc)


def _number(value: Any) -> int:
    if type(value) is not int:
        raise TypeError(f"{value!r} is not a number")
    return value


def _end(lines: int, digest: str) -> bytes:
    return json.dumps({"end": True, "lines": lines, "sha256": digest}).encode() + b"\n"


def _must_be_backup(path: Path) -> None:
    """A database, say, whose name was given by mistake stays."""
    beginning = f'{{"{MARK}"'.encode()
    try:
        if path.stat().st_size == 0:
            return
        with path.open("rb") as file:
            known = file.read(len(beginning)) == beginning
    except FileNotFoundError:
        return
    except OSError as error:
        raise _not_written(path, error) from error
    if not known:
        raise Unsupported(
            f"{path} exists, and is no backup",
            reason="BACKUP_WOULD_OVERWRITE",
            remedy="give another name; only an older backup is replaced",
        )


def _not_written(path: Path, error: OSError) -> LiverollError:
    return StoreUnavailable(
        f"cannot write {path}: {error.strerror}",
        reason="BACKUP_NOT_WRITTEN",
        remedy="give a place with room that this user may write; an older backup of that name is as it was",
        errno=error.errno,
    )


def _sync_directory(directory: Path) -> None:
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
