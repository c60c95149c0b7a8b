"""The control socket's bytes, on asyncio: a line in, a line out, and the descriptors with them.

asyncio's streams know no ancillary data, so this waits for the socket itself. Whoever calls owns the
descriptors that came, also when receive() raises.
"""

from __future__ import annotations

import array
import asyncio
import socket

CHUNK_BYTES = 64 * 1024
FDS_MAX = 1
"""What fits is what may come: the kernel closes the others and says so (MSG_CTRUNC)."""


async def receive(sock: socket.socket, fds: list[int], most_bytes: int) -> bytes:
    """The first line, without what follows it.

    Args:
        fds: gets every descriptor that comes.

    Raises:
        ValueError: the line is too long, is not there at the end, or too many descriptors came with it.
        OSError: the connection's.
    """
    line = bytearray()
    item = array.array("i").itemsize
    while b"\n" not in line:
        try:
            data, ancillary, flags, _ = sock.recvmsg(
                CHUNK_BYTES, socket.CMSG_LEN(FDS_MAX * item), socket.MSG_CMSG_CLOEXEC
            )
        except BlockingIOError:
            await _until(sock, writable=False)
            continue
        for level, kind, words in ancillary:
            if (level, kind) == (socket.SOL_SOCKET, socket.SCM_RIGHTS):
                fds.extend(array.array("i", words[: len(words) - len(words) % item]))
        line += data
        if flags & socket.MSG_CTRUNC or len(fds) > FDS_MAX or not data or len(line) > most_bytes:
            raise ValueError("not one line, with one descriptor at most")
    return bytes(line[: line.index(b"\n")])


async def send(sock: socket.socket, line: bytes, fd: int = -1) -> None:
    """All of it; the descriptor with its first byte. It stays the caller's. Raises OSError."""
    rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [fd]))] if fd >= 0 else []
    while True:
        try:
            sent = sock.sendmsg([line], rights)
            break
        except BlockingIOError:
            await _until(sock, writable=True)
    await asyncio.get_running_loop().sock_sendall(sock, line[sent:])


async def drain(sock: socket.socket) -> None:
    """Read to the end; descriptors that come are closed by the kernel. Raises OSError."""
    while await asyncio.get_running_loop().sock_recv(sock, CHUNK_BYTES):
        pass


async def _until(sock: socket.socket, *, writable: bool) -> None:
    loop = asyncio.get_running_loop()
    ready: asyncio.Future[None] = loop.create_future()

    def now() -> None:
        if not ready.done():
            ready.set_result(None)

    add, remove = (loop.add_writer, loop.remove_writer) if writable else (loop.add_reader, loop.remove_reader)
    add(sock, now)
    try:
        await ready
    finally:
        remove(sock)
