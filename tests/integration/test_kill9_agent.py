"""kill -9 of real agents, each in another step of its attempt, in one rollout that goes on regardless.

Each node is a kernel process with a real agent and workloads below it. A hanging kernel call or a hook
holds the agent in its step until it is killed. Promised: in the same boot before the jump, it
unwinds and is tried again; after the jump it goes on, with the sessions that the keeper holds if
they were retrieved already; no workload and no byte is lost.
"""

from __future__ import annotations

import asyncio
import functools
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
from liveroll.v1 import rollout_pb2 as pb

from deploy.local import LocalFleet, local_fleet
from node_agent.resume import parking
from node_agent.resume.parameters import KEEPER_NAME
from orchestrator.artifacts.build import build_emulated
from tests.integration import journal_reader
from tests.integration.conftest import NEW, OLD, Operator, alive, descendants
from tests.integration.outside import Audit, Caps
from tests.integration.real_node import RealNode


@dataclass(frozen=True)
class Point:
    """Where the agent is killed."""

    name: str
    phase: str
    """That the journal says by then."""
    hang: str = ""
    hook: str = ""
    """It kills the agent itself, once."""


BEFORE = (
    Point("load", "LOADING", hang="load@1"),
    Point("drain", "DRAINING", hook="drain"),
    Point("create", "PRESERVING", hang="create_session@1"),
    Point("reboot", "JUMPING", hang="reboot@1"),
)
AFTER = (
    Point("retrieve", "JUMPING", hang="retrieve_session@1"),
    # Retrieved, parked and handed back: the first retrieve_fd is the workload's.
    Point("token", "JUMPING", hang="retrieve_fd@2"),
    Point("classify", "JUMPING", hang="retrieve_fd@3"),
    Point("verify", "VERIFYING", hook="health"),
    Point("finish", "FINISHING", hang="finish@1"),
)
POINTS = (*BEFORE, *AFTER)
ROLLOUT = f"""
name: k
target: {{artifact: linux-{NEW}}}
canary: {{max_nodes: {len(POINTS)}}}
budgets: {{max_unavailable: {len(POINTS)}, max_in_blackout: {len(POINTS)}, failures: {{max: 0}}}}
bake: {{node: 200ms, wave: 200ms}}
health_hold: 100ms
retries: {{replan: {{attempts: 3, backoff: 100ms, max_backoff: 1s}}}}
"""


@asynccontextmanager
async def a_node_for_each(directory: Path) -> AsyncIterator[tuple[LocalFleet, Operator, dict[str, RealNode]]]:
    """A node for each point, all of them canaries: each is of another hardware model."""
    async with local_fleet(directory, heartbeat_s=0.3, grace_s=1) as fleet:
        build_emulated(fleet.artifacts_dir, release=NEW)
        await fleet.start_orchestrator()
        nodes = {}
        for point in POINTS:
            state = directory / point.name
            state.mkdir()
            arguments = ["--release", OLD, "--model", f"m-{point.name}", "--kexec-s", "0.3"]
            if point.hang:
                arguments += ["--faults", f"hang={point.hang}"]
            if point.hook:
                arguments += ["--config", str(hooked(state, point.hook))]
            nodes[point.name] = RealNode(await fleet.start_node(point.name, *arguments, mib=0.25), state)
        operator = Operator(fleet)
        await asyncio.to_thread(operator.wait_for_links, len(POINTS))
        yield fleet, operator, nodes


def hooked(state: Path, hook: str) -> Path:
    """Settings whose hook kills the agent the first time: mkdir can succeed only once."""
    config = state / "agent.toml"
    script = f"mkdir {state}/killed 2>/dev/null && kill -9 $PPID; exit 0"
    if hook == "health":  # asked at all times; the first time in an attempt is meant
        script = f'grep -q "\\"VERIFYING\\"" {state}/journal || exit 0; {script}'
    config.write_text(f"[hooks.{hook}]\ncommand = ['/bin/sh', '-c', '''{script}''']\ntimeout_s = 10\n")
    return config


async def hold_and_kill(node: RealNode, point: Point) -> None:
    """Waits until the node is held in its step, then kills its agent."""
    if point.hook:
        await node.until((node.state / "killed").exists, "killed by its hook")
        return
    call, _, count = point.hang.partition("@")
    await node.until(lambda: node.calls(call) == int(count), f"in {call}")
    assert journal_reader.story(node.journal())[-1][1] == point.phase
    if point.name == "reboot":
        assert (await node.luoctl("status"))["phase"] == "JUMPING"
        assert [row["workload"] for row in await node.luoctl("sessions")] == ["reboot-vm-1"]
    await node.kill_agent()


@pytest.mark.integration
async def test_agents_killed_in_every_step_keep_their_promise(directory: Path) -> None:
    async with a_node_for_each(directory) as (_fleet, operator, nodes):
        workloads = {name: await one_workload(node) for name, node in nodes.items()}
        await asyncio.to_thread(operator.create, ROLLOUT)
        async with asyncio.TaskGroup() as tasks:
            for point in POINTS:
                tasks.create_task(hold_and_kill(nodes[point.name], point))
        rollout = await asyncio.to_thread(operator.wait_for_end, "k")
        assert rollout.state == pb.ROLLOUT_STATE_SUCCEEDED, [b.message for b in rollout.blockers]
        assert (rollout.memory_checks_failed, rollout.memory_checks_passed) == (0, len(POINTS))
        audit = Audit(Caps(len(POINTS), len(POINTS), len(POINTS), dict.fromkeys(nodes, "")))
        audit.replay(operator.events())
        for point in POINTS:
            check_promise(nodes[point.name], point)
        for name, node in nodes.items():
            assert len(node.workloads) == 1
            assert node.workloads != workloads[name]  # those of the boot before are gone
            # A successor finishes what it has not retrieved itself, too: then the keeper has ended.
            await node.until(functools.partial(nothing_is_kept, node), "all sessions finished")
        await look_by_luoctl(nodes["reboot"])
        pids = [pid for node in nodes.values() for pid in descendants(node.kernel.process.pid)]
    assert not [pid for pid in pids if alive(pid)], "nodes that ended left processes behind"


def check_promise(node: RealNode, point: Point) -> None:
    records = node.journal()
    journal_reader.check_node(records)
    story = journal_reader.story(records)
    jumps = journal_reader.jumps(records)
    assert len(journal_reader.boots(records)) == 2, story
    phases = [phase for _, phase in story]
    classified = [i for i, (event, _) in enumerate(story) if event == "BootClassified"]
    if point in BEFORE:
        # start, after the kill, after the jump
        assert [phases[i] for i in classified] == ["IDLE", "UNWINDING", "RETRIEVING"], story
        killed = classified[1]
        assert phases[killed - 1] == point.phase, story
        assert story[killed + 1] == ("Unwound", "ABORTED"), story
        assert len(jumps) == (2 if point.phase == "JUMPING" else 1)
        assert jumps[-1].generation == 2
    else:
        assert len(jumps) == 1, story
        assert "UNWINDING" not in phases
        assert jumps[0].generation == 1
    assert phases[-1] == "COMMITTED", story
    # One life in the old kernel, one in the new: the agent's death cost the workload nothing.
    assert node.log.count("fresh start") == 1, node.log
    assert node.log.count("claimed") == 1, node.log
    assert "DAMAGED" not in node.log
    assert node.log.count("bytes intact") >= 1


def nothing_is_kept(node: RealNode) -> bool:
    sock = parking.connect(str(node.state / KEEPER_NAME))
    if sock is not None:
        sock.close()
    return sock is None


async def one_workload(node: RealNode) -> set[int]:
    await node.until_subscribed(1)
    return node.workloads


async def look_by_luoctl(node: RealNode) -> None:
    """The node-local view of a node that was killed inside reboot(2), and then updated."""
    status = await node.luoctl("status")
    assert (status["phase"], status["release"], status["link"]) == ("COMMITTED", NEW, "up")
    assert status["verdict"] == "LIVE_UPDATED"
    assert await node.luoctl("sessions") == []
    assert await node.luoctl("subscribers") == ["reboot-vm-1"]
    lines = "\n".join(await node.luoctl("story"))
    for word in ("JumpIntentRecorded", "Unwound", "Committed"):
        assert word in lines
