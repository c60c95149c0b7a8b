"""Frozen dataclasses to plain JSON values and back, for the journal.

Enums travel as their values, datetimes as ISO 8601, tuples as lists. Unknown keys are ignored
and missing ones take the field's default, so that an agent reads what an older or newer
one wrote.
"""

from __future__ import annotations

import dataclasses
import enum
import types
import typing
from collections.abc import Mapping
from datetime import datetime
from functools import lru_cache
from typing import Any, TypeVar

T = TypeVar("T")


def encode(value: object) -> Any:
    """The JSON value of a dataclass, enum, datetime, tuple, mapping or scalar."""
    if isinstance(value, enum.Enum):
        return value.value
    if isinstance(value, datetime):
        return value.isoformat()
    if isinstance(value, (tuple, list)):
        return [encode(item) for item in value]
    if isinstance(value, Mapping):
        return {str(key): encode(item) for key, item in value.items()}
    if dataclasses.is_dataclass(value):
        return {f.name: encode(getattr(value, f.name)) for f in dataclasses.fields(value)}
    return value


def decode(kind: type[T], value: Any) -> T:
    """The value of type `kind` that `encode` made.

    Raises:
        ValueError, TypeError, KeyError: it did not.
    """
    return typing.cast(T, _decode(kind, value))


@lru_cache(maxsize=64)
def _hints(kind: type) -> Mapping[str, Any]:
    return typing.get_type_hints(kind)


def _decode(kind: Any, value: Any) -> Any:
    origin = typing.get_origin(kind)
    if origin in (types.UnionType, typing.Union):
        if value is None:
            return None
        (inner,) = [arg for arg in typing.get_args(kind) if arg is not types.NoneType]
        return _decode(inner, value)
    if origin is tuple:
        item = typing.get_args(kind)[0]
        return tuple(_decode(item, part) for part in value)
    if origin is not None:
        item = typing.get_args(kind)[1]
        return {key: _decode(item, part) for key, part in value.items()}
    if dataclasses.is_dataclass(kind):
        hints = _hints(typing.cast(type, kind))
        return kind(
            **{
                f.name: _decode(hints[f.name], value[f.name])
                for f in dataclasses.fields(kind)
                if f.name in value
            }
        )  # type: ignore[operator]
    if issubclass(kind, enum.Enum):
        return kind(value)
    if kind is datetime:
        return datetime.fromisoformat(value)
    if kind is object:
        return value
    if kind is float:
        return float(value)
    if not isinstance(value, kind):
        raise TypeError(f"{value!r} is not a {kind.__name__}")
    return value
