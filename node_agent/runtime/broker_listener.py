"""The broker's listening socket: a path is taken over only from the dead.

Rules: a socket file that nobody serves is replaced; one that answers is left alone
(SOCKET_IN_USE). Group and mode are set before anybody can connect.
"""

from __future__ import annotations

import contextlib
import os
import socket

from node_agent.errors import BrokerError, Retry, SettingsError

BACKLOG = 128
MAX_PATH_BYTES = 107
"""Source: unix(7), sun_path has 108 bytes with the NUL."""


def listen(path: str, mode: int, gid: int = -1) -> socket.socket:
    """A non-blocking listener at `path` with permission bits `mode`, of group `gid` unless it is -1.

    Its directory is made if need be. Raises SettingsError (SOCKET_PATH_TOO_LONG, SOCKET_UNUSABLE),
    BrokerError (SOCKET_IN_USE).
    """
    if len(os.fsencode(path)) > MAX_PATH_BYTES:
        raise SettingsError(
            f"the socket path {path!r} is longer than {MAX_PATH_BYTES} bytes",
            reason="SOCKET_PATH_TOO_LONG",
            remedy="Choose a shorter directory for the node's state.",
        )
    try:
        return _listen(path, mode, gid)
    except PermissionError as cause:
        if gid < 0 or not os.path.isdir(os.path.dirname(path) or "."):
            raise _unusable(path, cause) from cause
        raise SettingsError(
            f"cannot give {path} to group {gid}: {os.strerror(cause.errno or 0)}",
            reason="SOCKET_UNUSABLE",
            remedy="Make the agent a member of broker.group (SupplementaryGroups= of its unit), "
            "and let it write to the socket's directory.",
        ) from cause
    except OSError as cause:
        raise _unusable(path, cause) from cause


def _unusable(path: str, cause: OSError) -> SettingsError:
    return SettingsError(
        f"cannot listen at {path}: {os.strerror(cause.errno or 0)}",
        reason="SOCKET_UNUSABLE",
        remedy="Name a socket path in a directory that the agent may write to.",
    )


def _listen(path: str, mode: int, gid: int) -> socket.socket:
    os.makedirs(os.path.dirname(path) or ".", exist_ok=True)
    _refuse_if_served(path)
    with contextlib.suppress(FileNotFoundError):
        os.unlink(path)
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK)
    try:
        sock.bind(path)
        if gid >= 0:
            os.chown(path, -1, gid)
        os.chmod(path, mode)
        sock.listen(BACKLOG)
    except BaseException:
        sock.close()
        raise
    return sock


def _refuse_if_served(path: str) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        try:
            probe.connect(path)
        except (FileNotFoundError, ConnectionRefusedError):
            return
    raise BrokerError(
        f"another process serves {path}",
        reason="SOCKET_IN_USE",
        retry=Retry.FIX_STATE,
        remedy="Stop the other agent of this node, or give this one another socket path.",
    )
