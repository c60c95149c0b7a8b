"""RFC v2's device at every ioctl of an attempt: the agent crashes, power fails, the call fails or hangs.

A crash after FD_PRESERVE and before the journal's record leaves tokens that nobody was told of.
"""

from __future__ import annotations

import pytest

from node_agent.core.phases import Phase
from node_agent.kernel.emulated.node import Boot as NodeBoot
from node_agent.kernel.tokens import TokenSessions
from tests.unit.runner.lab import Lab, Trouble, Watched
from tests.unit.runner.test_every_step import again_until_baking, check

P = Phase
RFC2 = pytest.mark.kernels("notifier", "luo-driven")

PRESERVING = [*(("device.preserve", n) for n in range(1, 5)), ("device.prepare", 1)]
"""Two workloads' memory, the agent's token and its marks."""
RESTORING = [("device.restore", n) for n in range(1, 5)]
LOST = {
    ("device.restore", 1, "after"): "STATE_LOST",
    ("device.restore", 2, "before"): "STATE_LOST",
    ("device.restore", 2, "after"): "STATE_LOST",
    ("device.restore", 3, "after"): "ALREADY_RESTORED",
    ("device.restore", 4, "after"): "ALREADY_RESTORED",
}
"""What was restored dies with the process that has it: the kernel restores it once. Without its token the
agent cannot say that this boot is its own, and brings all memory back; a workload's is lost with it."""
UNWINDING = [("device.cancel", 1), *(("device.unpreserve", n) for n in range(1, 5))]
MOMENTS = ["before", "after"]
REFUSED = Trouble("workloads.suspend", 1, "after", "fail")


class IoctlLab(Lab):
    """A lab whose script knows the device's calls, too."""

    async def _userspace(self, boot: NodeBoot) -> None:
        tokens = boot.kernel.sessions
        assert isinstance(tokens, TokenSessions)
        tokens.device = Watched(self, "device", tokens.device)  # type: ignore[assignment]
        await super()._userspace(boot)


def clean(lab: Lab) -> None:
    check(lab)
    assert lab.node.model.rfc2 is not None
    assert str(lab.node.model.rfc2.state) == "normal"
    assert len(lab.node.model.rfc2.memory) == 0, "something is kept that nobody will ever ask for"


def named(call: tuple[str, int]) -> str:
    return f"{call[0].partition('.')[2]}-{call[1]}"


@RFC2
@pytest.mark.parametrize("moment", MOMENTS)
@pytest.mark.parametrize("call", [*PRESERVING, *RESTORING, ("device.finish", 1)], ids=named)
async def test_the_agent_crashes(call: tuple[str, int], moment: str) -> None:
    async with IoctlLab(Trouble(*call, moment, "crash")) as lab:
        lost = LOST.get((*call, moment))
        if lost is None:
            await again_until_baking(lab)
            clean(lab)
        else:
            assert await lab.update() is P.QUARANTINED
            assert lab.problem() == lost
        assert not lab.troubles
        await lab.base.until(lambda: not lab.suspended())
        if lost != "ALREADY_RESTORED":
            clean(lab)
        assert lab.phase is (P.BAKING if lost is None else P.QUARANTINED)


@RFC2
@pytest.mark.parametrize("moment", MOMENTS)
@pytest.mark.parametrize("call", UNWINDING, ids=named)
async def test_the_agent_crashes_while_it_unwinds(call: tuple[str, int], moment: str) -> None:
    async with IoctlLab(REFUSED, Trouble(*call, moment, "crash")) as lab:
        assert await lab.update() is P.ABORTED
        assert not lab.troubles
        clean(lab)
        assert await lab.update(2) is P.BAKING


@RFC2
@pytest.mark.parametrize("call", [*PRESERVING, *RESTORING, ("device.finish", 1)], ids=named)
async def test_the_power_fails(call: tuple[str, int]) -> None:
    async with IoctlLab(Trouble(*call, "after", "power")) as lab:
        await lab.update()
        assert lab.phase is P.COLD_BOOTED
        clean(lab)
        assert await lab.update(5, operator_word=True) is P.BAKING


@RFC2
@pytest.mark.parametrize("moment", MOMENTS)
@pytest.mark.parametrize("action", ["fail", "hang"])
@pytest.mark.parametrize("call", PRESERVING, ids=named)
async def test_preserving_fails_or_is_cut_short(call: tuple[str, int], action: str, moment: str) -> None:
    async with IoctlLab(Trouble(*call, moment, action)) as lab:
        assert await lab.update() is P.ABORTED
        clean(lab)
        assert not lab.hooks.drained
        assert await lab.update(2) is P.BAKING


@RFC2
async def test_a_cancel_that_fails_quarantines_with_its_reason_and_the_workloads_run() -> None:
    async with IoctlLab(REFUSED, Trouble("device.cancel", 1, "before", "fail")) as lab:
        assert await lab.update() is P.QUARANTINED
        problem = lab.runner.status().problem
        assert problem is not None
        assert problem.reason == "KERNEL_CALL_FAILED"
        assert problem.fields["unwinding_because"] == "WORKLOAD_FAILED"
        assert not lab.suspended()
        assert not lab.hooks.drained
        assert not lab.node.model.loaded
        assert lab.workloads is not None
        assert not any(peer.session for peer in await lab.workloads.peers()), "every workload was let go"
        luo = lab.luo
        assert str(luo.state) == "prepared"
        assert await lab.update(2, operator_word=True) is P.QUARANTINED
        assert lab.problem() == "LUO_NOT_NORMAL"
        luo.cancel()
        assert await lab.update(3, operator_word=True) is P.QUARANTINED
        assert lab.problem() == "PRESERVED_BY_HAND"
        for token in tuple(luo.files.outgoing):
            luo.fd_unpreserve(token)
        assert await lab.update(4, operator_word=True) is P.BAKING
        clean(lab)


@RFC2
async def test_a_cancel_that_came_through_is_no_failure_whatever_it_says() -> None:
    async with IoctlLab(REFUSED, Trouble("device.cancel", 1, "after", "fail")) as lab:
        assert await lab.update() is P.ABORTED
        clean(lab)
        assert await lab.update(2) is P.BAKING


@RFC2
async def test_cancelled_by_hand_while_preserved_unwinds_and_nothing_is_lost() -> None:
    async with Lab() as lab:
        lab.runner.submit(lab.prepare())
        await lab.reach(P.PRESERVED)
        lab.luo.cancel()
        lab.runner.submit(lab.proceed())
        assert await lab.settle() is P.ABORTED
        assert lab.problem() == "NOT_PREPARED"
        assert lab.node.model.reboots == 0
        clean(lab)
        assert await lab.update(2) is P.BAKING


@RFC2
async def test_unpreserved_by_hand_while_preserved_unwinds_and_nothing_is_lost() -> None:
    async with Lab() as lab:
        lab.runner.submit(lab.prepare())
        await lab.reach(P.PRESERVED)
        luo = lab.luo
        luo.cancel()
        luo.fd_unpreserve(next(iter(luo.files.outgoing)))
        luo.prepare()
        lab.runner.submit(lab.proceed())
        assert await lab.settle() is P.ABORTED
        assert lab.problem() == "NOT_PREPARED"
        clean(lab)
        assert await lab.update(2) is P.BAKING


@RFC2
async def test_frozen_by_hand_while_preserved_jumps_all_the_same() -> None:
    async with Lab() as lab:
        lab.runner.submit(lab.prepare())
        await lab.reach(P.PRESERVED)
        lab.luo.freeze()
        lab.runner.submit(lab.proceed())
        assert await lab.settle() is P.BAKING
        assert lab.intact()


@RFC2
async def test_a_jump_without_an_image_leaves_frozen_and_is_unwound() -> None:
    """reboot(KEXEC) calls LUO before it looks for an image."""
    async with Lab() as lab:
        lab.runner.submit(lab.prepare())
        await lab.reach(P.PRESERVED)
        lab.node.model.unload()
        lab.runner.submit(lab.proceed())
        assert await lab.settle() is P.ABORTED
        assert lab.problem() == "NO_IMAGE"
        clean(lab)
        assert await lab.update(2) is P.BAKING


@RFC2
async def test_a_prepare_that_goes_on_after_its_caller_gave_up_is_cancelled() -> None:
    async with IoctlLab(Trouble("device.prepare", 1, "before", "hang")) as lab:
        lab.runner.submit(lab.prepare())
        await lab.base.until(lambda: lab.calls["device.prepare"] == 1)
        luo = lab.luo

        async def goes_on(call: str, moment: str) -> None:
            letting_go = (call, moment) == ("device.unpreserve", "before") and not lab.calls["device.cancel"]
            if letting_go and str(luo.state) == "normal":
                luo.prepare()
            await at(call, moment)

        at = lab.at
        lab.at = goes_on  # type: ignore[method-assign]
        assert await lab.settle() is P.ABORTED
        assert lab.calls["device.cancel"] == 1
        clean(lab)
        assert await lab.update(2) is P.BAKING
