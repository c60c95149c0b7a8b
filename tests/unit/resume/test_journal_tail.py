"""The JumpIntent is read from the journal's own bytes, and never guessed."""

from __future__ import annotations

import json

import pytest

from node_agent.ports import JournalRecord
from node_agent.resume.journal_tail import read_last_jump
from node_agent.resume.words import scan
from node_agent.runtime.journal_format import HEADER, MAGIC, encode_record

BODY = {
    "attempt": "7-1f3a",
    "agent_session": "lr.7-1f3a.agent",
    "boot_id": "old",
    "sessions": {"vm": "lr.7-1f3a.vm"},
    "bindings": {"vm": {"uid": 0, "unit": ""}},
    "node": {"attempt": {"phase": "JUMPING"}},
}


def journal(*records: tuple[str, dict[str, object]]) -> bytes:
    return MAGIC + b"".join(encode_record(JournalRecord(n, *r)) for n, r in enumerate(records, 1))


JUMP = ("jump_intent", BODY)
FIRST = ("installation", {"installation_id": "x"})
SETTLED = ("event", {"node": {"attempt": {"phase": "RETRIEVING"}}})


def test_the_last_record_is_found() -> None:
    intent = read_last_jump(journal(FIRST, ("event", {}), JUMP))
    assert intent is not None
    assert (intent.attempt, intent.agent_session, intent.boot_id) == ("7-1f3a", "lr.7-1f3a.agent", "old")
    assert intent.sessions == {"vm": "lr.7-1f3a.vm"}
    assert intent.bindings == {"vm": {"uid": 0, "unit": ""}}


def test_tokens_of_a_kernel_that_chooses_them() -> None:
    intent = read_last_jump(journal(FIRST, ("jump_intent", {**BODY, "tokens": {"lr.7-1f3a.vm": {"0": 5}}})))
    assert intent is not None
    assert intent.tokens == {"lr.7-1f3a.vm": {0: 5}}


@pytest.mark.parametrize(
    "tokens", [[], {"s": 1}, {"s": {"x": 1}}, {"s": {"0": "1"}}, {"s": {"0": -1}}, {"s": {"0": 2**64}}]
)
def test_tokens_that_make_no_sense_are_not_guessed(tokens: object) -> None:
    assert read_last_jump(journal(FIRST, ("jump_intent", {**BODY, "tokens": tokens}))) is None


@pytest.mark.parametrize(
    ("records", "found"),
    [
        ((FIRST, JUMP), True),
        ((FIRST, JUMP, ("node", {"acked": 4})), True),
        ((FIRST, JUMP, ("event", {"node": {"attempt": {"phase": "JUMPING"}}})), True),
        ((FIRST, JUMP, SETTLED), False),
        ((FIRST, JUMP, SETTLED, JUMP), True),
        ((FIRST, JUMP, ("node", {"node": {"attempt": None}})), False),
        ((FIRST,), False),
        ((), False),
        ((FIRST, ("event", {"x": '"kind":"jump_intent"'})), False),
    ],
)
def test_only_a_jump_under_way_counts(
    records: tuple[tuple[str, dict[str, object]], ...], found: bool
) -> None:
    assert (read_last_jump(journal(*records)) is not None) is found


@pytest.mark.parametrize("key", ["attempt", "agent_session", "boot_id", "sessions", "bindings"])
def test_an_incomplete_intent_is_none(key: str) -> None:
    for body in ({k: v for k, v in BODY.items() if k != key}, {**BODY, key: 7}):
        assert read_last_jump(journal(FIRST, ("jump_intent", body))) is None


def test_every_torn_prefix_gives_the_intent_or_nothing() -> None:
    whole = journal(FIRST, JUMP)
    before = len(journal(FIRST))
    for end in range(len(whole)):
        assert read_last_jump(whole[:end]) is None
        assert read_last_jump(whole[:end] + b"\0" * (len(whole) - end + 64)) is None or end == len(whole)
    assert read_last_jump(whole) is not None
    assert read_last_jump(whole + whole[before : before + 20]) is not None
    assert read_last_jump(whole + bytes(100)) is not None


def test_damage_gives_nothing() -> None:
    whole = bytearray(journal(FIRST, JUMP, ("event", {})))
    whole[len(journal(FIRST)) + HEADER.size + 30] ^= 1
    assert read_last_jump(bytes(whole)) is None
    late = bytearray(journal(FIRST, JUMP, ("event", {})))
    late[-1] ^= 1
    assert read_last_jump(bytes(late)) is None
    huge = journal(FIRST, JUMP) + HEADER.pack((1 << 20) + 1, 0) + b"x" * ((1 << 20) + 1)
    assert read_last_jump(huge) is None
    assert read_last_jump(b"something else") is None


@pytest.mark.parametrize("text", ["", "[]", "1", "{", '{"a":', "[" * 100_000, '{"a":1}x', "\u00e9"])
def test_the_scanner_gives_an_object_or_an_empty_one(text: str) -> None:
    assert scan(text.encode()) == ({"a": 1} if text == '{"a":1}x' else {})
    assert scan(b"\xff\xfe") == {}


def test_the_scanner_agrees_with_json() -> None:
    value = {"a": [1, 2.5, None, True, {"ü": "\n\u2028"}], "b": "x" * 1000}
    assert scan(json.dumps(value).encode()) == value
