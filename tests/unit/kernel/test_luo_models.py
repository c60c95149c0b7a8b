"""Which of the two models of LUO a kernel has: what a running one says, what an artifact and its file say."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from node_agent.kernel.emulated import image as images
from node_agent.kernel.emulated.image import EmulatedImage, FileImages
from node_agent.kernel.emulated.node import EmulatedNode
from node_agent.kernel.emulated.rfc2.handlers import MemfdHandler
from node_agent.kernel.luo_models import (
    MODELS,
    RFC2,
    RFC2_CAPABILITY,
    RFC2_HANDLERS,
    SESSIONS,
    capabilities_of,
    model_of,
    spoken_by,
)
from node_agent.ports import BootFacts, KexecImage, KhoFacts, LiveUpdateAbi
from node_agent.runtime.artifacts_manifest import emulated_manifest, parse_manifest

MERGED = BootFacts("b", "7.2", "", "m", luo=True, kho=KhoFacts(luo_abi="luo-v5"))


def test_the_table_holds_what_the_emulated_kernels_speak() -> None:
    assert MODELS[images.LUO_ABI] == EmulatedImage("").model == SESSIONS
    assert MODELS[images.RFC2_LUO_ABI] == EmulatedImage.rfc2("").model == RFC2
    assert RFC2_HANDLERS["memfd"] == MemfdHandler.compatible


def test_what_speaks_as_the_running_kernel_does_is_of_its_model() -> None:
    """Merged LUO may have begun to count at one as well."""
    early = replace(MERGED, kho=KhoFacts(luo_abi="luo-v1"))
    assert model_of("luo-v1", early) == SESSIONS
    assert model_of("luo-v1", MERGED) == RFC2
    assert model_of("luo-v1", replace(MERGED, kho=None)) == RFC2
    assert (model_of("", MERGED), model_of("luo-v77", MERGED)) == ("", "")


@pytest.mark.parametrize("coupling", ["notifier", "luo-driven"])
def test_a_node_with_rfc_v2_says_so_and_its_way_back_too(coupling: str) -> None:
    facts = EmulatedNode("6.16", image=EmulatedImage.rfc2("6.16", coupling=coupling)).model.facts()
    assert capabilities_of(facts) == (RFC2_CAPABILITY,)
    said = spoken_by(facts)
    assert said == LiveUpdateAbi("kho-v1", "luo-v1", RFC2_HANDLERS)
    manifest, _ = emulated_manifest("6.16", said)
    assert parse_manifest(manifest, where="here").live_update == said


def test_one_with_sessions_says_no_more_than_before() -> None:
    facts = EmulatedNode("7.2").model.facts()
    assert (capabilities_of(facts), spoken_by(facts)) == ((), None)
    assert parse_manifest(emulated_manifest("7.2")[0], where="here").live_update is None
    assert spoken_by(replace(MERGED, luo_model=RFC2, kho=None)) is None


def opened(
    tmp_path: Path,
    otherwise: EmulatedImage | None = None,
    *,
    luo: object = None,
    sidecar: dict[str, object] | None = None,
) -> EmulatedImage:
    kernel = tmp_path / "vmlinuz"
    kernel.write_bytes(b"a kernel")
    if luo is not None:
        (tmp_path / "manifest.json").write_text(json.dumps({"live_update": {"luo": luo}}))
    if sidecar is not None:
        Path(f"{kernel}.emulated.json").write_text(json.dumps(sidecar))
    table = FileImages() if otherwise is None else FileImages(otherwise)
    return table.open(KexecImage(str(kernel), "", "", "6.16"))


OWN = EmulatedImage.rfc2("5.0", coupling="notifier", reserve_mem="kho")


def test_a_file_that_says_nothing_is_of_the_nodes_own_model(tmp_path: Path) -> None:
    assert opened(tmp_path) == EmulatedImage("6.16", scratch_bytes=8)
    assert opened(tmp_path, OWN) == replace(OWN, release="6.16", scratch_bytes=8)


@pytest.mark.parametrize("luo", ["luo-v9", 7, []])
def test_a_manifest_may_say_nothing_that_is_known(tmp_path: Path, luo: object) -> None:
    assert opened(tmp_path, OWN, luo=luo).model == RFC2
    assert opened(tmp_path, luo=luo).model == SESSIONS


def test_the_manifest_beside_it_says_the_model(tmp_path: Path) -> None:
    assert opened(tmp_path, luo="luo-v1") == EmulatedImage.rfc2("6.16", scratch_bytes=8)
    assert opened(tmp_path, OWN, luo="luo-v1") == replace(OWN, release="6.16", scratch_bytes=8)
    assert opened(tmp_path, OWN, luo="luo-v5") == EmulatedImage("6.16", scratch_bytes=8)


def test_the_sidecar_goes_before_the_manifest(tmp_path: Path) -> None:
    assert opened(tmp_path, luo="luo-v1", sidecar={"panics": True}) == EmulatedImage.rfc2(
        "6.16", panics=True, scratch_bytes=8
    )
    assert opened(tmp_path, OWN, luo="luo-v1", sidecar={"model": SESSIONS}).model == SESSIONS


def test_a_manifest_that_is_none(tmp_path: Path) -> None:
    (tmp_path / "manifest.json").write_text("no json")
    assert opened(tmp_path).model == SESSIONS
