"""Building, verifying and resolving artifacts: what is refused, and what the refusal says."""

from __future__ import annotations

import json
import struct
from pathlib import Path

import pytest

from orchestrator.artifacts.build import build, build_emulated, verify
from orchestrator.artifacts.bzimage import read_bzimage
from orchestrator.artifacts.catalogue import DirectoryCatalogue
from orchestrator.artifacts.manifest import MANIFEST_NAME, parse
from orchestrator.errors import AlreadyExists, Blocked, NotFound

RELEASE = "6.19.3-test"


def bzimage(release: str = RELEASE, *, payload: int = 4096) -> bytes:
    """A file with a valid bzImage header and nothing bootable behind it."""
    setup_sects = 3
    head = bytearray((setup_sects + 1) * 512)
    head[0x1F1] = setup_sects
    struct.pack_into("<I", head, 0x1F4, payload // 16)
    head[0x202:0x206] = b"HdrS"
    struct.pack_into("<H", head, 0x20E, 0x300 - 0x200)
    version = f"{release} (builder@host) #1 SMP\0".encode()
    head[0x300 : 0x300 + len(version)] = version
    return bytes(head) + b"\x90" * payload


@pytest.fixture
def kernel(tmp_path: Path) -> Path:
    path = tmp_path / "vmlinuz"
    path.write_bytes(bzimage())
    return path


@pytest.fixture
def initrd(tmp_path: Path) -> Path:
    path = tmp_path / "initrd"
    path.write_bytes(b"cpio" * 100)
    return path


def test_release_is_read_from_the_header(kernel: Path) -> None:
    image = read_bzimage(kernel)
    assert image.release == RELEASE
    assert image.minimum_bytes == kernel.stat().st_size


def test_zero_setup_sects_means_four(tmp_path: Path) -> None:
    raw = bytearray(bzimage())
    raw[0x1F1] = 0
    path = tmp_path / "old"
    path.write_bytes(bytes(raw) + b"\0" * 512)
    assert read_bzimage(path).minimum_bytes == 5 * 512 + 4096


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"\x7fELF" + b"\0" * 4096, "KERNEL_NOT_BZIMAGE"),
        (b"short", "KERNEL_NOT_BZIMAGE"),
        (bzimage()[:-1], "KERNEL_TRUNCATED"),
        (bzimage()[:2000], "KERNEL_TRUNCATED"),
        (bzimage("")[:], "KERNEL_NOT_BZIMAGE"),
    ],
)
def test_what_is_no_whole_kernel_is_refused(tmp_path: Path, content: bytes, reason: str) -> None:
    path = tmp_path / "vmlinuz"
    path.write_bytes(content)
    with pytest.raises(Blocked) as caught:
        read_bzimage(path)
    assert caught.value.reason == reason
    assert caught.value.remedy


def test_no_version_pointer_is_refused(tmp_path: Path) -> None:
    raw = bytearray(bzimage())
    struct.pack_into("<H", raw, 0x20E, 0)
    path = tmp_path / "vmlinuz"
    path.write_bytes(raw)
    with pytest.raises(Blocked, match="no version string"):
        read_bzimage(path)


def test_build_then_verify_gives_the_same_manifest(tmp_path: Path, kernel: Path, initrd: Path) -> None:
    made = build(tmp_path / "out", kernel=kernel, initrd=initrd, append=("quiet",), remove=("ro",))
    assert made.name == f"linux-{RELEASE}"
    assert made.command_line_append == ("quiet",)
    assert verify(tmp_path / "out" / made.name) == made


def test_build_again_is_the_same_artifact_and_other_content_is_refused(
    tmp_path: Path, kernel: Path, initrd: Path
) -> None:
    made = build(tmp_path / "out", kernel=kernel, name="k")
    assert build(tmp_path / "out", kernel=kernel, name="k") == made
    with pytest.raises(AlreadyExists, match="other content"):
        build(tmp_path / "out", kernel=kernel, initrd=initrd, name="k")
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == ["k"]


def test_build_without_a_kernel_says_which_file_is_missing(tmp_path: Path) -> None:
    with pytest.raises(NotFound, match="no kernel at"):
        build(tmp_path, kernel=tmp_path / "absent")


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda p: p.write_bytes(p.read_bytes()[:-1]), "has 399 bytes, the manifest says 400"),
        (lambda p: p.write_bytes(b"X" + p.read_bytes()[1:]), "was altered"),
        (lambda p: p.unlink(), "is missing"),
    ],
    ids=["truncated", "altered", "missing"],
)
def test_a_damaged_file_is_named(tmp_path: Path, kernel: Path, initrd: Path, damage, message: str) -> None:  # type: ignore[no-untyped-def]
    made = build(tmp_path / "out", kernel=kernel, initrd=initrd)
    directory = tmp_path / "out" / made.name
    damage(directory / "initrd.img")
    with pytest.raises(Blocked, match=message) as caught:
        verify(directory)
    assert caught.value.reason == "ARTIFACT_INVALID"


def test_a_manifest_that_lies_about_the_release_is_refused(tmp_path: Path, kernel: Path) -> None:
    made = build(tmp_path, kernel=kernel, name="k")
    path = tmp_path / "k" / MANIFEST_NAME
    path.write_text(path.read_text().replace(made.release, "9.9.9"))
    with pytest.raises(Blocked, match="the kernel says it is"):
        verify(tmp_path / "k")


GOOD = {
    "schema": 1,
    "name": "k",
    "release": "6.19",
    "files": {"kernel": {"name": "vmlinuz", "sha256": "a" * 64, "size": 1}},
}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"schema": 2}, "schema is not 1"),
        ({"name": "../etc"}, "unsafe"),
        ({"release": "a b"}, "no kernel release"),
        ({"files": {}}, "must be a kernel"),
        ({"files": {**GOOD["files"], "extra": {}}}, "must be a kernel"),  # type: ignore[dict-item]
        ({"files": {"kernel": 3}}, "no object"),
        ({"files": {"kernel": {"name": "a/b", "sha256": "a" * 64, "size": 1}}}, "unsafe"),
        ({"files": {"kernel": {"name": "manifest.json", "sha256": "a" * 64, "size": 1}}}, "unsafe"),
        ({"files": {"kernel": {"name": "k", "sha256": "xyz", "size": 1}}}, "64 hexadecimal"),
        ({"files": {"kernel": {"name": "k", "sha256": "a" * 64, "size": True}}}, "number of bytes"),
        ({"command_line": {"append": ["two words"]}}, "single words"),
        ({"command_line": []}, "remove and append"),
    ],
)
def test_malformed_manifests(change: dict[str, object], message: str) -> None:
    with pytest.raises(Blocked, match=message):
        parse(json.dumps({**GOOD, **change}).encode())


def test_manifest_that_is_no_json_or_too_large() -> None:
    with pytest.raises(Blocked, match="not valid JSON"):
        parse(b"{")
    with pytest.raises(Blocked, match="larger than"):
        parse(b" " * 70_000)


async def test_catalogue_resolves_by_name_and_digest_and_suggests(tmp_path: Path) -> None:
    made = build_emulated(tmp_path, release="6.19.0-a")
    catalogue = DirectoryCatalogue(tmp_path, "http://127.0.0.1:7480/artifacts/")
    by_name = await catalogue.resolve("linux-6.19.0-a")
    assert by_name.digest == made.digest
    assert by_name.url == "http://127.0.0.1:7480/artifacts/linux-6.19.0-a"
    assert by_name.emulated
    assert by_name.luo == "luo-v5"
    assert await catalogue.resolve(made.digest[:12]) == by_name
    assert await catalogue.names() == ["linux-6.19.0-a"]
    with pytest.raises(NotFound) as caught:
        await catalogue.resolve("linux-6.19.0-b")
    assert "did you mean linux-6.19.0-a" in caught.value.remedy


async def test_catalogue_notices_a_change_after_it_verified(tmp_path: Path) -> None:
    build_emulated(tmp_path, release="6.19.0-a")
    catalogue = DirectoryCatalogue(tmp_path, "http://x")
    await catalogue.resolve("linux-6.19.0-a")
    (tmp_path / "linux-6.19.0-a" / "vmlinuz").write_bytes(b"other")
    with pytest.raises(Blocked, match="bytes"):
        await catalogue.resolve("linux-6.19.0-a")


async def test_catalogue_of_an_absent_directory_is_empty(tmp_path: Path) -> None:
    catalogue = DirectoryCatalogue(tmp_path / "absent", "http://x")
    assert await catalogue.names() == []
    with pytest.raises(NotFound, match="no artifact"):
        await catalogue.resolve("k")
