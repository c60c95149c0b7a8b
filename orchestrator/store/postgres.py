"""All that is PostgreSQL's own: connections, durability, timeouts, its clock, hints, several processes.

Rules
1. Any number of processes have it open. Their write transactions are serial: each locks the fence
   row first (writer.py), at READ COMMITTED, so that what it reads after that is the newest.
2. A process that freezes in mid-transaction holds that lock. The server ends its session: after
   FROZEN if it waits for the next statement, after twice that from the lock on whatever it does
   (in the middle of a message, too; this takes transaction_timeout, of PostgreSQL 17). The others
   wait for longer than that.
3. synchronous_commit is on (or stronger) on every connection; that, fsync and full_page_writes are
   read back when the store opens; one that is not in force refuses the start.
4. Reads are REPEATABLE READ and read-only: one moment, however many statements.
5. Processes that start together migrate one after the other (an advisory lock).
6. Statements have few shapes, so that they are prepared once for each connection: keys go as arrays.
7. Every wait has an end, here and at the server: a connection that was cut without a word is
   noticed by either side.

postgres_url.py reads URLs, postgres_trouble.py tells what a failure means.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections.abc import Callable, Sequence
from datetime import timedelta
from typing import Any

import asyncpg
from sqlalchemy import (
    BigInteger,
    Column,
    ColumnElement,
    any_,
    bindparam,
    cast,
    column,
    func,
    literal,
    select,
    table,
    text,
    tuple_,
)
from sqlalchemy.dialects.postgresql import ARRAY
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, create_async_engine

from orchestrator.errors import LiverollError, StoreUnavailable, Unsupported
from orchestrator.store.database import NUMBER, RECORD, Among, Past
from orchestrator.store.postgres_trouble import DRIVER, LOST, trouble
from orchestrator.store.postgres_url import Address

OLDEST = 17
"""Major version: the first with transaction_timeout, see rule 2."""

CHANNEL = "liveroll"

FROZEN = timedelta(seconds=3)
"""How long a silent process may hold up the others. Well below a lease, well above a pause of the
garbage collector."""

STATEMENT = timedelta(seconds=10)
"""Of the writer. A batch takes milliseconds; what takes this long will not do better."""

READ = timedelta(seconds=60)
"""Of a read: loading a large fleet is one statement a table."""

MIGRATION = timedelta(minutes=30)
"""Until the others that start have done theirs; also how long one may take."""

CONNECT = timedelta(seconds=5)

GOODBYE = timedelta(milliseconds=500)
"""For the server to hear that a connection ends. There are a few, closed one after the other, and whoever
stops this process has patience for seconds only."""

LISTEN_CHECK = timedelta(seconds=5)
"""How soon a listener's connection that was cut without a word is noticed. Beats read too."""

LISTEN_RETRY = timedelta(seconds=1)

READERS = 4
"""Connections for watches and lists, of the hundred that a server has by default."""

_SETTINGS = text(
    "SELECT current_setting('synchronous_commit') AS synchronous_commit,"
    " current_setting('fsync') AS fsync, current_setting('full_page_writes') AS full_page_writes,"
    " current_setting('server_version_num')::int / 10000 AS major,"
    " current_setting('server_encoding') AS encoding, pg_is_in_recovery() AS standby"
)

_STRONGER = (
    "SELECT set_config('synchronous_commit', 'on', false)"
    " WHERE current_setting('synchronous_commit') NOT IN ('on', 'remote_apply')"
)


class _Connection(asyncpg.Connection):
    """Closes in time, even if nobody answers."""

    async def close(self, *, timeout: float | None = None) -> None:
        with contextlib.suppress(TimeoutError):  # it is cut then
            await super().close(timeout=GOODBYE.total_seconds() if timeout is None else timeout)


class Postgres:
    """A database on a server. Gives engines, a clock, hints and errors to SqlStore."""

    exclusive = False

    def __init__(self, address: Address, *, frozen: timedelta = FROZEN) -> None:
        self.address = address
        self._frozen = frozen
        self._held = 2 * frozen
        self._lock_wait = 3 * frozen  # so that who waits behind a frozen process outlives it
        self._writer_pid = 0

    def __str__(self) -> str:
        return str(self.address)

    # --- nothing is remembered beside it: nodes and the other replicas do ------------------

    def lock(self) -> Past:
        return Past()

    def remember(self, past: Past) -> None:
        """See above."""

    def unlock(self) -> None:
        """See above."""

    # --- connections ---------------------------------------------------------------------

    def writer(self) -> AsyncEngine:
        return self._engine("READ COMMITTED", 1, self._connect_writer)

    def reader(self) -> AsyncEngine:
        return self._engine("REPEATABLE READ", READERS, self._connect_reader)

    def _engine(self, isolation: str, connections: int, connect: Callable[[], Any]) -> AsyncEngine:
        return create_async_engine(
            "postgresql+asyncpg://",
            async_creator=connect,
            isolation_level=isolation,
            pool_size=connections,
            max_overflow=0,
            pool_timeout=READ.total_seconds(),
        )

    async def _connect_writer(self) -> asyncpg.Connection[Any]:
        connection = await self._connect("writer", STATEMENT)
        self._writer_pid = connection.get_server_pid()
        return connection

    async def _connect_reader(self) -> asyncpg.Connection[Any]:
        return await self._connect(
            "reader",
            READ,
            default_transaction_read_only="on",
            # It holds nothing that others wait for, and decodes between its statements.
            idle_in_transaction_session_timeout=_ms(READ),
            transaction_timeout=_ms(5 * READ),
        )

    async def _connect(self, what: str, statement: timedelta, **settings: str) -> asyncpg.Connection[Any]:
        connection = await self.address.connect(
            connection_class=_Connection,
            timeout=CONNECT.total_seconds(),
            # The server's own bounds come first; this one is for a server that does not answer.
            command_timeout=(statement + self._lock_wait).total_seconds(),
            server_settings={
                "application_name": f"liveroll {what}",
                "statement_timeout": _ms(statement),
                "lock_timeout": _ms(self._lock_wait),
                "idle_in_transaction_session_timeout": _ms(self._frozen),
                "tcp_keepalives_idle": "5",
                "tcp_keepalives_interval": "2",
                "tcp_keepalives_count": "3",
                "tcp_user_timeout": "10000",
                **settings,
            },
        )
        try:
            await connection.execute(_STRONGER)
        except BaseException:
            connection.terminate()
            raise
        return connection

    # --- what the store asks for ---------------------------------------------------------

    async def check(self, connection: AsyncConnection) -> None:
        """StoreUnavailable (DURABILITY_NOT_IN_FORCE, DATABASE_READ_ONLY), Unsupported
        (DATABASE_TOO_OLD, DATABASE_ENCODING)."""
        found = (await connection.execute(_SETTINGS)).one()
        if found.major < OLDEST:
            raise Unsupported(
                f"{self} runs PostgreSQL {found.major}",
                reason="DATABASE_TOO_OLD",
                remedy=f"upgrade the server to PostgreSQL {OLDEST} or later",
            )
        if found.encoding != "UTF8":
            raise Unsupported(
                f"{self} stores text as {found.encoding}",
                reason="DATABASE_ENCODING",
                remedy="create the database with ENCODING 'UTF8' TEMPLATE template0",
            )
        if found.standby:
            raise StoreUnavailable(
                f"{self} is a standby",
                reason="DATABASE_READ_ONLY",
                remedy="give the primary's address, or all hosts with target_session_attrs=read-write",
            )
        wanted = {"fsync": ("on",), "full_page_writes": ("on",), "synchronous_commit": ("on", "remote_apply")}
        for name, values in wanted.items():
            actual = getattr(found, name)
            if actual not in values and not self.address.unsafe:
                raise StoreUnavailable(
                    f"{self} runs with {name} = {actual}",
                    reason="DURABILITY_NOT_IN_FORCE",
                    remedy=f"set {name} = on in the server's configuration and reload it",
                    setting=name,
                    actual=actual,
                )

    async def alone(self, connection: AsyncConnection, *, at_leisure: bool = False) -> None:
        bounds = ["statement_timeout", "lock_timeout", "transaction_timeout"]
        if at_leisure:
            bounds.append("idle_in_transaction_session_timeout")
        await connection.execute(
            select(func.set_config(column("name"), _ms(MIGRATION), literal(True)))
            .select_from(table("pg_settings"))
            .where(column("name").in_(bounds))
        )
        # A busy machine may take its time between two statements; nobody waits but who starts, too.
        idle = func.set_config("idle_in_transaction_session_timeout", _ms(READ), literal(True))
        await connection.execute(select(idle))
        await connection.execute(select(func.pg_advisory_xact_lock(func.hashtext(CHANNEL))))

    def bound(self) -> ColumnElement[Any]:
        # Not a setting of the connection: its clock would run while it waits for the lock, and
        # cannot be set back.
        return func.set_config("transaction_timeout", _ms(self._held), literal(True))

    numbering = (
        text(f"WITH recorded AS ({RECORD}), numbered AS ({NUMBER}) SELECT pg_notify('{CHANNEL}', '')"),
    )
    """One way to the server and back, with the fence held."""

    async def notify(self, connection: AsyncConnection) -> None:
        await connection.execute(select(func.pg_notify(CHANNEL, "")))

    async def listen(self, tell: Callable[[], None]) -> None:
        jitter = random.Random()  # noqa: S311  spreads reconnects, guards nothing
        while True:
            try:
                await self._hear(tell)
            except (*self.errors, LiverollError):
                tell()  # what is read now will say what is the matter
            await asyncio.sleep(LISTEN_RETRY.total_seconds() * jitter.uniform(0.5, 1.5))

    async def _hear(self, tell: Callable[[], None]) -> None:
        """Until the connection ends."""

        def heard(_: object, pid: int, channel: str, payload: object) -> None:
            if pid != self._writer_pid:
                tell()

        connection = await self._connect("listener", STATEMENT)
        ended = asyncio.Event()
        try:
            connection.add_termination_listener(lambda _: ended.set())
            await connection.add_listener(CHANNEL, heard)
            tell()  # for what came before
            while not ended.is_set():
                try:
                    await asyncio.wait_for(ended.wait(), LISTEN_CHECK.total_seconds())
                except TimeoutError:
                    await connection.fetch("SELECT 1", timeout=LISTEN_CHECK.total_seconds())
        finally:
            connection.terminate()

    def now_us(self) -> ColumnElement[int]:
        return cast(func.extract("epoch", func.clock_timestamp()) * 1_000_000, BigInteger)

    def among(self, columns: Sequence[Column[Any]]) -> Among:
        names = [f"keys_{index}" for index in range(len(columns))]
        arrays = [
            bindparam(name, type_=ARRAY(column.type)) for name, column in zip(names, columns, strict=True)
        ]
        if len(columns) == 1:
            where: ColumnElement[bool] = columns[0] == any_(arrays[0])
        else:
            keys = func.unnest(*arrays).table_valued(*(each.name for each in columns)).render_derived("keys")
            where = tuple_(*columns).in_(select(*keys.c))
        return Among(where, lambda keys: dict(zip(names, map(list, zip(*keys, strict=True)), strict=True)))

    errors = (SQLAlchemyError, *DRIVER)

    def lost(self, error: Exception) -> bool:
        return trouble(self.address, error).reason in LOST

    def trouble(self, error: Exception) -> LiverollError:
        return trouble(self.address, error)


def _ms(duration: timedelta) -> str:
    return str(duration // timedelta(milliseconds=1))
