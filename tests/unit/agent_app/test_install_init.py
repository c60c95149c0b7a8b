"""The early init as it is installed: complete in itself, whole or not at all."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from node_agent import install_init
from node_agent.errors import SettingsError


def test_it_stands_alone(tmp_path: Path) -> None:
    launcher = install_init.install(tmp_path)
    assert launcher == tmp_path / "init"
    assert launcher.stat().st_mode & 0o777 == 0o755
    assert launcher.read_text().startswith(f"#!{install_init.INTERPRETER}")
    code = (
        f"import sys; sys.path[:0] = [{str(tmp_path)!r}]; "
        "from node_agent.resume import early; print(early.__file__)"
    )
    said = subprocess.run(
        [sys.executable, "-I", "-S", "-B", "-c", code], capture_output=True, text=True, check=True, timeout=30
    )
    assert said.stdout.strip() == str(tmp_path / "node_agent/resume/early.py")
    install_init.install(tmp_path)
    assert [path for path in tmp_path.rglob("*") if path.name.endswith(".new")] == []


def test_the_agents_own_modules_are_left_alone(tmp_path: Path) -> None:
    (tmp_path / "node_agent").mkdir()
    (tmp_path / "node_agent" / "cli.py").write_text("")
    install_init.install(tmp_path)
    assert sorted(path.name for path in tmp_path.rglob("*") if path.is_file()) == ["cli.py", "init"]


def test_a_place_that_cannot_be_written_to(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(SettingsError) as caught:
        install_init.install(tmp_path / "file")
    assert caught.value.reason == "INIT_NOT_INSTALLED"
