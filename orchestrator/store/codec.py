"""Rows and events as JSON text and back, from their type annotations alone.

Rules
1. One encoder and one decoder are built per type, once; rows then cost a loop over fields.
2. Every field is written, defaults too: a default that changes with a release must not change
   what a running rollout was asked for.
3. dataclass → object · enum → its value · datetime, time → ISO 8601 · timedelta → whole
   microseconds · tuple → array · frozenset → sorted array · mapping → object, its keys str or
   str enums · a union of dataclasses → object whose "$" names the class.
4. Rolling upgrades: a field that this release does not know is ignored here (foreign.py keeps
   it when the row is written again), one that the document lacks takes its default. So a release
   may add fields with a default that means "not known". To rename, to change a meaning or to add
   an enum value, ship the reader one release before the writer, or migrate (schema.py: a
   database that is newer than the program is refused).
5. Anything else in a document (an unknown enum value, a wrong shape) is CorruptState, named by
   type and field; nothing is guessed.
"""

from __future__ import annotations

import collections.abc
import dataclasses
import enum
import json
import operator
import types
import typing
from collections.abc import Callable
from datetime import datetime, time, timedelta
from types import MappingProxyType
from typing import Any, Literal, TypeVar, Union

from orchestrator.errors import CorruptState

T = TypeVar("T")
Coder = Callable[[Any], Any]

TAG = "$"
MICROSECOND = timedelta(microseconds=1)
EMPTY: types.MappingProxyType[Any, Any] = MappingProxyType({})

_dump = json.JSONEncoder(separators=(",", ":"), ensure_ascii=False, allow_nan=False).encode
_parse = json.JSONDecoder().decode


def encode(value: Any) -> str:
    """One line of JSON. TypeError for a type that rows must not have (a programming error)."""
    return _dump(_coders(type(value))[0](value))


def decode(cls: type[T], text: str) -> T:
    """CorruptState if text is not a document of cls."""
    try:
        return typing.cast(T, _coders(cls)[1](_parse(text)))
    except CorruptState:
        raise
    except (ValueError, TypeError, KeyError, AttributeError, OverflowError) as error:
        raise CorruptState(
            f"a stored {cls.__name__} cannot be read",
            reason="ROW_UNREADABLE",
            remedy="run the release that wrote it, or restore the database from a backup",
            type=cls.__name__,
            detail=error,
        ) from error


def decode_partly(cls: type[T], text: str) -> tuple[T, bool]:
    """As decode; and whether this release knows all that is in the document."""
    before = _Unknown.fields
    row = decode(cls, text)
    return row, _Unknown.fields == before


class _Unknown:
    """Counts what decoders have skipped: they nest, and most documents have nothing to tell."""

    fields = 0


def _identity(value: Any) -> Any:
    return value


def _coders(hint: Any) -> tuple[Coder, Coder]:
    """(encoder, decoder) of an annotation; _identity where JSON has the value as it is."""
    found = _CODERS.get(hint)
    if found is None:
        found = _CODERS[hint] = _built(hint)
    return found


_CODERS: dict[Any, tuple[Coder, Coder]] = {}


def _built(hint: Any) -> tuple[Coder, Coder]:
    origin = typing.get_origin(hint)
    if origin is Union or origin is types.UnionType:
        return _union(typing.get_args(hint))
    if origin is tuple:
        return _tuple(typing.get_args(hint))
    if origin is frozenset:
        return _frozenset(typing.get_args(hint)[0])
    if origin in (collections.abc.Mapping, dict):
        return _mapping(*typing.get_args(hint))
    if origin is Literal:
        return _literal(hint)
    if hint in (bool, str, int, float):
        return _plain(hint)
    if hint is datetime:
        return datetime.isoformat, datetime.fromisoformat
    if hint is time:
        return time.isoformat, time.fromisoformat
    if hint is timedelta:
        return (lambda value: value // MICROSECOND), (lambda value: timedelta(microseconds=value))
    if isinstance(hint, type) and issubclass(hint, enum.Enum):
        return _enum(hint)
    if isinstance(hint, type) and dataclasses.is_dataclass(hint):
        return _dataclass(hint)
    raise TypeError(f"rows must not hold {hint!r}")


def _plain(kind: type) -> tuple[Coder, Coder]:
    accepted = {kind, int} if kind is float else {kind}

    def read(value: Any) -> Any:
        if type(value) not in accepted:
            raise TypeError(f"{value!r} is not {kind.__name__}")
        return value

    return _identity, read


def _literal(hint: Any) -> tuple[Coder, Coder]:
    values = frozenset(typing.get_args(hint))

    def read(value: Any) -> Any:
        if value not in values:
            raise ValueError(f"{value!r} is none of {sorted(values)}")
        return value

    return _identity, read


def _enum(cls: type[enum.Enum]) -> tuple[Coder, Coder]:
    members = {member.value: member for member in cls}

    def read(value: Any) -> Any:
        try:
            return members[value]
        except KeyError:
            raise ValueError(f"{value!r} is not a {cls.__name__}") from None

    return (lambda member: member.value), read


def _tuple(args: tuple[Any, ...]) -> tuple[Coder, Coder]:
    if len(args) == 2 and args[1] is Ellipsis:
        write, read = _coders(args[0])
        return (
            lambda value: [write(item) for item in value],
            lambda value: tuple([read(item) for item in _array(value)]),
        )
    coders = [_coders(arg) for arg in args]

    def read_fixed(value: Any) -> Any:
        return tuple(r(item) for (_, r), item in zip(coders, _array(value), strict=True))

    return (lambda value: [w(item) for (w, _), item in zip(coders, value, strict=True)]), read_fixed


def _frozenset(arg: Any) -> tuple[Coder, Coder]:
    write, read = _coders(arg)
    return (
        lambda value: sorted(write(item) for item in value),
        lambda value: frozenset([read(item) for item in _array(value)]),
    )


def _mapping(key: Any, item: Any) -> tuple[Coder, Coder]:
    if not (isinstance(key, type) and issubclass(key, str)):
        raise TypeError(f"keys of a mapping must be str, not {key!r}")
    write_key, read_key = _coders(key)
    write, read = _coders(item)

    def encoded(value: Any) -> Any:
        return {write_key(k): write(v) for k, v in value.items()}

    def decoded(value: Any) -> Any:
        if type(value) is not dict:
            raise TypeError("not an object")
        return MappingProxyType({read_key(k): read(v) for k, v in value.items()}) if value else EMPTY

    return encoded, decoded


def _array(value: Any) -> list[Any]:
    if type(value) is not list:
        raise TypeError("not an array")
    return value


def _union(args: tuple[Any, ...]) -> tuple[Coder, Coder]:
    """None and one type, or None and dataclasses told apart by their tag."""
    some = [arg for arg in args if arg is not type(None)]
    if len(some) == 1:
        write, read = _coders(some[0])
        if write is _identity:
            return _identity, lambda value: None if value is None else read(value)
        return (
            lambda value: None if value is None else write(value),
            lambda value: None if value is None else read(value),
        )
    if not all(dataclasses.is_dataclass(arg) for arg in some):
        raise TypeError(f"only dataclasses can be told apart in a union, not {args!r}")
    by_class = {arg: (arg.__name__, _coders(arg)[0]) for arg in some}
    by_tag = {arg.__name__: _coders(arg)[1] for arg in some}

    def encoded(value: Any) -> Any:
        if value is None:
            return None
        tag, write = by_class[type(value)]
        return {TAG: tag, **write(value)}

    def decoded(value: Any) -> Any:
        if value is None and len(some) < len(args):
            return None
        return by_tag[value[TAG]](value)

    return encoded, decoded


def _getter(names: tuple[str, ...]) -> Callable[[Any], tuple[Any, ...]]:
    """All these attributes at once: half the time of encoding is reading them."""
    if len(names) > 1:
        return operator.attrgetter(*names)
    return lambda value: tuple([getattr(value, name) for name in names])


def _dataclass(cls: type) -> tuple[Coder, Coder]:
    hints = typing.get_type_hints(cls)
    fields = dataclasses.fields(cls)
    writers = [(f.name, _coders(hints[f.name])[0]) for f in fields]
    plain = tuple(name for name, write in writers if write is _identity)
    read_plain = _getter(plain)
    others = tuple((name, write) for name, write in writers if write is not _identity)
    read_others = _getter(tuple(name for name, _ in others))
    readers = {f.name: _coders(hints[f.name])[1] for f in fields}

    def encoded(value: Any) -> Any:
        document = dict(zip(plain, read_plain(value), strict=True))
        for (name, write), item in zip(others, read_others(value), strict=True):
            document[name] = write(item)
        return document

    def decoded(value: Any) -> Any:
        if type(value) is not dict:
            raise TypeError(f"{cls.__name__} is not an object")
        known = {}
        for name, item in value.items():
            read = readers.get(name)
            if read is None:
                _Unknown.fields += name != TAG
                continue
            try:
                known[name] = read(item)
            except (ValueError, TypeError, KeyError, AttributeError, OverflowError) as error:
                raise CorruptState(
                    f"a stored {cls.__name__}.{name} cannot be read",
                    reason="ROW_UNREADABLE",
                    remedy="run the release that wrote it, or restore the database from a backup",
                    type=cls.__name__,
                    field=name,
                    detail=error,
                ) from error
        return cls(**known)

    return encoded, decoded
