"""Every reason of preflight is explained where an operator looks it up, and no other is."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

from node_agent.runtime.preflight_kernels import TARGET, WAY_BACK

ROOT = Path(__file__).resolve().parents[3]


def reasons() -> Iterator[str]:
    """As they stand in the code, for both sides where a side is put before them."""
    for file in (ROOT / "node_agent" / "runtime").glob("preflight*.py"):
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.Call) and getattr(node.func, "id", "") == "Finding":
                reason = node.args[0]
                if isinstance(reason, ast.Constant):
                    yield str(reason.value)
                else:
                    assert isinstance(reason, ast.JoinedStr)
                    tail = reason.values[-1]
                    assert isinstance(tail, ast.Constant)
                    yield from (side.prefix + tail.value for side in (TARGET, WAY_BACK))


def test_every_reason_is_in_the_table() -> None:
    text = (ROOT / "docs" / "operations.md").read_text()
    section = text.split("## Before an update: preflight")[1].split("\n## ")[0]
    rows = [line.split("|")[1] for line in section.splitlines() if line.startswith("| `")]
    explained = {reason for row in rows for reason in re.findall(r"`([A-Z_]+)`", row)}
    assert explained == set(reasons())
