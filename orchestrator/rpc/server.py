"""The two gRPC servers: operators on one port, agents on another, each serving only its service.

Health (grpc.health.v1) and reflection are served on both. A port that cannot be bound, plaintext
beyond loopback and unusable certificates are SettingsErrors, before anything is served.
"""

from __future__ import annotations

import asyncio
from types import TracebackType
from typing import Protocol, Self

import grpc
import structlog
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection
from liveroll.v1 import agent_pb2, agent_pb2_grpc, rollout_pb2, rollout_pb2_grpc

from orchestrator.errors import SettingsError
from orchestrator.rpc.agents import AgentService
from orchestrator.rpc.auth import TlsFiles, check_listener, server_credentials
from orchestrator.rpc.rollouts import RolloutService
from orchestrator.runtime.service import Orchestrator

OPERATOR_MESSAGE_BYTES = 4 * 1024 * 1024
"""A specification that names 20,000 nodes fits; more is a mistake."""
AGENT_MESSAGE_BYTES = 256 * 1024
"""The largest honest message is a report with a sample for each of a thousand workloads."""
STOP_GRACE_S = 5.0
"""Streams end themselves at once; this is for unary calls whose commit is under way."""

_OPTIONS: tuple[tuple[str, int], ...] = (
    # Without it a second orchestrator would share the port silently.
    ("grpc.so_reuseport", 0),
    ("grpc.keepalive_time_ms", 20_000),
    ("grpc.keepalive_timeout_ms", 10_000),
    ("grpc.keepalive_permit_without_calls", 1),
    ("grpc.http2.max_pings_without_data", 0),
    # Agents ping every 30 s; anything much faster is abuse.
    ("grpc.http2.min_ping_interval_without_data_ms", 5_000),
    ("grpc.max_metadata_size", 16 * 1024),
)

log = structlog.get_logger("liveroll.rpc")

HEALTH = "grpc.health.v1.Health"


class Listen(Protocol):
    """Where to serve (settings.Listen is one). address: host:port or unix:path."""

    @property
    def address(self) -> str: ...
    @property
    def tls(self) -> TlsFiles | None: ...


class RpcServer:
    """Both servers. `async with RpcServer(orchestrator, operators=…, agents=…) as rpc:`

    After the start, operators_port and agents_port are the bound ports (0 on Unix sockets).
    """

    def __init__(self, orchestrator: Orchestrator, *, operators: Listen, agents: Listen) -> None:
        self._orchestrator = orchestrator
        self._operators, self._agents = operators, agents
        self._stopping = asyncio.Event()
        self._servers: list[grpc.aio.Server] = []
        self._agent_service: AgentService | None = None
        self.operators_port = 0
        self.agents_port = 0

    async def start(self) -> None:
        """Raises SettingsError (PORT_IN_USE, PLAINTEXT_REFUSED, TLS_FILES, …)."""
        try:
            self.operators_port = await self._start_operators()
            self.agents_port = await self._start_agents()
        except BaseException:
            await self.stop(grace_s=0)
            raise

    async def stop(self, grace_s: float = STOP_GRACE_S) -> None:
        """End streams with a status that says where to go on, let calls finish, close the ports."""
        if self._agent_service is not None and not self._stopping.is_set():
            log.info("ending every link and watch; they are to dial again", links=self._agent_service.links)
        self._stopping.set()
        await asyncio.gather(*(server.stop(grace_s) for server in self._servers))
        self._servers.clear()

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.stop()

    async def _start_operators(self) -> int:
        server = _server(OPERATOR_MESSAGE_BYTES)
        service = RolloutService(
            self._orchestrator, verified=_verified(self._operators), stopping=self._stopping
        )
        rollout_pb2_grpc.add_RolloutServiceServicer_to_server(service, server)  # type: ignore[no-untyped-call]
        name = rollout_pb2.DESCRIPTOR.services_by_name["RolloutService"].full_name
        return await self._serve(server, "operators", self._operators, name)

    async def _start_agents(self) -> int:
        server = _server(AGENT_MESSAGE_BYTES)
        service = AgentService(self._orchestrator, verified=_verified(self._agents), stopping=self._stopping)
        self._agent_service = service
        agent_pb2_grpc.add_AgentServiceServicer_to_server(service, server)  # type: ignore[no-untyped-call]
        name = agent_pb2.DESCRIPTOR.services_by_name["AgentService"].full_name
        return await self._serve(server, "agents", self._agents, name)

    async def _serve(self, server: grpc.aio.Server, who: str, listen: Listen, service: str) -> int:
        health = Health(self._orchestrator, service, self._stopping)
        health_pb2_grpc.add_HealthServicer_to_server(health, server)
        reflection.enable_server_reflection((service, HEALTH, reflection.SERVICE_NAME), server)
        check_listener(who, listen.address, listen.tls)
        try:
            if listen.tls is None:
                port = server.add_insecure_port(listen.address)
            else:
                port = server.add_secure_port(listen.address, server_credentials(listen.tls))
        except RuntimeError as error:
            raise SettingsError(
                f"cannot listen on {listen.address} for {who}: the port is in use or not ours to bind",
                reason="PORT_IN_USE",
                remedy=f"stop the other process, or set {who}.address to a free port",
                address=listen.address,
            ) from error
        await server.start()
        self._servers.append(server)
        return port


def _server(message_bytes: int) -> grpc.aio.Server:
    options = (*_OPTIONS, ("grpc.max_receive_message_length", message_bytes))
    return grpc.aio.server(options=options)


def _verified(listen: Listen) -> bool:
    return listen.tls is not None and listen.tls.ca is not None


class Health(health_pb2_grpc.HealthServicer):  # type: ignore[misc]
    """SERVING while Orchestrator.ready() says so; asked at each call, so it cannot be stale."""

    def __init__(self, orchestrator: Orchestrator, service: str, stopping: asyncio.Event) -> None:
        self._orchestrator, self._service, self._stopping = orchestrator, service, stopping

    def _status(self, service: str) -> health_pb2.HealthCheckResponse:
        if service not in ("", self._service, HEALTH):
            return health_pb2.HealthCheckResponse(status=health_pb2.HealthCheckResponse.SERVICE_UNKNOWN)
        ready = self._orchestrator.ready()[0] and not self._stopping.is_set()
        return health_pb2.HealthCheckResponse(
            status=health_pb2.HealthCheckResponse.SERVING
            if ready
            else health_pb2.HealthCheckResponse.NOT_SERVING
        )

    async def Check(
        self,
        request: health_pb2.HealthCheckRequest,
        context: grpc.aio.ServicerContext[health_pb2.HealthCheckRequest, health_pb2.HealthCheckResponse],
    ) -> health_pb2.HealthCheckResponse:
        answer = self._status(request.service)
        if answer.status == health_pb2.HealthCheckResponse.SERVICE_UNKNOWN:
            await context.abort(grpc.StatusCode.NOT_FOUND, "no such service here")
        return answer
