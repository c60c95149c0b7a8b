"""One node without an orchestrator: what a person does with luoctl, and what others do to the node."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from deploy.lab.alone import Guest
from deploy.lab.disk import GuestFile
from deploy.lab.paths import Lab
from deploy.lab.wanted import BROKER, Wanted
from tests.integration import odd_workload
from tests.lab import workloads
from tests.lab.hands import Hands, shelf
from tests.lab.memory import check_same, memory_of
from tests.lab.waiting import until

pytestmark = pytest.mark.asyncio(loop_scope="module")
ODD = "/usr/lib/liveroll/guest/odd_workload.py"
OTHER = 1001
"""uid of the guest's user `other`."""
HEARD = workloads.log_path("stranger")
STRANGER = f"exec /usr/bin/python3 -I -S {ODD} stranger {BROKER} vm-2 {OTHER} {HEARD} CLAIM"
HOLDER = "import os, signal; os.open('/dev/liveupdate', os.O_RDWR); print('held', flush=True); signal.pause()"


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def hands(lab: Lab, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Hands]:
    """A node on kernel a: a workload that suspends, one that knows luo-agent's README alone, and a
    stranger who wants its memory."""
    directory = tmp_path_factory.mktemp("by-hand")
    wanted = Wanted(
        nodes=1,
        workloads=(workloads.line("tickd", "vm-1"), workloads.line("luoclient", "vm-2"), STRANGER),
        files={
            **shelf(lab, directory / "artifacts", "a", "b"),
            ODD: GuestFile(Path(odd_workload.__file__).read_bytes()),
        },
    )
    async with Guest(directory / "guest", wanted, lab=lab) as guest:
        await guest.node.wait_boot()
        yield Hands(guest.node)


async def test_a_cancel_at_preserved_unwinds(hands: Hands) -> None:
    node = hands.node
    await hands.ready("vm-1", "vm-2")
    boot = await node.boot()
    before = {name: await memory_of(node, name) for name in ("vm-1", "vm-2")}
    assert (await hands.prepare("b"))["phase"] == "PRESERVED"
    assert len(await hands.luoctl("sessions")) == 2
    assert (await hands.luoctl("cancel"))["phase"] == "ABORTED"
    assert await hands.luoctl("sessions") == []
    assert (await node.read("/sys/kernel/kexec_loaded")).strip() == "0"
    assert await node.boot() == boot
    for name, memory in before.items():
        after = await memory_of(node, name)
        assert after.pid == memory.pid
        check_same(memory, after, workloads.MIB)
    assert await workloads.events_of(node, "vm-1") == ["fresh", "preserved", "released"]


async def test_a_held_device_is_waited_for(hands: Hands) -> None:
    node = hands.node
    holder = await node.exec("/usr/bin/python3", "-I", "-S", "-c", HOLDER, detach=True)
    await until(lambda: is_held(hands), "the device is held")
    digest = await hands.load("b")
    assert (await hands.luoctl("prepare", digest, "--no-wait"))["outcome"] == "ACCEPTED"
    await hands.until_phase("PRESERVING")
    # As long as it is held nothing goes on, and nothing fails.
    log = (await node.sh("cat /var/log/agent.log")).splitlines()
    assert await hands.phase() == "PRESERVING", log[-5:]
    await node.sh(f"kill {holder.pid}")
    await hands.until_phase("PRESERVED")


async def test_a_client_of_luo_agents_readme_comes_through_and_nobody_else_gets_its_memory(
    hands: Hands, lab: Lab
) -> None:
    """From PRESERVED, where the test before has left it."""
    node = hands.node
    await until(lambda: refusals(hands, 4), "the stranger was refused")
    unknown = (await heard(hands))["NO_SUCH_CLAIM"]
    boot = await node.boot()
    before = {name: await memory_of(node, name) for name in ("vm-1", "vm-2")}
    now = await hands.jump(boot)
    assert now.release == lab.kernels["b"].release
    assert await hands.until_settled() == "BAKING", await hands.events()
    for name, memory in before.items():
        check_same(memory, await memory_of(node, name), workloads.MIB)
    claimed = (await workloads.log_of(node, "vm-2"))[-1]
    assert (claimed["event"], claimed["intact"], claimed["finish"]) == ("claimed", True, 0)
    assert claimed["ticks"] >= before["vm-2"].ticks, "it ticks until the kernel stops it"
    there = await refusals(hands, 0)
    await until(lambda: refusals(hands, there + 4), "the stranger was refused in the new boot")
    # Unknown it was before its owner had subscribed; never in the boot that its memory came to.
    assert set(told := await heard(hands)) <= {"NOT_YOURS", "NO_SUCH_CLAIM"}
    assert told["NO_SUCH_CLAIM"] == unknown
    assert not any(fds for *_, fds in await answers(hands)), "no descriptor was handed to it"


async def test_somebody_elses_kexec(hands: Hands, lab: Lab) -> None:
    """It lands in a kernel that nobody prepared for, with what was preserved for another: brought back, told
    for what it was, and left to a person."""
    node = hands.node
    assert (await hands.prepare("a"))["phase"] == "PRESERVED"
    boot = await node.boot()
    jumps = await hands.jumps()
    before = {name: await memory_of(node, name) for name in ("vm-1", "vm-2")}
    await node.sh("/sbin/kexec -s -l /srv/b/vmlinuz --reuse-cmdline", timeout_s=60)
    await node.exec("/bin/sh", "-c", "sync; /sbin/kexec -e", detach=True)
    now = await node.wait_boot(after=boot)
    assert now.release == lab.kernels["b"].release
    assert await hands.until_settled() == "QUARANTINED", await hands.events()
    assert (await hands.luoctl("status"))["verdict"] == "FOREIGN_KEXEC"
    assert await hands.jumps() == jumps
    for name, memory in before.items():
        check_same(memory, await memory_of(node, name), workloads.MIB)


async def is_held(hands: Hands) -> bool:
    """Whether another open of the device is refused."""
    ran = await hands.node.exec("/bin/sh", "-c", "exec 3<>/dev/liveupdate")
    return ran.rc != 0 and "busy" in ran.stderr.lower()


async def answers(hands: Hands) -> list[Any]:
    """What the stranger has heard: [pid, command, event, reason, descriptors]."""
    told = await hands.node.exec("cat", HEARD)
    return [json.loads(line) for line in told.stdout.splitlines() if line.endswith("]")]


async def heard(hands: Hands) -> Counter[str]:
    """How often it was given each reason for a refusal; an answer that is none has none."""
    return Counter(reason for _, _, event, reason, _ in await answers(hands) if event)


async def refusals(hands: Hands, wanted: int) -> int:
    """How often it was refused what is another's, once that is `wanted` or more; else 0."""
    count = (await heard(hands))["NOT_YOURS"]
    return count if count >= wanted else 0
