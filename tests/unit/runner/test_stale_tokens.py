"""A token table of another boot, at the full agent: tokens begin at nought after a cold boot, so that those
of an attempt may be somebody else's files in a boot that the attempt did not lead to."""

from __future__ import annotations

import os
from collections.abc import Callable

import pytest

from node_agent.core.phases import Phase
from node_agent.kernel.emulated.model import LuoModel
from node_agent.kernel.emulated.node import _End
from node_agent.kernel.faults import FaultPlan
from node_agent.ports import KexecImage
from tests.unit.runner.lab import COMMAND_LINE, NEW, Lab, Trouble

P = Phase
pytestmark = pytest.mark.kernels("notifier", "luo-driven")
STRANGERS = b"nobody else's business"
NESTED = b"[" * 4000


def memory(content: bytes) -> int:
    fd = os.memfd_create("a stranger's")
    os.write(fd, content)
    return fd


def strangers() -> int:
    return memory(STRANGERS)


async def another_update_came_between(
    lab: Lab, files: int, command_line: str, make: Callable[[], int]
) -> None:
    """The jump ended in a cold boot, whose agent has not got as far as to name it. There somebody kexecs with
    files of his own."""
    before = lab.runner
    await lab.base.until(lambda: lab.runner is not before)
    luo, model = lab.luo, lab.node.model
    for _ in range(files):
        fd = make()
        luo.fd_preserve(fd)
        os.close(fd)
    luo.prepare()
    model.load(KexecImage("/kernel", "", command_line, NEW))
    LuoModel.freeze(model)
    before = lab.runner
    lab.node._end(_End.KEXEC)
    await lab.base.until(lambda: lab.runner is not before and lab.runner.ready.is_set())


async def untouched(lab: Lab) -> int:
    """How many of the stranger's files nobody has restored."""
    luo = lab.runner._ports.kernel.luo()
    assert luo is not None
    return sum(file.state == "arrived" for file in await luo.files())


@pytest.mark.parametrize("files", [4, 2, 1])
@pytest.mark.parametrize(
    "line", [COMMAND_LINE, f"{COMMAND_LINE} liveroll.attempt=1-incarnat"], ids=["another", "reused"]
)
async def test_no_workload_gets_a_file_of_anybody_elses(files: int, line: str) -> None:
    await nobody_gets_any(files, line, strangers)


@pytest.mark.parametrize(
    "make", [lambda: os.eventfd(7), lambda: memory(NESTED)], ids=["an event", "no end of lists"]
)
async def test_what_cannot_be_read_as_the_agents_word_is_not_the_agents(make: Callable[[], int]) -> None:
    await nobody_gets_any(4, COMMAND_LINE, make)


async def nobody_gets_any(files: int, line: str, make: Callable[[], int]) -> None:
    async with Lab(Trouble("kernel.recall", 1, "before", "hang"), faults=FaultPlan.parse("panic@1")) as lab:
        lab.runner.submit(lab.prepare())
        await lab.reach(P.PRESERVED)
        lab.runner.submit(lab.proceed())
        await another_update_came_between(lab, files, line, make)
        assert await lab.settle() is P.COLD_BOOTED, "what was preserved ended with the boot between"
        assert await untouched(lab) >= files - 1, "the agent's own token is all that is looked at"
        assert str(lab.luo.state) == "updated", "nor is it finished: it is not ours"
        assert lab.intact()
        assert not lab.suspended()
