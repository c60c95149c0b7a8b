"""Keeps what a newer release has written into a row when this one writes the row again.

Rules
1. Releases that share a schema share the rows. What this one does not know of a row (codec.py,
   rule 4) is kept to the letter: fields that it has no name for, and every field whose value it
   does not change, with all that is within.
2. So a release may add a field that stands for itself. A field that qualifies others (whose link
   is it?) must lie in one object with them, so that it goes when they are written by somebody
   who does not know it; or come with a migration, which ends the older releases.
3. This costs nothing where all are of one release: only rows with unknown parts are remembered.

Every row that is written was read before at the same revision, or made by this release; so what
was remembered last is what is stored, or the write is refused.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any, TypeVar

from orchestrator.core.model import Row, RowKey, row_key
from orchestrator.store import codec

R = TypeVar("R", bound=Row)


@dataclass(frozen=True, slots=True)
class _Stored:
    revision: int
    document: dict[str, Any]
    known: dict[str, Any]
    """What this release would have written for the same row."""


class Foreign:
    """One handle's memory of the rows that it does not wholly understand."""

    def __init__(self) -> None:
        self._rows: dict[RowKey, _Stored] = {}

    def decode(self, kind: type[Row], text: str) -> Row:
        """CorruptState."""
        row, whole = codec.decode_partly(kind, text)
        key = row_key(row)
        before = self._rows.get(key)
        if before is not None and before.revision >= row.revision:
            return row  # read before what is remembered was written
        if whole:
            self._rows.pop(key, None)
        else:
            self._remember(key, row.revision, text, codec.encode(row))
        return row

    def encode(self, row: Row) -> str:
        """With what was there and is not this release's."""
        text = codec.encode(row)
        stored = self._rows.get(row_key(row))
        if stored is None:
            return text
        return json.dumps(_merged(json.loads(text), stored), separators=(",", ":"), ensure_ascii=False)

    def written(self, row: Row, text: str) -> None:
        """It is committed."""
        key = row_key(row)
        if key in self._rows:
            self._remember(key, row.revision, text, codec.encode(row))

    def forget(self) -> None:
        """Another store's rows are of no use."""
        self._rows.clear()

    def _remember(self, key: RowKey, revision: int, text: str, known: str) -> None:
        self._rows[key] = _Stored(revision, json.loads(text), json.loads(known))


def _merged(new: dict[str, Any], stored: _Stored) -> dict[str, Any]:
    kept = {
        name: value
        for name, value in stored.document.items()
        if name not in new or (name in stored.known and stored.known[name] == new[name])
    }
    return new | kept
