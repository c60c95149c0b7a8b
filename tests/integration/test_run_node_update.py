"""Two nodes of `liveroll-agent run` under a real orchestrator: canary, success, blackouts, blackout path."""

from __future__ import annotations

import asyncio
import re
import urllib.request
from pathlib import Path
from typing import Any

import pytest
from liveroll.v1 import rollout_pb2 as pb

from deploy.local import local_fleet
from orchestrator.artifacts.build import build_emulated
from tests.integration import journal_reader
from tests.integration.conftest import NEW, OLD, Operator, alive, descendants, liveroll
from tests.integration.real_node import RealNode

ROLLOUT = f"""
name: k
target: {{artifact: linux-{NEW}, command_line: {{append: [loglevel=4]}}}}
waves: [{{name: rest}}]
budgets: {{max_unavailable: 1, max_in_blackout: 1, failures: {{max: 0}}}}
gates:
  - blackout: {{quantile: 1.0, max: 30s, min_samples: 2}}
bake: {{node: 200ms, wave: 200ms}}
health_hold: 100ms
"""
WORKLOADS = 2
SPY = """
import os, sys
if sys.orig_argv[1:3] == ["-m", "node_agent.cli"]:
    def told(event, arguments):
        if event == "import":
            os.write(2, f"agent-import {arguments[0]}\\n".encode())
    sys.addaudithook(told)
"""
"""Writes every import of an agent into its node's log, as it happens."""


@pytest.mark.integration
async def test_real_nodes_are_updated_and_their_blackouts_are_measured(directory: Path) -> None:
    async with local_fleet(directory, heartbeat_s=0.3, grace_s=1) as fleet:
        build_emulated(fleet.artifacts_dir, release=NEW)
        await fleet.start_orchestrator()
        nodes = []
        (directory / "sitecustomize.py").write_text(SPY)
        for name in ("one", "two"):
            child = await fleet.start_node(
                name, "--release", OLD, "--kexec-s", "0.3",
                workloads=WORKLOADS, env={"PYTHONPATH": str(directory)},
            )  # fmt: skip
            nodes.append(RealNode(child, directory / name))
        operator = Operator(fleet)
        await asyncio.to_thread(operator.wait_for_links, 2)
        for node in nodes:
            await node.until_subscribed(WORKLOADS)
        await asyncio.to_thread(operator.create, ROLLOUT)
        rollout = await asyncio.to_thread(operator.wait_for_end, "k")
        assert rollout.state == pb.ROLLOUT_STATE_SUCCEEDED, [b.message for b in rollout.blockers]
        assert [(w.name, w.updated) for w in rollout.waves] == [("canary", 1), ("rest", 1)]
        assert (rollout.memory_checks_failed, rollout.memory_checks_passed) == (0, 2 * WORKLOADS)
        assert rollout.blackout.emulated
        assert rollout.blackout.samples >= 2 * WORKLOADS
        assert [g.result for g in rollout.gates] == [pb.GATE_RESULT_PASS] * 2
        check_metrics(await asyncio.to_thread(scrape, f"http://{fleet.http}/metrics"))
        for node in nodes:
            check_blackout_path(node)
            check_marks(node)
            assert "loglevel=4" in node.facts()["command_line"]
            assert (
                f"liveroll.attempt={journal_reader.jumps(node.journal())[0].attempt}"
                in (node.facts()["command_line"])
            )
        told = await liveroll(fleet, "story", "one")
        assert told.status == 0
        assert "Committed" in told.out
        pids = [pid for node in nodes for pid in descendants(node.kernel.process.pid)]
        assert len(pids) >= 2 * (1 + WORKLOADS)
    assert not [pid for pid in pids if alive(pid)]


def check_metrics(text: str) -> None:
    """All three vantages: a sample for each workload, and two for each node, its own and its link's."""
    counts = {
        vantage: float(value)
        for vantage, value in re.findall(
            r'^liveroll_blackout_seconds_count\{[^}]*vantage="(\w+)"[^}]*\} (\S+)$', text, re.MULTILINE
        )
    }
    assert counts["workload"] == 2 * WORKLOADS, counts
    assert counts["host"] == 2, counts
    assert counts["link"] == 2, counts


def scrape(url: str) -> str:
    with urllib.request.urlopen(url, timeout=10) as answer:
        return str(answer.read().decode())


def check_blackout_path(node: RealNode) -> None:
    """In the new boot every workload ran again before the agent had imported gRPC, asyncio or anything
    else that is heavy: the order of lines in the one log of all the node's processes says so."""
    lines = node.log.splitlines()
    dark = max(i for i, line in enumerate(lines) if "suspended at tick" in line)
    after = lines[dark + 1 :]
    resumed = [i for i, line in enumerate(after) if "resumed at tick" in line]
    assert len(resumed) == WORKLOADS
    agent = [(i, m[1]) for i, line in enumerate(after) if (m := re.match(r"agent-import (\S+)", line))]
    for heavy in ("grpc", "asyncio", "dataclasses", "logging", "structlog"):
        first = next(i for i, name in agent if name.split(".")[0] == heavy)
        assert max(resumed) < first, f"{heavy} came before the workloads ran again"
    assert any(i < resumed[0] and name == "node_agent.resume.blackout" for i, name in agent)


def check_marks(node: RealNode) -> None:
    """The attempt's marks are all there, in order, and each on its own side of the jump."""
    marks: dict[str, dict[str, Any]] = {}
    for record in node.journal():
        for mark in record.report.get("marks", ()):
            marks.setdefault(mark["name"], mark)
    names = ["preserve_done", "suspend", "pre_reboot"], ["userspace_start", "retrieved", "resume", "finish"]
    for side in names:
        times = [marks[name]["boottime_s"] for name in side]
        assert times == sorted(times), marks
        assert len({marks[name]["boot_id"] for name in side}) == 1
    assert marks["suspend"]["boot_id"] != marks["resume"]["boot_id"]
