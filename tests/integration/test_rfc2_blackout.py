"""The blackout path on nodes of RFC v2: real processes, workloads, both couplings, there and back.

The files of such a node come back by the kernel's tokens. What the workloads see is what they see elsewhere:
they run again before the agent has imported anything heavy. And what happens around it: a workload
that dies while prepared, somebody else's kexec.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
from pathlib import Path
from typing import Any

import pytest
from liveroll.v1 import rollout_pb2 as pb

from deploy.local import local_fleet
from node_agent.kernel.emulated import syncclient
from node_agent.resume import tokens
from orchestrator.artifacts.build import build_emulated
from tests.integration import mortal
from tests.integration.conftest import NEW, OLD, Operator, alive, descendants, module, run
from tests.integration.mortal_fleet import mortal_command
from tests.integration.real_node import RealNode, name_of
from tests.integration.test_agent_run import PROGRAM, RunningNode, running, state
from tests.integration.test_rfc2_kill9 import DRIVEN, NOTIFIER, RFC2_ABI
from tests.integration.test_rfc2_node import loaded, luo
from tests.integration.test_run_node_update import SPY, check_blackout_path, check_marks

__all__ = ["state"]

pytestmark = pytest.mark.integration

WORKLOADS = 2
ROLLOUT = """
name: {name}
target: {{artifact: linux-{release}}}
canary: {{max_nodes: 2}}
budgets: {{max_unavailable: 2, max_in_blackout: 2, failures: {{max: 0}}}}
bake: {{node: 200ms, wave: 200ms}}
health_hold: 100ms
"""


async def test_nodes_of_both_couplings_go_there_and_back(directory: Path) -> None:
    async with local_fleet(directory, heartbeat_s=0.3, grace_s=1) as fleet:
        for release in (OLD, NEW):
            build_emulated(fleet.artifacts_dir, release=release, abi=RFC2_ABI)
        await fleet.start_orchestrator()
        (directory / "sitecustomize.py").write_text(SPY)
        nodes = []
        for name, model in (("driven", DRIVEN), ("notifier", NOTIFIER)):
            child = await fleet.start_node(
                name, "--release", OLD, "--kexec-s", "0.3", "--luo-model", model, "--model", name,
                workloads=WORKLOADS, env={"PYTHONPATH": str(directory)},
            )  # fmt: skip
            nodes.append(RealNode(child, directory / name))
        operator = Operator(fleet)
        await asyncio.to_thread(operator.wait_for_links, 2)
        for node in nodes:
            await node.until_subscribed(WORKLOADS)
        for jumps, (name, release) in enumerate((("there", NEW), ("back", OLD)), 1):
            await asyncio.to_thread(operator.create, ROLLOUT.format(name=name, release=release))
            rollout = await asyncio.to_thread(operator.wait_for_end, name)
            assert rollout.state == pb.ROLLOUT_STATE_SUCCEEDED, [b.message for b in rollout.blockers]
            assert (rollout.memory_checks_failed, rollout.memory_checks_passed) == (0, 2 * WORKLOADS)
            for node in nodes:
                check_blackout_path(node)
                check_marks(node)
                await check_nothing_is_left(node, release)
                assert (node.log.count("fresh start"), node.log.count("claimed")) == (
                    WORKLOADS,
                    jumps * WORKLOADS,
                )
                assert node.log.count(f"{1 << 20} bytes intact") == jumps * WORKLOADS
        pids = [pid for node in nodes for pid in descendants(node.kernel.process.pid)]
    assert not [pid for pid in pids if alive(pid)]


async def check_nothing_is_left(node: RealNode, release: str) -> None:
    facts = node.facts()
    assert (facts["luo_model"], facts["luo_state"], facts["release"]) == ("rfc-v2", "normal", release)
    assert syncclient.control(str(node.state / "root"), "files") == ""
    await node.until(lambda: not node.forked, "nothing kept any more")
    assert "Traceback" not in node.log


def workload(node: RunningNode) -> int:
    """Its pid."""
    for pid, command in descendants(node.process.pid).items():
        if command.split()[1:3] == ["-m", "node_agent.workloads.example"]:
            return pid
    raise AssertionError("no workload")


def files(node: RunningNode) -> str:
    return syncclient.control(str(node.state / "root"), "files")


@pytest.mark.parametrize("model", [DRIVEN, NOTIFIER])
async def test_a_workload_that_dies_while_prepared_stops_the_jump(
    state: Path, tmp_path: Path, model: str
) -> None:
    async with running(state, "--release", "6.16.0", "--luo-model", model) as node:
        await node.until("fresh start")
        await node.until("BootClassified")
        digest = await loaded(node, tmp_path / "k")
        await node.luoctl("prepare", digest)
        assert luo(node) == "prepared"
        os.kill(workload(node), signal.SIGKILL)
        said = await node.luoctl("kexec", code=3)
        assert "WORKLOAD_DIED" in said or "WORKLOAD_RESTARTED" in said
        await node.until("Unwound")
        assert (luo(node), files(node)) == ("normal", "")
        # The next attempt preserves what the workload has now.
        async with node.heard:
            await node.heard.wait_for(lambda: sum("fresh start" in line for line in node.lines) == 2)
        await node.luoctl("prepare", digest)
        await node.luoctl("kexec")
        await node.until("Finished")
        assert (luo(node), files(node)) == ("normal", "")
    assert "1048576 bytes intact" in await node.until("resumed at tick")


async def test_a_killed_server_of_sessions_costs_nobody_who_has_its_memory(
    state: Path, tmp_path: Path
) -> None:
    """It is as good as the keeper: what it had restored is with the workloads by then."""
    config = tmp_path / "agent.toml"
    held = f"! grep -q VERIFYING {state}/journal || test -e {state}/go"
    config.write_text(f"[hooks.health]\ncommand = ['/bin/sh', '-c', '{held}']\ntimeout_s = 10\n")
    model = ("--release", "6.16.0", "--luo-model", DRIVEN, "--config", str(config))
    async with running(state, *model) as node:
        await node.until("fresh start")
        await node.until("BootClassified")
        await node.luoctl("prepare", await loaded(node, tmp_path / "k"))
        await node.luoctl("kexec")
        await node.until("phase=VERIFYING")
        (server,) = (pid for pid in descendants(node.process.pid) if name_of(pid) == tokens.COMM)
        os.kill(server, signal.SIGKILL)
        (state / "go").touch()
        await node.until("phase=BAKING")
        assert (luo(node), files(node)) == ("normal", "")
    assert "1048576 bytes intact" in await node.until("resumed at tick")


async def settled(node: RunningNode, fate: Path) -> dict[str, Any]:
    """Its status once it stands still and nobody is to die any more; an agent that is dead says nothing."""
    async with asyncio.timeout(60):
        while True:
            command = module("node_agent.luoctl", "--socket", str(node.state / "control.sock"), "-o", "json")
            done = await asyncio.to_thread(run, [*command, "status"])
            status = json.loads(done.out) if done.status == 0 else {}
            if status.get("phase") == "QUARANTINED" and not mortal.armed(fate):
                return status


@pytest.mark.parametrize(
    ("model", "deaths"),
    [(DRIVEN, ()), (NOTIFIER, ("BootClassified", "Retrieved", "Resumed", "luo.finish", "Finished"))],
)
async def test_somebody_elses_kexec_brings_the_memory_back_and_quarantines(
    state: Path, tmp_path: Path, model: str, deaths: tuple[str, ...]
) -> None:
    """No JumpIntent, so the blackout path leaves it alone: the full agent has the sessions made of the tokens
    that the journal has of PRESERVED. It dies before and after each of its records, or never."""
    fate = tmp_path / "fate"
    mortal.arm(fate, ())
    program = mortal_command("node", fate)[1:] if deaths else PROGRAM
    async with running(state, "--release", "6.16.0", "--luo-model", model, program=program) as node:
        await node.until("fresh start")
        await node.until("BootClassified")
        digest = await loaded(node, tmp_path / "k")
        await node.luoctl("prepare", digest)
        # Armed now: the next boot's agent is the first that reads it.
        mortal.arm(fate, deaths)
        with pytest.raises(OSError, match="KEXEC"):
            await asyncio.to_thread(syncclient.control, str(state / "root"), "reboot")
        await node.until("resumed at tick")
        status = await settled(node, fate)
        assert (status["problem"]["reason"], status["release"]) == ("FOREIGN_KEXEC", "6.16.5")
        assert (luo(node), files(node)) == ("normal", "")
    assert "1048576 bytes intact" in await node.until("resumed at tick")
    assert sum("fresh start" in line for line in node.lines) == 1
    assert sum("claimed" in line for line in node.lines) == 1
