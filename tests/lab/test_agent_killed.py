"""SIGKILL of the agent around the kexec: what it held comes back, or goes on, and nobody's memory is lost."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

from deploy.lab.alone import Guest
from deploy.lab.paths import Lab
from deploy.lab.wanted import Wanted
from tests.lab import workloads
from tests.lab.hands import Hands, shelf
from tests.lab.memory import check_same, memory_of
from tests.lab.waiting import until

pytestmark = pytest.mark.asyncio(loop_scope="module")

WELL = "/var/tmp/well"
"""A probe hangs until this file is there: so VERIFYING lasts as long as a test wants."""
SETTINGS = f"""
[hooks.health]
command = ["/bin/sh", "-c", "until [ -e {WELL} ]; do /bin/busybox usleep 100000; done"]
timeout_s = 600
"""
AWAY = "/etc/liveroll/no-agent"


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def hands(lab: Lab, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Hands]:
    """A node on kernel a."""
    directory = tmp_path_factory.mktemp("killed")
    wanted = Wanted(
        nodes=1,
        workloads=(workloads.line("tickd", "vm-1"),),
        settings=SETTINGS,
        files=shelf(lab, directory / "artifacts", "a", "b"),
    )
    async with Guest(directory / "guest", wanted, lab=lab) as guest:
        await guest.node.wait_boot()
        await guest.node.write(WELL, "")
        yield Hands(guest.node)


async def test_before_the_kexec(hands: Hands) -> None:
    """Its sessions end with it, and its successor unwinds: the workload has lost nothing."""
    node = hands.node
    await hands.ready("vm-1")
    boot, before = await node.boot(), await memory_of(node, "vm-1")
    assert (await hands.prepare("b"))["phase"] == "PRESERVED"
    assert set(await holders(hands)) == {"liveroll-agent", "tickd"}
    pid = await node.kill_agent()
    await hands.until_phase("ABORTED")
    assert await node.agent_pid() not in (0, pid)
    assert (await node.boot(), await hands.jumps()) == (boot, 0)
    assert await loaded(hands) == "0"
    await hands.ready("vm-1")
    after = await memory_of(node, "vm-1")
    assert after.pid == before.pid
    check_same(before, after, workloads.MIB)
    assert (await hands.luoctl("status"))["verdict"] == "SAME_BOOT"


async def test_right_after_the_kexec(hands: Hands, lab: Lab) -> None:
    """The new kernel is up, and nobody has taken the sessions: neither the early init, which is not
    its init, nor an agent. The next agent's start takes them, however late."""
    node = hands.node
    boot, before = await node.boot(), await memory_of(node, "vm-1")
    line = (await node.read("/proc/cmdline")).strip()
    assert (await hands.prepare("b", "--command-line", f"{line} init=/sbin/init"))["phase"] == "PRESERVED"
    await node.write(AWAY, "")
    now = await hands.jump(boot)
    assert now.release == lab.kernels["b"].release
    assert await node.agent_pid() == 0
    assert await holders(hands) == {}, "the kernel alone has them"
    assert await hands.phase() == "JUMPING"
    await node.sh(f"rm {AWAY}")
    assert await hands.until_settled() == "BAKING", await hands.events()
    check_same(before, await memory_of(node, "vm-1"), workloads.MIB)
    assert await workloads.events_of(node, "vm-1") == [
        *("fresh", "preserved", "lost", "released"),
        *("preserved", "suspended", "claimed", "resumed"),
    ]


async def test_between_retrieve_and_finish(hands: Hands, lab: Lab) -> None:
    """The workload runs on, the keeper holds its session, and the next agent finishes it."""
    node = hands.node
    boot, before = await node.boot(), await memory_of(node, "vm-1")
    line = (await node.read("/proc/cmdline")).replace("init=/sbin/init", "").strip()
    assert (await hands.prepare("a", "--command-line", line))["phase"] == "PRESERVED"
    await node.sh(f"rm {WELL}; sync")
    now = await hands.jump(boot)
    assert now.release == lab.kernels["a"].release
    await hands.until_phase("VERIFYING")
    await node.kill_agent(hold=True)
    kept = await holders(hands)
    assert set(kept) == {"liveroll-keeper"}, kept
    ticking = await memory_of(node, "vm-1")
    check_same(before, ticking, workloads.MIB)
    await node.release_agent()
    assert (await hands.ready("vm-1"))["phase"] == "VERIFYING", "the next agent goes on where the first was"
    assert set(await holders(hands)) == {"liveroll-keeper", "liveroll-agent"}
    await node.write(WELL, "")
    assert await hands.until_settled() == "BAKING", await hands.events()
    after = await memory_of(node, "vm-1")
    assert after.pid == ticking.pid
    check_same(ticking, after, workloads.MIB)

    async def finished() -> bool:
        return await holders(hands) == {}

    await until(finished, "no session is held any more")
    assert await hands.jumps() == 2


async def loaded(hands: Hands) -> str:
    """Whether a kernel is loaded for kexec: 0 or 1."""
    return (await hands.node.read("/sys/kernel/kexec_loaded")).strip()


async def holders(hands: Hands) -> dict[str, int]:
    """Who holds a LUO session: the process's name → how many descriptors."""
    told = await hands.node.sh(
        "for fd in /proc/[0-9]*/fd/*; do case $(readlink $fd) in *luo_session*) p=${fd%/fd/*}; "
        "cat $p/comm;; esac; done 2>/dev/null || true"
    )
    names = told.split("\n")[:-1]
    return {name: names.count(name) for name in names}
