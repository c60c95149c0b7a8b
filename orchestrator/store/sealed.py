"""Documents in the database carry a checksum, so that a bit which has turned on the disk is not obeyed.

SQLite and PostgreSQL (without data checksums) hand out what a page says, whatever became of it.

Rules
1. The seal is the CRC-32 of the document's bytes, written behind it in white space: two bits a
   character. So every reader of JSON takes the document as it is, an older release too.
2. A document without a seal was written by an older release and is taken. A turned bit cannot make
   one: it leaves sixteen characters behind the document, or JSON that nobody can read.
3. A wrong seal is CorruptState, ROW_DAMAGED; nothing is guessed.
"""

from __future__ import annotations

import zlib

from sqlalchemy import Dialect, Text
from sqlalchemy.types import TypeDecorator

from orchestrator.errors import CorruptState

ALPHABET = " \t\n\r"
LENGTH = 16
"""32 bits."""

_QUADS = [
    "".join(ALPHABET[byte >> shift & 3] for shift in (6, 4, 2, 0)) for byte in range(256)
]  # fmt: skip


def seal(document: str) -> str:
    """The document with its seal."""
    return document + _seal_of(document)


def _seal_of(document: str) -> str:
    checksum = zlib.crc32(document.encode(errors="surrogatepass"))
    return "".join([_QUADS[byte] for byte in checksum.to_bytes(4, "big")])


def unseal(stored: str) -> str:
    """The document alone. CorruptState (ROW_DAMAGED)."""
    document, found = stored[:-LENGTH], stored[-LENGTH:]
    if found == _seal_of(document):
        return document
    if stored.rstrip(ALPHABET) == stored:
        return stored
    raise CorruptState(
        "a stored document is not what was written",
        reason="ROW_DAMAGED",
        remedy="the disk, or somebody's hand, has changed the database: restore a backup; agents will tell "
        "what it does not know",
        document=stored[:80],
    )


class Sealed(TypeDecorator[str]):
    """The type of a `doc` column."""

    impl = Text
    cache_ok = True

    def process_bind_param(self, value: str | None, dialect: Dialect) -> str | None:
        return None if value is None else seal(value)

    def process_result_value(self, value: str | None, dialect: Dialect) -> str | None:
        return None if value is None else unseal(value)
