"""Starting the servers: mutual TLS with disjoint roles, ports in use, health and reflection."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc
from liveroll.v1 import agent_pb2, agent_pb2_grpc, rollout_pb2_grpc
from liveroll.v1 import rollout_pb2 as pb

from orchestrator.cli.client import Client, Connection
from orchestrator.cli.failure import Exit, Failed
from orchestrator.errors import SettingsError
from orchestrator.rpc.pki import KeyPair, Pki, make_pki
from orchestrator.rpc.server import RpcServer
from tests.integration.rpc_harness import Listen, Served, Tls, hello, serving
from tests.integration.test_rpc_link import end_of


@dataclass(frozen=True)
class Secured:
    served: Served
    pki: Pki

    def channel(self, port: int, pair: KeyPair) -> grpc.aio.Channel:
        credentials = grpc.ssl_channel_credentials(
            self.pki.ca.read_bytes(), pair.key.read_bytes(), pair.certificate.read_bytes()
        )
        return grpc.aio.secure_channel(f"127.0.0.1:{port}", credentials)


@pytest.fixture(scope="module")
def pki(tmp_path_factory: pytest.TempPathFactory) -> Pki:
    return make_pki(tmp_path_factory.mktemp("pki"), ["n1", "n2"], ["alice"])


def listen(pki: Pki) -> Listen:
    return Listen(tls=Tls(pki.server.certificate, pki.server.key, pki.ca))


async def test_operators_and_agents_by_their_certificates(pki: Pki) -> None:
    async with serving(operators=listen(pki), agents=listen(pki)) as served:
        secured = Secured(served, pki)
        async with secured.channel(served.rpc.agents_port, pki.agents["n1"]) as channel:
            call = agent_pb2_grpc.AgentServiceStub(channel).Link()  # type: ignore[no-untyped-call]
            await call.write(agent_pb2.LinkRequest(hello=hello("n1")))
            assert (await call.read()).HasField("welcome")
            call.cancel()
        async with secured.channel(served.rpc.operators_port, pki.operators["alice"]) as channel:
            stub = rollout_pb2_grpc.RolloutServiceStub(channel)  # type: ignore[no-untyped-call]
            request = pb.FleetStopRequest(stop=True, reason="t", idempotency_key="1")
            await stub.FleetStop(request, metadata=(("liveroll-user", "mallory"),))
        assert served.orchestrator.fleet.row.stopped_by == "alice"


async def test_a_node_cannot_speak_for_another(pki: Pki) -> None:
    async with serving(operators=listen(pki), agents=listen(pki)) as served:
        secured = Secured(served, pki)
        async with secured.channel(served.rpc.agents_port, pki.agents["n1"]) as channel:
            call = agent_pb2_grpc.AgentServiceStub(channel).Link()  # type: ignore[no-untyped-call]
            await call.write(agent_pb2.LinkRequest(hello=hello("n2")))
            assert await end_of(call) == (grpc.StatusCode.PERMISSION_DENIED, "NODE_MISMATCH")
        assert not served.orchestrator.fleet.nodes


async def test_the_wrong_role_is_denied_on_either_port(pki: Pki) -> None:
    async with serving(operators=listen(pki), agents=listen(pki)) as served:
        secured = Secured(served, pki)
        async with secured.channel(served.rpc.agents_port, pki.operators["alice"]) as channel:
            call = agent_pb2_grpc.AgentServiceStub(channel).Link()  # type: ignore[no-untyped-call]
            await call.write(agent_pb2.LinkRequest(hello=hello("n1")))
            assert await end_of(call) == (grpc.StatusCode.PERMISSION_DENIED, "WRONG_ROLE")
        async with secured.channel(served.rpc.operators_port, pki.agents["n1"]) as channel:
            stub = rollout_pb2_grpc.RolloutServiceStub(channel)  # type: ignore[no-untyped-call]
            for call in (
                stub.ListNodes(pb.ListNodesRequest()),
                stub.WatchNodes(pb.WatchNodesRequest()).read(),
            ):
                with pytest.raises(grpc.aio.AioRpcError) as caught:
                    await call
                assert caught.value.code() is grpc.StatusCode.PERMISSION_DENIED


async def test_each_port_serves_only_its_service() -> None:
    async with (
        serving() as served,
        grpc.aio.insecure_channel(f"127.0.0.1:{served.rpc.agents_port}") as channel,
    ):
        stub = rollout_pb2_grpc.RolloutServiceStub(channel)  # type: ignore[no-untyped-call]
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await stub.ListNodes(pb.ListNodesRequest())
        assert caught.value.code() is grpc.StatusCode.UNIMPLEMENTED


async def test_the_client_over_tls(pki: Pki, tmp_path: Path) -> None:
    async with serving(operators=listen(pki), agents=listen(pki)) as served:
        pair = pki.operators["alice"]

        def ask(**files: Any) -> Any:
            with Client(Connection(served.server, timeout_s=5, **files)) as client:
                return client.nodes()

        whole = {"ca": pki.ca, "cert": pair.certificate, "key": pair.key}
        assert await asyncio.to_thread(ask, **whole) == []
        agent = pki.agents["n1"]
        with pytest.raises(Failed) as denied:
            await asyncio.to_thread(ask, ca=pki.ca, cert=agent.certificate, key=agent.key)
        assert (denied.value.exit, denied.value.reason) == (Exit.DENIED, "WRONG_ROLE")
        other = make_pki(tmp_path / "other", [], ["alice"])
        for files in (
            {"ca": other.ca, "cert": pair.certificate, "key": pair.key},
            {"ca": pki.ca},
            {},
        ):
            with pytest.raises(Failed) as unreachable:
                await asyncio.to_thread(ask, **files)
            # Which of the two depends on who notices first: the handshake, or the closed socket.
            assert (unreachable.value.exit, unreachable.value.reason) in (
                (Exit.DENIED, "TLS_FAILED"),
                (Exit.UNREACHABLE, "UNREACHABLE"),
            )
        with pytest.raises(Failed, match="belong together"):
            await asyncio.to_thread(ask, ca=pki.ca, cert=pair.certificate)
        with pytest.raises(Failed, match="cannot read"):
            await asyncio.to_thread(ask, ca=tmp_path / "none.pem")


async def test_a_port_in_use_is_one_sentence() -> None:
    async with serving() as served:
        taken = Listen(f"127.0.0.1:{served.rpc.operators_port}")
        second = RpcServer(served.orchestrator, operators=Listen(), agents=taken)
        with pytest.raises(SettingsError) as refused:
            await second.start()
        assert refused.value.reason == "PORT_IN_USE"
        assert taken.address in refused.value.message
        assert "\n" not in refused.value.message


async def test_plaintext_beyond_loopback_does_not_start() -> None:
    async with serving() as served:
        second = RpcServer(served.orchestrator, operators=Listen("0.0.0.0:0"), agents=Listen())
        with pytest.raises(SettingsError) as refused:
            await second.start()
        assert refused.value.reason == "PLAINTEXT_REFUSED"


async def test_a_unix_socket_will_do(tmp_path: Path) -> None:
    address = f"unix:{tmp_path}/operators.sock"
    async with serving(operators=Listen(address)), grpc.aio.insecure_channel(address) as channel:
        stub = rollout_pb2_grpc.RolloutServiceStub(channel)  # type: ignore[no-untyped-call]
        assert not (await stub.ListNodes(pb.ListNodesRequest())).nodes


async def test_health_says_whether_it_is_ready() -> None:
    async with serving() as served:
        address = f"127.0.0.1:{served.rpc.agents_port}"
        async with grpc.aio.insecure_channel(address) as channel:
            stub = health_pb2_grpc.HealthStub(channel)
            for service in ("", "liveroll.v1.AgentService"):
                answer = await stub.Check(health_pb2.HealthCheckRequest(service=service))
                assert answer.status == health_pb2.HealthCheckResponse.SERVING
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await stub.Check(health_pb2.HealthCheckRequest(service="liveroll.v1.RolloutService"))
            assert caught.value.code() is grpc.StatusCode.NOT_FOUND


async def test_reflection_lists_the_service() -> None:
    async with serving() as served, grpc.aio.insecure_channel(served.server) as channel:
        stub = reflection_pb2_grpc.ServerReflectionStub(channel)
        call = stub.ServerReflectionInfo(iter([reflection_pb2.ServerReflectionRequest(list_services="")]))
        answer = await call.read()
        names = {service.name for service in answer.list_services_response.service}
        assert "liveroll.v1.RolloutService" in names
        assert "liveroll.v1.AgentService" not in names
