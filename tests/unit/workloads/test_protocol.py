"""The protocol's words: what is taken, what is refused, and with which reason."""

from __future__ import annotations

import json

import pytest

from node_agent.errors import BrokerError
from node_agent.workloads import protocol as p

COMMANDS = [
    (b'{"cmd":"SUBSCRIBE","id":"vm-1"}', p.Subscribe("vm-1")),
    (b'{"cmd":"SUBSCRIBE","id":"vm-1","future":[1]}', p.Subscribe("vm-1")),
    (
        b'{"cmd":"SUBSCRIBE","id":"a.b_C-9","extensions":["suspend"],"suspended":true}',
        p.Subscribe("a.b_C-9", frozenset({"suspend"}), True),
    ),
    (b'{"cmd":"CLAIM","id":"vm-1"}', p.Claim("vm-1")),
    (b'{"cmd":"CLAIM","id":"vm-1","extensions":["suspend"]}', p.Claim("vm-1", frozenset({"suspend"}))),
    (b'{"cmd":"READY"}', p.Ready()),
    (b' {"cmd" : "SUSPENDED"}\r', p.Suspended()),
    (b'{"cmd":"RELEASED"}', p.Released()),
    (b'{"cmd":"RESUMED"}', p.Resumed()),
    (
        b'{"cmd":"RESUMED","duration_s":1,"uncertainty_s":0.5,"clock":"tsc","memory_intact":true,'
        b'"bytes_checked":4096,"rejected":""}',
        p.Resumed(1.0, 0.5, "tsc", True, 4096),
    ),
    (b'{"cmd":"ERROR","reason":"NO_ROOM","message":"m"}', p.Error("NO_ROOM", "m")),
]

EVENTS = [
    p.Subscribed("vm-1"),
    p.StartPreservation(),
    p.Claimed("vm-1"),
    p.Suspend(),
    p.Resume(),
    p.Release(),
    p.Error("NOT_YOURS", "m", "r"),
]

REFUSED = [
    (b"", "MALFORMED"),
    (b"\x00\xff\xfe", "MALFORMED"),
    (b"[]", "MALFORMED"),
    (b'"READY"', "MALFORMED"),
    (b"[" * 4000, "MALFORMED"),
    (b'{"cmd":"READY"} x', "MALFORMED"),
    (b'{"cmd":"READY","cmd":"READY"}', "MALFORMED"),
    (b'{"cmd":"RESUMED","duration_s":NaN}', "MALFORMED"),
    (b'{"cmd":"RESUMED","bytes_checked":' + b"9" * 900 + b"}", "MALFORMED"),
    (b"{}", "INVALID_FIELD"),
    (b'{"cmd":7}', "INVALID_FIELD"),
    (b'{"cmd":"ready"}', "UNKNOWN_COMMAND"),
    (b'{"cmd":"REBOOT"}', "UNKNOWN_COMMAND"),
    (b'{"cmd":"SUBSCRIBE"}', "INVALID_FIELD"),
    (b'{"cmd":"SUBSCRIBE","id":""}', "INVALID_FIELD"),
    (b'{"cmd":"SUBSCRIBE","id":"vm 1"}', "INVALID_FIELD"),
    (b'{"cmd":"SUBSCRIBE","id":"vm\\n1"}', "INVALID_FIELD"),
    (b'{"cmd":"SUBSCRIBE","id":"vm-1\\n"}', "INVALID_FIELD"),
    (b'{"cmd":"SUBSCRIBE","id":"../x"}', "INVALID_FIELD"),
    (b'{"cmd":"SUBSCRIBE","id":"' + b"a" * 33 + b'"}', "INVALID_FIELD"),
    (b'{"cmd":"SUBSCRIBE","id":"agent"}', "INVALID_FIELD"),
    (b'{"cmd":"SUBSCRIBE","id":1}', "INVALID_FIELD"),
    (b'{"cmd":"SUBSCRIBE","id":"a","extensions":"suspend"}', "INVALID_FIELD"),
    (b'{"cmd":"SUBSCRIBE","id":"a","extensions":[1]}', "INVALID_FIELD"),
    (b'{"cmd":"SUBSCRIBE","id":"a","suspended":1}', "INVALID_FIELD"),
    (b'{"cmd":"RESUMED","duration_s":-1}', "INVALID_FIELD"),
    (b'{"cmd":"RESUMED","duration_s":1e300}', "INVALID_FIELD"),
    (b'{"cmd":"RESUMED","duration_s":1e999}', "INVALID_FIELD"),
    (b'{"cmd":"RESUMED","duration_s":true}', "INVALID_FIELD"),
    (b'{"cmd":"RESUMED","duration_s":"1"}', "INVALID_FIELD"),
    (b'{"cmd":"RESUMED","memory_intact":"yes"}', "INVALID_FIELD"),
    (b'{"cmd":"RESUMED","bytes_checked":-1}', "INVALID_FIELD"),
    (b'{"cmd":"RESUMED","bytes_checked":1.5}', "INVALID_FIELD"),
    (b'{"cmd":"RESUMED","clock":"' + b"c" * 33 + b'"}', "INVALID_FIELD"),
    (b'{"cmd":"RESUMED","rejected":"' + b"c" * 600 + b'"}', "INVALID_FIELD"),
    (b'{"cmd":"ERROR","reason":"lower"}', "INVALID_FIELD"),
    (b'{"cmd":"ERROR"}', "INVALID_FIELD"),
]


@pytest.mark.parametrize(("line", "command"), COMMANDS)
def test_a_command_is_read_as_what_it_says(line: bytes, command: p.Command) -> None:
    assert p.parse_command(line) == command


@pytest.mark.parametrize("command", [command for _, command in COMMANDS])
def test_a_command_written_is_the_command_read(command: p.Command) -> None:
    encoded = p.encode_command(command)
    assert encoded.count(b"\n") == 1
    assert len(encoded) < p.MAX_LINE_BYTES
    assert p.parse_command(encoded[:-1]) == command


@pytest.mark.parametrize("event", EVENTS)
def test_an_event_written_is_the_event_read(event: p.Event) -> None:
    encoded = p.encode_event(event)
    assert encoded.endswith(b"\n")
    assert p.parse_event(encoded[:-1]) == event


@pytest.mark.parametrize(("line", "reason"), REFUSED)
def test_a_bad_command_is_refused_with_its_reason(line: bytes, reason: str) -> None:
    with pytest.raises(BrokerError) as caught:
        p.parse_command(line)
    assert caught.value.reason == reason


def test_an_unknown_event_is_refused() -> None:
    for line, reason in ((b'{"event":"FLY"}', "UNKNOWN_EVENT"), (b'{"event":1}', "INVALID_FIELD")):
        with pytest.raises(BrokerError) as caught:
            p.parse_event(line)
        assert caught.value.reason == reason


def test_luo_agents_second_name_for_start_preservation_is_known() -> None:
    assert p.parse_event(b'{"event":"PRESERVATION_REQUEST"}') == p.StartPreservation()


def test_a_plain_subscribe_is_luo_agents_own_line() -> None:
    assert json.loads(p.encode_command(p.Subscribe("vm"))) == {"cmd": "SUBSCRIBE", "id": "vm"}


def test_an_error_is_cut_to_what_the_other_side_takes() -> None:
    error = p.parse_event(p.encode_event(p.Error("X", "m" * 9999, "r" * 9999))[:-1])
    assert isinstance(error, p.Error)
    assert len(error.message) == len(error.remedy) == p.MAX_TEXT_CHARS


def test_session_names_fit_into_luos_63_bytes() -> None:
    assert p.session_name("12.a1b2c3d4", "vm-1") == "lr.12.a1b2c3d4.vm-1"
    assert len(p.session_name("x" * 27, "w" * 32)) == 63
    with pytest.raises(BrokerError) as caught:
        p.session_name("x" * 28, "w" * 32)
    assert caught.value.reason == "SESSION_NAME_TOO_LONG"


def test_lines_are_cut_wherever_the_stream_was() -> None:
    buffer = p.LineBuffer()
    assert buffer.feed(b"ab") == []
    assert buffer.feed(b"c\nd\ne") == [b"abc", b"d"]
    assert buffer.pending == b"e"
    assert buffer.feed(b"\n") == [b"e"]


@pytest.mark.parametrize("data", [b"x" * 4096, b"x" * 4096 + b"\n", b"ok\n" + b"x" * 4096])
def test_a_line_without_end_is_not_kept(data: bytes) -> None:
    with pytest.raises(BrokerError) as caught:
        p.LineBuffer().feed(data)
    assert caught.value.reason == "LINE_TOO_LONG"


def test_an_unmeasured_pause_is_rejected_never_zero() -> None:
    assert p.Resumed().pause("vm").rejected
    assert not p.Resumed(0.0, 0.1, "tsc").pause("vm").rejected
