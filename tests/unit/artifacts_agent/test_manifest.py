"""Manifests, boot headers and kernel configs as they may come."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from node_agent.errors import ArtifactError
from node_agent.runtime.artifacts_bzimage import read_bzimage
from node_agent.runtime.artifacts_manifest import parse_config, parse_manifest
from tests.unit.artifacts_agent.publish import bzimage

KERNEL = {"name": "vmlinuz", "sha256": "a" * 64, "size": 10}
GOOD = {"schema": 1, "name": "k", "release": "7.3.4", "files": {"kernel": KERNEL}}


def kernel(**changes: object) -> dict[str, object]:
    return {**GOOD, "files": {"kernel": {**KERNEL, **changes}}}


def test_a_good_manifest() -> None:
    data = json.dumps({**GOOD, "command_line": {"append": ["quiet"]}, "created": "x"}).encode()
    manifest = parse_manifest(data, where="here")
    assert (manifest.release, manifest.emulated, manifest.total_bytes) == ("7.3.4", False, 10)


@pytest.mark.parametrize(
    "tree",
    [
        [],
        {},
        {**GOOD, "schema": 2},
        {**GOOD, "name": ""},
        {**GOOD, "release": "7.3.4\n"},
        {**GOOD, "release": 7},
        {**GOOD, "emulated": "yes"},
        {**GOOD, "files": {}},
        {**GOOD, "files": []},
        {**GOOD, "files": {"kernel": KERNEL, "modules": KERNEL}},
        {**GOOD, "files": {"kernel": KERNEL, "initrd": KERNEL}},
        {**GOOD, "files": {"kernel": "vmlinuz"}},
        *[kernel(name=n) for n in ("", "..", ".hidden", "../x", "a/b", "/etc/passwd", "manifest.json", 3)],
        *[kernel(sha256=s) for s in ("", "A" * 64, "a" * 63, None)],
        *[kernel(size=s) for s in (-1, "10", True, 1.5, None)],
    ],
)
def test_a_bad_manifest_says_where_and_what(tree: object) -> None:
    with pytest.raises(ArtifactError) as caught:
        parse_manifest(json.dumps(tree).encode(), where="http://x/manifest.json")
    assert caught.value.reason == "MANIFEST_INVALID"
    assert "http://x/manifest.json" in caught.value.message
    assert caught.value.remedy


@pytest.mark.parametrize("data", [b"", b"{", b"\xff\xfe", b"null"])
def test_what_is_not_json(data: bytes) -> None:
    with pytest.raises(ArtifactError):
        parse_manifest(data, where="here")


def test_the_release_in_a_boot_header(tmp_path: Path) -> None:
    path = tmp_path / "vmlinuz"
    path.write_bytes(bzimage("6.12.0-9-amd64"))
    assert read_bzimage(path).release == "6.12.0-9-amd64"


@pytest.mark.parametrize(
    "data", [b"", b"MZ" * 2000, bzimage("x", version=0x100), bzimage(""), bzimage("y")[:0x300]]
)
def test_what_is_no_bzimage(tmp_path: Path, data: bytes) -> None:
    path = tmp_path / "vmlinuz"
    path.write_bytes(data)
    with pytest.raises(ArtifactError) as caught:
        read_bzimage(path)
    assert caught.value.reason == "NOT_A_BZIMAGE"


def test_a_kernel_config() -> None:
    text = '# Linux\nCONFIG_A=y\nCONFIG_B=m\n# CONFIG_C is not set\nCONFIG_D="x"\n\njunk\n'
    assert parse_config(text) == {"CONFIG_A": "y", "CONFIG_B": "m", "CONFIG_C": "n", "CONFIG_D": '"x"'}
