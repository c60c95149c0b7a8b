"""`make demo` as a pipeline runs it: without a terminal, judged by its exit status and by what it prints."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.integration.conftest import REPOSITORY, WAIT_S


@pytest.mark.integration
def test_rfc_v2_refuses_the_other_model_and_goes_all_the_way_with_its_own(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "deploy.demo", "--scenario", "rfc-v2", "--directory", str(tmp_path / "d")],
        cwd=REPOSITORY,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
        timeout=4 * WAIT_S,
    )
    out = done.stdout
    assert done.returncode == 0, out
    assert "Traceback" not in out, out
    assert "kernel-6.19.3: SUCCEEDED\nnodes     3 updated, 0 failed, 0 rolled back, 7 left out, of 10" in out
    assert "kernel-6.16.3-rfc2: SUCCEEDED\nnodes     7 updated" in out
    assert "memory    14 checks passed, 0 failed" in out
    assert "showed normal → prepared → (no kernel) → updated → normal" in out
    assert "| source: telemetry" in out
    for node, coupling in (("p-01", "as posted"), ("d-01", "as concluded")):
        told = out.partition(f"What {node} ({coupling}) went through")[2].split("\n\n")[0]
        states = [line.split()[2].rstrip(",") for line in told.splitlines()[1:7]]
        assert states == ["normal", "prepared", "prepared", "updated", "updated", "normal"], told
        assert "luo_core: Switched from [prepared] to [frozen] state" in told
