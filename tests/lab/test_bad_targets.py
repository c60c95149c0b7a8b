"""Targets that cannot take over, forced past preflight on the node itself: each ends as the tables say.

The kernel checks none of it, so these are what preflight spares a node. In this order, because what each
leaves behind is ended by a cold boot.
"""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

from deploy.lab.alone import Guest
from deploy.lab.paths import Lab
from deploy.lab.wanted import Wanted
from tests.lab import workloads
from tests.lab.hands import Hands, Refused, shelf
from tests.lab.waiting import until

pytestmark = pytest.mark.asyncio(loop_scope="module")
FORCED = ("--skip-preflight", "--force")
"""--force: an operator's word, since each test begins where the one before has ended badly."""


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def hands(lab: Lab, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Hands]:
    directory = tmp_path_factory.mktemp("bad")
    wanted = Wanted(
        nodes=1,
        workloads=(workloads.line("tickd", "vm-1"),),
        files=shelf(lab, directory / "artifacts", "otherabi", "nokho", "nomemfd"),
    )
    async with Guest(directory / "guest", wanted, lab=lab) as guest:
        await guest.node.wait_boot()
        yield Hands(guest.node)


async def refused(hands: Hands, kernel: str) -> str:
    """Why luoctl, unforced, refuses it: untouched by that."""
    before = await workloads.events_of(hands.node, "vm-1")
    generation = len(await hands.events())
    with pytest.raises(Refused) as info:
        told = await hands.prepare(kernel, "--force")
        raise Refused(("prepare", kernel), 0, {"error": told["problem"]})
    assert await workloads.events_of(hands.node, "vm-1") == before, "it was never asked for anything"
    assert len(await hands.events()) >= generation
    return info.value.reason


async def test_another_abi_is_a_panic_and_a_cold_boot(hands: Hands, lab: Lab) -> None:
    node = hands.node
    await hands.ready("vm-1")
    assert await refused(hands, "otherabi") == "TARGET_ABI_DIFFERS"
    boot, since = await node.boot(), node.console.size
    told = await hands.prepare("otherabi", *FORCED)
    assert (told["phase"], told["skipped"]) == ("PRESERVED", ["TARGET_ABI_DIFFERS"])
    now = await hands.jump(boot)
    await node.console.wait_for("Kernel panic", timeout_s=5, since=since)
    assert (now.release, (await node.status())["boots"]) == (lab.kernels["a"].release, 2)
    assert await hands.until_settled() == "COLD_BOOTED"
    assert (await hands.luoctl("status"))["verdict"] == "COLD_BOOT"
    await lost(hands, 1)


async def test_no_kho_is_state_lost(hands: Hands, lab: Lab) -> None:
    node = hands.node
    await hands.ready("vm-1")
    assert await refused(hands, "nokho") == "TARGET_CONFIG"
    boot = await node.boot()
    told = await hands.prepare("nokho", *FORCED)
    assert told["phase"] == "PRESERVED", told
    now = await hands.jump(boot)
    assert (now.release, (await node.status())["boots"]) == (lab.kernels["nokho"].release, 2), (
        "a kexec, no reset"
    )
    assert await hands.until_settled() == "COLD_BOOTED", await hands.events()
    assert (await hands.luoctl("status"))["verdict"] == "STATE_LOST"
    await lost(hands, 2)
    await node.power("reset")
    assert (await node.wait_boot(after=now)).release == lab.kernels["a"].release


async def test_no_handler_is_a_poisoned_boot(hands: Hands, lab: Lab) -> None:
    node = hands.node
    await hands.ready("vm-1")
    assert await refused(hands, "nomemfd") == "TARGET_CONFIG"
    boot = await node.boot()
    told = await hands.prepare("nomemfd", *FORCED)
    assert told["phase"] == "PRESERVED", told
    now = await hands.jump(boot)
    assert (now.release, (await node.status())["boots"]) == (lab.kernels["nomemfd"].release, 3)
    assert await hands.until_settled() == "QUARANTINED", await hands.events()
    status = await hands.luoctl("status")
    assert status["verdict"] == "POISONED"
    await lost(hands, 3)
    # A cold boot ends the poison, not the quarantine: that takes a person.
    await node.power("reset")
    assert (await node.wait_boot(after=now)).release == lab.kernels["a"].release
    assert (await hands.ready("vm-1"))["phase"] == "QUARANTINED"


async def lost(hands: Hands, fresh: int) -> None:
    """The workload, which has begun anew `fresh` times before, does so again."""

    async def anew() -> bool:
        return (await workloads.events_of(hands.node, "vm-1")).count("fresh") == fresh + 1

    await until(anew, "the workload begins anew")
    assert "claimed" not in await workloads.events_of(hands.node, "vm-1")
