"""What luoctl does when whoever reads its output has seen enough."""

from __future__ import annotations

import os
import subprocess
import sys


def test_a_reader_that_went_away_is_no_error() -> None:
    reader, writer = os.pipe()
    os.close(reader)
    command = [sys.executable, "-m", "node_agent.luoctl", "completion", "bash"]
    environ = {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"}
    run = subprocess.run(command, stdout=writer, stderr=subprocess.PIPE, text=True, check=False, env=environ)
    os.close(writer)
    assert (run.returncode, run.stderr) == (0, "")
