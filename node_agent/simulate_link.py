"""Scripted faults of an emulated node's link: slow_link and cut_link of its FaultPlan.

slow_link delays every message by its seconds. cut_link breaks the link once in each kexec that
it names, on the third message up, and keeps it from being dialled again for its seconds.
"""

from __future__ import annotations

from asyncio import sleep
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

from liveroll.v1 import agent_pb2 as pb

from node_agent.errors import LinkError
from node_agent.kernel.faults import FaultKind, FaultPlan
from node_agent.runtime.link_transport import Connector, Transport

CUT_AT = 3
"""After the hello and the first heartbeat: in the middle of whatever is being reported."""


class FaultyLink:
    """A connector that does to the link what the plan says.

    Args:
        connect: the real one.
        kexecs: how often the node has called reboot(KEXEC) by now.
    """

    def __init__(self, connect: Connector, faults: FaultPlan, kexecs: Callable[[], int]) -> None:
        self._connect = connect
        self._faults = faults
        self._kexecs = kexecs
        self._cut_in: set[int] = set()

    @asynccontextmanager
    async def connect(self) -> AsyncIterator[Transport]:
        """See link_transport.Connector."""
        async with self._connect() as transport:
            yield _FaultyTransport(transport, self)

    async def delay(self) -> None:
        """What a message waits for."""
        if (slow := self._faults.at(FaultKind.SLOW_LINK, self._kexecs())) is not None:
            await sleep(slow.seconds)

    async def perhaps_cut(self) -> None:
        """Raises LinkError after the time for which nobody can dial."""
        n = self._kexecs()
        cut = self._faults.at(FaultKind.CUT_LINK, n)
        if cut is None or n in self._cut_in:
            return
        self._cut_in.add(n)
        await sleep(cut.seconds)
        raise LinkError("the emulated link was cut", reason="LINK_CUT", remedy="nothing: it was asked for")


class _FaultyTransport:
    def __init__(self, transport: Transport, link: FaultyLink) -> None:
        self._transport = transport
        self._link = link
        self._sent = 0

    async def send(self, message: pb.LinkRequest) -> None:
        self._sent += 1
        if self._sent >= CUT_AT:
            await self._link.perhaps_cut()
        await self._link.delay()
        await self._transport.send(message)

    async def receive(self) -> pb.LinkResponse | None:
        message = await self._transport.receive()
        await self._link.delay()
        return message
