"""`except*` only takes note: what is raised within it is wrapped into a group by Python before 3.11.4."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[3]


@pytest.mark.parametrize("package", ["node_agent", "orchestrator"])
def test_nothing_is_raised_or_called_within_it(package: str) -> None:
    for path in sorted((REPOSITORY / package).rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if isinstance(node, ast.TryStar):
                inside = [
                    part for handler in node.handlers for line in handler.body for part in ast.walk(line)
                ]
                found = [part.lineno for part in inside if isinstance(part, ast.Raise | ast.Call)]
                assert not found, f"{path}:{found[0]}"
