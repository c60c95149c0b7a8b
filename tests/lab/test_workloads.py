"""A node full of workloads, and some that do not do what they should."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
import pytest_asyncio

from deploy.lab.alone import Guest
from deploy.lab.paths import Lab
from deploy.lab.wanted import Wanted
from tests.lab import workloads
from tests.lab.hands import Hands, shelf
from tests.lab.memory import Memory, check_same, memory_of

pytestmark = pytest.mark.asyncio(loop_scope="module")

EIGHT = tuple(f"vm-{number}" for number in range(1, 9))
MEMORY_MIB = 1024
"""Eight times 64 MiB, a kernel, an agent, and pages to spare for what is preserved of all of it."""
DRAINED = "/var/tmp/drained"
POLICY = 'unpreservable = "drain"'
HOOK = f"""
[hooks.drain_workload]
command = ["/bin/sh", "-c", "echo $LIVEROLL_WORKLOAD >>{DRAINED}; kill -KILL $(cat /var/tmp/odd.pid)"]
timeout_s = 30
"""


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def hands(lab: Lab, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Hands]:
    directory = tmp_path_factory.mktemp("many")
    wanted = Wanted(
        nodes=1,
        memory_mib=MEMORY_MIB,
        workloads=tuple(workloads.line("tickd", name) for name in EIGHT),
        files=shelf(lab, directory / "artifacts", "b"),
    )
    async with Guest(directory / "guest", wanted, lab=lab) as guest:
        await guest.node.wait_boot()
        hands = Hands(guest.node)
        await hands.ready(*EIGHT)
        yield hands


@asynccontextmanager
async def odd(hands: Hands, fault: str) -> AsyncIterator[None]:
    """One more workload, with that fault, for as long as this context lasts."""
    line = workloads.line(f"tickd --fault {fault}", "odd", mib=1)
    await hands.node.exec("/bin/sh", "-c", f"echo $$ >/var/tmp/odd.pid; {line}", detach=True)
    await hands.ready("odd")
    yield
    await hands.node.sh("kill -KILL $(cat /var/tmp/odd.pid)", check=False)


async def check_untouched(hands: Hands, before: dict[str, Memory], boot: object) -> None:
    """All eight go on as if nothing had been."""
    assert await hands.phase() == "ABORTED", await hands.events()
    assert (await hands.node.boot(), await hands.jumps()) == (boot, 0)
    for name, memory in before.items():
        after = await memory_of(hands.node, name)
        assert after.pid == memory.pid
        check_same(memory, after, workloads.MIB)


async def memories(hands: Hands, names: tuple[str, ...]) -> dict[str, Memory]:
    return {name: await memory_of(hands.node, name) for name in names}


async def test_one_that_dies_after_ready_is_not_taken_as_preserved(hands: Hands) -> None:
    boot, before = await hands.node.boot(), await memories(hands, EIGHT[:2])
    async with odd(hands, "die-after-ready"):
        told = await hands.prepare("b")
    assert (told["phase"], told["problem"]["fields"]["workload"]) == ("ABORTED", "odd"), told
    assert told["problem"]["reason"] == "WORKLOAD_DIED"
    await check_untouched(hands, before, boot)


async def test_one_that_cannot_be_preserved_refuses_the_update_by_name(hands: Hands) -> None:
    boot, before = await hands.node.boot(), await memories(hands, EIGHT[:2])
    async with odd(hands, "unpreservable"):
        told = await hands.prepare("b")
    assert told["phase"] == "ABORTED"
    assert told["problem"]["reason"] == "WORKLOAD_UNPRESERVABLE"
    assert told["problem"]["message"].startswith("workload odd cannot be preserved: PRESERVE_FD: E")
    await check_untouched(hands, before, boot)


async def test_eight_come_through_and_one_that_cannot_is_drained_by_policy(hands: Hands, lab: Lab) -> None:
    node = hands.node
    toml = await node.read("/etc/liveroll/agent.toml")
    await node.write("/etc/liveroll/agent.toml", toml.replace("[broker]", f"[broker]\n{POLICY}") + HOOK)
    await node.kill_agent(signal="TERM")
    await hands.ready(*EIGHT)
    boot, before = await node.boot(), await memories(hands, EIGHT)
    async with odd(hands, "unpreservable"):
        told = await hands.prepare("b")
        assert told["phase"] == "PRESERVED", told
        assert (await node.read(DRAINED)).split() == ["odd"]
        assert {row["workload"] for row in await hands.luoctl("sessions")} == set(EIGHT)
        now = await hands.jump(boot)
    assert now.release == lab.kernels["b"].release
    assert await hands.until_settled() == "BAKING", await hands.events()
    for name, memory in before.items():
        check_same(memory, await memory_of(node, name), workloads.MIB)
        log = await workloads.log_of(node, name)
        assert [entry["event"] for entry in log][-4:] == ["preserved", "suspended", "claimed", "resumed"]
        assert log[-1]["intact"] is True
    (preserved,) = [r.report for r in await hands.journal() if r.report.get("event") == "Preserved"][-1:]
    assert "workload odd cannot be preserved" in json.dumps(preserved), "who was left behind is kept"
