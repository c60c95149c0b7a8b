"""docs/rfc-v2.md says what the code does: its figures, its diagram, and a test for every statement."""

from __future__ import annotations

import ast
import os
import re
from functools import cache
from pathlib import Path

import pytest

from node_agent.kernel.emulated.image import EmulatedImage
from node_agent.kernel.emulated.rfc2.states import TRANSITIONS
from tests.unit.kernel.rfc2.figures import tables

REPOSITORY = Path(__file__).parents[4]
PAGE = REPOSITORY / "docs" / "rfc-v2.md"
HERE = Path(__file__).parent
TEST = re.compile(r"`([\w/]+\.py)::(\w+)`")


def section(title: str) -> str:
    """What stands between this title and the next."""
    return PAGE.read_text().split(f"\n## {title}\n")[1].split("\n## ")[0]


def rows(title: str) -> list[list[str]]:
    """Of the last table beneath a title, without its head; cells as they are."""
    lines = [line for line in section(title).splitlines() if line.startswith("|")]
    return [line.strip("|").split(" | ") for line in lines[2:]]


@cache
def named_in(file: str) -> dict[str, str]:
    """Test function → its docstring, of a file as the page writes it."""
    path = REPOSITORY / file if "/" in file else HERE / file
    return {
        node.name: plain(ast.get_docstring(node) or "")
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
    }


def plain(text: str) -> str:
    """Words only, as neither Markdown nor line breaks change them."""
    return " ".join(re.sub(r"[`\"']", "", text).split())


def test_the_figures_are_what_the_kernels_do() -> None:
    page = PAGE.read_text()
    wanted = page
    for name, text in tables().items():
        begin, end = f"<!-- {name} -->\n", "<!-- end -->"
        before, rest = wanted.split(begin)
        wanted = before + begin + text + end + rest.split(end, 1)[1]
    if os.environ.get("LIVEROLL_REWRITE"):
        PAGE.write_text(wanted)
        page = wanted
    assert page == wanted, "review the figures, then: pytest --rewrite"


def test_every_test_that_is_named_is_there() -> None:
    for file, test in TEST.findall(PAGE.read_text()):
        assert test in named_in(file), f"{file} has no {test}"


@pytest.mark.parametrize("title", ["The scenarios, and their tests", "Every statement, and its test"])
def test_every_row_names_a_test(title: str) -> None:
    found = rows(title)
    assert len(found) > 10
    assert not [row[0] for row in found if not TEST.findall(row[-1])]


def test_every_difference_from_the_series_names_a_test() -> None:
    found = section("How the emulation differs from the series").split("\n- ")[1:]
    assert len(found) > 10
    assert not [bullet for bullet in found if not TEST.findall(bullet)]


def test_what_is_quoted_is_quoted_by_a_test_that_the_row_names() -> None:
    for row in rows("Every statement, and its test"):
        docstrings = [named_in(file)[test] for file, test in TEST.findall(row[-1])]
        for quote in re.findall(r'"([^"]*)"', row[0]):
            for part in quote.split("…"):
                assert any(plain(part) in text for text in docstrings), f"nobody quotes: {part.strip()}"


def test_the_diagram_has_every_transition_and_no_other() -> None:
    arrows = set(re.findall(r"^    (\w+) --> (\w+): ([A-Z]+)$", PAGE.read_text(), re.MULTILINE))
    assert arrows == {(state.name, after.name, event.name) for (state, event), after in TRANSITIONS.items()}


def test_every_property_of_an_image_that_is_of_this_model_is_told() -> None:
    told = {row[0].strip(" `") for row in rows("How to choose")}
    ours = {"model", "coupling", "kho_debugfs", "reserve_mem", "auto_preserve", "telemetry"}
    assert told == ours
    assert ours <= EmulatedImage.__dataclass_fields__.keys()
