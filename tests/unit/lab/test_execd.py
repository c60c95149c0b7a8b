"""The exec server of a guest, run here."""

from __future__ import annotations

import json
import signal
import socket
import threading
from collections.abc import Iterator
from typing import Any

import pytest

from deploy.lab.guest import execd


@pytest.fixture
def address() -> Iterator[tuple[str, int]]:
    with execd.Server(("127.0.0.1", 0), execd.Handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield ("127.0.0.1", server.server_address[1])
        server.shutdown()
        thread.join()


def ask(address: tuple[str, int], line: bytes) -> dict[str, Any]:
    with socket.create_connection(address, timeout=30) as connection, connection.makefile("rb") as reader:
        connection.sendall(line)
        answer: dict[str, Any] = json.loads(reader.readline())
        assert reader.read() == b""
        return answer


def request(**words: object) -> bytes:
    return json.dumps(words).encode() + b"\n"


def test_output_status_and_input_come_through(address: tuple[str, int]) -> None:
    answer = ask(address, request(argv=["sh", "-c", "cat; echo e >&2; exit 3"], stdin="hällo"))
    assert answer == {"rc": 3, "stdout": "hällo", "stderr": "e\n"}


def test_a_timeout_kills_the_whole_group(address: tuple[str, int]) -> None:
    # The grandchild holds the pipe open: only its death ends the answer in time.
    answer = ask(address, request(argv=["sh", "-c", "sleep 60 & wait"], timeout_s=0.3))
    assert answer["rc"] == -signal.SIGKILL
    assert answer["timed_out"] is True


def test_requests_run_side_by_side(address: tuple[str, int]) -> None:
    with socket.create_connection(address, timeout=30) as slow:
        slow.sendall(request(argv=["sleep", "0.5"]))
        assert ask(address, request(argv=["true"]))["rc"] == 0
        assert json.loads(slow.makefile("rb").readline())["rc"] == 0


@pytest.mark.parametrize(
    "line", [b"{\n", b"[]\n", b"{}\n", request(argv=[]), request(argv=["/no/such/program"]), request(argv=7)]
)
def test_what_cannot_be_run_is_an_answer(address: tuple[str, int], line: bytes) -> None:
    assert set(ask(address, line)) == {"error"}
