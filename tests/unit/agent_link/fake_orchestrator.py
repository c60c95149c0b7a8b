"""An orchestrator of one page: takes every linked node through STAGE … COMMIT, acknowledging as it goes.

It plans nothing and stores nothing; what a test wants to see it keeps in `nodes`.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field

import grpc.aio
from liveroll.v1 import agent_pb2 as pb
from liveroll.v1 import agent_pb2_grpc as rpc
from liveroll.v1 import common_pb2 as common

INCARNATION = "00000000-fake-incarnation"


@dataclass
class SeenNode:
    """What one node said."""

    hello: pb.Hello
    hellos: int = 0
    phase: int = 0
    generation: int = 0
    staged: bool = False
    reports: dict[int, pb.Report] = field(default_factory=dict)
    replays: int = 0
    heartbeats: int = 0
    stamp: common.BootStamp | None = None
    troubles: dict[str, pb.NodeStatus] = field(default_factory=dict)
    """Reason of a problem → the first heartbeat's status that carried it."""

    @property
    def events(self) -> list[str]:
        """Names of its reports, in the journal's order."""
        return [self.reports[seq].event for seq in sorted(self.reports)]


class FakeOrchestrator(rpc.AgentServiceServicer):
    """A servicer that wants every node on one artifact.

    Args:
        artifact: what to roll; None sends no command at all.
        commit, proceed: False leaves nodes baking, or PRESERVED.
        refuse: code, details and serialised google.rpc.Status of a refusal of every link.
    """

    def __init__(
        self,
        artifact: pb.ArtifactRef | None = None,
        *,
        commit: bool = True,
        proceed: bool = True,
        verifying_s: int = 60,
        active_heartbeat_s: float = 0.5,
        refuse: tuple[grpc.StatusCode, str, bytes] | None = None,
        command_line: str = "kho=on liveupdate=on",
    ) -> None:
        self.artifact = artifact
        self.commit = commit
        self.proceed = proceed
        self.verifying_s = verifying_s
        self.nodes: dict[str, SeenNode] = {}
        self.changed = asyncio.Condition()
        self.address = ""
        self._active_s = active_heartbeat_s
        self._refuse = refuse
        self._command_line = command_line
        self._epoch = 0
        self._server: grpc.aio.Server | None = None

    async def start(self, port: int = 0) -> FakeOrchestrator:
        """Listen on loopback."""
        self._server = grpc.aio.server()
        rpc.add_AgentServiceServicer_to_server(self, self._server)  # type: ignore[no-untyped-call]
        bound = self._server.add_insecure_port(f"127.0.0.1:{port}")
        self.address = f"127.0.0.1:{bound}"
        await self._server.start()
        return self

    async def stop(self) -> None:
        """End every link."""
        if self._server is not None:
            await self._server.stop(None)

    async def until(self, condition: Callable[[dict[str, SeenNode]], bool], timeout_s: float = 30) -> None:
        """Wait until the nodes are as the condition wants them."""
        async with asyncio.timeout(timeout_s), self.changed:
            await self.changed.wait_for(lambda: condition(self.nodes))

    def all_in(self, phase: int, count: int) -> Callable[[dict[str, SeenNode]], bool]:
        """Condition: count nodes, all in that phase."""
        return lambda nodes: len(nodes) == count and all(n.phase == phase for n in nodes.values())

    async def Link(
        self, request_iterator: AsyncIterator[pb.LinkRequest], context: grpc.aio.ServicerContext
    ) -> AsyncIterator[pb.LinkResponse]:
        """See AgentService."""
        if self._refuse is not None:
            code, details, rich = self._refuse
            await context.abort(code, details, (("grpc-status-details-bin", rich),))
        hello = (await anext(request_iterator)).hello
        node = self.nodes.setdefault(hello.node_id, SeenNode(hello))
        node.hello, node.hellos = hello, node.hellos + 1
        node.phase = hello.status.phase
        node.generation = max(node.generation, hello.highest_generation)
        self._epoch += 1
        welcome = pb.Welcome(
            incarnation=INCARNATION,
            incarnation_serial=1,
            link_epoch=self._epoch,
            acknowledged_seq=max(node.reports, default=0),
        )
        welcome.active_heartbeat.FromMilliseconds(int(self._active_s * 1000))
        welcome.idle_heartbeat.FromMilliseconds(int(self._active_s * 4000))
        yield pb.LinkResponse(welcome=welcome)
        last = ""
        if (command := self._desired(node)) is not None:
            last = command.command_id
            yield pb.LinkResponse(command=command)
        async for message in request_iterator:
            which = message.WhichOneof("message")
            if which in ("report", "reports"):
                for report in [message.report] if which == "report" else message.reports.reports:
                    node.replays += report.seq in node.reports
                    node.reports[report.seq] = report
                    node.phase = report.phase
                    node.staged |= report.stage.verified
                    if report.stamp.boot_id:
                        node.stamp = report.stamp
                    yield pb.LinkResponse(ack=pb.Ack(seq=report.seq))
            elif which == "heartbeat":
                node.heartbeats += 1
                node.phase = message.heartbeat.status.phase
                node.stamp = message.heartbeat.stamp
                if reason := message.heartbeat.status.problem.reason:
                    node.troubles.setdefault(reason, message.heartbeat.status)
            async with self.changed:
                self.changed.notify_all()
            if (command := self._desired(node)) is not None and command.command_id != last:
                last = command.command_id
                yield pb.LinkResponse(command=command)

    def _desired(self, node: SeenNode) -> pb.Command | None:
        artifact = self.artifact
        if artifact is None:
            return None
        done = node.hello.kernel_release == artifact.kernel_release
        ref = common.AttemptRef(
            node_id=node.hello.node_id, generation=node.generation, incarnation=INCARNATION
        )
        if node.phase == common.PHASE_IDLE and not node.staged:
            return pb.Command(command_id=f"stage-{artifact.digest[:8]}", stage=pb.Stage(artifact=artifact))
        if node.phase in (common.PHASE_IDLE, common.PHASE_ABORTED) and not done:
            ref.generation = node.generation + 1
            return pb.Command(
                command_id=f"prepare-{ref.generation}", prepare=self._prepare(node, ref, artifact)
            )
        if node.phase == common.PHASE_LOADING:
            node.generation = max(node.generation, *(r.attempt.generation for r in node.reports.values()), 0)
        if node.phase == common.PHASE_PRESERVED and node.stamp is not None and self.proceed:
            ref.generation = max(r.attempt.generation for r in node.reports.values())
            proceed = pb.Proceed(attempt=ref, stamp=node.stamp)
            proceed.valid_for.FromSeconds(30)
            return pb.Command(command_id=f"proceed-{ref.generation}", proceed=proceed)
        if node.phase == common.PHASE_BAKING and self.commit:
            ref.generation = max(r.attempt.generation for r in node.reports.values())
            return pb.Command(command_id=f"commit-{ref.generation}", commit=pb.Commit(attempt=ref))
        return None

    def _prepare(self, node: SeenNode, ref: common.AttemptRef, artifact: pb.ArtifactRef) -> pb.Prepare:
        timeouts = common.StepTimeouts()
        timeouts.verifying.FromSeconds(self.verifying_s)
        return pb.Prepare(
            timeouts=timeouts,
            attempt=ref,
            kind=pb.Prepare.KIND_FORWARD,
            method=common.UPDATE_METHOD_LIVE,
            artifact=artifact,
            expected_release=node.hello.kernel_release,
            expected_boot_id=node.hello.boot_id,
            command_line=self._command_line,
        )
