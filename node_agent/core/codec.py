"""Frozen dataclasses to plain JSON values and back, for the journal.

Enums travel as their values, datetimes as ISO 8601, tuples as lists, keys of a mapping as text.
Unknown keys are ignored and missing ones take the field's default, so that an agent reads what an
older or newer one wrote. What a type needs is worked out once.
"""

from __future__ import annotations

import dataclasses
import enum
import types
import typing
from collections.abc import Callable, Mapping
from datetime import datetime
from functools import cache
from typing import Any, TypeVar

T = TypeVar("T")
Coder = Callable[[Any], Any]


def encode(value: object) -> Any:
    """The JSON value of a dataclass, enum, datetime, tuple, mapping or scalar."""
    coder = _encoder(typing.cast(Any, type(value)))
    return value if coder is None else coder(value)


def decode(kind: type[T], value: Any) -> T:
    """The value of type `kind` that `encode` made.

    Raises:
        ValueError, TypeError, KeyError: it did not.
    """
    return typing.cast(T, _decoder(typing.cast(Any, kind))(value))


@cache
def _encoder(kind: type) -> Coder | None:
    """How values of a class are encoded; None: JSON has them as they are."""
    if issubclass(kind, enum.Enum):
        return lambda value: value.value
    if issubclass(kind, datetime):
        return datetime.isoformat
    if issubclass(kind, (tuple, list)):
        return lambda value: [encode(item) for item in value]
    if issubclass(kind, Mapping):
        return lambda value: {str(key): encode(item) for key, item in value.items()}
    if dataclasses.is_dataclass(kind):
        names = tuple(f.name for f in dataclasses.fields(kind))
        return lambda value: {name: encode(getattr(value, name)) for name in names}
    return None


@cache
def _decoder(kind: Any) -> Coder:
    """How values of an annotation are decoded."""
    origin = typing.get_origin(kind)
    if origin in (types.UnionType, typing.Union):
        (inner,) = [_decoder(arg) for arg in typing.get_args(kind) if arg is not types.NoneType]
        return lambda value: None if value is None else inner(value)
    if origin is tuple:
        item = _decoder(typing.get_args(kind)[0])
        return lambda value: tuple([item(part) for part in value])
    if origin is not None:
        of_key, of_item = typing.get_args(kind)
        item = _decoder(of_item)
        if of_key is int:
            return lambda value: {int(key): item(part) for key, part in value.items()}
        return lambda value: {key: item(part) for key, part in value.items()}
    if dataclasses.is_dataclass(kind):
        return _of_dataclass(typing.cast(type, kind))
    if kind is datetime:
        return datetime.fromisoformat
    if kind is object:
        return lambda value: value
    if issubclass(kind, (enum.Enum, float)):
        return typing.cast(Coder, kind)
    return _of_scalar(kind)


def _of_dataclass(kind: type) -> Coder:
    hints = typing.get_type_hints(kind)
    parts = [(f.name, _decoder(hints[f.name])) for f in dataclasses.fields(kind)]
    return lambda value: kind(**{name: part(value[name]) for name, part in parts if name in value})


def _of_scalar(kind: type) -> Coder:
    def read(value: Any) -> Any:
        if not isinstance(value, kind):
            raise TypeError(f"{value!r} is not a {kind.__name__}")
        return value

    return read
