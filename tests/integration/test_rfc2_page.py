"""docs/rfc-v2.md, *Try it*: the commands as they stand."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import tempfile
from pathlib import Path

import pytest

pytestmark = pytest.mark.integration

ROOT = Path(__file__).resolve().parents[2]


async def test_try_it_works_word_for_word() -> None:
    """Nothing is left of it: no file, and no process that would keep the pipes open."""
    page = (ROOT / "docs" / "rfc-v2.md").read_text()
    block = page.split("### Try it\n")[1].split("```sh\n")[1].split("```")[0]
    # pytest's own directories are too deep for a Unix socket's path.
    with tempfile.TemporaryDirectory(prefix="lr-") as directory:
        path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
        person = await asyncio.create_subprocess_exec(
            *("bash", "-c", block),
            cwd=ROOT,
            env={**os.environ, "PATH": path, "TMPDIR": directory},
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
            start_new_session=True,
        )
        try:
            async with asyncio.timeout(60):
                said, _ = await person.communicate()
        except TimeoutError:
            os.killpg(person.pid, signal.SIGKILL)
            raise
        assert said.decode() == "68656c6c6f\nnormal\n"
        assert person.returncode == 0
        assert os.listdir(directory) == []
