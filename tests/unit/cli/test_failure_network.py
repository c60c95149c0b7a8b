"""What the network says of a connection that never came to be, as gRPC words it."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import grpc
import pytest

from orchestrator.cli.client import Client, Connection
from orchestrator.cli.failure import Exit, Failed, failed_call
from orchestrator.rpc.pki import make_pki


class Refused(grpc.RpcError):
    def __init__(self, code: grpc.StatusCode, details: str) -> None:
        self._code, self._details = code, details

    def code(self) -> grpc.StatusCode:
        return self._code

    def details(self) -> str:
        return self._details

    def trailing_metadata(self) -> tuple[Any, ...]:
        return ()


TO_ALL = "failed to connect to all addresses; last error: "


@pytest.mark.parametrize(
    ("details", "exit_code", "reason"),
    [
        (TO_ALL + "UNAVAILABLE: ipv4:127.0.0.1:1: Socket closed", Exit.DENIED, "TLS_FAILED"),
        (
            TO_ALL + "UNKNOWN: ipv4:127.0.0.1:1: Ssl handshake failed: Hostname Verification Check failed.",
            Exit.DENIED,
            "TLS_FAILED",
        ),
        (TO_ALL + "UNKNOWN: ipv4:127.0.0.1:1: Tls handshake failed", Exit.DENIED, "TLS_FAILED"),
        (TO_ALL + "UNKNOWN: ipv4:127.0.0.1:1: connect: Connection refused", Exit.UNREACHABLE, "UNREACHABLE"),
        ("Socket closed", Exit.UNREACHABLE, "UNREACHABLE"),
    ],
)
def test_a_closed_door_is_told_from_an_empty_house(details: str, exit_code: Exit, reason: str) -> None:
    failed = failed_call(Refused(grpc.StatusCode.UNAVAILABLE, details), "server:1")
    assert (failed.exit, failed.reason) == (exit_code, reason)
    assert failed.remedy


def test_a_certificate_of_another_name_is_told_so(tmp_path: Path) -> None:
    pki = make_pki(tmp_path, [], ["alice"], hosts=["elsewhere.example"])
    server = grpc.server(ThreadPoolExecutor(1))
    pair = (pki.server.key.read_bytes(), pki.server.certificate.read_bytes())
    port = server.add_secure_port("127.0.0.1:0", grpc.ssl_server_credentials([pair]))
    server.start()
    try:
        with Client(Connection(f"127.0.0.1:{port}", ca=pki.ca)) as client, pytest.raises(Failed) as caught:
            client.get("k")
    finally:
        server.stop(0).wait(5)
    assert caught.value.exit is Exit.DENIED
    assert caught.value.lines() == [
        f"liveroll: no secure connection to the orchestrator at 127.0.0.1:{port}",
        "    Check --ca, --cert and --key, and that the server's certificate names this address.",
    ]
