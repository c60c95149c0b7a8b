"""All that is SQLite's own: durability pragmas, the write lock, its clock, its errors, one process.

Rules
1. WAL, synchronous=FULL, foreign_keys and busy_timeout are set on every connection and read back
   when the store opens; a value that is not in force refuses the start.
2. A write transaction begins with BEGIN IMMEDIATE, so that it cannot fail half-way for want of
   the write lock. Readers have connections of their own and never write.
3. One orchestrator a file: a flock on <file>.lock, held for as long as the store is open. Who
   holds it knows that every earlier holder of the planner lease is dead.
4. <file>.lock also remembers the newest epoch and incarnation, so that a database file which was
   replaced by an older copy is noticed.
"""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import structlog
from sqlalchemy import (
    BindParameter,
    Column,
    ColumnElement,
    Integer,
    bindparam,
    cast,
    event,
    func,
    literal,
    text,
    tuple_,
)
from sqlalchemy.exc import DBAPIError, SQLAlchemyError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, create_async_engine
from sqlalchemy.pool import ConnectionPoolEntry

from orchestrator.errors import CorruptState, LiverollError, StoreUnavailable
from orchestrator.store.database import NUMBER, RECORD, Among, Past
from orchestrator.store.sealed import LENGTH, seal, unseal

log = structlog.get_logger("liveroll.store")

PAST_LENGTH = 256
"""Bytes of the lock file: one sector, so that a crash leaves the old or the new."""

BUSY_TIMEOUT_MS = 5_000
"""For writers that are no orchestrator (a backup, a shell); longer stalls the whole planner."""

NOT_UTF8 = "Could not decode to UTF-8"
"""Python's sqlite3 says it without a code: text that nobody here has written."""

READERS = 4
"""Connections, hence threads, for watches and lists. Reads are short; more only queue on the GIL."""

PRAGMAS = {
    "journal_mode": ("WAL", "wal"),
    "synchronous": ("FULL", 2),
    "foreign_keys": ("ON", 1),
    "busy_timeout": (str(BUSY_TIMEOUT_MS), BUSY_TIMEOUT_MS),
}
"""name → (set, read back)"""

UNIX_EPOCH_JULIAN = 2440587.5
DAY_US = 86_400_000_000

_REMEDIES = {
    "SQLITE_FULL": (
        "DISK_FULL",
        "free space on the disk that holds {path}; nothing was written, it goes on by itself",
    ),
    "SQLITE_BUSY": ("DATABASE_LOCKED", "end the program that holds {path} locked (a shell, a backup)"),
    "SQLITE_LOCKED": ("DATABASE_LOCKED", "end the program that holds {path} locked (a shell, a backup)"),
    "SQLITE_READONLY": ("DATABASE_READ_ONLY", "make {path} and its directory writable for this user"),
    "SQLITE_CANTOPEN": ("DATABASE_CANNOT_OPEN", "check that {path} exists and is writable for this user"),
    "SQLITE_IOERR": ("DISK_ERROR", "check the disk that holds {path}, then start the orchestrator again"),
}


class Sqlite:
    """A database file. Gives engines, a clock and errors to SqlStore."""

    exclusive = True
    """Holding the lock proves that no other process has the store open."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._lock_path = path.with_name(path.name + ".lock")
        self._lock_fd: int | None = None

    def __str__(self) -> str:
        return str(self.path)

    def lock(self) -> Past:
        """StoreUnavailable (STORE_IN_USE, DATABASE_CANNOT_OPEN)."""
        try:
            fd = os.open(self._lock_path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise StoreUnavailable(
                f"cannot open {self._lock_path}",
                reason="DATABASE_CANNOT_OPEN",
                remedy=f"create {self.path.parent} and make it writable for this user",
                errno=error.errno,
            ) from error
        try:
            past = _past(self._lock_path, os.pread(fd, PAST_LENGTH, 0))
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            os.close(fd)
            raise StoreUnavailable(
                f"another orchestrator (process {past.pid}) has {self.path} open",
                reason="STORE_IN_USE",
                remedy=f"stop process {past.pid} first, or give this one another file; "
                "several orchestrators for one fleet need PostgreSQL",
                pid=past.pid,
            ) from error
        except OSError:
            os.close(fd)
            raise
        self._lock_fd = fd
        self.remember(past)
        return past

    def remember(self, past: Past) -> None:
        """Kept beside the database, for the next start to compare."""
        assert self._lock_fd is not None
        record = {
            "pid": os.getpid(),
            "incarnation": past.incarnation,
            "serial": past.serial,
            "epoch": past.epoch,
        }
        os.pwrite(self._lock_fd, seal(json.dumps(record).ljust(PAST_LENGTH - LENGTH)).encode(), 0)
        os.fsync(self._lock_fd)

    def unlock(self) -> None:
        if self._lock_fd is not None:
            os.close(self._lock_fd)
            self._lock_fd = None

    def writer(self) -> AsyncEngine:
        return self._engine("BEGIN IMMEDIATE", 1)

    def reader(self) -> AsyncEngine:
        return self._engine("BEGIN", READERS)

    def _engine(self, begin: str, connections: int) -> AsyncEngine:
        engine = create_async_engine(
            f"sqlite+aiosqlite:///{self.path}",
            connect_args={"isolation_level": None},  # the driver begins nothing by itself
            pool_size=connections,
            max_overflow=0,
        )

        @event.listens_for(engine.sync_engine, "connect")
        def _on_connect(connection: Any, _: ConnectionPoolEntry) -> None:
            cursor = connection.cursor()
            # First, so that switching to WAL waits for a busy file too.
            cursor.execute(f"PRAGMA busy_timeout={BUSY_TIMEOUT_MS}")
            for name, (wanted, _read) in PRAGMAS.items():
                cursor.execute(f"PRAGMA {name}={wanted}")
            cursor.close()

        @event.listens_for(engine.sync_engine, "begin")
        def _on_begin(connection: Any) -> None:
            connection.exec_driver_sql(begin)

        return engine

    async def check(self, connection: AsyncConnection) -> None:
        """StoreUnavailable (DURABILITY_NOT_IN_FORCE), CorruptState."""
        damage: str = (await connection.execute(text("PRAGMA quick_check(1)"))).scalar_one()
        if damage != "ok":
            raise self._corrupt(damage)
        for name, (_, wanted) in PRAGMAS.items():
            actual = (await connection.execute(text(f"PRAGMA {name}"))).scalar_one()
            if actual != wanted:
                raise StoreUnavailable(
                    f"sqlite runs with {name} = {actual}, not {wanted}",
                    reason="DURABILITY_NOT_IN_FORCE",
                    remedy=f"put {self.path} on a local file system that supports write-ahead logs "
                    "and shared memory; network file systems do not",
                    pragma=name,
                    actual=actual,
                )

    async def alone(self, connection: AsyncConnection, *, at_leisure: bool = False) -> None:
        """It is: see rule 3."""

    def bound(self) -> ColumnElement[Any]:
        return literal(0)  # nobody else waits

    numbering = (text(RECORD), text(NUMBER))

    async def notify(self, connection: AsyncConnection) -> None:
        """Nobody else is there to hear."""

    async def listen(self, tell: Callable[[], None]) -> None:
        """Nobody else is there to be heard."""

    def now_us(self) -> ColumnElement[int]:
        return cast((func.julianday("now") - UNIX_EPOCH_JULIAN) * DAY_US, Integer)

    def among(self, columns: Sequence[Column[Any]]) -> Among:
        keys: BindParameter[Any] = bindparam("keys", expanding=True)
        if len(columns) == 1:
            return Among(columns[0].in_(keys), lambda values: {"keys": [value for (value,) in values]})
        return Among(tuple_(*columns).in_(keys), lambda values: {"keys": values})

    errors = (SQLAlchemyError,)

    def lost(self, error: Exception) -> bool:
        return False

    def _corrupt(self, detail: object) -> CorruptState:
        return CorruptState(
            f"{self.path} is damaged or no database",
            reason="DATABASE_CORRUPT",
            remedy=f"move {self.path} away and restore a backup; agents will tell what it does not know",
            detail=detail,
        )

    def trouble(self, error: Exception) -> LiverollError:
        """What a failure of the database is to the rest of the program."""
        cause = error.orig if isinstance(error, DBAPIError) else error
        name = getattr(cause, "sqlite_errorname", "")
        if name.startswith(("SQLITE_CORRUPT", "SQLITE_NOTADB")) or NOT_UTF8 in str(cause):
            return self._corrupt(cause)
        for prefix, (reason, remedy) in _REMEDIES.items():
            if name.startswith(prefix):
                return StoreUnavailable(
                    f"cannot write to {self.path}",
                    reason=reason,
                    remedy=remedy.format(path=self.path),
                    detail=cause,
                    sqlite=name,
                )
        return StoreUnavailable(
            f"{self.path} does not answer as it should",
            remedy="see the log for its error; the orchestrator goes on trying",
            detail=cause,
            sqlite=name or type(cause).__name__,
        )


def _past(path: Path, raw: bytes) -> Past:
    try:
        record = json.loads(unseal(raw.decode()))
        return Past(
            incarnation=str(record["incarnation"]),
            serial=int(record["serial"]),
            epoch=int(record["epoch"]),
            pid=int(record["pid"]),
        )
    except (ValueError, KeyError, TypeError, CorruptState):
        if raw:
            # Torn in a crash, or damaged, or an older release's: nothing to compare with.
            log.warning("what was remembered of the store is not used: the file is damaged", file=str(path))
        return Past()
