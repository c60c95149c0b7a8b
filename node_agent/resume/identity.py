"""Who is at the other end of a Unix socket: as the kernel says, not as the peer says."""

from __future__ import annotations

import _socket
import posix
import sys

_UCRED_BYTES = 12
"""Source: struct ucred in unix(7): pid, uid, gid, 32 bits each."""


def credentials(sock: _socket.socket) -> tuple[int, int]:
    """(pid, uid) of the process that connected, as they were then (SO_PEERCRED)."""
    raw = sock.getsockopt(_socket.SOL_SOCKET, _socket.SO_PEERCRED, _UCRED_BYTES)
    return int.from_bytes(raw[:4], sys.byteorder), int.from_bytes(raw[4:8], sys.byteorder)


def unit_of(pid: int) -> str:
    """The systemd service that a process runs in; empty if it is in none.

    The innermost *.service counts; scopes do not, they get new names at every start.
    Source: /proc/PID/cgroup, "hierarchy:controllers:path"; systemd's own is "0::" or "name=systemd".
    """
    for line in read_text(f"/proc/{pid}/cgroup").splitlines():
        _, controllers, path = [*line.split(":", 2), "", ""][:3]
        if controllers in ("", "name=systemd"):
            services = [part for part in path.split("/") if part.endswith(".service")]
            if services:
                return services[-1]
    return ""


def read_text(path: str) -> str:
    """A small file of /proc; empty if it cannot be read."""
    try:
        fd = posix.open(path, posix.O_RDONLY | posix.O_CLOEXEC)
    except OSError:
        return ""
    try:
        return posix.read(fd, 65536).decode("utf-8", "replace")
    except OSError:
        return ""
    finally:
        posix.close(fd)
