"""A deed of an operator's that fails in a way nobody foresaw: an answer, a line in the story, and a runner
that goes on."""

from __future__ import annotations

import pytest

from tests.unit.agent_app.luo_node import COUPLINGS, luo_node


@pytest.mark.parametrize("kind", COUPLINGS)
async def test_what_nobody_foresaw_does_not_end_the_runner(kind: str) -> None:
    async def stumble() -> None:
        "\ud800".encode()

    async with luo_node(kind) as node:
        assert await node.refused(node.lab.runner.by_hand("kexec", stumble)) == "INTERNAL"
        assert "ByHandKexecFailed" in " ".join(node.story())
        assert (await node.ask("prepare"))["state"] == "prepared"
