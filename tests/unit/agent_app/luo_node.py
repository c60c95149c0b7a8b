"""A node in virtual time with luoctl's handlers over it; of either model of LUO."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Awaitable
from contextlib import asynccontextmanager
from types import SimpleNamespace
from typing import Any, TypeVar, cast

import pytest

from node_agent.app_control import Control
from node_agent.errors import AgentError
from node_agent.runtime.control import WithFd
from node_agent.runtime.supervisor import NodeLife
from node_agent.workloads.inprocess import InProcessWorkloads
from tests.unit.runner.lab import LUO_DRIVEN, NOTIFIER, Lab, Running

T = TypeVar("T")
COUPLINGS = (NOTIFIER, LUO_DRIVEN)
NEW_DIGEST = "n" * 64


def descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))


class LuoNode:
    """What an operator on the node can do. Its handlers are those of the running boot."""

    def __init__(self, lab: Lab) -> None:
        self.lab = lab
        self._control: Control | None = None
        self._runner: Any = None

    @property
    def control(self) -> Control:
        """A new one after each start of the agent, as the agent makes it."""
        runner = self.lab.runner
        if self._control is None or self._runner is not runner:
            if self._control is not None:
                self._control.close()
            life = SimpleNamespace(
                runner=runner,
                ports=runner._ports,
                boot=runner._boot,
                identity=runner._identity,
                link=None,
                connect=None,
            )
            self._control, self._runner = Control(cast(NodeLife, life)), runner
        return self._control

    async def ask(self, cmd: str, **arguments: Any) -> Any:
        """One request, as luoctl makes it. Raises AgentError."""
        return await self.control.handlers()[cmd]({"cmd": cmd, **arguments})

    async def preserve(self, fd: int) -> int:
        """The token."""
        told: Any = await self.control.takers()["preserve"]({"cmd": "preserve"}, fd)
        return int(told["token"])

    async def preserve_bytes(self, content: bytes) -> int:
        """The token of a memfd with them, which nobody else has."""
        fd = os.memfd_create("by hand")
        try:
            os.write(fd, content)
            return await self.preserve(fd)
        finally:
            os.close(fd)

    async def restore(self, token: int) -> bytes:
        """A memfd's content."""
        told = await self.ask("restore", token=token)
        assert isinstance(told, WithFd)
        try:
            return os.pread(told.fd, 1 << 20, 0)
        finally:
            os.close(told.fd)

    async def refused(self, work: Awaitable[Any]) -> str:
        """The reason."""
        return (await self.refusal(work)).reason

    async def refusal(self, work: Awaitable[Any]) -> AgentError:
        """What it is refused with; it has a remedy."""
        with pytest.raises(AgentError) as caught:
            await work
        assert caught.value.remedy, caught.value.reason
        return caught.value

    async def kexec(self) -> None:
        """By hand, into the other kernel; back when the new boot's agent is there."""
        workloads, count = self.end_workloads(), self.lab.workload_count
        before = self.lab.runner
        work = asyncio.create_task(self.ask("kexec", artifact=NEW_DIGEST))
        await self.lab.base.until(lambda: self.lab.runner is not before and self.lab.runner.ready.is_set())
        work.cancel()
        workloads.count = count
        workloads.node_died()  # whoever asks next finds them started afresh

    def end_workloads(self) -> InProcessWorkloads:
        """Nobody is subscribed, as a kexec by hand wants it."""
        workloads = self.lab.workloads
        assert workloads is not None
        workloads.node_died()
        workloads.count = 0
        return workloads

    def story(self) -> list[str]:
        """The events of luoctl story."""
        return [line.event for line in self.lab.runner.story()]

    @property
    def state(self) -> str:
        """LUO's, as its kernel has it."""
        rfc2 = self.lab.node.model.rfc2
        return str(rfc2.state) if rfc2 is not None else ""


@asynccontextmanager
async def luo_node(kind: str, **options: Any) -> AsyncIterator[LuoNode]:
    """A node whose kernels are of that kind (lab.KINDS). Nothing is open after it that was not before."""
    before = descriptors()
    Running.kind = kind
    try:
        async with Lab(**options) as lab:
            node = LuoNode(lab)
            yield node
            node.control.close()
    finally:
        Running.kind = "sessions"
    assert descriptors() == before
