"""Messages with descriptors over a SOCK_SEQPACKET Unix socket, from interpreter builtins only.

What is received is CLOEXEC, for an exec that closes the last copy of a session finishes it.
"""

from __future__ import annotations

import _socket
import errno
import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

MESSAGE_BYTES = 32768
"""Well below the send buffer, so that one message never waits for room that cannot come."""

FDS_A_MESSAGE = 200
"""Source: SCM_MAX_FD is 253 (include/net/scm.h)."""

KIND = _socket.SOCK_SEQPACKET | _socket.SOCK_CLOEXEC


def send(sock: _socket.socket, data: bytes, fds: Sequence[int] = ()) -> None:
    """One message. Raises OSError."""
    raw = b"".join(fd.to_bytes(4, sys.byteorder) for fd in fds)
    ancillary = [(_socket.SOL_SOCKET, _socket.SCM_RIGHTS, raw)] if raw else []
    sock.sendmsg([data], ancillary, _socket.MSG_NOSIGNAL)


def receive(sock: _socket.socket) -> tuple[bytes, list[int]]:
    """One message, empty at the end of the connection. The fds are the caller's. Raises OSError."""
    room = _socket.CMSG_SPACE(4 * FDS_A_MESSAGE)
    try:
        data, ancillary, flags, _ = sock.recvmsg(MESSAGE_BYTES, room, _socket.MSG_CMSG_CLOEXEC)
    except ConnectionResetError:  # it ended without having read all: an end like any other
        return b"", []
    fds: list[int] = []
    for level, kind, raw in ancillary:
        if (level, kind) == (_socket.SOL_SOCKET, _socket.SCM_RIGHTS):
            fds += [
                int.from_bytes(raw[at : at + 4], sys.byteorder) for at in range(0, len(raw) - len(raw) % 4, 4)
            ]
    if flags & (_socket.MSG_CTRUNC | _socket.MSG_TRUNC):
        close_all(fds)
        raise OSError(errno.EMSGSIZE, "recvmsg")
    return data, fds


def bound_waits(sock: _socket.socket, seconds: int) -> None:
    """No send and no receive blocks longer: it fails with EAGAIN."""
    # struct timeval of a 64-bit Linux: two 64-bit words.
    limit = seconds.to_bytes(8, sys.byteorder) + bytes(8)
    for option in (_socket.SO_RCVTIMEO, _socket.SO_SNDTIMEO):
        sock.setsockopt(_socket.SOL_SOCKET, option, limit)


def close_all(fds: Sequence[int]) -> None:
    """Each of them."""
    for fd in fds:
        _socket.close(fd)
