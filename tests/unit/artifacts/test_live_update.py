"""What a kernel says of itself: unpacked, looked through, or said by hand."""

from __future__ import annotations

import json
import shutil
import struct
from pathlib import Path

import pytest

from orchestrator.artifacts.build import EMULATED, build, build_emulated
from orchestrator.artifacts.bzimage import read_bzimage
from orchestrator.artifacts.live_update import LiveUpdate, find, from_words
from orchestrator.artifacts.payload import NoUnpacker, unpack
from orchestrator.errors import Blocked, NotFound
from tests.unit.artifacts.packed import FORMATS, KERNEL, bzimage, packed

WHOLE = LiveUpdate("kho-v4", "luo-v5", {"memfd": "memfd-v2"})


def written(directory: Path, content: bytes) -> Path:
    path = directory / "vmlinuz"
    path.write_bytes(content)
    return path


def unpacked(path: Path) -> bytes:
    return unpack(path, read_bzimage(path))


@pytest.mark.parametrize("how", FORMATS)
def test_every_way_to_pack_a_kernel(tmp_path: Path, how: str) -> None:
    if how in ("lz4", "zstd") and shutil.which(how) is None:
        pytest.skip(f"{how} is not installed")
    path = written(tmp_path, bzimage(packed(KERNEL, how)) + b"a signature")
    assert unpacked(path) == KERNEL
    assert build(tmp_path / "out", kernel=path).live_update == WHOLE


@pytest.mark.parametrize("how", ["gzip", "xz", "bzip2", "lzma"])
def test_a_damaged_payload_is_refused(tmp_path: Path, how: str) -> None:
    good = packed(KERNEL, how)
    for bad in (
        good[:-4] + struct.pack("<I", len(KERNEL) + 1),
        good[:-4] + struct.pack("<I", len(KERNEL) - 1),
        good[:-4] + struct.pack("<I", 0),
        good[: len(good) // 2] + good[-4:],
        good[:20] + b"\xff" * 20 + good[40:],
    ):
        with pytest.raises(Blocked) as caught:
            unpacked(written(tmp_path, bzimage(bad)))
        assert caught.value.reason == "KERNEL_PAYLOAD_DAMAGED"
        assert caught.value.remedy


@pytest.mark.parametrize("how", ["lz4", "zstd"])
def test_what_a_program_cannot_unpack(tmp_path: Path, how: str) -> None:
    if shutil.which(how) is None:
        pytest.skip(f"{how} is not installed")
    good = packed(KERNEL, how)
    for bad in (good[:4] + b"\xff" * 40 + good[-4:], good[:-4] + struct.pack("<I", len(KERNEL) + 1)):
        with pytest.raises(Blocked, match="damaged"):
            unpacked(written(tmp_path, bzimage(bad)))


def test_a_payload_that_lies_about_its_length(tmp_path: Path) -> None:
    raw = bytearray(bzimage(packed(KERNEL, "gzip")))
    struct.pack_into("<I", raw, 0x24C, 1 << 20)
    with pytest.raises(Blocked, match="ends before its payload does"):
        unpacked(written(tmp_path, bytes(raw)))


@pytest.mark.parametrize("how", ["lz4", "zstd"])
def test_without_the_program_it_says_what_to_install(
    tmp_path: Path, how: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    magic = {"lz4": b"\x02\x21\x4c\x18", "zstd": b"\x28\xb5\x2f\xfd"}[how]
    monkeypatch.setenv("PATH", str(tmp_path))
    path = written(tmp_path, bzimage(magic + b"x" * 100 + struct.pack("<I", 100)))
    told: list[tuple[str, str]] = []
    made = build(tmp_path / "out", kernel=path, warn=lambda message, remedy: told.append((message, remedy)))
    assert made.live_update is None
    ((message, remedy),) = told
    assert f"no {how} program" in message
    assert f"install {how}" in remedy
    assert "--vmlinux" in remedy
    assert "--abi" in remedy


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (bzimage(b"LZOP" * 20), "not known here"),
        (bzimage(packed(KERNEL, "gzip"), protocol=0x207), "does not say where"),
    ],
)
def test_what_nobody_here_can_unpack(tmp_path: Path, content: bytes, says: str) -> None:
    with pytest.raises(NoUnpacker, match=says) as caught:
        unpacked(written(tmp_path, content))
    assert "--vmlinux" in caught.value.remedy


def test_an_elf_file_or_a_persons_word_will_do(tmp_path: Path) -> None:
    path = written(tmp_path, bzimage(b"LZOP" * 20))
    elf = tmp_path / "vmlinux"
    elf.write_bytes(KERNEL)
    assert build(tmp_path / "a", kernel=path, vmlinux=elf).live_update == WHOLE
    said = ("kho=kho-v4,luo=luo-v6", "memfd=memfd-v3")
    made = build(tmp_path / "b", kernel=path, abi=said)
    assert made.live_update == LiveUpdate("kho-v4", "luo-v6", {"memfd": "memfd-v3"})
    over = build(tmp_path / "c", kernel=path, vmlinux=elf, abi=("luo=luo-v6",))
    assert over.live_update == LiveUpdate("kho-v4", "luo-v6", {"memfd": "memfd-v2"})
    assert sorted(p.name for p in (tmp_path / "a" / made.name).iterdir()) == ["manifest.json", "vmlinuz"]
    with pytest.raises(NotFound, match="no vmlinux at"):
        build(tmp_path / "d", kernel=path, vmlinux=tmp_path / "absent")


@pytest.mark.parametrize("word", ["luo", "luo=5", "luo=kho-v4", "x=x-v1", "luo=luo-vx", "kho=kho-v4 "])
def test_words_that_are_no_abi_strings(word: str) -> None:
    with pytest.raises(Blocked) as caught:
        from_words([word])
    assert caught.value.reason == "ABI_INVALID"


@pytest.mark.parametrize(
    ("kernel", "expected"),
    [
        (KERNEL, WHOLE),
        (b"", LiveUpdate("", "")),
        (b"\0kho-v4\0", LiveUpdate("kho-v4", "")),
        (b"\0kho-v4\0\0luo-v5\0", LiveUpdate("kho-v4", "luo-v5")),
        (b"\0luo-v995\0\0luo-v995\0", LiveUpdate("", "luo-v995")),
        (b"\0a kho-v4\0xkho-v4\0kho-v4 \0kho-v\0kho-v4", LiveUpdate("", "")),
    ],
)
def test_strings_that_stand_alone(kernel: bytes, expected: LiveUpdate) -> None:
    assert find(kernel) == expected


def test_two_versions_are_not_guessed_from() -> None:
    with pytest.raises(Blocked) as caught:
        find(b"\0luo-v4\0\0luo-v5\0")
    assert caught.value.reason == "ABI_AMBIGUOUS"
    assert "luo-v4 and luo-v5" in caught.value.message
    assert "--abi luo=luo-v5" in caught.value.remedy
    assert find(b"\0luo-v4\0\0luo-v5\0\0kho-v4\0", ["luo=luo-v5"]) == LiveUpdate("kho-v4", "luo-v5")


def test_a_config_that_promises_more_than_the_kernel_holds(tmp_path: Path) -> None:
    path = written(tmp_path, bzimage(packed(b"\0kho-v4\0" * 4, "gzip")))
    config = tmp_path / "config"
    told: list[str] = []
    config.write_text("CONFIG_LIVEUPDATE=y\n")
    made = build(tmp_path / "a", kernel=path, config=config, warn=lambda message, _: told.append(message))
    assert made.live_update is None
    assert "CONFIG_LIVEUPDATE=y" in told[0]
    config.write_text("# CONFIG_LIVEUPDATE is not set\n")
    made = build(tmp_path / "b", kernel=path, config=config, warn=lambda message, _: told.append(message))
    assert made.live_update == LiveUpdate("kho-v4", "")
    assert len(told) == 1
    body = json.loads((tmp_path / "b" / made.name / "manifest.json").read_text())
    assert body["live_update"] == {"kho": "kho-v4", "luo": "", "handlers": {}}


def test_emulated_artifacts_speak_as_the_emulated_kernel_does(tmp_path: Path) -> None:
    assert build_emulated(tmp_path, release="7.2-x").live_update == EMULATED
    other = build_emulated(tmp_path, release="7.2-y", abi=("luo=luo-v9", "memfd="))
    assert other.live_update == LiveUpdate("kho-v4", "luo-v9", {})
