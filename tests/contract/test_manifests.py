"""The orchestrator writes manifests, agents read them: two readers that share no code and must agree."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from node_agent.errors import ArtifactError
from node_agent.kernel.emulated.image import FileImages
from node_agent.kernel.luo_models import model_of
from node_agent.ports import KexecImage
from node_agent.runtime.artifacts_manifest import parse_manifest
from node_agent.runtime.artifacts_verify import verify_directory
from orchestrator.artifacts.build import build, build_emulated
from orchestrator.artifacts.manifest import parse
from orchestrator.errors import Blocked
from tests.unit.artifacts.packed import KERNEL, bzimage, packed

GOOD: dict[str, Any] = {
    "schema": 1,
    "name": "k",
    "release": "7.2.13",
    "files": {"kernel": {"name": "vmlinuz", "sha256": "a" * 64, "size": 1}},
}
ABI = {"kho": "kho-v4", "luo": "luo-v5", "handlers": {"memfd": "memfd-v2"}}


def both(tree: object) -> tuple[object, object]:
    """(release, live_update) as each reads them; None of one that refuses."""
    raw = json.dumps(tree).encode()
    try:
        one = parse(raw)
        told: object = (one.release, one.digest, _plain(one.live_update))
    except Blocked:
        told = None
    try:
        other = parse_manifest(raw, where="here")
        read: object = (other.release, other.digest, _plain(other.live_update))
    except ArtifactError:
        read = None
    return told, read


def _plain(abi: Any) -> object:
    return None if abi is None else (abi.kho, abi.luo, dict(abi.handlers))


@pytest.mark.parametrize(
    ("said", "model"),
    [((), "sessions"), (("kho=kho-v1,luo=luo-v1", "memfd=memfd-v1"), "rfc-v2"), (("luo=luo-v9",), "")],
)
def test_an_artifact_says_of_which_model_of_luo_its_kernel_is(
    tmp_path: Path, said: tuple[str, ...], model: str
) -> None:
    """`liveroll artifact emulated --abi` writes it; preflight and the emulated kernel read it."""
    manifest = build_emulated(tmp_path, release="6.16.2", abi=said)
    staged = verify_directory(tmp_path / manifest.name)
    assert staged.live_update is not None
    assert model_of(staged.live_update.luo) == model
    opened = FileImages().open(KexecImage(staged.kernel_path, "", "", staged.release))
    assert opened.model == (model or "sessions")


@pytest.mark.parametrize(
    "abi",
    [
        ABI,
        {"kho": "", "luo": "", "handlers": {}},
        {"kho": "kho-v4", "luo": ""},
        {"kho": "kho-v12", "luo": "luo-v995", "handlers": {"memfd": "memfd-v3", "vfio-pci": "vfio-pci-v1"}},
    ],
)
def test_both_read_it_alike(abi: object) -> None:
    told, read = both({**GOOD, "live_update": abi})
    assert told is not None
    assert told == read


def test_a_manifest_without_it() -> None:
    told, read = both(GOOD)
    assert told == read
    assert told is not None


@pytest.mark.parametrize(
    "abi",
    [
        None,
        [],
        "kho-v4",
        {},
        {"kho": "kho-v4"},
        {**ABI, "kho": 4},
        {**ABI, "luo": None},
        {**ABI, "kho": "kho-v"},
        {**ABI, "kho": "kho-v4 "},
        {**ABI, "kho": "KHO-v4"},
        {**ABI, "luo": "l" * 44 + "-v12"},
        {**ABI, "handlers": []},
        {**ABI, "handlers": {"memfd": ""}},
        {**ABI, "handlers": {"memfd": 2}},
        {**ABI, "handlers": {"": "memfd-v2"}},
        {**ABI, "handlers": {"a b": "memfd-v2"}},
        {**ABI, "handlers": {f"h{n}": "h-v1" for n in range(65)}},
        {**ABI, "more": 1},
    ],
)
def test_both_refuse_it(abi: object) -> None:
    assert both({**GOOD, "live_update": abi}) == (None, None)


def test_what_the_one_builds_the_other_stages(tmp_path: Path) -> None:
    kernel, initrd, config = tmp_path / "vmlinuz", tmp_path / "initrd", tmp_path / "config"
    kernel.write_bytes(bzimage(packed(KERNEL, "gzip"), init_bytes=17 << 20))
    initrd.write_bytes(b"cpio" * 100)
    config.write_text("CONFIG_LIVEUPDATE=y\n")
    made = build(tmp_path / "out", kernel=kernel, initrd=initrd, config=config)
    staged = verify_directory(tmp_path / "out" / made.name, made.digest)
    assert made.live_update is not None
    assert (
        _plain(staged.live_update) == _plain(made.live_update) == ("kho-v4", "luo-v5", {"memfd": "memfd-v2"})
    )
    assert (staged.init_bytes, staged.initrd_bytes, staged.command_line_max) == (17 << 20, 400, 2047)
    assert staged.kernel_config == {"CONFIG_LIVEUPDATE": "y"}
