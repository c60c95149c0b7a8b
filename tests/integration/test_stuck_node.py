"""A node whose journal another process holds, under a real orchestrator: STUCK, shown, and gone again."""

from __future__ import annotations

import asyncio
import fcntl
import os
from pathlib import Path

import pytest

from deploy.local import local_fleet
from tests.integration.conftest import OLD, Operator, liveroll
from tests.integration.real_node import RealNode


@pytest.mark.integration
async def test_an_operator_sees_stuck_and_the_node_goes_on_by_itself(directory: Path) -> None:
    async with local_fleet(directory, heartbeat_s=0.3, grace_s=1) as fleet:
        await fleet.start_orchestrator()
        child = await fleet.start_node("one", "--release", OLD, "--kexec-s", "0.3", workloads=0)
        node, operator = RealNode(child, directory / "one"), Operator(fleet)
        await asyncio.to_thread(operator.wait_for_links, 1)
        before = (node.state / "journal").read_bytes()
        # Waits for the lock as nobody else does yet: it has it as soon as the agent is killed.
        with (node.state / "journal").open("rb") as holder:
            taking = asyncio.create_task(asyncio.to_thread(fcntl.flock, holder, fcntl.LOCK_EX))
            await node.until(somebody_waits, "waited for")
            await node.kill_agent()
            await taking
            nodes = await asyncio.to_thread(
                operator.wait_for_nodes, lambda found: found["one"].problem.reason == "STUCK"
            )
            assert not nodes["one"].healthy
            assert nodes["one"].problem.remedy
            shown = await liveroll(fleet, "node", "one")
            assert "STUCK: another process holds this node's journal" in shown.out
            assert (node.state / "journal").read_bytes() == before
        nodes = await asyncio.to_thread(operator.wait_for_nodes, lambda found: found["one"].healthy)
        assert not nodes["one"].problem.reason
        assert (await node.luoctl("status"))["link"] == "up"


def somebody_waits() -> bool:
    """This process, for a lock of a file. Source: proc_locks(5), the arrow."""
    waiting = f"-> FLOCK  ADVISORY  WRITE {os.getpid()} "
    return waiting in Path("/proc/locks").read_text()
