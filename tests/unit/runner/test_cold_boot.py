"""After a boot that carried nothing over, the broker is told: CLAIMs that wait are answered at once."""

from __future__ import annotations

import pytest

from node_agent.core.phases import Phase
from tests.unit.runner.lab import Lab

P = Phase


@pytest.mark.parametrize("phase", [P.PRESERVED, P.BAKING])
async def test_what_was_bound_is_let_go_after_a_power_loss(phase: Phase) -> None:
    async with Lab() as lab:
        if phase is P.PRESERVED:
            lab.runner.submit(lab.prepare())
            await lab.reach(phase)
        else:
            assert await lab.update() is phase
        runner = lab.runner
        before = lab.calls["workloads.release"]
        lab.node.power_loss()
        await lab.base.until(lambda: lab.runner is not runner)
        assert await lab.reach(P.COLD_BOOTED) is P.COLD_BOOTED
        assert lab.calls["workloads.release"] == before + 1
