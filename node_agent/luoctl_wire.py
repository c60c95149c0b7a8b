"""luoctl's end of the agent's control socket: one line each way, and a descriptor with either.

Standard library only.
"""

from __future__ import annotations

import array
import json
import os
import socket
from collections.abc import Mapping
from typing import Any

SOCKET_ENV = "LIVEROLL_AGENT_CONTROL_SOCKET"
ANSWER_S = 3600.0
"""An attempt's slowest step; the agent itself bounds each of them far below."""
CHUNK_BYTES = 64 * 1024


class Unreachable(Exception):
    """No agent answers on the socket."""


def ask(path: str, request: Mapping[str, object]) -> dict[str, Any]:
    """One request, one answer. Raises Unreachable, PermissionError."""
    answer, fd = ask_with_fd(path, request)
    if fd >= 0:
        os.close(fd)
    return answer


def ask_with_fd(path: str, request: Mapping[str, object], fd: int = -1) -> tuple[dict[str, Any], int]:
    """(answer, the descriptor that came with it, or -1). Raises Unreachable, PermissionError.

    Args:
        fd: goes with the request, and stays the caller's; -1 for none.
    """
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as sock:
        sock.settimeout(ANSWER_S)
        try:
            sock.connect(path)
        except PermissionError:
            raise
        except OSError as error:
            raise Unreachable(
                f"no agent answers on {path} ({error.strerror or error}); start liveroll-agent, "
                f"or name its socket with --socket or {SOCKET_ENV}"
            ) from error
        came: list[int] = []
        line = b""
        try:
            _send(sock, json.dumps(request).encode() + b"\n", fd)
            line = _line(sock, came)
        except OSError:
            pass  # as good as gone
        if not line:
            _close(came)
            if request.get("cmd") == "kexec":
                return {"ok": True, "result": {"outcome": "JUMPED"}}, -1
            raise Unreachable("the agent went away before it answered; ask `luoctl status` once it is back")
    answer = json.loads(line)
    _close(came[1:])
    return (answer if isinstance(answer, dict) else {}), next(iter(came), -1)


def _send(sock: socket.socket, line: bytes, fd: int) -> None:
    sent = 0
    if fd >= 0:
        rights = (socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [fd]))
        sent = sock.sendmsg([line], [rights])
    sock.sendall(line[sent:])


def _line(sock: socket.socket, fds: list[int]) -> bytes:
    """Up to the newline, or as much as came before the end: nothing, then."""
    line = bytearray()
    item = array.array("i").itemsize
    while b"\n" not in line:
        data, ancillary, _, _ = sock.recvmsg(CHUNK_BYTES, socket.CMSG_LEN(item), socket.MSG_CMSG_CLOEXEC)
        for level, kind, words in ancillary:
            if (level, kind) == (socket.SOL_SOCKET, socket.SCM_RIGHTS):
                fds.extend(array.array("i", words[: len(words) - len(words) % item]))
        if not data:
            return b""
        line += data
    return bytes(line[: line.index(b"\n")])


def _close(fds: list[int]) -> None:
    for fd in fds:
        os.close(fd)
