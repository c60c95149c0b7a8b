"""What the boot after `luoctl kexec DIGEST` is called, at every settled state, and what is not called so."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import replace

import pytest

from node_agent.core import commands as cmd
from node_agent.core.phases import Phase, Verdict
from node_agent.core.report import Report
from node_agent.kernel.emulated.model import LuoModel
from node_agent.kernel.emulated.node import _End
from node_agent.kernel.faults import FaultPlan
from node_agent.luoctl_view import RENDER
from node_agent.ports import BootFacts, KexecImage
from tests.unit.agent_app.luo_node import COUPLINGS, LuoNode, luo_node
from tests.unit.runner.lab import NEW, Trouble

pytestmark = pytest.mark.parametrize("kind", COUPLINGS)


def named(node: LuoNode) -> Report:
    """The report that names this boot."""
    reports = [report for report in node.lab.runner.reports() if report.event == "BootClassified"]
    return reports[-1]


async def said(node: LuoNode) -> tuple[str, bool]:
    """luoctl status: the verdict, and whether it was by hand."""
    told = await node.ask("status")
    return told["verdict"], told["by_hand"]


async def rebooted(node: LuoNode, how: Callable[[], object]) -> None:
    """It happens, and the next agent is there."""
    before = node.lab.runner
    how()
    await node.lab.base.until(lambda: node.lab.runner is not before and node.lab.runner.ready.is_set())


async def idle(_node: LuoNode) -> Phase:
    return Phase.IDLE


async def committed(node: LuoNode) -> Phase:
    assert await node.lab.update() is Phase.BAKING
    node.lab.runner.submit(cmd.Commit("commit", node.lab.ref()))
    return await node.lab.reach(Phase.COMMITTED)


async def aborted(node: LuoNode) -> Phase:
    node.lab.runner.submit(node.lab.prepare())
    await node.lab.reach(Phase.PRESERVED)
    await node.ask("cancel", no_wait=True)
    return await node.lab.settle()


async def awaiting_rollback(node: LuoNode) -> Phase:
    node.lab.hooks.health = lambda: (False, "its probe fails")
    return await node.lab.update()


async def cold_booted(node: LuoNode) -> Phase:
    node.lab.runner.submit(node.lab.prepare())
    await node.lab.reach(Phase.PRESERVED)
    await rebooted(node, node.lab.node.power_loss)
    return await node.lab.settle()


@pytest.mark.parametrize("state", [idle, committed, aborted, awaiting_rollback, cold_booted])
async def test_it_is_told_for_what_it_was(kind: str, state: Callable[[LuoNode], Awaitable[Phase]]) -> None:
    async with luo_node(kind) as node:
        phase = await state(node)
        before = node.lab.runner.status()
        await node.ask("prepare")
        await node.kexec()
        assert await said(node) == ("FOREIGN_KEXEC", True)
        assert "(FOREIGN_KEXEC, by hand)" in "\n".join(RENDER["status"](await node.ask("status")))
        report, status = named(node), node.lab.runner.status()
        assert (report.boot_verdict, report.release) == (Verdict.FOREIGN_KEXEC, NEW)
        assert report.problem is not None
        assert report.problem.fields["by_hand"] == "kexec"
        if before.problem is None:
            assert report.problem.reason == "LUO_BY_HAND"
        else:
            assert report.problem.reason == before.problem.reason, "what is wrong is told on"
        assert (status.phase, status.healthy, status.problem) == (phase, before.healthy, before.problem)
        assert (await node.lab.runner.hello()).boot_verdict is Verdict.FOREIGN_KEXEC
        await node.ask("finish")


async def test_a_restart_in_that_boot_says_so_still(kind: str) -> None:
    async with luo_node(kind) as node:
        await node.ask("prepare")
        await node.kexec()
        count = len(node.story())
        await rebooted(node, node.lab.crash)
        assert await said(node) == ("SAME_BOOT", True)
        assert len(node.story()) == count, "a restart that changes nothing is not told"
        await node.ask("finish")
        await rebooted(node, node.lab.node.power_loss)
        assert await said(node) == ("COLD_BOOT", False)


@pytest.mark.parametrize("happens", ["crash", "power"])
async def test_one_that_never_came_names_no_later_boot(kind: str, happens: str) -> None:
    """It was journalled, and the agent, or the node, died before the reboot."""
    async with luo_node(kind) as node:
        node.lab.troubles.append(Trouble("kernel.load", 1, "before", happens))
        node.end_workloads()
        await node.ask("prepare")
        going: list[asyncio.Task[object]] = []
        await rebooted(node, lambda: going.append(asyncio.create_task(node.ask("kexec", artifact="n"))))
        going[0].cancel()
        assert await said(node) == ("SAME_BOOT" if happens == "crash" else "COLD_BOOT", False)
        assert node.lab.runner.node.kexec_by_hand is None
        await somebodys_kexec(node)
        assert await said(node) == ("COLD_BOOT", False)


async def test_one_that_failed_names_no_later_boot(kind: str) -> None:
    async with luo_node(kind, faults=FaultPlan.parse("refuse_freeze@1")) as node:
        node.end_workloads()
        await node.ask("prepare")
        assert await node.refused(node.ask("kexec", artifact="n")) == "FREEZE_REFUSED"
        assert node.lab.runner.node.kexec_by_hand is None
        await somebodys_kexec(node)
        assert await said(node) == ("COLD_BOOT", False)


async def test_one_that_panicked_was_a_cold_boot(kind: str) -> None:
    async with luo_node(kind, faults=FaultPlan.parse("panic@1")) as node:
        await node.ask("prepare")
        await node.kexec()
        assert await said(node) == ("COLD_BOOT", False)


async def test_another_kexec_before_the_agent_came_is_not_by_hand(kind: str) -> None:
    """Nobody's record leads to that boot: the count tells of two."""
    async with luo_node(kind) as node:
        await node.ask("prepare")
        node.lab.troubles.append(Trouble("kernel.telemetry", 1, "before", "hang"))
        before = node.lab.runner
        node.end_workloads()
        going = asyncio.create_task(node.ask("kexec", artifact="n"))
        await node.lab.base.until(lambda: node.lab.runner is not before)
        going.cancel()
        await somebodys_kexec(node)
        assert await said(node) == ("COLD_BOOT", False)


@pytest.mark.parametrize("says", ["luo", "telemetry", "nothing"])
async def test_where_the_kernel_does_not_count(kind: str, says: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """That LUO is updated says as much, or telemetry. Where all are silent nothing is guessed."""
    facts = LuoModel.facts

    def told(model: LuoModel) -> BootFacts:
        found = replace(facts(model), kexec_count=0)
        hidden = says != "luo" and found.luo_state == "updated"
        return replace(found, luo_state="normal") if hidden else found

    monkeypatch.setattr(LuoModel, "facts", told)
    if says != "telemetry":
        monkeypatch.setattr(LuoModel, "telemetry", lambda _: None)
    async with luo_node(kind) as node:
        await node.ask("prepare")
        await node.kexec()
        assert await said(node) == (("COLD_BOOT", False) if says == "nothing" else ("FOREIGN_KEXEC", True))
        node.lab.luo.finish()


async def somebodys_kexec(node: LuoNode) -> None:
    """As systemctl kexec does, past the agent."""
    model = node.lab.node.model
    model.load(KexecImage("/kernel", "", "quiet", NEW))
    LuoModel.freeze(model)
    await rebooted(node, lambda: node.lab.node._end(_End.KEXEC))
