"""The lab's exec server in a guest: runs what the host asks for and answers with its output.

One JSON line in, one JSON line out, over TCP; then the connection is closed:

    {"argv": ["uname", "-r"], "timeout_s": 30, "stdin": "", "detach": false}
    {"rc": 0, "stdout": "…", "stderr": "…"}

rc is negative for a signal, as in subprocess. At the timeout the whole process group is killed and
the answer has "timed_out": true. "detach" answers {"pid": N} at once and keeps no pipes. A request
that cannot be run is answered {"error": "…"}. Requests run side by side. It is for a guest whose
network is the host's loopback: whoever reaches the port is root. Runs alone, without site-packages.
"""

from __future__ import annotations

import json
import os
import signal
import socketserver
import subprocess
import sys
from typing import Any

PORT = 7000
DEFAULT_TIMEOUT_S = 30.0
MAX_REQUEST_BYTES = 16 * 2**20
"""A request may carry a file as stdin; beyond this somebody sends rubbish."""


def run(request: dict[str, Any]) -> dict[str, Any]:
    """Perform one request. Raises OSError if it cannot be started, KeyError and TypeError if malformed."""
    argv = [str(word) for word in request["argv"]]
    if not argv:
        raise KeyError("argv")
    if request.get("detach"):
        # Its own session, so that it outlives this server; a grandchild, so that init reaps it.
        return {"pid": _detach(argv)}
    child = subprocess.Popen(
        argv,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        start_new_session=True,
    )
    given = str(request.get("stdin") or "").encode()
    timed_out = False
    try:
        out, err = child.communicate(given, float(request.get("timeout_s") or DEFAULT_TIMEOUT_S))
    except subprocess.TimeoutExpired:
        timed_out = True
        _kill_group(child.pid)
        out, err = child.communicate()
    answer: dict[str, Any] = {
        "rc": child.returncode,
        "stdout": out.decode("utf-8", "replace"),
        "stderr": err.decode("utf-8", "replace"),
    }
    if timed_out:
        answer["timed_out"] = True
    return answer


def answer(line: bytes) -> bytes:
    """The answer to one request line, newline included; never raises for what was asked."""
    try:
        reply = run(json.loads(line))
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        reply = {"error": f"{type(error).__name__}: {error}"}
    return json.dumps(reply).encode() + b"\n"


def _detach(argv: list[str]) -> int:
    starter = subprocess.run(
        ["/bin/busybox", "sh", "-c", '"$@" </dev/null >/dev/null 2>&1 & echo $!', "detach", *argv],
        stdout=subprocess.PIPE,
        start_new_session=True,
        check=True,
    )
    return int(starter.stdout)


def _kill_group(pid: int) -> None:
    try:
        os.killpg(pid, signal.SIGKILL)
    except ProcessLookupError:
        return


class Handler(socketserver.StreamRequestHandler):
    """One connection, one request."""

    def handle(self) -> None:
        line = self.rfile.readline(MAX_REQUEST_BYTES)
        if line:
            self.wfile.write(answer(line))


class Server(socketserver.ThreadingTCPServer):
    """Requests run side by side; a hanging one does not keep the server from ending."""

    allow_reuse_address = True
    daemon_threads = True


def main() -> int:
    """Serve for ever. An argument other than PORT is for tests."""
    port = int(sys.argv[1]) if len(sys.argv) > 1 else PORT
    with Server(("0.0.0.0", port), Handler) as server:  # noqa: S104 - the guest's only network is the host
        print(f"execd listens on port {server.server_address[1]}", flush=True)
        server.serve_forever()
    return 0


if __name__ == "__main__":
    sys.exit(main())
