"""Report → acknowledgement round trips a second over one link, beside a bare grpc.aio stream.

The link is the agents' own (node_agent.runtime.link over link_grpc) and the orchestrator's own
service (orchestrator.rpc.agents), whose orchestrator acknowledges at once. The bare stream has a
connection of its own and carries as many bytes each way, unread. Server in one process, client
in another, for both.
"""

from __future__ import annotations

import asyncio
import os
import sys
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from typing import Any, cast

import grpc
import grpc.aio
from liveroll.v1 import agent_pb2 as pb
from liveroll.v1 import agent_pb2_grpc as rpc

from node_agent.core.commands import LinkCommand
from node_agent.core.model import AttemptRef, BootStamp, Mark, Problem
from node_agent.core.phases import Phase, Verdict
from node_agent.core.report import Disposition, NodeStatus, Outcome, Report
from node_agent.errors import LinkError
from node_agent.runtime import convert
from node_agent.runtime.link import WINDOW, Link
from node_agent.runtime.link_grpc import GrpcDialer
from node_agent.runtime.link_transport import HelloFacts
from orchestrator.core import messages as core
from orchestrator.rpc.agents import AgentService
from orchestrator.runtime.service import Orchestrator
from tests.bench.result import Result

ROUND_TRIPS = 2000
ROUNDS = 5
"""In turn with the bare stream; the fastest of each counts, since neighbours only ever slow one down."""
TIMEOUT_S = 60.0
ECHO = "/bench.Echo/Echo"
REF = AttemptRef("node-0001", 7, "3b1e8cc82302")
BOOT = "b92058f5-272d-4173-b230-251c579bc379"


def report(seq: int) -> Report:
    """One as nodes send a dozen of in an attempt."""
    return Report(
        seq=seq,
        event="Preserved",
        phase=Phase.PRESERVED,
        attempt=REF,
        marks=(Mark("preserve_done", datetime(2030, 1, 1, tzinfo=UTC), 4.19, 4191774136, BOOT),),
        stamp=BootStamp(BOOT, 4.2),
        boot_id=BOOT,
        release="6.12.0",
        healthy=True,
    )


# --- the server's process ----------------------------------------------------------------


class StubLink:
    """runtime.service.AgentLink of a store that takes no time."""

    node_id = REF.node_id
    welcome = core.Welcome("3b1e8cc82302", 1, 1, timedelta(seconds=5), timedelta(seconds=5), 0)

    def heartbeat(self, _beat: core.Heartbeat) -> None:
        pass

    async def report(self, *reports: core.Report) -> int:
        return reports[-1].seq

    async def commands(self) -> AsyncIterator[Any]:
        await asyncio.get_running_loop().create_future()
        yield None

    async def close(self, cause: str = "closed") -> None:
        pass


class StubOrchestrator:
    """What AgentService needs of an Orchestrator."""

    async def open_link(self, _hello: core.Hello, *, actor: str = "") -> StubLink:
        return StubLink()


async def echo(_messages: object, context: grpc.aio.ServicerContext[bytes, bytes]) -> None:
    """Answers every message with as many bytes as an acknowledgement has."""
    answer = pb.LinkResponse(ack=pb.Ack(seq=1000)).SerializeToString()
    while isinstance(await context.read(), bytes):
        await context.write(answer)


async def serve() -> None:
    """Both services, each on its own port, until stdin ends."""
    server, bare = grpc.aio.server(), grpc.aio.server()
    service = AgentService(cast(Orchestrator, StubOrchestrator()), verified=False, stopping=asyncio.Event())
    rpc.add_AgentServiceServicer_to_server(service, server)  # type: ignore[no-untyped-call]
    handler = grpc.stream_stream_rpc_method_handler(echo)
    bare.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("bench.Echo", {"Echo": handler}),))
    ports = [each.add_insecure_port("127.0.0.1:0") for each in (server, bare)]
    for each in (server, bare):
        await each.start()
    print(*ports, flush=True)
    await asyncio.to_thread(sys.stdin.read)
    for each in (server, bare):
        await each.stop(None)


# --- the client's process ----------------------------------------------------------------


class ReportingNode:
    """A runner that always has `in_flight` reports to tell, until all are acknowledged."""

    def __init__(self, in_flight: int) -> None:
        self.node_id = REF.node_id
        self.changes = asyncio.Event()
        self.done = asyncio.Event()
        self.began_s = 0.0
        self._waiting: list[Report] = []
        self._next = 1
        self._in_flight = in_flight

    def _fill(self) -> None:
        while len(self._waiting) < self._in_flight and self._next <= ROUND_TRIPS:
            self._waiting.append(report(self._next))
            self._next += 1

    async def hello(self) -> HelloFacts:
        return HelloFacts(
            self.node_id, "i" * 32, BOOT, "6.12.0", "model", ("luo",), {}, 0, "", 0,
            self.status(), Verdict.SAME_BOOT, "0", (), "", "quiet",
        )  # fmt: skip

    def number_from(self, _seq: int) -> None:
        pass

    async def note_incarnation(self, _incarnation: str, _serial: int) -> None:
        self.began_s = time.perf_counter()
        self._fill()

    async def look(self) -> None:
        pass

    def status(self) -> NodeStatus:
        return NodeStatus(None, Phase.IDLE, 0, True)

    def stamp(self) -> BootStamp:
        return BootStamp(BOOT, 4.2)

    def unacknowledged(self) -> Sequence[Report]:
        return tuple(self._waiting)

    async def acknowledge(self, seq: int) -> None:
        self._waiting = [each for each in self._waiting if each.seq > seq]
        self._fill()
        if not self._waiting:
            self.done.set()

    async def handle(self, _command: LinkCommand) -> Disposition:
        return Disposition(Outcome.ACCEPTED, self.status())

    async def refuse(self, _command_id: str, _problem: Problem) -> None:
        pass


async def link_rate(address: str, in_flight: int) -> float:
    """Round trips a second of the real link. LinkError."""
    node, dialer = ReportingNode(in_flight), GrpcDialer([address], None)
    link = Link(node, lambda: dialer.connect(address))
    task = asyncio.create_task(link.run())
    try:
        async with asyncio.timeout(TIMEOUT_S):
            await node.done.wait()
        taken_s = time.perf_counter() - node.began_s
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        await dialer.close()
    if link.view.problem is not None:
        raise LinkError(link.view.problem.message, reason=link.view.problem.reason)
    return ROUND_TRIPS / taken_s


async def bare_rate(address: str, in_flight: int) -> float:
    """Round trips a second of a bare stream with as many bytes."""
    message = convert.report(report(1000)).SerializeToString()
    async with grpc.aio.insecure_channel(address) as channel:
        await channel.channel_ready()
        call = cast(Any, channel.stream_stream)(ECHO)()
        began = time.perf_counter()
        room = asyncio.Semaphore(in_flight)

        async def write() -> None:
            for _ in range(ROUND_TRIPS):
                await room.acquire()
                await call.write(message)

        async with asyncio.timeout(TIMEOUT_S), asyncio.TaskGroup() as tasks:
            tasks.create_task(write())
            for _ in range(ROUND_TRIPS):
                await call.read()
                room.release()
        taken_s = time.perf_counter() - began
        call.cancel()
    return ROUND_TRIPS / taken_s


@asynccontextmanager
async def served() -> AsyncIterator[tuple[str, str]]:
    """(address of the link's service, address of the bare one), in a child that ends with us."""
    child = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "tests.bench.link",
        stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE,
    )  # fmt: skip
    assert child.stdin is not None
    assert child.stdout is not None
    try:
        ports = (await child.stdout.readline()).split()
        yield f"127.0.0.1:{int(ports[0])}", f"127.0.0.1:{int(ports[1])}"
    finally:
        child.stdin.close()
        await child.wait()


async def _run() -> list[Result]:
    results = []
    async with served() as (linked, bare):
        for in_flight in (1, WINDOW):
            pairs = [
                (await link_rate(linked, in_flight), await bare_rate(bare, in_flight)) for _ in range(ROUNDS)
            ]
            results.append(
                Result(
                    f"link: reports acknowledged a second, {in_flight} in flight",
                    max(pair[0] for pair in pairs),
                    "/s",
                    "bare grpc.aio stream",
                    max(pair[1] for pair in pairs),
                    "≥ 0.77 × (within 1.3 ×)",
                )
            )
    return results


def run() -> list[Result]:
    """The figures of one link with one report, and with a window of them, under way."""
    os.environ.setdefault("GRPC_VERBOSITY", "NONE")
    return asyncio.run(_run())


if __name__ == "__main__":
    asyncio.run(serve())
