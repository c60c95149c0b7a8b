"""luoctl in LUO's own words where it does not come to much: sessions, LUO off, hung calls, a full disk, a
kexec that is refused; and what telemetry says."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import replace
from typing import NoReturn

import pytest

from node_agent.app_luo import INSTEAD
from node_agent.core import commands as cmd
from node_agent.core.phases import Phase
from node_agent.kernel.emulated.image import EmulatedImage, ImageTable
from node_agent.kernel.emulated.inprocess import InProcessKernel
from node_agent.kernel.faults import FaultPlan
from node_agent.luoctl_view import RENDER
from node_agent.ports import Kernel, LiveUpdateAbi
from node_agent.runtime.runner import INBOX
from node_agent.runtime.runner_effects import HostedDisks
from node_agent.workloads.inprocess import InProcessWorkloads
from tests.unit.agent_app.luo_node import COUPLINGS, NEW_DIGEST, luo_node
from tests.unit.runner.lab import NOTIFIER, OLD

SESSIONS = "sessions"
CONTENT = b"by hand"


async def test_a_kernel_with_sessions_says_what_to_use_instead() -> None:
    async with luo_node(SESSIONS) as node:
        asked = {
            "state": node.ask("state"),
            "prepare": node.ask("prepare"),
            "freeze": node.ask("freeze"),
            "finish": node.ask("finish"),
            "preserve": node.preserve_bytes(CONTENT),
            "unpreserve": node.ask("unpreserve", token=0),
            "restore": node.ask("restore", token=0),
            "list": node.ask("list"),
            "kexec": node.ask("kexec", artifact=NEW_DIGEST),
        }
        for verb, work in asked.items():
            assert await node.refused(work) == "VERB_UNKNOWN_HERE", verb
        assert asked.keys() | {"telemetry"} == INSTEAD.keys()
        assert await node.refused(node.ask("cancel")) == "NO_ATTEMPT", "cancel is an attempt's, as ever"
        assert "ByHand" not in " ".join(node.story()), "nothing was done"
        node.lab.runner.submit(node.lab.prepare())
        await node.lab.reach(Phase.PRESERVED)
        assert await node.refused(node.ask("prepare")) == "VERB_UNKNOWN_HERE"
        await node.ask("cancel", no_wait=True)
        assert await node.lab.settle() is Phase.ABORTED


@pytest.mark.parametrize("kind", COUPLINGS)
async def test_where_luo_is_off(kind: str) -> None:
    off = EmulatedImage.rfc2(OLD, coupling=kind, liveupdate=False)
    async with luo_node(kind, image=off) as node:
        assert (await node.ask("state"))["state"] == "off"
        assert RENDER["state"](await node.ask("state"))[-1].startswith("next      boot with kho=on")
        for work in (
            node.ask("prepare"),
            node.ask("list"),
            node.ask("cancel"),
            node.preserve_bytes(CONTENT),
            node.ask("restore", token=0),
        ):
            assert await node.refused(work) == "LUO_OFF"
    async with luo_node(kind, image=replace(off, kho=False)) as node:
        assert await node.refused(node.ask("freeze")) == "LUO_OFF"


@pytest.mark.parametrize("kind", COUPLINGS)
async def test_a_call_that_hangs_is_given_up_and_the_agent_goes_on(kind: str) -> None:
    async with luo_node(kind, faults=FaultPlan.parse("hang=prepare")) as node:
        asked = asyncio.create_task(node.ask("prepare"))
        behind = asyncio.create_task(node.ask("finish"))
        await node.lab.base.until(asked.done)
        assert await node.refused(asked) == "BY_HAND_TIMEOUT"
        assert node.story()[-3:-1] == ["ByHandPrepare", "ByHandPrepareFailed"]
        await node.lab.base.until(behind.done)
        assert await node.refused(behind) == "BY_HAND_TIMEOUT", "the kernel holds its lock"
        assert (await node.ask("state"))["state"] == "normal", "reading always works"


@pytest.mark.parametrize("kind", COUPLINGS)
async def test_what_cannot_be_journalled_is_not_done(kind: str) -> None:
    async with luo_node(kind) as node:
        node.lab.disk.full = True
        assert await node.refused(node.ask("prepare")) == "JOURNAL_FULL"
        node.lab.disk.full = False
        assert await node.ask("prepare") == {"event": "prepare", "state": "prepared"}


async def test_a_kexec_by_hand_asks_preflight() -> None:
    """A node never kexecs from one model into the other with preserved state."""
    async with luo_node(NOTIFIER, images=ImageTable(otherwise=EmulatedImage(""))) as node:
        await node.preserve_bytes(CONTENT)
        await node.ask("prepare")
        node.lab.artifacts.says = LiveUpdateAbi("kho-v4", "luo-v5", {"memfd": "memfd-v2"})
        assert await node.refused(node.ask("kexec", artifact="n")) == "TARGET_MODEL_DIFFERS"
        assert not node.lab.node.model.loaded
        assert "ByHandKexec" not in node.story()
        before = node.lab.runner
        going = asyncio.create_task(node.ask("kexec", artifact="n", skip_preflight=True))
        await node.lab.base.until(lambda: node.lab.runner is not before and node.lab.runner.ready.is_set())
        going.cancel()
        assert await node.refused(node.ask("state")) == "VERB_UNKNOWN_HERE", "on a person's word"
        assert node.lab.node.model.leaked_bytes > len(CONTENT), "and it is lost"


@pytest.mark.parametrize("kind", COUPLINGS)
async def test_a_kexec_by_hand_of_what_is_not_prepared(kind: str) -> None:
    async with luo_node(kind) as node:
        lost = await node.refusal(node.ask("kexec", artifact="n"))
        assert (lost.reason, "vm-0" in lost.message) == ("WORKLOADS_WOULD_LOSE_MEMORY", True)
        node.end_workloads()
        unready = await node.refusal(node.ask("kexec", artifact="n"))
        assert (unready.reason, "`luoctl prepare` first" in unready.remedy) == ("NOT_PREPARED", True)
        assert await node.refused(node.ask("prepare", command_line="\ud800")) == "BAD_REQUEST"
        assert await node.refused(node.ask("kexec", artifact="n", command_line="a\0")) == "BAD_REQUEST"
        assert not node.lab.node.model.loaded, "nothing stays behind"
        assert node.story()[-2:] == ["ByHandKexec", "ByHandKexecFailed"]
        assert await node.refused(node.ask("kexec", artifact="x")) == "BAD_REQUEST"


class Disk(HostedDisks):
    """One that is not got ready: it fails so, or hangs."""

    def __init__(self, error: Exception | None = None) -> None:
        self.error, self.let_go_of = error, 0

    async def settle(self) -> None:
        if self.error is not None:
            raise self.error
        await asyncio.get_running_loop().create_future()

    async def let_go(self) -> None:
        self.let_go_of += 1


@pytest.mark.parametrize("kind", COUPLINGS)
@pytest.mark.parametrize("hangs", ["disk", "load", "unload", "reboot's disk"])
async def test_a_kexec_by_hand_that_hangs_is_given_up_and_undone(kind: str, hangs: str) -> None:
    """In the runner's only turn: no attempt, and no other deed, would ever have one again."""

    class Freezing(Disk):
        async def settle(self) -> None:
            pass

        async def jump(self, kernel: Kernel, last: Callable[[], None], left_s: float) -> NoReturn:
            raise TimeoutError

    faults = FaultPlan.parse(f"hang={hangs}" if "load" in hangs else "")
    async with luo_node(kind, faults=faults) as node:
        disk = Freezing() if hangs == "reboot's disk" else Disk()
        node.lab.runner._ports = replace(node.lab.runner._ports, disks=disk)
        node.end_workloads()
        await node.ask("prepare")
        begun_s = node.lab.base.now()
        asked = asyncio.create_task(node.ask("kexec", artifact="n"))
        await node.lab.base.until(asked.done, limit_s=130.0)
        late = await node.refusal(asked)
        assert (late.reason, "within 60 s" in late.message) == ("BY_HAND_TIMEOUT", True)
        assert node.lab.base.now() - begun_s <= {"reboot's disk": 1, "unload": 120}.get(hangs, 60)
        assert (disk.let_go_of, node.lab.node.model.loaded) == (1, hangs == "unload")
        assert node.story()[-2:] == ["ByHandKexec", "ByHandKexecFailed"]
        assert (await node.ask("cancel"))["state"] == "normal", "the runner goes on"


@pytest.mark.parametrize("kind", COUPLINGS)
@pytest.mark.parametrize(("port", "asked"), [(InProcessWorkloads, "subscribers"), (InProcessKernel, "facts")])
async def test_a_look_that_hangs_before_a_kexec_by_hand_is_given_up(
    kind: str, port: type, asked: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In the runner's turn, as the load is."""
    real = getattr(port, asked)

    async def hangs(self: object) -> object:
        if node.story()[-1] == "ByHandKexec":
            await asyncio.get_running_loop().create_future()
        return await real(self)

    async with luo_node(kind) as node:
        await node.ask("prepare")
        monkeypatch.setattr(port, asked, hangs)
        going = asyncio.create_task(node.ask("kexec", artifact="n", skip_preflight=True))
        await node.lab.base.until(going.done, limit_s=130.0)
        assert await node.refused(going) == "BY_HAND_TIMEOUT"
        assert (await node.ask("cancel"))["state"] == "normal", "the runner goes on"


@pytest.mark.parametrize("kind", COUPLINGS)
async def test_a_kexec_by_hand_that_fails_in_a_way_nobody_foresaw_is_undone(kind: str) -> None:
    async with luo_node(kind) as node:
        disk = Disk(ValueError("a mount point of no known encoding"))
        node.lab.runner._ports = replace(node.lab.runner._ports, disks=disk)
        node.end_workloads()
        await node.ask("prepare")
        assert await node.refused(node.ask("kexec", artifact="n")) == "INTERNAL"
        assert (disk.let_go_of, node.lab.node.model.loaded) == (1, False)
        assert (await node.ask("cancel"))["state"] == "normal"


@pytest.mark.parametrize("kind", COUPLINGS)
async def test_a_kexec_by_hand_is_of_no_attempt(kind: str) -> None:
    """The word of the attempt that started this kernel is not passed on."""
    async with luo_node(kind) as node:
        lab = node.lab
        assert await lab.update() is Phase.BAKING
        assert await node.ask("prepare") == {"event": "prepare", "state": "prepared"}
        assert await node.refused(node.ask("kexec", artifact="o")) == "UNCOMMITTED"
        await node.ask("cancel", no_wait=True)
        lab.runner.submit(cmd.Commit("commit", lab.ref()))
        assert await lab.reach(Phase.COMMITTED)
        assert "liveroll.attempt=" in lab.node.model.facts().command_line
        token = await node.preserve_bytes(CONTENT)
        await node.ask("prepare")
        await node.kexec()
        assert "liveroll.attempt=" not in lab.node.model.facts().command_line
        assert lab.phase is Phase.COMMITTED
        assert await node.restore(token) == CONTENT
        await node.ask("finish")
        assert await lab.update(2) in (Phase.BAKING, Phase.COMMITTED)


@pytest.mark.parametrize("kind", [SESSIONS, *COUPLINGS])
async def test_telemetry_is_told_wherever_a_kernel_tells(kind: str) -> None:
    async with luo_node(kind) as node:
        reason = await node.refused(node.ask("telemetry"))
        assert reason == ("VERB_UNKNOWN_HERE" if kind == SESSIONS else "NO_TELEMETRY"), "nothing led here"
        assert await node.lab.update() is Phase.BAKING
        if kind == SESSIONS:
            assert await node.refused(node.ask("telemetry")) == "VERB_UNKNOWN_HERE"
            return
        told = await node.ask("telemetry")
        assert told["source"] == "telemetry"
        # The lab's phases: 0.1 s, 0.2 s, 0.7 s.
        assert told["phases_ms"] == pytest.approx({"shutdown": 100, "purgatory": 200, "boot": 700}, rel=1e-6)
        assert told["total_ms"] == pytest.approx(1000, rel=1e-6)
        stamps = [
            told["tsc"][name] for name in ("shutdown_tsc", "purgatory_tsc", "kernel_tsc", "userspace_tsc")
        ]
        assert stamps == sorted(stamps)
        assert node.lab.node.model.release != OLD
        lines = RENDER["telemetry"](told)
        assert lines[-1] == "source: telemetry (emulated)"
        assert len(lines) == 7


@pytest.mark.parametrize("kind", COUPLINGS)
async def test_a_deed_waits_for_its_turn_behind_an_attempt_that_begins(kind: str) -> None:
    async with luo_node(kind) as node:
        node.lab.runner.submit(node.lab.prepare())
        assert await node.refused(node.ask("prepare")) == "ATTEMPT_UNDER_WAY"
        assert await node.lab.reach(Phase.PRESERVED)
        assert "ByHandPrepare" not in node.story()


@pytest.mark.parametrize("kind", COUPLINGS)
async def test_an_attempt_waits_for_a_deed_that_was_there_first(kind: str) -> None:
    async with luo_node(kind) as node:
        asked = asyncio.create_task(node.ask("prepare"))
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        node.lab.runner.submit(node.lab.prepare())
        assert (await asked)["state"] == "prepared"
        assert await node.lab.settle() is Phase.ABORTED
        assert node.lab.problem() == "LUO_NOT_NORMAL"
        assert node.state == "prepared", "and it is not undone"


@pytest.mark.parametrize("kind", COUPLINGS)
async def test_whoever_went_away_before_his_turn_gets_nothing_done(kind: str) -> None:
    async with luo_node(kind, faults=FaultPlan.parse("hang=finish")) as node:
        hangs = asyncio.create_task(node.ask("finish"))
        await node.lab.base.until(lambda: node.story()[-1] == "ByHandFinish")
        waits = asyncio.create_task(node.ask("freeze"))
        await node.lab.base.until(lambda: not node.lab.runner._inbox.empty())
        waits.cancel()
        await node.lab.base.until(hangs.done)
        assert await node.refused(hangs) == "BY_HAND_TIMEOUT"
        await node.lab.base.until(node.lab.runner._inbox.empty)
        assert "ByHandFreeze" not in node.story()


@pytest.mark.parametrize("kind", COUPLINGS)
async def test_an_inbox_that_is_full(kind: str) -> None:
    async with luo_node(kind, faults=FaultPlan.parse("hang=finish")) as node:
        hangs = asyncio.create_task(node.ask("finish"))
        await node.lab.base.until(lambda: node.story()[-1] == "ByHandFinish")
        others = [asyncio.create_task(node.ask("freeze")) for _ in range(INBOX)]
        await node.lab.base.until(node.lab.runner._inbox.full)
        assert await node.refused(node.ask("freeze")) == "AGENTBUSY"
        for task in (hangs, *others):
            task.cancel()


@pytest.mark.parametrize("kind", COUPLINGS)
async def test_a_journal_that_fails_halts_the_agent_before_the_deed(kind: str) -> None:
    async with luo_node(kind) as node:
        node.lab.disk.fail_sync = True
        assert await node.refused(node.ask("prepare")) == "JOURNAL_UNAVAILABLE"
        assert node.state == "normal"
        assert node.lab.phase is Phase.QUARANTINED
        assert await node.refused(node.ask("prepare")) == "JOURNAL_UNAVAILABLE", "for as long as it lives"
        assert (await node.ask("state"))["state"] == "normal"


@pytest.mark.parametrize("kind", COUPLINGS)
async def test_a_freeze_that_is_refused(kind: str) -> None:
    """Where the couplings differ: with the notifier KHO stays finalized, and nothing else can be prepared."""
    async with luo_node(kind, faults=FaultPlan.parse("refuse_freeze@1")) as node:
        token = await node.preserve_bytes(CONTENT)
        await node.ask("prepare")
        assert await node.refused(node.ask("freeze")) == "FREEZE_REFUSED"
        told = await node.ask("state")
        assert (told["state"], told["kho_finalized"]) == ("normal", kind == NOTIFIER)
        assert [file["token"] for file in await node.ask("list")] == [token]
        if kind == NOTIFIER:
            assert "(cold)" in (await node.refusal(node.ask("freeze"))).remedy
        following = RENDER["state"](told)[-1]
        if kind == NOTIFIER:
            assert following.startswith("next      reboot in full")
            assert await node.refused(node.ask("prepare")) == "KHO_FINALIZED"
        else:
            assert following.startswith("next      luoctl preserve")
            await node.ask("prepare")


@pytest.mark.parametrize("kind", COUPLINGS)
async def test_a_prepare_that_is_refused(kind: str) -> None:
    async with luo_node(kind, faults=FaultPlan.parse("refuse_prepare=EIO@1")) as node:
        await node.preserve_bytes(CONTENT)
        assert await node.refused(node.ask("prepare")) == "PREPARE_REFUSED"
        assert (await node.ask("state"))["kho_finalized"] is False
        assert [file["state"] for file in await node.ask("list")] == ["registered"]
