"""What the network says of a connection that never came to be, as gRPC words it."""

from __future__ import annotations

from typing import Any

import grpc
import pytest

from orchestrator.cli.failure import Exit, failed_call


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
        (TO_ALL + "UNKNOWN: ipv4:127.0.0.1:1: Tls handshake failed", Exit.DENIED, "TLS_FAILED"),
        (TO_ALL + "UNKNOWN: ipv4:127.0.0.1:1: connect: Connection refused", Exit.UNREACHABLE, "UNREACHABLE"),
        ("Socket closed", Exit.UNREACHABLE, "UNREACHABLE"),
    ],
)
def test_a_closed_door_is_told_from_an_empty_house(details: str, exit_code: Exit, reason: str) -> None:
    failed = failed_call(Refused(grpc.StatusCode.UNAVAILABLE, details), "server:1")
    assert (failed.exit, failed.reason) == (exit_code, reason)
    assert failed.remedy
