"""The kinds of events that code makes, `liveroll` completes and docs/events.md explains are the same."""

from __future__ import annotations

import ast
import inspect
import os
import re
from collections.abc import Iterator
from pathlib import Path

from node_agent.core import events as agent_events
from orchestrator.cli.kinds import KINDS
from orchestrator.core.transitions_attempt import _snake

ROOT = Path(__file__).resolve().parents[2]
DOC = ROOT / "docs" / "events.md"
NOUNS = "rollout|wave|pair|canary|member|node|attempt|fleet|invariant"
KIND = re.compile(rf"(?:{NOUNS})\.[a-z_]+")
PATHS = frozenset({"canary.nodes", "canary.max_nodes"})
"""Of a specification, not of the log."""
HELLO = frozenset({"attempt.journal_lost"})
"""A Hello taken for a report."""


def written() -> set[str]:
    """Every kind that stands in the orchestrator's code."""
    found: set[str] = set()
    for package in ("core", "runtime"):
        for file in (ROOT / "orchestrator" / package).rglob("*.py"):
            for node in ast.walk(ast.parse(file.read_text())):
                if (
                    isinstance(node, ast.Constant)
                    and isinstance(node.value, str)
                    and KIND.fullmatch(node.value)
                ):
                    found.add(node.value)
    return found - PATHS


def journalled() -> Iterator[str]:
    """What an agent's events about an attempt become."""
    for name, kind in inspect.getmembers(agent_events, inspect.isclass):
        if kind.__module__ == agent_events.__name__:
            yield f"attempt.{_snake(name)}"


def table() -> str:
    rows = [f"| `{kind}` | {text} |" for kind, text in KINDS.items()]
    return "\n".join(["| kind | it says |", "|---|---|", *rows]) + "\n"


def test_every_kind_is_known_and_every_known_one_is_made() -> None:
    made = written() | set(journalled()) | HELLO
    assert made == set(KINDS), (made - set(KINDS), set(KINDS) - made)


def test_the_page_has_the_table() -> None:
    before, mark, rest = DOC.read_text().partition("| kind | it says |\n")
    assert mark, "the table's head"
    after = rest[rest.index("\n\n") + 1 :] if "\n\n" in rest else ""
    page = before + table() + after
    if os.environ.get("LIVEROLL_REWRITE"):
        DOC.write_text(page)
    assert DOC.read_text() == page, "run with --rewrite, and review the diff"
