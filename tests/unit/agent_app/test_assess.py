"""`liveroll-agent assess`: what it prints, and what it does where it cannot see everything."""

from __future__ import annotations

import argparse
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from node_agent import assess, luoctl_wire
from node_agent.assess_view import Assessment, as_json, text
from node_agent.errors import ArtifactError, SettingsError
from node_agent.kernel.real.kernel import RealKernel
from node_agent.ports import BootFacts, KhoFacts, LiveUpdateAbi, MemoryFacts, StagedArtifact
from node_agent.runtime.preflight import Facts, at_rest
from node_agent.runtime.preflight_room import Preservable
from tests.unit.artifacts.packed import KERNEL, bzimage, packed
from tests.unit.cli.golden import check

MIB = 1 << 20
ABI = LiveUpdateAbi("kho-v4", "luo-v5", {"memfd": "memfd-v2"})
CONFIG = {"CONFIG_KEXEC_HANDOVER": "y", "CONFIG_LIVEUPDATE": "y", "CONFIG_LIVEUPDATE_MEMFD": "y"}
BOOT = BootFacts(
    "8f1c2a56-4d1b-4a52-9d3e-0a7c5b1e2f30",
    "7.2.13",
    "root=/dev/vda kho=on liveupdate=on",
    "PowerEdge-R640",
    luo=True,
    kho=KhoFacts((48 * MIB, 0, 144 * MIB), "kho-v4", "luo-v5", debugfs=True),
    memory=MemoryFacts(812 * MIB, 20 * MIB),
)
RUNNING = StagedArtifact("a1" * 32, "7.2.13", "/k", "/i", CONFIG, ABI, 17 * MIB, 20 * MIB, 2047)
TARGET = replace(RUNNING, digest="b2" * 32, release="7.3.4")
HELD = (Preservable("vm-1", 64 * MIB, 64 * MIB), Preservable("vm-2", 256 * MIB, 64 * MIB))


def seen(facts: Facts, *, whole: bool, unseen: tuple[str, ...] = ()) -> Assessment:
    return Assessment(
        "hv-0042",
        facts.boot,
        "/dev/liveupdate opens" if facts.boot.luo else "there is no /dev/liveupdate",
        facts.running,
        facts.no_way_back,
        facts.target if whole else None,
        facts.preservable,
        unseen,
        tuple(at_rest(facts, whole=whole)),
    )


def test_a_node_that_is_ready() -> None:
    ready = seen(Facts(BOOT, TARGET, RUNNING, preservable=HELD), whole=True)
    assert ready.ready
    check("assess-ready.txt", "\n".join(text(ready)))
    assert json.loads(json.dumps(as_json(ready)))["target"]["live_update"]["luo"] == "luo-v5"


def test_a_node_that_is_not() -> None:
    boot = replace(BOOT, memory=MemoryFacts(100 * MIB, 20 * MIB))
    target = replace(
        TARGET, live_update=replace(ABI, luo="luo-v9", handlers={}), init_bytes=200 * MIB, kernel_config={}
    )
    found = seen(Facts(boot, target, RUNNING, preservable=HELD), whole=True)
    assert not found.ready
    check("assess-not-ready.txt", "\n".join(text(found)))
    reasons = [f["reason"] for f in as_json(found)["findings"]]  # type: ignore[attr-defined]
    assert reasons == [
        "TARGET_CONFIG_UNKNOWN",
        "TARGET_ABI_MISSING",
        "TARGET_ABI_DIFFERS",
        "TARGET_SCRATCH_TOO_SMALL",
        "MEMORY_TOO_SMALL",
    ]


def test_a_node_without_live_update_and_without_eyes() -> None:
    boot = replace(BOOT, luo=False, command_line="quiet", kho=KhoFacts(), memory=None)
    bare = Facts(boot, TARGET, None, "no artifact of the running kernel is kept")
    found = seen(bare, whole=False, unseen=("workloads and what they would preserve: no agent answers",))
    check("assess-bare.txt", "\n".join(text(found)))
    assert as_json(found)["kho"] is None


def test_the_way_back_alone_is_judged_without_a_target() -> None:
    for changes, reason in (
        ({"live_update": None}, "ROLLBACK_ABI_UNKNOWN"),
        ({"live_update": replace(ABI, kho="kho-v3")}, "ROLLBACK_ABI_DIFFERS"),
        ({"init_bytes": 200 * MIB}, "ROLLBACK_SCRATCH_TOO_SMALL"),
    ):
        running = replace(RUNNING, **changes)
        found = at_rest(Facts(BOOT, running, running), whole=False)
        assert reason in [f.reason for f in found]


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({}, "luo-v1, rfc-v2 (notifier), normal"),
        (
            {"luo_state": "updated", "kho_finalized": True},
            "luo-v1, rfc-v2 (notifier), updated, KHO finalized",
        ),
        ({"luo_state": ""}, "luo-v1, rfc-v2 (notifier), state unknown"),
        ({"kho": KhoFacts(debugfs=True)}, "off"),
    ],
)
def test_the_model_of_luo_is_shown(changes: dict[str, Any], told: str) -> None:
    seeds = LiveUpdateAbi("kho-v1", "luo-v1", {"memfd": "memfd-v1"})
    boot = replace(
        BOOT,
        kho=KhoFacts((), "kho-v1", "luo-v1", debugfs=True),
        luo_model="rfc-v2",
        luo_state="normal",
        coupling="notifier",
    )
    target = replace(TARGET, live_update=seeds)
    found = seen(Facts(replace(boot, **changes), target, replace(RUNNING, live_update=seeds)), whole=True)
    assert f"  LUO       {told}" in text(found)
    shown: Any = as_json(found)
    assert (shown["luo_model"], shown["coupling"], shown["target"]["luo_model"]) == (
        "rfc-v2",
        "notifier",
        "rfc-v2",
    )


def test_what_speaks_as_the_running_kernel_does_is_shown_as_of_its_model() -> None:
    """Here and to preflight the same: a house tree numbers its strings as it likes."""
    house = replace(ABI, luo="luo-v1")
    boot = replace(BOOT, kho=KhoFacts((), "kho-v4", "luo-v1", debugfs=True))
    target, running = replace(TARGET, live_update=house), replace(RUNNING, live_update=house)
    shown: Any = as_json(seen(Facts(boot, target, running), whole=True))
    assert [shown["luo_model"], shown["target"]["luo_model"], shown["way_back"]["luo_model"]] == [
        "sessions"
    ] * 3
    assert "TARGET_MODEL_DIFFERS" not in [f["reason"] for f in shown["findings"]]


# -- on this machine, as it would be


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """A real kernel that says what the test wants, and no agent."""
    said: dict[str, Any] = {"boot": BOOT}

    async def facts(_: RealKernel) -> BootFacts:
        boot: BootFacts = said["boot"]
        return boot

    monkeypatch.setattr(RealKernel, "facts", facts)
    monkeypatch.setattr(assess, "DEVICE", "/dev/null")
    return said


def arguments(tmp_path: Path, **changes: str) -> argparse.Namespace:
    words = {"artifact": "", "config": "", "kernel": "real", "root": None, "output": "text"}
    return argparse.Namespace(**{**words, "state_dir": str(tmp_path / "state"), **changes})


def artifact(directory: Path, release: str) -> Path:
    from orchestrator.artifacts.build import build

    directory.mkdir(parents=True, exist_ok=True)
    kernel, config = directory / "vmlinuz", directory / "config"
    kernel.write_bytes(bzimage(packed(KERNEL, "gzip"), release))
    config.write_text("".join(f"{option}=y\n" for option in CONFIG))
    return directory / "out" / build(directory / "out", kernel=kernel, config=config).name


def test_this_machine(
    tmp_path: Path,
    machine: dict[str, Any],
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    running, target = artifact(tmp_path / "a", "7.2.13"), artifact(tmp_path / "b", "7.3.4")
    store = tmp_path / "state" / "artifacts" / "store"
    store.mkdir(parents=True)
    assert assess.run(arguments(tmp_path, artifact=str(target))) == assess.NOT_READY
    assert "NO_ROLLBACK_ARTIFACT" in capsys.readouterr().out
    running.rename(store / "kept")
    assert assess.run(arguments(tmp_path, artifact=str(target))) == assess.READY
    out = capsys.readouterr().out
    assert "ready for a live update to 7.3.4" in out
    assert "not seen: workloads" in out
    peers = [{"workload": "vm-1", "pid": 0, "session": "lr.1-old.vm-1"}]
    monkeypatch.setattr(luoctl_wire, "ask", lambda _path, _request: {"ok": True, "result": peers})
    assert assess.run(arguments(tmp_path, output="json")) == assess.NOT_READY
    told = json.loads(capsys.readouterr().out)
    assert [f["reason"] for f in told["findings"]] == ["SESSION_UNFINISHED"]
    (store / "kept" / "vmlinuz").write_bytes(b"rotten")
    assert assess.run(arguments(tmp_path)) == assess.NOT_READY
    assert "cannot be used" in capsys.readouterr().out


def test_with_less_than_root(
    tmp_path: Path, machine: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    machine["boot"] = replace(BOOT, luo=False, kho=KhoFacts())
    assess.run(arguments(tmp_path))
    out = capsys.readouterr().out
    assert "not seen: whether /dev/null opens: needs root" in out
    assert "not seen: KHO's scratch" in out
    assert "DEVICE_MISSING" not in out


def test_what_is_given_must_be_right(tmp_path: Path, machine: dict[str, Any]) -> None:
    with pytest.raises(ArtifactError) as wrong:
        assess.run(arguments(tmp_path, artifact=str(tmp_path / "absent")))
    assert wrong.value.reason == "ARTIFACT_NOT_FOUND"
    config = tmp_path / "agent.toml"
    config.write_text("labels = 3\n")
    with pytest.raises(SettingsError):
        assess.run(arguments(tmp_path, config=str(config)))
    with pytest.raises(SettingsError) as nobody:
        assess.run(arguments(tmp_path, kernel="emulated"))
    assert nobody.value.reason == "NODE_NOT_RUNNING"


def test_settings_that_this_user_may_not_read(
    tmp_path: Path,
    machine: dict[str, Any],
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("LIVEROLL_AGENT_TLS__CA", str(tmp_path / "absent.pem"))
    assess.run(arguments(tmp_path))
    assert "not seen: the agent's settings" in capsys.readouterr().out
