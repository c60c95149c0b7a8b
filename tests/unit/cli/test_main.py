"""The command line itself: help, exit codes, and how quickly it starts."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from orchestrator.cli import friendly
from orchestrator.cli.failure import Exit
from orchestrator.cli.main import app
from orchestrator.cli.rollout_file import loads

HEAVY = ("grpc", "rich", "pydantic", "yaml", "google.protobuf", "cryptography", "sqlalchemy", "liveroll.v1")

COMMANDS = [
    "plan",
    "create",
    "get",
    "list",
    "watch",
    "why",
    "pause",
    "resume",
    "approve",
    "cancel",
    "rollback",
    "commit",
    "retry",
    "exclude",
    "nodes",
    "node",
    "maintenance",
    "write-off",
    "stop",
    "release",
    "events",
    "story",
    "artifact",
    "version",
    "example",
]


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_help(command: str) -> None:
    result = CliRunner().invoke(app, [command, "--help"])
    assert result.exit_code == 0
    assert "Usage:" in result.output


def test_help_shows_examples_and_exit_codes() -> None:
    result = CliRunner().invoke(app, ["--help"])
    assert "liveroll create rollout.yaml --watch" in result.output
    assert "6 unreachable, 7 denied" in result.output
    assert "liveroll cancel kernel-6.19.3 --roll-back" in CliRunner().invoke(app, ["cancel", "--help"]).output


def test_nothing_heavy_is_imported_before_a_command_runs() -> None:
    code = f"import sys, orchestrator.cli.main; print([m for m in {HEAVY!r} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_example_prints_a_valid_file() -> None:
    result = CliRunner().invoke(app, ["example"])
    assert result.exit_code == 0
    assert loads(result.output, "x").spec.name == "kernel-6.19.3"


def test_version() -> None:
    assert CliRunner().invoke(app, ["version"]).output.startswith("liveroll ")


def test_an_orchestrator_that_is_not_there_is_one_line_and_exit_6() -> None:
    result = CliRunner().invoke(app, ["--server", "127.0.0.1:1", "list"])
    assert result.exit_code == Exit.UNREACHABLE
    assert result.stderr.splitlines()[0] == "liveroll: cannot reach the orchestrator at 127.0.0.1:1"
    assert len(result.stderr.splitlines()) == 2


def test_an_invalid_file_never_reaches_the_orchestrator(tmp_path: Path) -> None:
    file = tmp_path / "rollout.yaml"
    file.write_text("name: Not Good\n")
    result = CliRunner().invoke(app, ["--server", "127.0.0.1:1", "create", str(file)])
    assert result.exit_code == Exit.INVALID
    assert f"{file}:1: name: 'Not Good' is not a name" in result.stderr
    assert result.stderr.splitlines()[-1] == "2 problems; nothing was created"


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["create", "/nonexistent/rollout.yaml"], "cannot read"),
        (["maintenance", "n1"], "--reason is missing"),
        (["maintenance", "n1", "-m", "x", "--for", "soon"], "'soon' is not a duration"),
        (["--cert", "/nonexistent", "list"], "--cert and --key belong together"),
        (["list", "-o", "xml"], "xml"),
        (["frobnicate"], "frobnicate"),
        (["stop"], "--reason"),
    ],
)
def test_mistakes_on_the_command_line_are_exit_2(arguments: list[str], told: str) -> None:
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == Exit.INVALID
    assert told in result.stderr


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("250ms", "250ms"),
        ("1.5s", "1.5s"),
        ("45s", "45s"),
        ("1m30s", "1m30s"),
        ("2h", "2h"),
        ("90m", "1h30m"),
        ("36h", "1d12h"),
    ],
)
def test_durations_are_read_and_said(text: str, said: str) -> None:
    assert friendly.duration(friendly.parse_duration(text)) == said
    assert friendly.duration(-friendly.parse_duration(text)) == f"-{said}"
