"""`liveroll lab` without a lab: what it says, and what it leaves alone."""

from __future__ import annotations

import importlib
import os
import signal
from pathlib import Path
from types import ModuleType

import pytest
from typer.testing import CliRunner

from deploy.lab.service import Service
from orchestrator.cli import lab
from orchestrator.cli.main import app


def told(*words: str) -> tuple[int, str]:
    result = CliRunner().invoke(app, ["lab", *words])
    return result.exit_code, result.output


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LIVEROLL_LAB_STATE", str(tmp_path / "state"))
    monkeypatch.setenv("LIVEROLL_LAB_CACHE", str(tmp_path / "cache"))


def test_up_without_what_make_lab_builds() -> None:
    code, text = told("up")
    assert code == 3
    assert "make lab" in text


@pytest.mark.parametrize(
    "words",
    [
        ("status",),
        ("env",),
        ("exec", "node-01", "--", "true"),
        ("console", "node-01"),
        ("logs",),
        ("power", "node-01", "on"),
    ],
)
def test_where_there_is_no_lab(words: tuple[str, ...]) -> None:
    code, text = told(*words)
    assert code == 3
    assert "liveroll lab up" in text


def test_down_with_nothing_there_is_done() -> None:
    code, text = told("down")
    assert code == 0
    assert "nothing to do" in text


@pytest.mark.parametrize("wrong", [("--nodes", "99"), ("--memory-mib", "1")])
def test_an_impossible_lab(wrong: tuple[str, str]) -> None:
    assert told("up", *wrong)[0] == 2


def test_without_a_checkout(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str) -> ModuleType:
        raise ModuleNotFoundError(f"No module named {name!r}", name=name)

    monkeypatch.setattr(importlib, "import_module", missing)
    code, text = told("up")
    assert code == 2
    assert "the lab needs a checkout" in text
    assert ".venv/bin/liveroll" in text


def test_a_fault_within_a_checkout_is_not_called_a_missing_one(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(name: str) -> ModuleType:
        raise ModuleNotFoundError("No module named 'grpc'", name="grpc")

    monkeypatch.setattr(importlib, "import_module", broken)
    with pytest.raises(ModuleNotFoundError):
        lab._lab("fleet")


def test_a_second_interrupt_does_not_disturb_the_cleaning_up() -> None:
    import asyncio

    put_away: list[str] = []

    async def work() -> None:
        try:
            os.kill(os.getpid(), signal.SIGINT)
            await asyncio.get_running_loop().create_future()
        finally:
            os.kill(os.getpid(), signal.SIGINT)
            await asyncio.to_thread(put_away.append, "all")

    with pytest.raises(KeyboardInterrupt):
        lab._run(work())
    assert put_away == ["all"]


def test_the_orchestrators_settings_are_ones_that_it_takes(tmp_path: Path) -> None:
    from orchestrator.settings import load

    service = Service.create(tmp_path / "orchestrator", ["node-01"], {"silence_s": 12})
    settings = load(service.config, {}, {})
    assert settings.fleet.silence_s == 12
    assert settings.artifacts_url == f"https://10.0.2.2:{service.port('http')}/artifacts"
    for listen in (settings.operators, settings.agents, settings.http):
        assert listen.is_loopback()
        assert listen.tls is not None
        assert listen.tls.ca is not None
    link = service.link("node-01")
    assert link.orchestrator == f"10.0.2.2:{settings.agents.port}"
    assert link.key.startswith(b"-----BEGIN")
    assert not service.is_running
    for name in ("LIVEROLL_CA", "LIVEROLL_CERT", "LIVEROLL_KEY"):
        assert Path(service.environment()[name]).is_file()
