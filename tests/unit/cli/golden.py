"""Golden files of the CLI's output: compared, or written anew with LIVEROLL_REWRITE=1."""

from __future__ import annotations

import io
import os
from pathlib import Path

from rich.console import Console, RenderableType

GOLDEN = Path(__file__).parents[2] / "golden" / "cli"


def check(name: str, text: str) -> None:
    """Compare text with tests/golden/cli/<name>."""
    path = GOLDEN / name
    text = "\n".join(line.rstrip() for line in text.splitlines()) + "\n"
    if os.environ.get("LIVEROLL_REWRITE"):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    assert path.exists(), f"{path} is missing: run once with LIVEROLL_REWRITE=1 and review it"
    assert text == path.read_text(), "differs: run with LIVEROLL_REWRITE=1 and review the diff"


def drawn(renderable: RenderableType, width: int = 100) -> str:
    """As it is printed where nobody watches."""
    out = io.StringIO()
    Console(file=out, width=width, highlight=False, color_system=None).print(renderable)
    return out.getvalue()
