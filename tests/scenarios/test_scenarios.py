"""Every transcript in data/ says what the core decides, word for word.

After a change of the rules: `pytest tests/scenarios --rewrite`, and review the diff.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.scenarios.commands import Script
from tests.scenarios.transcript import parse, played

DATA = Path(__file__).parent / "data"
FILES = sorted(DATA.glob("*.txt"))


@pytest.mark.parametrize("path", FILES, ids=[path.stem for path in FILES])
def test_the_core_decides_what_the_transcript_says(path: Path, request: pytest.FixtureRequest) -> None:
    text = path.read_text()
    now = played(text, Script().execute)
    if request.config.getoption("--rewrite"):
        path.write_text(now)
        return
    assert now == text, "differs: run pytest tests/scenarios --rewrite, and review the diff"


def test_a_transcript_without_dashes_is_refused() -> None:
    with pytest.raises(ValueError, match="no line of dashes"):
        parse("# prose\n\nfleet nodes=1\n")


def test_commands_and_words_that_do_not_exist_are_refused() -> None:
    script = Script()
    with pytest.raises(ValueError, match="there is no command dance"):
        script.execute("dance n1")
    script.execute("fleet nodes=1")
    with pytest.raises(ValueError, match="unknown words: colour"):
        script.execute("create r1 colour=red")
