"""What a failure of PostgreSQL, or on the way to it, is to the rest of the program.

By SQLSTATE alone, never by a message's words. Source: PostgreSQL's manual, appendix "PostgreSQL
Error Codes".
"""

from __future__ import annotations

import ssl

import asyncpg
from sqlalchemy.exc import DBAPIError
from sqlalchemy.exc import TimeoutError as PoolTimeout

from orchestrator.errors import CorruptState, LiverollError, StoreUnavailable
from orchestrator.store.postgres_url import Address

_UNREACHABLE = (
    "DATABASE_UNREACHABLE",
    "check that the server at {at} runs, that this machine reaches it and, if sslmode asks for it, "
    "that it speaks TLS; it goes on by itself",
)
_SLOW = (
    "DATABASE_SLOW",
    "look at the load of the server at {at} and for sessions that hold locks (pg_stat_activity)",
)
_BY_STATE = {
    "08": _UNREACHABLE,
    "57P": _UNREACHABLE,
    "28": (
        "DATABASE_AUTH_FAILED",
        "check the user, its password (URL, PGPASSWORD, password_file) and the server's pg_hba.conf",
    ),
    "3D000": ("DATABASE_MISSING", "create it: CREATE DATABASE … ENCODING 'UTF8' TEMPLATE template0"),
    "42P01": (
        "SCHEMA_MISSING",
        "somebody dropped the tables: restore a backup, or start again to make new ones",
    ),
    "3F000": ("SCHEMA_MISSING", "create the schema that the URL's search_path names"),
    "42501": ("DATABASE_FORBIDDEN", "make the user the owner of the database, or grant it CREATE and USAGE"),
    "53100": (
        "DISK_FULL",
        "free space on the disk of the server at {at}; nothing was written, it goes on by itself",
    ),
    "53200": ("DATABASE_OVERLOADED", "give the server at {at} more memory"),
    "53300": (
        "TOO_MANY_CONNECTIONS",
        "raise max_connections of the server at {at}; each orchestrator needs six",
    ),
    "25006": (
        "DATABASE_READ_ONLY",
        "{at} is a standby or read-only: give the primary's address, or all hosts with "
        "target_session_attrs=read-write",
    ),
    "25P03": (
        "SESSION_TIMED_OUT",
        "this process stood still for longer than the server waits; it goes on by itself",
    ),
    "25P04": (
        "SESSION_TIMED_OUT",
        "this process stood still for longer than the server waits; it goes on by itself",
    ),
    "55P03": _SLOW,
    "57014": _SLOW,
    "58": ("DISK_ERROR", "check the disk of the server at {at}; its log says which file"),
}
"""SQLSTATE, or the beginning of one, the longest that fits → (reason, remedy)"""

DRIVER = (asyncpg.PostgresError, asyncpg.InterfaceError, asyncpg.InternalClientError, OSError, TimeoutError)
"""What the driver raises. InternalClientError: it could not follow the server, which happens when a
session is ended just as the next statement goes out; the connection is of no use then."""

LOST = ("DATABASE_UNREACHABLE", "SESSION_TIMED_OUT")
"""The connection is gone; another one may do."""

_TLS = (
    "DATABASE_TLS",
    "check sslmode, sslrootcert and the server's certificate: its name must be the URL's host",
)


def trouble(at: Address, error: Exception) -> LiverollError:
    """Nothing was written, or it has been looked up (writer.py)."""
    if isinstance(error, LiverollError):
        return error
    cause = _cause(error)
    state = getattr(cause, "sqlstate", None) or ""
    if state in ("XX001", "XX002"):
        return CorruptState(
            f"{at} is damaged",
            reason="DATABASE_CORRUPT",
            remedy="restore a backup; agents will tell what it does not know",
            detail=cause,
        )
    reason, remedy = _known(cause, state)
    fields = {"sqlstate": state} if state else {"type": type(cause).__name__}
    if reason:
        return StoreUnavailable(
            f"{at} cannot be used", reason=reason, remedy=remedy.format(at=at), detail=cause, **fields
        )
    return StoreUnavailable(
        f"{at} does not answer as it should",
        remedy="see the log for its error; the orchestrator goes on trying",
        detail=cause,
        **fields,
    )


def _known(cause: BaseException, state: str) -> tuple[str, str]:
    for length in range(len(state), 1, -1):
        if state[:length] in _BY_STATE:
            return _BY_STATE[state[:length]]
    if isinstance(cause, ssl.SSLError):
        return _TLS
    if isinstance(cause, (TimeoutError, PoolTimeout)):
        return _SLOW
    if isinstance(cause, (OSError, asyncpg.InterfaceError, asyncpg.InternalClientError)):
        return _UNREACHABLE
    return ("", "")


def _cause(error: BaseException) -> BaseException:
    """The driver's, under SQLAlchemy's wrappers."""
    while isinstance(error, DBAPIError) and error.orig is not None:
        error = error.orig
    # SQLAlchemy's stand-in for the driver's error carries that one as its cause.
    under = error.__cause__
    return under if isinstance(under, DRIVER) else error
