"""A node that goes away in the middle of an answer: its link is closed, and nothing is wrong."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from datetime import timedelta
from typing import Any

import grpc
import pytest
from liveroll.v1 import agent_pb2, common_pb2

from orchestrator.core.messages import Welcome
from orchestrator.rpc.agents import AgentService


class Link:
    """The runtime's side of it."""

    def __init__(self) -> None:
        beat = timedelta(seconds=5)
        self.welcome = Welcome("inc", 1, 1, beat, beat, 0)
        self.closed: list[str] = []

    async def commands(self) -> AsyncIterator[Any]:
        await asyncio.get_running_loop().create_future()
        yield

    async def report(self, report: Any) -> int:
        return int(report.seq)

    async def close(self, cause: str) -> None:
        self.closed.append(cause)


class Gone:
    """A call whose node sends one report, and takes so many messages before it is gone."""

    def __init__(self, takes: int) -> None:
        self.takes = takes
        self.reports = [
            agent_pb2.LinkRequest(
                report=agent_pb2.Report(
                    seq=7, event="Staged", phase=common_pb2.PHASE_IDLE, boot_id="b", kernel_release="7.2.13"
                )
            )
        ]

    async def write(self, _message: object) -> None:
        self.takes -= 1
        if self.takes < 0:
            raise grpc.aio.InternalError('Failed "execute_batch"')

    async def read(self) -> object:
        if self.reports:
            return self.reports.pop()
        return await asyncio.get_running_loop().create_future()


@pytest.mark.parametrize("takes", [0, 1], ids=["the-welcome", "an-acknowledgement"])
async def test_a_node_that_does_not_live_to_take_it_only_ends_its_link(takes: int) -> None:
    link = Link()
    service = AgentService(None, verified=False, stopping=asyncio.Event())  # type: ignore[arg-type]
    await service._carry(link, Gone(takes))  # type: ignore[arg-type]
    assert link.closed == ["cut"]
