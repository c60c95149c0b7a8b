"""Reports that come in while others are being committed are committed together, in order."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from datetime import timedelta
from typing import Any

import grpc
import pytest
from liveroll.v1 import agent_pb2, common_pb2

from orchestrator.core.messages import Welcome
from orchestrator.errors import InvalidSpec
from orchestrator.rpc.agents import READ_AHEAD, AgentService
from orchestrator.rpc.boundary import unwrap


def report(seq: int) -> agent_pb2.LinkRequest:
    return agent_pb2.LinkRequest(
        report=agent_pb2.Report(
            seq=seq, event="Staged", phase=common_pb2.PHASE_IDLE, boot_id="b", kernel_release="7.2.13"
        )
    )


def beat() -> agent_pb2.LinkRequest:
    return agent_pb2.LinkRequest(heartbeat=agent_pb2.Heartbeat())


class Link:
    """The runtime's side; the first commit lasts until the node has nothing more to say."""

    def __init__(self, node: Node) -> None:
        pause = timedelta(seconds=5)
        self.welcome = Welcome("inc", 1, 1, pause, pause, 0)
        self.node = node
        self.said: list[object] = []

    async def commands(self) -> AsyncIterator[Any]:
        await asyncio.get_running_loop().create_future()
        yield

    async def report(self, *reports: Any) -> int:
        if not self.said:
            await self.node.waits.wait()
        self.said.append([r.seq for r in reports])
        return int(reports[-1].seq)

    def heartbeat(self, _beat: object) -> None:
        self.said.append("beat")

    async def close(self, cause: str) -> None:
        self.said.append(cause)


class Node:
    """A call that has everything to read at once, then hangs up."""

    def __init__(self, *messages: agent_pb2.LinkRequest) -> None:
        self.messages = list(messages)
        self.read_so_far = 0
        self.waits = asyncio.Event()
        self.acks: list[int] = []

    async def write(self, message: agent_pb2.LinkResponse) -> None:
        if message.WhichOneof("message") == "ack":
            self.acks.append(message.ack.seq)

    async def read(self) -> object:
        if not self.messages:
            self.waits.set()
            return grpc.aio.EOF  # type: ignore[attr-defined]
        self.read_so_far += 1
        if self.read_so_far > READ_AHEAD + 1:
            self.waits.set()
        return self.messages.pop(0)


async def carried(node: Node) -> list[object]:
    link = Link(node)
    service = AgentService(None, verified=False, stopping=asyncio.Event())  # type: ignore[arg-type]
    try:
        await service._carry(link, node)  # type: ignore[arg-type]
    except BaseExceptionGroup as group:
        raise unwrap(group) from None
    finally:
        node.said = link.said  # type: ignore[attr-defined]
    return link.said


async def test_what_waits_is_one_commit() -> None:
    said = await carried(Node(*(report(seq) for seq in range(1, 6))))
    assert [seq for part in said[:-1] for seq in part] == [1, 2, 3, 4, 5]  # type: ignore[attr-defined]
    assert len(said) <= 3
    assert said[-1] == "closed"


async def test_a_heartbeat_keeps_its_place() -> None:
    said = await carried(Node(report(1), report(2), beat(), report(3)))
    assert said[said.index("beat") - 1][-1] == 2  # type: ignore[index]
    assert said[said.index("beat") + 1] == [3]


async def test_no_more_is_read_ahead_than_the_bound() -> None:
    node = Node(*(report(seq) for seq in range(1, 100)))
    said = await carried(node)
    assert max(len(part) for part in said[:-1]) <= READ_AHEAD + 1  # type: ignore[arg-type]
    assert said[-2][-1] == 99  # type: ignore[index]


async def test_what_came_before_a_malformed_report_is_committed() -> None:
    bad = agent_pb2.LinkRequest(report=agent_pb2.Report(seq=0))
    node = Node(report(1), report(2), report(3), bad, report(4))
    with pytest.raises(InvalidSpec):
        await carried(node)
    said = node.said  # type: ignore[attr-defined]
    assert [seq for part in said[:-1] for seq in part] == [1, 2, 3]
