"""The gRPC end of the link: mutual TLS by files, plaintext on loopback only, reasons, many nodes."""

from __future__ import annotations

import asyncio
import subprocess
from contextlib import AsyncExitStack
from pathlib import Path

import grpc
import grpc.aio
import pytest
from liveroll.v1 import agent_pb2 as pb
from liveroll.v1 import agent_pb2_grpc as rpc

from node_agent.errors import LinkError, SettingsError
from node_agent.runtime.link_grpc import STREAMS_PER_CHANNEL, GrpcDialer
from node_agent.settings import TlsFiles
from tests.unit.agent_link.fake_orchestrator import FakeOrchestrator

HELLO = pb.LinkRequest(hello=pb.Hello(node_id="n1"))


@pytest.fixture(scope="module")
def pki(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An authority, and server and node certificates by it; and a stranger's."""
    where = tmp_path_factory.mktemp("pki")
    ec = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "1")

    def openssl(*arguments: str) -> None:
        subprocess.run(["openssl", *arguments], cwd=where, check=True, capture_output=True)

    for ca in ("ca", "stranger"):
        openssl("req", "-x509", *ec, "-keyout", f"{ca}.key", "-out", f"{ca}.pem", "-subj", f"/CN={ca}")
    for name, san in (("server", "IP:127.0.0.1"), ("node", "URI:spiffe://liveroll/agent/n1")):
        (where / "ext").write_text(f"subjectAltName={san}\n")
        openssl("req", *ec, "-keyout", f"{name}.key", "-out", f"{name}.csr", "-subj", f"/CN={name}")
        openssl(
            *("x509", "-req", "-in", f"{name}.csr", "-CA", "ca.pem", "-CAkey", "ca.key"),
            *("-out", f"{name}.pem", "-days", "1", "-extfile", "ext"),
        )
    return where


def files(pki: Path, ca: str = "ca", name: str = "node") -> TlsFiles:
    return TlsFiles(pki / f"{ca}.pem", pki / f"{name}.pem", pki / f"{name}.key")


async def hello(dialer: GrpcDialer) -> str:
    """Dial, say hello; which message answered."""
    async with dialer.connect() as transport:
        await transport.send(HELLO)
        answer = await transport.receive()
    assert answer is not None
    return str(answer.WhichOneof("message"))


async def test_mutual_tls_by_files(pki: Path) -> None:
    server = grpc.aio.server()
    rpc.add_AgentServiceServicer_to_server(FakeOrchestrator(), server)  # type: ignore[no-untyped-call]
    ca, key, cert = (pki / n for n in ("ca.pem", "server.key", "server.pem"))
    credentials = grpc.ssl_server_credentials(
        [(key.read_bytes(), cert.read_bytes())], ca.read_bytes(), require_client_auth=True
    )
    port = server.add_secure_port("127.0.0.1:0", credentials)
    await server.start()
    try:
        good = GrpcDialer(f"127.0.0.1:{port}", files(pki))
        assert await hello(good) == "welcome"
        await good.close()
        for bad in (files(pki, ca="stranger"), files(pki, name="stranger"), None):
            dialer = GrpcDialer(f"127.0.0.1:{port}", bad)
            with pytest.raises(LinkError):
                await hello(dialer)
            await dialer.close()
    finally:
        await server.stop(None)


def test_what_cannot_be_dialled_is_refused_with_a_sentence(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="refusing plaintext to 10") as caught:
        GrpcDialer("10.0.0.1:7443", None)
    assert (caught.value.reason, caught.value.remedy != "") == ("PLAINTEXT_REFUSED", True)
    with pytest.raises(SettingsError, match="cannot read") as caught:
        GrpcDialer("10.0.0.1:7443", TlsFiles(*(tmp_path / n for n in ("a", "b", "c"))))
    assert caught.value.reason == "TLS_UNREADABLE"


async def test_nobody_there() -> None:
    dialer = GrpcDialer("127.0.0.1:1", None)
    with pytest.raises(LinkError) as caught:
        await hello(dialer)
    assert (caught.value.reason, caught.value.fields["address"]) == ("UNREACHABLE", "127.0.0.1:1")
    await dialer.close()


async def test_a_status_without_details_is_named_by_its_code() -> None:
    refuse = (grpc.StatusCode.RESOURCE_EXHAUSTED, "too many links", b"\xff not a status")
    orchestrator = await FakeOrchestrator(refuse=refuse).start()
    dialer = GrpcDialer(orchestrator.address, None)
    with pytest.raises(LinkError, match="too many links") as caught:
        await hello(dialer)
    assert caught.value.reason == "RESOURCE_EXHAUSTED"
    await dialer.close()
    await orchestrator.stop()


async def test_many_nodes_at_once_share_channels_and_none_is_stuck() -> None:
    orchestrator = await FakeOrchestrator().start()
    dialer = GrpcDialer(orchestrator.address, None)
    count = 3 * STREAMS_PER_CHANNEL + 1
    async with AsyncExitStack() as stack:

        async def one(i: int) -> None:
            transport = await stack.enter_async_context(dialer.connect())
            await transport.send(pb.LinkRequest(hello=pb.Hello(node_id=f"n{i}")))
            assert await transport.receive() is not None

        async with asyncio.timeout(30), asyncio.TaskGroup() as tasks:
            for i in range(count):
                tasks.create_task(one(i))
        assert len(orchestrator.nodes) == count
        assert dialer.channels == 4
    await dialer.close()
    await orchestrator.stop()
