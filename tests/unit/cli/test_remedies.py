"""Remedies and blockers tell people to type commands: those commands exist."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import typer.main

from orchestrator.cli.main import app

ROOT = Path(__file__).resolve().parents[3]
TOLD = re.compile(r"`liveroll ([a-z][a-z-]*)(?: ([a-z][a-z-]*))?")


def told() -> Iterator[tuple[str, str, str]]:
    """(file, command, next word) of every command line in a string."""
    for package in ("orchestrator", "node_agent", "deploy"):
        for file in sorted((ROOT / package).rglob("*.py")):
            for node in ast.walk(ast.parse(file.read_text())):
                if isinstance(node, ast.Constant) and isinstance(node.value, str):
                    for match in TOLD.finditer(node.value):
                        yield str(file.relative_to(ROOT)), match[1], match[2] or ""


def test_every_command_that_is_recommended_exists() -> None:
    # Typer brings a click of its own, whose types are nobody else's.
    group: Any = typer.main.get_command(app)
    found = list(told())
    assert len(found) > 20
    for file, command, following in found:
        assert command in group.commands, f"{file}: `liveroll {command}`"
        inner = group.commands[command]
        if following and (commands := getattr(inner, "commands", None)):
            assert following in commands, f"{file}: `liveroll {command} {following}`"
