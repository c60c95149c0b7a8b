"""1,000 zero-time node updates through the whole service: real processes, gRPC on loopback, SQLite.

Updates per second by the wall, and the orchestrator's CPU per update. Beside it: what the agents'
process costs, since on a small machine it is the other half of the work.

The orchestrator's store is on the disk. The nodes' journals are in memory and their files in
memory's file system: a fleet has a disk a node, and a thousand fsyncs in turn on this one would be
all that is measured. max_staging is lifted for the same reason: nothing is fetched from afar.
"""

from __future__ import annotations

import asyncio
import os
import sys
import tempfile
import time
from pathlib import Path

from deploy.local import LocalFleet, local_fleet
from orchestrator.artifacts.build import build_emulated
from orchestrator.cli.client import Client, Connection
from orchestrator.cli.rollout_file import load
from tests.bench.result import Result

NODES = int(os.environ.get("BENCH_NODES", "1000"))
MEMORY = "/dev/shm"
ROLLOUT = """\
name: bench
target: {artifact: linux-2.0.0}
canary: {max_nodes: 1}
waves: [{name: all}]
budgets: {max_unavailable: 100%, max_in_blackout: 100%, max_uncommitted: 100%}
rollback: {max_unavailable: 100%, max_in_blackout: 100%}
bake: {node: 0s, wave: 0s}
health_hold: 0s
silence_lease: 60s
"""


def cpu_s(pid: int) -> float:
    """User and system time of a process so far."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def run() -> list[Result]:
    with tempfile.TemporaryDirectory(prefix="liveroll-bench-") as directory:
        return asyncio.run(_run(Path(directory)))


async def _run(directory: Path) -> list[Result]:
    async with local_fleet(
        directory, heartbeat_s=5.0, fleet_settings={"max_staging": NODES, "silence_s": 30}
    ) as fleet:
        build_emulated(fleet.artifacts_dir, release="2.0.0")
        await fleet.start_orchestrator()
        agents = await fleet.spawn(
            "agents",
            [sys.executable, "-m", "node_agent.cli", "simulate", "--orchestrator", fleet.agents,
             "--nodes", str(NODES), "--releases", "1.0.0", "--workloads", "0", "--kexec-s", "0",
             "--log-level", "warning"],
            {"TMPDIR": MEMORY} if Path(MEMORY).is_dir() else {},
        )  # fmt: skip
        assert fleet.orchestrator is not None
        pids = fleet.orchestrator.process.pid, agents.process.pid
        return await asyncio.to_thread(_measure, fleet, directory, *pids)


def _measure(fleet: LocalFleet, directory: Path, orchestrator: int, agents: int) -> list[Result]:
    file = directory / "bench.yaml"
    file.write_text(ROLLOUT)
    spec = load(file).spec
    with Client(Connection(fleet.operators, timeout_s=60)) as client:
        ready: set[str] = set()
        for update in client.watch_nodes():
            ready |= {n.node_id for n in update.nodes if n.link == "up" and n.rollback_artifact}
            if len(ready) >= NODES:
                break
        before = cpu_s(orchestrator), cpu_s(agents), time.monotonic()
        client.create(spec)
        for update in client.watch("bench"):
            assert not update.rollout.halted, update.rollout.halt_message
            if update.rollout.HasField("end_time"):
                updated = sum(wave.updated for wave in update.rollout.waves)
                break
        wall_s = time.monotonic() - before[2]
        orchestrator_s, agents_s = cpu_s(orchestrator) - before[0], cpu_s(agents) - before[1]
    assert updated == NODES, f"only {updated} of {NODES} nodes were updated"
    return [
        Result("node updates, whole service", NODES / wall_s, "updates/s", aim="≥ 200/s"),
        Result(
            "orchestrator CPU for each update",
            orchestrator_s / NODES * 1000,
            "ms",
            beside="agents' process CPU for each update",
            limit=agents_s / NODES * 1000,
            aim="≤ 5 ms",
        ),
    ]
