"""`liveroll-agent run` on a node whose kernel has RFC v2's LUO: real processes, the workload unchanged."""

from __future__ import annotations

import json
import os
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from liveroll.v1 import common_pb2 as common

from node_agent.kernel.emulated import synctokens
from node_agent.kernel.emulated.syncclient import control, open_device
from tests.integration.test_agent_run import RunningNode, running, state
from tests.integration.test_agent_simulate import RFC2_ABI, artifact, orchestrated, resumed
from tests.unit.agent_link.fake_orchestrator import FakeOrchestrator
from tests.unit.artifacts_agent.publish import publish

pytestmark = pytest.mark.integration

__all__ = ["state"]

RFC2 = ("--release", "6.16.0", "--luo-model")
BOTH = pytest.mark.parametrize("coupling", ["luo-driven", "notifier"])


def luo(node: RunningNode) -> str:
    """LUO's state, as the node's sysfs shows it."""
    return (node.state / "root/sys/kernel/liveupdate/state").read_text().strip()


async def loaded(node: RunningNode, directory: Path, release: str = "6.16.5") -> str:
    """An artifact's digest, staged."""
    publish(directory, release, kernel=b"placeholder", config=None, emulated=True, live_update=RFC2_ABI)
    found = json.loads(await node.luoctl("-o", "json", "load", str(directory)))["digest"]
    assert isinstance(found, str)
    return found


def agents(node: RunningNode) -> Iterator[int]:
    """The agent's process, of those that the kernel has started."""
    children = ["pgrep", "-P", str(node.process.pid)]
    for pid in subprocess.run(children, capture_output=True, text=True, check=True).stdout.split():
        if b"node_agent.cli" in Path(f"/proc/{pid}/cmdline").read_bytes():
            yield int(pid)


@BOTH
async def test_by_hand_there_and_back(state: Path, tmp_path: Path, coupling: str) -> None:
    async with running(state, *RFC2, f"rfc-v2/{coupling}") as node:
        await node.until("fresh start")
        await node.until("BootClassified")
        digest = await loaded(node, tmp_path / "k")
        assert luo(node) == "normal"
        assert "accepted: PRESERVED (1-local)" in await node.luoctl("prepare", digest)
        assert luo(node) == "prepared"
        assert "ABORTED" in await node.luoctl("cancel")
        assert (luo(node), await node.luoctl("list")) == ("normal", "no file has a token\n")
        await node.luoctl("prepare", digest)
        assert "jumped" in await node.luoctl("kexec")
        await node.until("Finished")
        assert "1048576 bytes intact" in await node.until("resumed at tick")
        status = await node.status()
        assert (status["phase"], status["release"]) == ("BAKING", "6.16.5")
        assert status["verdict"] == "LIVE_UPDATED"
        assert luo(node) == "normal"
        assert "source: telemetry" in await node.luoctl("telemetry")
        back = next(d for d in status["staged"] if d != digest)
        await node.luoctl("commit")
        await node.luoctl("prepare", back)
        await node.luoctl("kexec")
        await node.until("attempt=3-local node=n1 phase=BAKING")
        status = await node.status()
    assert (status["release"], status["verdict"]) == ("6.16.0", "LIVE_UPDATED")
    assert sum("1048576 bytes intact" in line for line in node.lines) == 2
    assert not any("not intact" in line or "changed" in line for line in node.lines)


async def test_with_an_orchestrator_all_the_way(state: Path, tmp_path: Path) -> None:
    """The seed thread: "and controled via "liveupdated" the userspace agent"."""
    async with orchestrated(FakeOrchestrator()) as orchestrator:
        link = ("--orchestrator", orchestrator.address)
        async with running(state, *RFC2, "rfc-v2", *link) as node:
            await node.until("fresh start")  # who has not subscribed by then is not preserved
            orchestrator.artifact = artifact(tmp_path, "6.16.5", "rfc-v2")
            await orchestrator.until(orchestrator.all_in(common.PHASE_COMMITTED, 1))
            seen = orchestrator.nodes["n1"]
    assert "luo-rfc-v2" in seen.hello.capabilities
    assert seen.hello.labels["luo_model"] == "rfc-v2", "as of a simulated node"
    report = resumed(seen)
    assert (report.memory_check.intact, report.memory_check.bytes_checked) == (1, 1 << 20)


async def test_an_agent_killed_while_prepared_cancels_in_the_same_boot(state: Path, tmp_path: Path) -> None:
    async with running(state, *RFC2, "rfc-v2") as node:
        await node.until("fresh start")
        digest = await loaded(node, tmp_path / "k")
        await node.luoctl("prepare", digest)
        boot_id = (await node.status())["boot_id"]
        os.kill(next(agents(node)), signal.SIGKILL)
        await node.until("Unwound")
        status = await node.status()
        assert (status["phase"], status["boot_id"]) == ("ABORTED", boot_id)
        assert (luo(node), control(str(state / "root"), "files")) == ("normal", "")
        await node.luoctl("prepare", digest)
        await node.luoctl("kexec")
        await node.until("Finished")
    assert "1048576 bytes intact" in await node.until("resumed at tick")


async def test_a_cancel_by_hand_while_prepared_stops_the_jump(state: Path, tmp_path: Path) -> None:
    """It would be a plain kexec, which loses everything without a word."""
    async with running(state, *RFC2, "rfc-v2") as node:
        await node.until("fresh start")
        digest = await loaded(node, tmp_path / "k")
        await node.luoctl("prepare", digest)
        device = open_device(str(state / "root"))
        synctokens.cancel(device)
        assert "NOT_PREPARED" in await node.luoctl("kexec", code=3)
        await node.until("Unwound")
        assert (await node.status())["release"] == "6.16.0"
        assert synctokens.get_state(device) == "normal"
        os.close(device)


async def test_a_cold_boot_is_of_the_same_model(state: Path, tmp_path: Path) -> None:
    async with running(state, *RFC2, "rfc-v2/notifier") as node:
        await node.until("fresh start")
        digest = await loaded(node, tmp_path / "k")
        await node.luoctl("prepare", digest)
        await node.luoctl("kexec")
        await node.until("Finished")
        await node.luoctl("commit")
        node.process.send_signal(signal.SIGUSR1)
        await node.until("COLD_BOOT")
        status = await node.status()
        assert status["release"] == "6.16.5"
        assert "notifier" in await node.luoctl("state")


@pytest.mark.parametrize(
    ("coupling", "then"),
    [("luo-driven", "accepted: PRESERVED (2-local)"), ("notifier", "[KHO_FINALIZED]")],
)
async def test_after_a_refused_freeze_the_couplings_differ(
    state: Path, tmp_path: Path, coupling: str, then: str
) -> None:
    """Where KHO calls LUO back nobody aborts KHO: such a boot prepares no other update."""
    async with running(state, *RFC2, f"rfc-v2/{coupling}", "--faults", "refuse_freeze@1") as node:
        await node.until("fresh start")
        digest = await loaded(node, tmp_path / "k")
        await node.luoctl("prepare", digest)
        assert "[FREEZE_REFUSED]" in await node.luoctl("kexec", code=3)
        assert luo(node) == "normal"
        finalized = (state / "root/sys/kernel/debug/kho/out/finalize").read_text()
        assert finalized == ("1\n" if coupling == "notifier" else "0\n")
        code = 3 if coupling == "notifier" else 0
        assert then in await node.luoctl("prepare", digest, code=code)
