"""The gRPC end of the link: mutual TLS by files, plaintext on loopback only, reasons, many nodes."""

from __future__ import annotations

import asyncio
import random
import socket
import subprocess
from collections import Counter
from contextlib import AsyncExitStack, ExitStack
from pathlib import Path

import grpc
import grpc.aio
import pytest
from liveroll.v1 import agent_pb2 as pb
from liveroll.v1 import agent_pb2_grpc as rpc

from node_agent.core.rota import DialPolicy, Rota
from node_agent.errors import LinkError, SettingsError
from node_agent.runtime.link import Link, LinkView
from node_agent.runtime.link_grpc import STREAMS_PER_CHANNEL, GrpcDialer
from node_agent.settings import TlsFiles
from tests.unit.agent_link.fake_orchestrator import FakeOrchestrator
from tests.unit.agent_link.fakes import FakeNode

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


async def hello(dialer: GrpcDialer, address: str) -> str:
    """Dial, say hello; which message answered."""
    async with dialer.connect(address) as transport:
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
        address = f"127.0.0.1:{port}"
        good = GrpcDialer([address], files(pki))
        assert await hello(good, address) == "welcome"
        await good.close()
        for bad in (files(pki, ca="stranger"), files(pki, name="stranger"), None):
            dialer = GrpcDialer([address], bad)
            with pytest.raises(LinkError):
                await hello(dialer, address)
            await dialer.close()
    finally:
        await server.stop(None)


def test_what_cannot_be_dialled_is_refused_with_a_sentence(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="refusing plaintext to 10") as caught:
        GrpcDialer(["127.0.0.1:7443", "10.0.0.1:7443"], None)
    assert (caught.value.reason, caught.value.remedy != "") == ("PLAINTEXT_REFUSED", True)
    with pytest.raises(SettingsError, match="cannot read") as caught:
        GrpcDialer(["10.0.0.1:7443"], TlsFiles(*(tmp_path / n for n in ("a", "b", "c"))))
    assert caught.value.reason == "TLS_UNREADABLE"


async def test_nobody_there() -> None:
    dialer = GrpcDialer(["127.0.0.1:1"], None)
    with pytest.raises(LinkError) as caught:
        await hello(dialer, "127.0.0.1:1")
    assert (caught.value.reason, caught.value.fields["address"]) == ("UNREACHABLE", "127.0.0.1:1")
    await dialer.close()


async def test_a_status_without_details_is_named_by_its_code() -> None:
    refuse = (grpc.StatusCode.RESOURCE_EXHAUSTED, "too many links", b"\xff not a status")
    orchestrator = await FakeOrchestrator(refuse=refuse).start()
    dialer = GrpcDialer([orchestrator.address], None)
    with pytest.raises(LinkError, match="too many links") as caught:
        await hello(dialer, orchestrator.address)
    assert caught.value.reason == "RESOURCE_EXHAUSTED"
    await dialer.close()
    await orchestrator.stop()


async def test_many_nodes_at_once_share_channels_and_none_is_stuck() -> None:
    orchestrator = await FakeOrchestrator().start()
    dialer = GrpcDialer([orchestrator.address], None)
    count = 3 * STREAMS_PER_CHANNEL + 1
    async with AsyncExitStack() as stack:

        async def one(i: int) -> None:
            transport = await stack.enter_async_context(dialer.connect(orchestrator.address))
            await transport.send(pb.LinkRequest(hello=pb.Hello(node_id=f"n{i}")))
            assert await transport.receive() is not None

        async with asyncio.timeout(30), asyncio.TaskGroup() as tasks:
            for i in range(count):
                tasks.create_task(one(i))
        assert len(orchestrator.nodes) == count
        assert dialer.channels == 4
    await dialer.close()
    await orchestrator.stop()


async def test_an_orchestrator_that_came_back_is_reached_at_once_and_old_channels_are_ended() -> None:
    first = await FakeOrchestrator().start()
    dialer = GrpcDialer([first.address], None)
    assert await hello(dialer, first.address) == "welcome"
    assert dialer.channels == 1, "one that is connected is kept"
    await first.stop()
    for _ in range(8):  # long enough for a channel's own backoff to reach its five seconds
        with pytest.raises(LinkError):
            await hello(dialer, first.address)
    assert dialer.channels == 0
    again = await FakeOrchestrator().start(int(first.address.rpartition(":")[2]))
    async with asyncio.timeout(3):
        assert await hello(dialer, again.address) == "welcome"
    await dialer.close()
    await again.stop()


async def test_a_machine_that_says_nothing_is_given_up_soon() -> None:
    """A full backlog drops what knocks, as a machine that is gone does."""
    with socket.socket() as silent, ExitStack() as knocking:
        silent.bind(("127.0.0.1", 0))
        silent.listen(0)
        for _ in range(2):
            knock = knocking.enter_context(socket.socket())
            knock.setblocking(False)
            knock.connect_ex(silent.getsockname())
        address = f"127.0.0.1:{silent.getsockname()[1]}"
        dialer = GrpcDialer([address], None)
        with pytest.raises(LinkError) as caught:
            async with asyncio.timeout(5):
                await hello(dialer, address)
        assert caught.value.reason == "UNREACHABLE"
        await dialer.close()


async def test_the_links_of_a_lost_orchestrator_move_to_those_that_are_left() -> None:
    replicas = [await FakeOrchestrator(active_heartbeat_s=0.05).start() for _ in range(3)]
    addresses = [replica.address for replica in replicas]
    dialer = GrpcDialer(addresses, None)
    policy = DialPolicy(first_s=0.05, most_s=0.5, spread_s=0.2)
    nodes = [FakeNode(f"n{i}") for i in range(120)]
    up: dict[str, str] = {}
    moved = asyncio.Event()

    def link(node: FakeNode) -> Link:
        rota = Rota(addresses, random.Random(node.node_id), policy)

        def seen(view: LinkView) -> None:
            up[node.node_id] = rota.address if view.up else ""
            moved.set()

        return Link(node, dialer.by(rota), rota=rota, on_view=seen)

    async def until_all_are_at(wanted: list[str]) -> None:
        async with asyncio.timeout(30):
            while len(up) < len(nodes) or not all(at in wanted for at in up.values()):
                moved.clear()
                await moved.wait()

    tasks = [asyncio.create_task(link(node).run()) for node in nodes]
    try:
        await until_all_are_at(addresses)
        shares = Counter(up.values())
        assert all(25 <= shares[a] <= 60 for a in addresses), shares
        stayed = {node for node, at in up.items() if at in addresses[1:]}
        await replicas[0].stop()
        await until_all_are_at(addresses[1:])
        shares = Counter(up.values())
        assert all(40 <= shares[a] <= 80 for a in addresses[1:]), shares
        hellos = Counter(n for r in replicas[1:] for n, seen in r.nodes.items() for _ in range(seen.hellos))
        assert all(hellos[node] == 1 for node in stayed), "who had a link that works stays where it is"
        assert dialer.channels <= 6
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)
        await dialer.close()
        for replica in replicas:
            await replica.stop()


async def test_nodes_spread_over_the_addresses_of_one_name() -> None:
    """As if a name had resolved to three: without a say, gRPC takes the first one every time."""
    replicas = [await FakeOrchestrator().start() for _ in range(3)]
    name = "ipv4:" + ",".join(replica.address for replica in replicas)
    for _ in range(40):
        dialer = GrpcDialer([replica.address for replica in replicas], None)
        assert await hello(dialer, name) == "welcome"
        await dialer.close()
    hellos = [replica.nodes["n1"].hellos for replica in replicas]
    assert sum(hellos) == 40
    assert min(hellos) > 0
    for replica in replicas:
        await replica.stop()


async def test_each_address_must_bear_its_own_name(pki: Path) -> None:
    server = grpc.aio.server()
    rpc.add_AgentServiceServicer_to_server(FakeOrchestrator(), server)  # type: ignore[no-untyped-call]
    ca, key, cert = (pki / n for n in ("ca.pem", "server.key", "server.pem"))
    port = server.add_secure_port(
        "127.0.0.1:0",
        grpc.ssl_server_credentials(
            [(key.read_bytes(), cert.read_bytes())], ca.read_bytes(), require_client_auth=True
        ),
    )
    await server.start()
    named, unnamed = f"127.0.0.1:{port}", f"localhost:{port}"
    dialer = GrpcDialer([named, unnamed], files(pki))
    try:
        assert await hello(dialer, named) == "welcome"
        with pytest.raises(LinkError):
            await hello(dialer, unnamed)
    finally:
        await dialer.close()
        await server.stop(None)
