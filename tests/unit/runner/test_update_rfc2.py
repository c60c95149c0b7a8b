"""The runner over a node of RFC v2's model, where an update ends otherwise than with sessions."""

from __future__ import annotations

import pytest

from node_agent.core.phases import Phase
from node_agent.errors import Retry
from node_agent.kernel.faults import FaultPlan
from tests.unit.runner.lab import Lab

P = Phase


@pytest.mark.kernels("notifier")
async def test_a_refused_freeze_leaves_kho_finalized_and_the_next_attempt_is_refused_first() -> None:
    """RFC v2's luo_freeze() fails back to NORMAL and leaves KHO be; its notifier refuses an abort then."""
    async with Lab(faults=FaultPlan.parse("refuse_freeze@1")) as lab:
        assert await lab.update() is P.ABORTED
        assert lab.problem() == "FREEZE_REFUSED"
        assert not lab.suspended()
        assert not lab.held()
        drained = lab.calls["hooks.drain"]
        assert await lab.update(2) is P.ABORTED
        problem = lab.runner.status().problem
        assert problem is not None
        assert (problem.reason, problem.retry) == ("KHO_FINALIZED", Retry.FIX_STATE)
        assert "cold" in problem.remedy
        assert lab.calls["hooks.drain"] == drained
        lab.node.power_loss()
        runner = lab.runner
        await lab.base.until(lambda: lab.runner is not runner)
        assert await lab.update(3) is P.BAKING


@pytest.mark.kernels("notifier", "luo-driven")
async def test_a_tree_that_cannot_be_read_panics_where_no_device_can_be_poisoned() -> None:
    async with Lab(faults=FaultPlan.parse("poison@1")) as lab:
        assert await lab.update() is P.COLD_BOOTED
        assert lab.problem() == "COLD_BOOTED"
        assert await lab.update(2, operator_word=True) is P.BAKING


@pytest.mark.kernels("notifier", "luo-driven")
async def test_where_there_are_no_sessions_all_crosses_or_nothing() -> None:
    async with Lab(faults=FaultPlan.parse("session_lost@1")) as lab:
        assert await lab.update() is P.COLD_BOOTED
        assert lab.problem() == "STATE_LOST"
        assert not lab.held()
        assert await lab.update(2, operator_word=True) is P.BAKING
