"""The gRPC servers over a real Orchestrator with the memory store, and a node that follows orders."""

from __future__ import annotations

import asyncio
import contextlib
import datetime as dt
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any

import grpc
import structlog
from liveroll.v1 import agent_pb2, agent_pb2_grpc, common_pb2, rollout_pb2_grpc
from liveroll.v1 import rollout_pb2 as pb

from orchestrator.core.model import Artifact
from orchestrator.core.policy import FleetPolicy
from orchestrator.errors import NotFound
from orchestrator.rpc.server import RpcServer
from orchestrator.runtime.clock import SystemClock
from orchestrator.runtime.service import Orchestrator
from orchestrator.store.memory import Disk, MemoryStore

structlog.configure(
    processors=[
        structlog.processors.add_log_level,
        # The default prints locals of every frame, gRPC's C objects after their end among them.
        structlog.dev.ConsoleRenderer(colors=False, exception_formatter=structlog.dev.plain_traceback),
    ]
)

OLD, NEW = "6.18.0", "6.19.3"
ARTIFACT = Artifact("linux-6.19.3", "d" * 64, NEW, "http://127.0.0.1:1/artifacts/linux-6.19.3", emulated=True)


class Catalogue:
    """One artifact."""

    async def resolve(self, name_or_digest: str) -> Artifact:
        if name_or_digest not in (ARTIFACT.name, ARTIFACT.digest):
            raise NotFound(f"no artifact {name_or_digest}", remedy="Build it.")
        return ARTIFACT

    async def names(self) -> list[str]:
        return [ARTIFACT.name]


@dataclass(frozen=True)
class Tls:
    cert: Path
    key: Path
    ca: Path | None


@dataclass(frozen=True)
class Listen:
    address: str = "127.0.0.1:0"
    tls: Tls | None = None


@dataclass
class Served:
    orchestrator: Orchestrator
    rpc: RpcServer
    operators: Any
    """RolloutServiceStub."""
    agents: Any
    """AgentServiceStub."""

    @property
    def server(self) -> str:
        return f"127.0.0.1:{self.rpc.operators_port}"


POLICY = FleetPolicy(
    active_heartbeat=timedelta(milliseconds=200),
    restart_grace=timedelta(0),
    min_idle_heartbeat=timedelta(seconds=1),
    clock_slack=timedelta(milliseconds=100),
)


@asynccontextmanager
async def serving(
    *, operators: Listen | None = None, agents: Listen | None = None, policy: FleetPolicy = POLICY
) -> AsyncIterator[Served]:
    clock = SystemClock()
    async with contextlib.AsyncExitStack() as stack:
        orchestrator = await stack.enter_async_context(
            Orchestrator(
                store=MemoryStore(Disk(), clock),
                clock=clock,
                catalogue=Catalogue(),
                policy=policy,
                holder="test",
            )
        )
        rpc = await stack.enter_async_context(
            RpcServer(orchestrator, operators=operators or Listen(), agents=agents or Listen())
        )
        ops = await stack.enter_async_context(
            grpc.aio.insecure_channel(f"127.0.0.1:{rpc.operators_port}", options=LOCAL)
        )
        link = await stack.enter_async_context(
            grpc.aio.insecure_channel(f"127.0.0.1:{rpc.agents_port}", options=LOCAL)
        )
        yield Served(
            orchestrator,
            rpc,
            rollout_pb2_grpc.RolloutServiceStub(ops),  # type: ignore[no-untyped-call]
            agent_pb2_grpc.AgentServiceStub(link),  # type: ignore[no-untyped-call]
        )


LOCAL = (("grpc.enable_http_proxy", 0), ("grpc.use_local_subchannel_pool", 1))


def hello(node_id: str, **changes: Any) -> agent_pb2.Hello:
    made = agent_pb2.Hello(
        node_id=node_id,
        installation_id=f"installation-{node_id}",
        boot_id=f"boot-{node_id}-1",
        kernel_release=OLD,
        hardware_model="model-a",
        capabilities=["luo", "kho", "emulated"],
        labels={"pool": "prod", "zone": "a"},
        status=agent_pb2.NodeStatus(phase=common_pb2.PHASE_IDLE, healthy=True),
        agent_version="0.1.0",
        rollback_artifact="c" * 64,
        command_line="root=/dev/vda ro",
    )
    made.MergeFrom(agent_pb2.Hello(**changes))
    return made


@dataclass
class ScriptedNode:
    """An agent that succeeds at everything. Use run() as a task, after connect()."""

    served: Served
    node_id: str
    changes: Mapping[str, Any] = field(default_factory=dict)
    call: Any = None
    welcome: agent_pb2.Welcome = field(default_factory=agent_pb2.Welcome)
    seq: int = 0
    boot: int = 1
    release: str = OLD
    status: agent_pb2.NodeStatus = field(
        default_factory=lambda: agent_pb2.NodeStatus(phase=common_pb2.PHASE_IDLE, healthy=True)
    )
    commands: list[agent_pb2.Command] = field(default_factory=list)
    failures: int = 0
    """So many attempts fail to load, for good."""
    _writing: asyncio.Lock = field(default_factory=asyncio.Lock)
    """A stream takes one write at a time."""

    async def send(self, message: agent_pb2.LinkRequest) -> None:
        async with self._writing:
            await self.call.write(message)

    async def connect(self) -> None:
        self.call = self.served.agents.Link()
        await self.send(agent_pb2.LinkRequest(hello=hello(self.node_id, **self.changes)))
        answer = await self.call.read()
        assert isinstance(answer, agent_pb2.LinkResponse), await self.call.details()
        self.welcome = answer.welcome

    async def run(self) -> None:
        async with asyncio.TaskGroup() as tasks:
            beats = tasks.create_task(self._beat())
            async for answer in self._answers():
                if answer.WhichOneof("message") == "command":
                    self.commands.append(answer.command)
                    await self._obey(answer.command)
            beats.cancel()

    async def _answers(self) -> AsyncIterator[agent_pb2.LinkResponse]:
        while isinstance(answer := await self.call.read(), agent_pb2.LinkResponse):
            yield answer

    async def _beat(self) -> None:
        interval = self.welcome.active_heartbeat.ToTimedelta().total_seconds()
        while True:
            beat = agent_pb2.Heartbeat(status=self.status, stamp=self._stamp())
            await self.send(agent_pb2.LinkRequest(heartbeat=beat))
            await asyncio.sleep(interval)

    def _stamp(self) -> common_pb2.BootStamp:
        made = common_pb2.BootStamp(boot_id=self.boot_id)
        made.boottime.FromTimedelta(timedelta(seconds=100 + self.seq))
        return made

    @property
    def boot_id(self) -> str:
        return f"boot-{self.node_id}-{self.boot}"

    async def _obey(self, command: agent_pb2.Command) -> None:
        match command.WhichOneof("action"):
            case "stage":
                digest = command.stage.artifact.digest
                await self.report(
                    "Staged", stage=agent_pb2.StageResult(artifact_digest=digest, verified=True)
                )
            case "prepare":
                self.status.attempt.CopyFrom(command.prepare.attempt)
                self._target = command.prepare.artifact.kernel_release
                if self.failures:
                    self.failures -= 1
                    problem = common_pb2.Problem(
                        reason="KEXEC_LOAD_FAILED",
                        retry="RETRY_CLASS_NEVER",
                        message="the image is for another machine",
                        remedy="Build it for this one.",
                    )
                    await self.report("Failed", "UNWINDING", problem=problem)
                    await self.report("Unwound", "ABORTED", problem=problem)
                    return
                for event, phase in (
                    ("Loaded", "DRAINING"),
                    ("Drained", "PRESERVING"),
                    ("Preserved", "PRESERVED"),
                ):
                    await self.report(event, phase)
            case "proceed":
                await self.report("Suspended", "JUMPING")
                self.boot, self.release = self.boot + 1, self._target
                await self.report(
                    "BootVerdictReached", "RETRIEVING", boot_verdict="BOOT_VERDICT_LIVE_UPDATED"
                )
                await self.report("Retrieved", "RESUMING")
                sample = common_pb2.BlackoutSample(vantage="VANTAGE_WORKLOAD", clock="emulated")
                sample.emulated = True
                sample.duration.FromTimedelta(timedelta(milliseconds=800))
                sample.uncertainty.FromTimedelta(timedelta(milliseconds=1))
                await self.report("Resumed", "VERIFYING", samples=[sample])
                await self.report("Healthy", "FINISHING")
                memory = agent_pb2.MemoryCheck(workloads=1, intact=1, bytes_checked=4096)
                await self.report("Finished", "BAKING", memory_check=memory)
            case "commit":
                await self.report("Committed", "COMMITTED")
            case "cancel":
                await self.report("CancelRequested", "UNWINDING")
                await self.report("Unwound", "ABORTED")

    async def report(self, event: str, phase: str = "", **more: Any) -> None:
        self.seq += 1
        if phase:
            self.status.phase = common_pb2.Phase.Value(f"PHASE_{phase}")  # type: ignore[assignment]
        report = agent_pb2.Report(
            seq=self.seq,
            event=event,
            phase=self.status.phase,
            healthy=True,
            stamp=self._stamp(),
            boot_id=self.boot_id,
            kernel_release=self.release,
            attempt=self.status.attempt if phase else None,
            **more,
        )
        await self.send(agent_pb2.LinkRequest(report=report))


@asynccontextmanager
async def nodes(served: Served, *names: str, **changes: Any) -> AsyncIterator[list[ScriptedNode]]:
    """So many nodes, linked and obeying."""
    made = [ScriptedNode(served, name, changes) for name in names]
    for node in made:
        await node.connect()
    async with asyncio.TaskGroup() as tasks:
        running = [tasks.create_task(node.run()) for node in made]
        try:
            yield made
        finally:
            for node in made:
                node.call.cancel()
            for task in running:
                task.cancel()


def spec(name: str = "k", **changes: Any) -> pb.RolloutSpec:
    """A rollout over everything that bakes no time."""
    made = pb.RolloutSpec(
        name=name,
        target=pb.Target(artifact=ARTIFACT.name),
        selection=pb.Selection(selector="pool=prod"),
        budgets=pb.Budgets(max_unavailable=pb.Amount(percent=100), max_in_blackout=pb.Amount(percent=100)),
    )
    made.bake.node.FromTimedelta(timedelta(0))
    made.bake.wave.FromTimedelta(timedelta(0))
    made.health_hold.FromTimedelta(timedelta(0))
    made.MergeFrom(pb.RolloutSpec(**changes))
    return made


def now() -> dt.datetime:
    return dt.datetime.now(dt.UTC)
