"""A node and a transport that a test drives by hand."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

from liveroll.v1 import agent_pb2 as pb

from node_agent.core.commands import LinkCommand
from node_agent.core.model import BootStamp, Problem
from node_agent.core.phases import Phase, Verdict
from node_agent.core.report import Disposition, NodeStatus, Outcome, Report
from node_agent.errors import LinkError
from node_agent.runtime.link_transport import HelloFacts

DIGEST = "a" * 64


def a_report(seq: int, phase: Phase = Phase.IDLE, event: str = "Staged") -> Report:
    """A report as the runner makes it."""
    return Report(
        seq=seq,
        event=event,
        phase=phase,
        stamp=BootStamp("boot-1", 1.0),
        boot_id="boot-1",
        release="7.2.13",
        healthy=True,
    )


class FakeNode:
    """The runner's side of the link."""

    def __init__(self, node_id: str = "n1") -> None:
        self.node_id = node_id
        self.changes = asyncio.Event()
        self.phase = Phase.IDLE
        self.reports: list[Report] = []
        self.commands: list[LinkCommand] = []
        self.refused: list[tuple[str, Problem]] = []
        self.acknowledged: list[int] = []
        self.incarnations: list[tuple[str, int]] = []
        self.numbered_from = 0
        self.outcome = Outcome.ACCEPTED
        self.fail_with: Exception | None = None
        self.finds: Problem | None = None
        """What look() finds."""
        self.not_ready: Problem | None = None

    def add(self, *seqs: int) -> None:
        self.reports += [a_report(seq, self.phase) for seq in seqs]
        self.changes.set()

    async def hello(self) -> HelloFacts:
        return HelloFacts(
            node_id=self.node_id,
            installation_id="installation",
            boot_id="boot-1",
            release="7.2.13",
            hardware_model="r640",
            capabilities=("luo", "emulated"),
            labels={"zone": "a"},
            highest_generation=3,
            incarnation="old",
            incarnation_serial=1,
            status=self.status(),
            boot_verdict=Verdict.SAME_BOOT,
            agent_version="0",
            staged_artifacts=(DIGEST,),
            rollback_artifact=DIGEST,
            command_line="quiet",
        )

    async def look(self) -> None:
        self.not_ready = self.finds

    def status(self) -> NodeStatus:
        seq = max((r.seq for r in self.reports), default=0)
        return NodeStatus(None, self.phase, seq, True, not_ready=self.not_ready)

    def stamp(self) -> BootStamp:
        return BootStamp("boot-1", 12.5)

    def unacknowledged(self) -> Sequence[Report]:
        return tuple(self.reports)

    async def acknowledge(self, seq: int) -> None:
        self.acknowledged.append(seq)
        self.reports = [r for r in self.reports if r.seq > seq]

    async def handle(self, command: LinkCommand) -> Disposition:
        if self.fail_with is not None:
            raise self.fail_with
        self.commands.append(command)
        return Disposition(self.outcome, self.status())

    async def refuse(self, command_id: str, problem: Problem) -> None:
        self.refused.append((command_id, problem))

    def number_from(self, seq: int) -> None:
        self.numbered_from = seq

    async def note_incarnation(self, incarnation: str, serial: int) -> None:
        self.incarnations.append((incarnation, serial))


class FakeTransport:
    """One stream: the test reads what went up and puts what comes down."""

    def __init__(self) -> None:
        self.up: asyncio.Queue[pb.LinkRequest] = asyncio.Queue()
        self.down: asyncio.Queue[pb.LinkResponse | LinkError | None] = asyncio.Queue()
        self.stalled = False
        self._told: list[int] = []

    async def send(self, message: pb.LinkRequest) -> None:
        if self.stalled:
            await asyncio.get_running_loop().create_future()
        self.up.put_nowait(message)

    async def receive(self) -> pb.LinkResponse | None:
        message = await self.down.get()
        if isinstance(message, LinkError):
            raise message
        return message

    # -- what tests do

    async def sent(self, which: str) -> pb.LinkRequest:
        """The next message of that kind; others in between are dropped."""
        return await self._next((which,))

    async def _next(self, kinds: tuple[str, ...]) -> pb.LinkRequest:
        async with asyncio.timeout(5):
            while True:
                message = await self.up.get()
                if message.WhichOneof("message") in kinds:
                    return message

    async def report(self) -> int:
        """Seq of the next report, whether it travels alone or with others."""
        while not self._told:
            message = await self._next(("report", "reports"))
            alone = message.WhichOneof("message") == "report"
            self._told += [r.seq for r in ([message.report] if alone else message.reports.reports)]
        return self._told.pop(0)

    def welcome(self, acknowledged: int = 0, incarnation: str = "i1", beat_s: float = 60) -> None:
        message = pb.Welcome(
            incarnation=incarnation, incarnation_serial=2, link_epoch=7, acknowledged_seq=acknowledged
        )
        message.active_heartbeat.FromNanoseconds(int(beat_s * 1e9))
        message.idle_heartbeat.FromNanoseconds(int(beat_s * 1e9))
        self.down.put_nowait(pb.LinkResponse(welcome=message))

    def ack(self, seq: int) -> None:
        self.down.put_nowait(pb.LinkResponse(ack=pb.Ack(seq=seq)))

    def command(self, command: pb.Command) -> None:
        self.down.put_nowait(pb.LinkResponse(command=command))

    def end(self, error: LinkError | None = None) -> None:
        self.down.put_nowait(error)


class FakeNetwork:
    """Hands out one transport a connect; the test awaits them."""

    def __init__(self) -> None:
        self.opened: asyncio.Queue[FakeTransport] = asyncio.Queue()
        self.closed = 0
        self.refuse: list[LinkError] = []

    @asynccontextmanager
    async def connect(self) -> AsyncIterator[FakeTransport]:
        if self.refuse:
            raise self.refuse.pop(0)
        transport = FakeTransport()
        self.opened.put_nowait(transport)
        try:
            yield transport
        finally:
            self.closed += 1

    async def next(self) -> FakeTransport:
        async with asyncio.timeout(5):
            return await self.opened.get()
