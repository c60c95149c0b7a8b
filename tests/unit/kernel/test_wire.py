"""The wire against callers that do not keep to it."""

from __future__ import annotations

import array
import os
import socket
from collections.abc import Iterator

import pytest

from node_agent.kernel.emulated import wire

Pair = tuple[socket.socket, socket.socket]


@pytest.fixture
def pair() -> Iterator[Pair]:
    before = len(os.listdir("/proc/self/fd"))
    mine, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    theirs.setblocking(False)
    yield mine, theirs
    mine.close()
    theirs.close()
    assert len(os.listdir("/proc/self/fd")) == before


def send(sock: socket.socket, body: bytes, *fds: int) -> None:
    sock.sendmsg([body], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", fds))] if fds else [])


def test_nothing_yet_and_the_end(pair: Pair) -> None:
    with pytest.raises(BlockingIOError):
        wire.receive(pair[1])
    pair[0].close()
    assert wire.receive(pair[1]) is None


def test_a_request_without_a_reply_socket_is_answered_to_nobody(pair: Pair) -> None:
    send(pair[0], b"body")
    request = wire.receive(pair[1])
    assert request is not None
    assert (request.body, request.reply, request.fd) == (b"body", None, -1)
    request.kill_caller()
    request.answer(0, b"answer")


def test_a_reply_socket_that_is_none_is_no_error(pair: Pair) -> None:
    with open("/dev/null", "rb") as null:
        send(pair[0], b"body", null.fileno(), null.fileno(), null.fileno())
    request = wire.receive(pair[1])
    assert request is not None
    assert (request.reply, request.fd) == (None, -1)
    request.kill_caller()
    request.answer(0, b"answer")


def test_an_empty_message_is_an_end_and_its_descriptors_are_closed(pair: Pair) -> None:
    with open("/dev/null", "rb") as null:
        send(pair[0], b"", null.fileno())
    assert wire.receive(pair[1]) is None


def test_a_reset_is_an_end(pair: Pair) -> None:
    pair[1].send(b"unread")
    pair[0].close()
    assert wire.receive(pair[1]) is None


def test_a_caller_that_is_gone_is_no_error(pair: Pair) -> None:
    reply, kept = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    send(pair[0], b"body", kept.fileno())
    reply.close()
    kept.close()
    request = wire.receive(pair[1])
    assert request is not None
    request.kill_caller()
    request.answer(0)
