"""What a node's firmware understands and remembers."""

from __future__ import annotations

from pathlib import Path

import pytest

from deploy.lab import firmware
from deploy.lab.errors import LabError
from deploy.lab.firmware import Lines, Remembered, answer

KERNELS = {"7.2.13-luo-a": "", "7.2.13-luo-b": ""}


def test_a_known_kernel_becomes_the_default() -> None:
    assert answer(b"default 7.2.13-luo-b", KERNELS) == firmware.Answer(
        b"ok 7.2.13-luo-b\n", default="7.2.13-luo-b"
    )


@pytest.mark.parametrize(
    "line",
    [
        b"",
        b"default",
        b"default a b",
        b"default 6.1.0",
        b"reboot 7.2.13-luo-a",
        b"\xff\xfe",
        b"defdefault 7.2.13-luo-a",
    ],
)
def test_anything_else_changes_nothing_and_is_answered(line: bytes) -> None:
    heard = answer(line, KERNELS)
    assert heard.default == ""
    assert heard.reply.startswith(b"no ")
    assert heard.reply.endswith(b"\n")


def test_lines_are_cut_wherever_the_stream_is() -> None:
    lines = Lines()
    assert lines.feed(b"default 7.2.") == []
    assert lines.feed(b"13-luo-a\ndefault 7") == [b"default 7.2.13-luo-a"]
    assert lines.feed(b"\n\n") == [b"default 7", b""]


def test_a_line_without_an_end_takes_no_memory_and_is_dropped() -> None:
    lines = Lines()
    for _ in range(100):
        assert lines.feed(b"x" * 1000) == []
    assert lines.feed(b"\ndefault a\n") == [b"default a"]


def test_it_remembers(tmp_path: Path) -> None:
    path = tmp_path / "firmware.json"
    assert firmware.load(path) is None
    firmware.save(path, Remembered("7.2.13-luo-b", "off", 3))
    assert firmware.load(path) == Remembered("7.2.13-luo-b", "off", 3)
    assert [p.name for p in tmp_path.iterdir()] == ["firmware.json"]


@pytest.mark.parametrize("text", ["", "{", "[]", '{"default": "a"}'])
def test_a_spoilt_memory_is_said(tmp_path: Path, text: str) -> None:
    path = tmp_path / "firmware.json"
    path.write_text(text)
    with pytest.raises(LabError) as caught:
        firmware.load(path)
    assert caught.value.reason == "FIRMWARE_CORRUPT"
    assert caught.value.remedy
