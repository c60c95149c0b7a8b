"""A node's workloads over real processes: the emulated kernel, a small agent, example workloads."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[2]


def run_node(state: Path, hops: int | str, *extra: str) -> subprocess.CompletedProcess[str]:
    python = sys.executable
    example = f"{python} -m node_agent.workloads.example --socket {state}/b.sock --mib 1 --tick-ms 5"
    return subprocess.run(
        [python, "-m", "node_agent.kernel.emulated.process", "--root", str(state / "root")]
        + ["--purgatory-s", "0.2", "--boot-s", "0.1"]
        + [arg for id in ("vm-1", "vm-2") for arg in ("--service", f"{example} --id {id}")]
        + [
            *extra,
            "--",
            python,
            "-m",
            "tests.integration.broker_agent",
            str(state),
            str(hops),
            "vm-1",
            "vm-2",
        ],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


@pytest.mark.integration
def test_example_workloads_cross_two_kexecs_by_the_blackout_path(tmp_path: Path) -> None:
    node = run_node(tmp_path, 2)
    assert node.returncode == 0, node.stdout + node.stderr
    unwound, first, second = map(json.loads, (tmp_path / "result.jsonl").read_text().splitlines())
    assert [(w, clock, intact) for w, _, clock, intact in unwound["unwound"]] == [
        ("vm-1", "emulated", True),
        ("vm-2", "emulated", True),
    ]
    for number, boot in ((1, first), (2, second)):
        assert boot["errors"] == {}
        assert boot["untaken"] == []
        assert json.loads(boot["token"]) == {"attempt": f"{number}-a"}
        assert [p[0] for p in boot["pauses"]] == ["vm-1", "vm-2"]
        for _, duration_s, clock, intact, checked in boot["pauses"]:
            assert 0.3 <= duration_s < 20
            assert (clock, intact, checked) == ("emulated", True, 2**20)
        order = [boot["marks"][name] for name in ("kernel_start", "userspace_start", "retrieved", "resume")]
        assert order == sorted(order)
        assert order[0][0] == 0.0
    assert first["boot_id"] != second["boot_id"]
    assert "DAMAGED" not in node.stdout
    assert node.stdout.count("released") == 2
    assert node.stdout.count("claimed") == 4


@pytest.mark.integration
def test_workloads_outlive_an_agent_killed_with_everybody_suspended(tmp_path: Path) -> None:
    node = run_node(tmp_path, "crash")
    assert node.returncode == 0, node.stdout + node.stderr
    # release() asked the kernel: with the workloads' copies dropped, nothing is preserved any more.
    assert sorted(json.loads((tmp_path / "result.jsonl").read_text())) == [["vm-1", True], ["vm-2", True]]
    assert node.stdout.count("fresh start") == 2
    assert node.stdout.count("resumed") == 2


@pytest.mark.integration
def test_an_agent_killed_in_the_blackout_path_loses_what_nobody_had_claimed_and_says_so(
    tmp_path: Path,
) -> None:
    node = run_node(tmp_path, "lost")
    assert node.returncode == 0, node.stdout + node.stderr
    last = json.loads((tmp_path / "result.jsonl").read_text().splitlines()[-1])
    assert last == {"errors": {f"lr.1-a.{name}": "ENOENT" for name in ("agent", "vm-1", "vm-2")}}
    assert "claimed" not in node.stdout
