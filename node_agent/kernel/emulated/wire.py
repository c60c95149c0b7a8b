"""The ioctl-decoding layer: struct bytes in, struct bytes out, over the model.

On the wire an ioctl is one SEQPACKET message on the fd's socket: u32 number, then the struct,
with two descriptors at most: the caller's reply socket, and the fd to preserve. The answer is
one message on that reply socket: s32 result (0 or -errno), then the struct, with the new fd if
there is one. A reply socket a call is what lets several processes share a session fd, as they
do with a kernel.

What an ioctl's number and struct must be like: abi.decode().
"""

from __future__ import annotations

import array
import os
import signal
import socket
import struct
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass

from node_agent.kernel import abi
from node_agent.kernel.emulated.model import LuoModel
from node_agent.kernel.emulated.session import LuoSession

MESSAGE_BYTES = 65536
"""Longer messages are cut by the socket; no LUO struct comes near."""

NUMBER = struct.Struct("=I")
RESULT = struct.Struct("=i")
CREDENTIALS = struct.Struct("=iII")
"""pid, uid, gid. Source: struct ucred in unix(7)."""

CALLS = {
    abi.CREATE_SESSION: "create_session",
    abi.RETRIEVE_SESSION: "retrieve_session",
    abi.SESSION_PRESERVE_FD: "preserve_fd",
    abi.SESSION_RETRIEVE_FD: "retrieve_fd",
    abi.SESSION_FINISH: "finish",
    abi.SESSION_GET_NAME: "get_name",
}
"""The model's name of each ioctl, as faults spell it."""


@dataclass(slots=True)
class Request:
    """One message from userspace. The descriptors are this side's; close() gives them back."""

    body: bytes
    reply: socket.socket | None
    fd: int = -1

    def answer(self, result: int, body: bytes | bytearray = b"", fd: int = -1) -> None:
        """Send result (0 or -errno) and end the request; a caller that is gone is no error."""
        if self.reply is not None:
            fds = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [fd]))] if fd >= 0 else []
            with suppress(OSError):  # a caller that died waiting is seen on its other fds
                flags = socket.MSG_NOSIGNAL | socket.MSG_DONTWAIT
                self.reply.sendmsg([RESULT.pack(result), body], fds, flags)
        self.close()

    def close(self) -> None:
        if self.reply is not None:
            self.reply.close()
            self.reply = None
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1

    def kill_caller(self) -> None:
        """SIGKILL to the process that made the reply socket, unless it is this one."""
        if self.reply is None:
            return
        with suppress(OSError):  # no socket, or its maker is gone: there is nobody to kill
            peer = self.reply.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, CREDENTIALS.size)
            pid, _, _ = CREDENTIALS.unpack(peer)
            if pid > 0 and pid != os.getpid():
                os.kill(pid, signal.SIGKILL)


def receive(sock: socket.socket) -> Request | None:
    """The next message, None at the end. Raises BlockingIOError if there is none yet."""
    flags = socket.MSG_CMSG_CLOEXEC
    try:
        body, ancillary, _, _ = sock.recvmsg(MESSAGE_BYTES, socket.CMSG_SPACE(8), flags)
    except ConnectionResetError:
        return None
    fds = array.array("i")
    for level, kind, data in ancillary:
        if (level, kind) == (socket.SOL_SOCKET, socket.SCM_RIGHTS):
            fds.frombytes(data[: len(data) - len(data) % fds.itemsize])
    if not body:
        _close(fds)
        return None
    if not fds:
        return Request(body, None)
    try:
        reply = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET, fileno=fds[0])
    except OSError:  # no socket: whoever sent it wants no answer
        _close(fds)
        return Request(body, None)
    return Request(body, reply, fds[1] if len(fds) > 1 else -1)


def answer(request: Request, body: bytes, fd: int) -> None:
    """Success, with a new descriptor if fd is one: this side's copy of it is closed."""
    request.answer(0, body, fd)
    if fd >= 0:
        os.close(fd)


def _close(fds: Iterable[int]) -> None:
    for fd in fds:
        os.close(fd)


def decode_session(body: bytes, *, incoming: bool) -> tuple[int, bytes]:
    """abi.decode() of an ioctl on such a session."""
    refused = (abi.SESSION_PRESERVE_FD,) if incoming else (abi.SESSION_FINISH, abi.SESSION_RETRIEVE_FD)
    return abi.decode(body, *abi.SESSION_IOCTLS, refused=refused)


def device_call(model: LuoModel, number: int, argument: bytes) -> LuoSession:
    """CREATE_SESSION or RETRIEVE_SESSION. Raises OSError as they do."""
    _, raw = abi.unpack_session(argument)
    name, nul, _ = raw.partition(b"\0")
    if not nul:
        name = raw
    if number == abi.CREATE_SESSION:
        return model.create_session(name)
    return model.retrieve_session(name)


def session_call(
    model: LuoModel, session: LuoSession, number: int, argument: bytes, fd: int
) -> tuple[bytes, int]:
    """Any session ioctl: (struct, new fd or -1). Raises OSError, or OutOfMemory.

    Args:
        fd: the descriptor that came along, as this process knows it; -1 if none.
    """
    if number == abi.SESSION_PRESERVE_FD:
        model.preserve_fd(session, fd, abi.unpack_fd(argument)[1])
    elif number == abi.SESSION_RETRIEVE_FD:
        return argument, session.retrieve_fd(abi.unpack_fd(argument)[1])
    elif number == abi.SESSION_FINISH:
        session.finish()
    else:
        return bytes(abi.pack_name(session.name)), -1
    return argument, -1
