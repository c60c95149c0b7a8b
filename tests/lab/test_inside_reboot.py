"""SIGKILL of an agent whose thread is inside reboot(2), on a kernel that takes its time there and then fails.

The thread does not die before the call returns, and it holds the journal's lock as long. Nobody may
decide anything about the node before that.
"""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

from deploy.lab.alone import Guest
from deploy.lab.handle import AGENT_HOLD
from deploy.lab.paths import Lab
from deploy.lab.wanted import Wanted
from tests.lab import workloads
from tests.lab.hands import Hands, shelf
from tests.lab.memory import check_same, memory_of
from tests.lab.waiting import until

pytestmark = pytest.mark.asyncio(loop_scope="module")

KNOBS = "/sys/module/kernel/parameters"
SUCCESSOR = "/var/log/successor.log"
INSIDE = "lab: frozen, waiting"
"""What the kernel says when every session is frozen, and before it holds."""
SHORT_MS, LONG_MS = 6_000, 25_000
"""Long is a good while beyond what an agent under TCG takes from its start to its journal."""


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def hands(lab: Lab, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Hands]:
    """A node on a kernel that holds inside reboot, then says EBUSY."""
    directory = tmp_path_factory.mktemp("inside")
    wanted = Wanted(
        nodes=1,
        kernel="slow",
        words=("luo_lab_reboot_fail=1", "loglevel=6"),
        workloads=(workloads.line("tickd", "vm-1"),),
        files=shelf(lab, directory / "artifacts", "b"),
    )
    async with Guest(directory / "guest", wanted, lab=lab) as guest:
        await guest.node.wait_boot()
        yield Hands(guest.node)


async def jump_and_kill(hands: Hands, delay_ms: int) -> None:
    """To the kernel's hold inside reboot, and kill the agent there."""
    node = hands.node
    await node.sh(f"echo {delay_ms} >{KNOBS}/luo_lab_reboot_delay_ms")
    assert (await hands.prepare("b"))["phase"] == "PRESERVED"
    pid, since = await node.agent_pid(), node.console.size
    await hands.kexec()
    await node.console.wait_for(INSIDE, timeout_s=120, since=since)
    await node.sh(f"kill -KILL {pid}")


async def unwound(hands: Hands) -> None:
    """The successor has put everything back."""
    await hands.until_phase("ABORTED")
    assert (await hands.node.read("/sys/kernel/kexec_loaded")).strip() == "0"
    await hands.ready("vm-1")
    assert (await hands.luoctl("status"))["problem"]["reason"] == "AGENT_RESTARTED"
    # What was frozen for the jump is written to again.
    await hands.node.sh("echo thawed >/var/tmp/thawed && sync", timeout_s=30)


async def test_filesystems_are_thawed_and_the_attempt_unwound(hands: Hands) -> None:
    node = hands.node
    await hands.ready("vm-1")
    boot, before = await node.boot(), await memory_of(node, "vm-1")
    await jump_and_kill(hands, SHORT_MS)
    assert await hands.phase() == "JUMPING"
    await unwound(hands)
    assert await node.boot() == boot
    after = await memory_of(node, "vm-1")
    assert after.pid == before.pid
    check_same(before, after, workloads.MIB)
    assert (await workloads.events_of(node, "vm-1"))[:3] == ["fresh", "preserved", "suspended"]


async def test_a_successor_waits_for_the_lock(hands: Hands) -> None:
    """Filesystems are only synced here, so that the successor starts while the old thread is inside."""
    node = hands.node
    toml = await node.read("/etc/liveroll/agent.toml")
    await node.write(
        "/etc/liveroll/agent.toml", toml.replace('kernel = "real"', 'kernel = "real"\nquiesce = "sync"')
    )
    await node.kill_agent(signal="TERM")
    await hands.ready("vm-1")
    boot, before = await node.boot(), await memory_of(node, "vm-1")
    # A process does not end before its last thread, and this guest starts no other before: so a person does.
    await node.sh(f"touch {AGENT_HOLD}")
    await jump_and_kill(hands, LONG_MS)
    since = node.console.size
    agent = f"exec liveroll-agent run --config /etc/liveroll/agent.toml >{SUCCESSOR} 2>&1"
    await node.exec("/bin/sh", "-c", agent, detach=True)

    async def stuck() -> bool:
        return "STUCK" in await node.read(SUCCESSOR)

    await until(stuck, "the successor says STUCK")
    assert "failing the live update" not in node.console.text(since), "the old thread is still inside"
    assert (await hands.phase(), await hands.jumps()) == ("JUMPING", 2)
    await unwound(hands)
    assert (await node.boot(), await hands.jumps()) == (boot, 2)
    after = await memory_of(node, "vm-1")
    assert after.pid == before.pid
    check_same(before, after, workloads.MIB)
