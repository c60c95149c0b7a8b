"""The store that a URL names.

sqlite:////var/lib/liveroll/liveroll.db (also with +aiosqlite, as SQLAlchemy writes it), or a path;
postgresql://user@host:5432/database (postgres_url.py), for several orchestrators.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from sqlalchemy.engine import make_url
from sqlalchemy.exc import ArgumentError

from orchestrator.errors import SettingsError, Unsupported
from orchestrator.store.database import Database
from orchestrator.store.sql import SqlStore
from orchestrator.store.sqlite import Sqlite


def make_store(url: str, *, on_batch: Callable[[int], None] = lambda size: None) -> SqlStore:
    """Not opened yet. on_batch hears how many commits shared each transaction. What make_database
    raises."""
    return SqlStore(make_database(url), on_batch=on_batch)


def make_database(url: str) -> Database:
    """SettingsError for a URL that names no file, Unsupported for a database that is not supported."""
    scheme, separator, _ = url.partition("://")
    if not separator:
        return Sqlite(Path(url))
    if scheme in POSTGRES:
        # Only here: whoever has SQLite need not wait for the other driver at every start.
        from orchestrator.store.postgres import Postgres
        from orchestrator.store.postgres_url import address

        return Postgres(address(url))
    try:
        parsed = make_url(url)
    except ArgumentError as error:
        raise SettingsError("the store's URL cannot be read", remedy=_REMEDY) from error
    if parsed.get_backend_name() != "sqlite":
        raise Unsupported(
            f"no store for {parsed.get_backend_name()}", reason="STORE_UNSUPPORTED", remedy=_REMEDY
        )
    if not parsed.database or parsed.database == ":memory:":
        raise SettingsError(
            f"{url!r} names no file: what a rollout has done must outlive the process", remedy=_REMEDY
        )
    return Sqlite(Path(parsed.database))


POSTGRES = ("postgresql", "postgres", "postgresql+asyncpg")

_REMEDY = (
    "set store to sqlite:////path/to/liveroll.db or postgresql://user@host/database, "
    "or leave it out for liveroll.db in state_dir"
)
