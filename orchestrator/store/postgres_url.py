"""Reads a PostgreSQL URL, the way libpq does, and connects.

postgresql://user:password@host:port/database?option=value — what it leaves out comes from
PGHOST, PGPORT, PGUSER, PGDATABASE, PGPASSWORD, PGPASSFILE and their kin. Options: those of libpq
that asyncpg knows (sslmode, sslrootcert, sslcert, sslkey, passfile, target_session_attrs, several
hosts), any setting of the server's, and

- password_file: holds the password; read at every connect, so that it may be changed under way.
- durability=unsafe: a server that may lose what it has acknowledged is accepted. For tests.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, quote, urlencode, urlsplit, urlunsplit

import asyncpg

from orchestrator.errors import SettingsError, StoreUnavailable

REMEDY = "write it as postgresql://user@host:5432/database, the password in PGPASSWORD or ?password_file="


@dataclass(frozen=True, slots=True)
class Address:
    """Where the database is and how to get in."""

    dsn: str
    shown: str
    """Without the password: for logs and messages."""
    password_file: Path | None = None
    unsafe: bool = False

    def __str__(self) -> str:
        return self.shown

    def __repr__(self) -> str:
        return f"Address({self.shown!r})"

    async def connect(self, **options: Any) -> asyncpg.Connection[Any]:
        """asyncpg's errors, OSError, StoreUnavailable (PASSWORD_FILE)."""
        if self.password_file is not None:
            options["password"] = self._password()
        connection: asyncpg.Connection[Any] = await asyncpg.connect(self.dsn, **options)
        return connection

    def _password(self) -> str:
        assert self.password_file is not None
        try:
            return self.password_file.read_text().strip("\r\n")
        except (OSError, UnicodeDecodeError) as error:
            raise StoreUnavailable(
                f"cannot read the database's password in {self.password_file}",
                reason="PASSWORD_FILE",
                remedy=f"make {self.password_file} readable for this user, with the password alone in it",
                detail=error,
            ) from error


def address(url: str) -> Address:
    """SettingsError. No message has the password in it."""
    try:
        parts = urlsplit(url)
        hosts = parts.netloc.rpartition("@")[2]
        if "," not in hosts:
            _ = parts.port
        options = dict(parse_qsl(parts.query, keep_blank_values=True, strict_parsing=bool(parts.query)))
    except ValueError as error:
        raise SettingsError("the store's URL cannot be read", remedy=REMEDY) from error
    password_file = options.pop("password_file", "")
    durability = options.pop("durability", "")
    if durability not in ("", "unsafe"):
        raise SettingsError(
            f"durability={durability} is not known", remedy="leave it out; `unsafe` is for tests"
        )
    if "password" in options:
        raise SettingsError("a password among the URL's options would be logged by others", remedy=REMEDY)
    if "," in hosts:
        options.setdefault("target_session_attrs", "read-write")
    user = parts.netloc.rpartition("@")[0].partition(":")[0]
    dsn = urlunsplit(("postgresql", parts.netloc, parts.path, urlencode(options, quote_via=quote), ""))
    shown = urlunsplit(("postgresql", f"{user}@{hosts}" if user else hosts, parts.path, "", ""))
    return Address(dsn, shown, Path(password_file) if password_file else None, durability == "unsafe")
