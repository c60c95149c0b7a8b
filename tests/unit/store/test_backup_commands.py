"""`liveroll-orchestrator backup` and `restore` as an operator sees them."""

from __future__ import annotations

import asyncio
import json
import sys
from datetime import timedelta
from pathlib import Path

import pytest

from orchestrator import app, app_backup
from orchestrator.core.model import NewEvent, NodeRow
from orchestrator.store.sql import SqlStore
from orchestrator.store.sqlite import Sqlite
from tests.contract.test_store_contract import attempt, put, rollout


def ask(*words: str) -> int:
    """The command's exit status."""
    with pytest.raises(SystemExit) as ended:
        app.main(words)
    assert isinstance(ended.value.code, int)
    return ended.value.code


@pytest.fixture
def state(tmp_path: Path) -> Path:
    """A state directory with a store in it."""
    write(tmp_path / "liveroll.db", "kernel", "node-1")
    return tmp_path


def write(path: Path, name: str, node: str) -> None:
    async def fill() -> None:
        store = SqlStore(Sqlite(path))
        await store.open()
        lease = await store.acquire("a", timedelta(seconds=5))
        made = NewEvent("made", name)
        await put(store, lease.epoch, rollout(name), NodeRow(node), attempt(node), events=(made,))
        await store.close()

    asyncio.run(fill())


def test_there_and_back(state: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = state / "monday.backup"
    assert ask("backup", str(file), "--state-dir", str(state)) == 0
    told = capsys.readouterr().out
    assert f"{file} is written" in told
    assert "1 nodes, 1 attempts, 1 rollouts" in told
    assert ask("backup", str(file), "--verify", "-o", "json") == 0
    assert json.loads(capsys.readouterr().out)["counts"]["events"] == 1

    write(state / "liveroll.db", "later", "node-2")
    assert ask("restore", str(file), "--state-dir", str(state)) == 3
    out, err = capsys.readouterr()
    assert "would lose" in out
    assert "rollouts  later" in out
    assert "attempts  1 of node-2" in out
    assert "nothing was touched; to go on, say --yes" in err
    assert ask("restore", str(file), "--state-dir", str(state), "-o", "json") == 3
    assert json.loads(capsys.readouterr().out)["lost"]["rollouts"] == ["later"]
    assert ask("restore", str(file), "--state-dir", str(state), "--yes") == 0
    told = capsys.readouterr().out
    assert "and has lost" in told
    assert "liveroll differences" in told
    assert ask("restore", str(file), "--state-dir", str(state), "--yes", "-o", "json") == 0
    assert json.loads(capsys.readouterr().out)["restored"] is True


def test_into_another_store_no_word_is_needed(state: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = state / "monday.backup"
    assert ask("backup", str(file), "--store", str(state / "liveroll.db")) == 0
    assert ask("restore", str(file), "--store", f"sqlite:///{state / 'other.db'}") == 0
    assert "lost" not in capsys.readouterr().out


def test_what_cannot_be_done_is_told_with_its_remedy(state: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = state / "monday.backup"
    assert ask("backup", str(file), "--state-dir", str(state / "elsewhere")) == 1
    assert "there is no store" in capsys.readouterr().err
    assert ask("restore", str(file), "--state-dir", str(state)) == 6
    assert "cannot read" in capsys.readouterr().err
    file.write_text("hello\n")
    assert ask("restore", str(file), "--state-dir", str(state), "--yes") == 3
    assert "to mend it: nothing was touched" in capsys.readouterr().err


def test_who_restores_is_kept_even_without_a_name(monkeypatch: pytest.MonkeyPatch) -> None:
    def nobody() -> str:
        raise KeyError("uid not found")

    monkeypatch.setattr(app_backup.getpass, "getuser", nobody)
    assert app_backup._actor() == "local"


def test_a_long_list_of_names_is_cut() -> None:
    assert app_backup._few(tuple("abcdefghij")) == "a, b, c, d, e, f, g, h and 2 more"


@pytest.mark.parametrize("watched", [True, False])
def test_progress_of_a_big_one(
    watched: bool, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys.stderr, "isatty", lambda: watched)
    small, big = app_backup.Progress(), app_backup.Progress()
    for done in range(1, 100):
        small(done, 100)
    small.end()
    for done in range(0, 50_001, 1000):
        big(done, 50_000)
    big.end()
    told = capsys.readouterr().err
    assert told.count("of 50000 lines") == 11
    assert ("\r" in told) is watched
    assert "of 100 " not in told
