"""A supervisor's control socket, both ends: one JSON line in, one JSON line out.

The path of a Unix socket is bounded (108 bytes), that of a state directory is not; so both ends
name the socket through their own descriptor of the directory.
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
from collections.abc import Awaitable, Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from deploy.lab.errors import LabError

MAX_LINE_BYTES = 64 * 1024
ANSWER_TIMEOUT_S = 45.0
"""A power switch waits for QEMU's end, which is bounded by seconds, on a machine that may be busy."""


@contextlib.contextmanager
def reachable(path: Path) -> Iterator[str]:
    """A short name of that socket, good while the context lasts."""
    fd = os.open(path.parent, os.O_PATH | os.O_DIRECTORY)
    try:
        yield f"/proc/self/fd/{fd}/{path.name}"
    finally:
        os.close(fd)


def listen(path: Path) -> socket.socket:
    """A listening socket at that path, in place of what was left there."""
    path.unlink(missing_ok=True)
    listening = socket.socket(socket.AF_UNIX)
    with reachable(path) as name:
        listening.bind(name)
    path.chmod(0o600)
    listening.listen()
    listening.setblocking(False)
    return listening


def ask(path: Path, request: Mapping[str, object], timeout_s: float = ANSWER_TIMEOUT_S) -> Mapping[str, Any]:
    """One request to a supervisor. Blocking. Raises LabError: NODE_DOWN, or what it answered."""
    try:
        with socket.socket(socket.AF_UNIX) as connection:
            connection.settimeout(timeout_s)
            with reachable(path) as name:
                connection.connect(name)
            connection.sendall(json.dumps(request).encode() + b"\n")
            with connection.makefile("rb") as answers:
                answer = json.loads(answers.readline(MAX_LINE_BYTES))
    except (OSError, ValueError) as error:
        raise LabError(
            f"the supervisor of {path.parent.name} does not answer",
            reason="NODE_DOWN",
            remedy=f"Read {path.parent / 'supervisor.log'}; `liveroll lab down` and `up` begin anew.",
        ) from error
    if "error" in answer:
        raise LabError(str(answer["error"]), reason=str(answer["reason"]), remedy=str(answer["remedy"]))
    return dict(answer)


async def answer(line: bytes, perform: Callable[[Mapping[str, Any]], Awaitable[Mapping[str, Any]]]) -> bytes:
    """The line that answers a request's line. perform may raise LabError."""
    try:
        request = json.loads(line)
        reply = await perform(request if isinstance(request, dict) else {})
    except LabError as error:
        reply = {"error": str(error), "reason": error.reason, "remedy": error.remedy}
    except ValueError:
        reply = {"error": "not a request", "reason": "REQUEST_INVALID", "remedy": "Send one JSON object."}
    return json.dumps(reply).encode() + b"\n"
