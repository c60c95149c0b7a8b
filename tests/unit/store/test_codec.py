"""Every row type goes to text and back unchanged; documents of other releases are understood."""

from __future__ import annotations

import collections.abc
import dataclasses
import enum
import json
import types
import typing
from dataclasses import dataclass, field
from datetime import UTC, datetime, time, timedelta
from typing import Any, Literal, Union

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from orchestrator.core.model import Artifact, DesiredProceed, DesiredStage, NewEvent, NodeRow, Row, Stamp
from orchestrator.errors import CorruptState
from orchestrator.store import codec

KINDS = (*typing.get_args(Row), NewEvent)

names = st.text(st.characters(exclude_categories=("Cs",)), max_size=8)


def values(hint: Any) -> st.SearchStrategy[Any]:
    """Any value of an annotation."""
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if origin in (Union, types.UnionType):
        return st.one_of([values(arg) for arg in args])
    if origin is Literal:
        return st.sampled_from(args)
    if origin is tuple:
        if len(args) == 2 and args[1] is Ellipsis:
            return st.lists(values(args[0]), max_size=3).map(tuple)
        return st.tuples(*(values(arg) for arg in args))
    if origin is frozenset:
        return st.frozensets(values(args[0]), max_size=3)
    if origin is collections.abc.Mapping:
        return st.dictionaries(values(args[0]), values(args[1]), max_size=3)
    if hint is type(None):
        return st.none()
    if hint is str:
        return names
    if hint is int:
        return st.integers(-(2**63), 2**63 - 1)
    if hint is float:
        return st.floats(allow_nan=False, allow_infinity=False)
    if hint is bool:
        return st.booleans()
    if hint is datetime:
        return st.datetimes(timezones=st.just(UTC))
    if hint is time:
        return st.times()
    if hint is timedelta:
        return st.timedeltas()
    if issubclass(hint, enum.Enum):
        return st.sampled_from(list(hint))
    hints = typing.get_type_hints(hint)
    return st.builds(hint, **{f.name: values(hints[f.name]) for f in dataclasses.fields(hint)})


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
@settings(max_examples=25, deadline=None)
@given(data=st.data())
def test_round_trip(kind: Any, data: st.DataObject) -> None:
    row = data.draw(values(kind))
    text = codec.encode(row)
    assert "\n" not in text
    assert codec.decode(kind, text) == row
    assert codec.encode(codec.decode(kind, text)) == text


NODE = NodeRow("n1", labels={"zone": "a"}, desired=DesiredStage(Artifact("a", "d", "r", "u")))


def document() -> dict[str, Any]:
    return typing.cast(dict[str, Any], json.loads(codec.encode(NODE)))


def test_every_field_is_written_defaults_too() -> None:
    assert document().keys() == {f.name for f in dataclasses.fields(NodeRow)}


def test_fields_of_a_newer_release_are_ignored() -> None:
    newer = document() | {"colour": "green"}
    newer["desired"]["artifact"]["mirror"] = ["x"]
    assert codec.decode(NodeRow, json.dumps(newer)) == NODE


def test_fields_that_an_older_release_did_not_write_take_their_default() -> None:
    older = document()
    del older["hardware_model"], older["desired"]["artifact"]["emulated"]
    assert codec.decode(NodeRow, json.dumps(older)) == NODE


def test_a_union_keeps_its_type() -> None:
    desired = DesiredProceed(3, Stamp("boot", timedelta(microseconds=7)), timedelta(seconds=30))
    node = NodeRow("n1", desired=desired)
    assert codec.decode(NodeRow, codec.encode(node)).desired == desired


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"node_id": None}, "node_id"),
        ({"node_id": 7}, "node_id"),
        ({"revision": "1"}, "revision"),
        ({"revision": True}, "revision"),
        ({"healthy": 1}, "healthy"),
        ({"labels": []}, "labels"),
        ({"labels": {"zone": 1}}, "labels"),
        ({"staged": "abc"}, "staged"),
        ({"boot_verdict": "WARM"}, "boot_verdict"),
        ({"link_changed_at": "yesterday"}, "link_changed_at"),
        ({"desired": {"$": "DesiredDance"}}, "desired"),
        ({"desired": {}}, "desired"),
        ({"problem": []}, "problem"),
        ({"problem": {"reason": "R", "retry": "SOON", "message": "m"}}, "retry"),
    ],
)
def test_what_cannot_be_read_is_named(change: dict[str, Any], named: str) -> None:
    with pytest.raises(CorruptState) as caught:
        codec.decode(NodeRow, json.dumps(document() | change))
    assert caught.value.reason == "ROW_UNREADABLE"
    assert caught.value.fields["field"] == named


@pytest.mark.parametrize("text", ["", "{", "[]", "null", "{}"])
def test_what_is_no_document_is_refused(text: str) -> None:
    with pytest.raises(CorruptState):
        codec.decode(NodeRow, text)


@dataclass(frozen=True)
class Odd:
    thing: Any = field(default_factory=lambda: object())


@pytest.mark.parametrize(
    "hint",
    [object, list[int], collections.abc.Mapping[int, str], bytes, int | str, Stamp | str],
)
def test_types_that_rows_must_not_hold_are_a_programming_error(hint: Any) -> None:
    with pytest.raises(TypeError):
        codec._coders(hint)
