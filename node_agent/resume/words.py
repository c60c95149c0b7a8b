"""JSON read by the interpreter's own scanner: the json package costs the blackout path two
dozen modules (re, enum, functools, …), its C half costs none."""

from __future__ import annotations

import _json

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any


class _Context:
    """What the scanner asks of a json.JSONDecoder."""

    strict = True
    object_hook = None
    object_pairs_hook = None
    parse_float = float
    parse_int = int
    parse_constant = float


_scan = _json.make_scanner(_Context)  # type: ignore[arg-type]  # it takes whatever has these names


def scan(data: bytes) -> Mapping[str, Any]:
    """The object that `data` begins with; an empty one if it is no JSON object.

    What follows the object is not looked at: callers that must be strict parse again.
    """
    try:
        value, _ = _scan(data.decode("utf-8").lstrip(), 0)
    except (ValueError, StopIteration, RecursionError):
        return {}
    return value if isinstance(value, dict) else {}


def dump(value: object) -> bytes:
    """The JSON of plain dicts, lists, strings and numbers."""
    encode = _json.make_encoder(
        None,
        None,  # type: ignore[arg-type]
        _json.encode_basestring_ascii,
        None,
        ":",
        ",",
        False,
        False,
        True,
    )
    return "".join(encode(value, 0)).encode("ascii")
