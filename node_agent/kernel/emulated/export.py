"""Export: a session as a real fd that speaks the wire (see wire), served by the running loop.

One end of a socketpair is delegated, the other is read here. A blocking call on the delegated end from the
loop's own thread would wait for itself.
"""

from __future__ import annotations

import asyncio
import errno
import socket
from collections.abc import Callable

from node_agent.kernel.emulated import wire


class Export:
    """Lasts until the last copy of the delegated end is closed, or end() is called.

    Args:
        call: answers one request, now or later; an OSError it raises is the answer.
        closed: the last copy is closed.
    """

    def __init__(self, call: Callable[[wire.Request], None], closed: Callable[[], None]) -> None:
        self._call, self._closed = call, closed
        self._loop = asyncio.get_running_loop()
        client, self._sock = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._sock.setblocking(False)
        self.client_fd = client.detach()
        """The delegated end, the caller's."""
        self._kept: list[wire.Request] = []
        self._loop.add_reader(self._sock, self._serve)

    def keep(self, request: wire.Request) -> None:
        """It is never answered."""
        self._kept.append(request)

    def _serve(self) -> None:
        try:
            request = wire.receive(self._sock)
        except BlockingIOError:
            return
        if request is None:
            self._end(closed=True)
            return
        try:
            self._call(request)
        except OSError as cause:
            request.answer(-(cause.errno or errno.EIO))

    def reap(self) -> None:
        """End now if the last copy is closed and nothing is left to answer: a closed fd counts at once, not
        when the loop gets round to it."""
        if self._sock.fileno() < 0:
            return
        try:
            gone = not self._sock.recv(1, socket.MSG_PEEK)
        except BlockingIOError:
            return
        except ConnectionResetError:
            gone = True
        if gone:
            self._end(closed=True)

    def end(self) -> None:
        """Whoever still has a copy has a dead end. Idempotent."""
        if self._sock.fileno() >= 0:
            self._end(closed=False)

    def _end(self, *, closed: bool) -> None:
        self._loop.remove_reader(self._sock)
        self._sock.close()
        for request in self._kept:
            request.close()
        self._kept.clear()
        if closed:
            self._closed()
