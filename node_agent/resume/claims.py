"""Answering CLAIMs in the blackout: the broker's protocol, as much of it as is needed there.

Understood: CLAIM of a bound id whose session was retrieved, RUNNING and RESUMED after it. Any other
line, and any peer that may not claim what it asks for, is parked: nothing more is read from that
connection, and the broker judges the bytes later. So every refusal has one author.
"""

from __future__ import annotations

import _socket
import select
import sys
import time

from node_agent.resume.handover import ClientLeft, Handover, Mark
from node_agent.resume.identity import credentials, unit_of
from node_agent.resume.words import scan

MAX_LINE_BYTES = 4096
MAX_CLIENTS = 256
"""As the broker's. Connections beyond it wait in the listener's backlog."""

RESUME_EVENT = b'{"event":"RESUME"}\n'


class _Client:
    __slots__ = ("claimed", "data", "parked", "resumed", "running", "sock", "suspends")

    def __init__(self, sock: _socket.socket) -> None:
        self.sock = sock
        self.data = b""
        self.claimed = ""
        self.suspends = False
        self.resumed = b""
        self.running = False
        self.parked = False


class Claims:
    """The broker's socket and its clients, over a poll object that may have other fds too.

    again: an earlier process of this boot has handed sessions back already. Whoever then says
    SUBSCRIBE for a session is a workload that has its memory and connects again.
    """

    def __init__(self, handover: Handover, poll: select.poll, *, again: bool = False) -> None:
        self.waiting = set(handover.sessions) if handover.listener_fd >= 0 else set()
        self._handover = handover
        self._again = again
        self._poll = poll
        self._clients: dict[int, _Client] = {}
        self._listener: _socket.socket | None = None
        if handover.listener_fd >= 0:
            self._listener = _socket.socket(
                _socket.AF_UNIX, _socket.SOCK_STREAM | _socket.SOCK_NONBLOCK, 0, fileno=handover.listener_fd
            )
            poll.register(handover.listener_fd, select.POLLIN)

    def owns(self, fd: int) -> bool:
        """Is it the listener or a client?"""
        return fd in self._clients or (self._listener is not None and fd == self._listener.fileno())

    def turn(self, fd: int) -> None:
        """It is readable. Notes the mark `resume` when the last workload runs again, which those that
        measure and compare much may say before they report."""
        if not self.waiting:
            # All are back: whoever comes now is left to the broker, in the backlog.
            self._quiet(fd)
            return
        if fd in self._clients:
            self._read(fd)
        elif self._listener is not None:
            client = _accept(self._listener)
            if client is not None:
                self._clients[client.sock.fileno()] = client
                self._poll.register(client.sock.fileno(), select.POLLIN)
                if len(self._clients) >= MAX_CLIENTS:
                    self._poll.unregister(self._handover.listener_fd)
        if "resume" not in self._handover.marks and self._all_run():
            self._handover.marks["resume"] = Mark.now()

    def _all_run(self) -> bool:
        running = {client.claimed for client in self._clients.values() if client.running}
        return self.waiting <= running

    def left(self) -> list[ClientLeft]:
        """The connections as they are now; their fds stay here."""
        return [
            ClientLeft(fd, client.claimed, client.suspends, client.data, client.resumed)
            for fd, client in self._clients.items()
        ]

    def note_missing(self) -> None:
        """Name those that are not back among the errors."""
        for id in self.waiting:
            self._handover.errors[self._handover.sessions[id][0]] = "not claimed and resumed in time"

    def detach(self) -> None:
        """The fds are the handover's from now on."""
        if self._listener is not None:
            self._listener.detach()
        for client in self._clients.values():
            client.sock.detach()

    def close(self) -> None:
        """Close listener and clients: another process has them."""
        for fd in [*self._clients, *([self._listener.fileno()] if self._listener is not None else [])]:
            self._quiet(fd)
        if self._listener is not None:
            self._listener.close()
            self._listener = None
        while self._clients:
            self._clients.popitem()[1].sock.close()

    def _quiet(self, fd: int) -> None:
        try:  # noqa: SIM105 - contextlib is an import
            self._poll.unregister(fd)
        except KeyError:
            pass

    def _read(self, fd: int) -> None:
        """One turn of a client: at most one buffer is read and every line in it heard."""
        client = self._clients[fd]
        try:
            data, _, flags, _ = client.sock.recvmsg(MAX_LINE_BYTES, 0, _socket.MSG_DONTWAIT)
        except BlockingIOError:
            return
        except OSError:
            data, flags = b"", 0
        client.data += data
        if not data or flags & _socket.MSG_CTRUNC or len(client.data) > MAX_LINE_BYTES:
            # Gone, or a breach (fds, flood): closing is all the answer there is time for.
            self._quiet(fd)
            del self._clients[fd]
            client.sock.close()
            if client.claimed and not client.resumed:
                self.waiting.add(client.claimed)
                self._handover.marks.pop("resume", None)
            return
        while not client.parked and b"\n" in client.data:
            line, _, rest = client.data.partition(b"\n")
            if self._hear(client, line):
                client.data = rest
            else:
                client.parked = True
                self._quiet(fd)

    def _hear(self, client: _Client, line: bytes) -> bool:
        """False: left to the broker."""
        words = scan(line)
        if words.get("cmd") == "RUNNING" and client.claimed and client.suspends:
            client.running = True
            return True
        if words.get("cmd") == "RESUMED" and client.claimed and client.suspends:
            client.resumed = line
            self.waiting.discard(client.claimed)
            return True
        id = words.get("id")
        if client.claimed or not isinstance(id, str) or not _may(self._handover, client, id):
            return False
        if words.get("cmd") == "SUBSCRIBE" and self._again:
            self.waiting.discard(id)
            return False
        if words.get("cmd") != "CLAIM" or any(other.claimed == id for other in self._clients.values()):
            return False
        extensions = words.get("extensions")
        client.suspends = isinstance(extensions, list) and "suspend" in extensions
        if _hand_back(self._handover, client, id) and not client.suspends:
            self.waiting.discard(id)
        return True


def serve(handover: Handover, deadline_s: float, *, again: bool = False) -> None:
    """Until every session of the handover is back with its workload, or deadline_s have passed.

    Leaves listener and clients in the handover; notes the mark `resume` if all came back.
    """
    poll = select.poll()
    claims = Claims(handover, poll, again=again)
    give_up = time.monotonic() + deadline_s
    try:
        while claims.waiting and (left_s := give_up - time.monotonic()) > 0:
            for fd, _ in poll.poll(left_s * 1000):
                claims.turn(fd)
    finally:
        handover.clients += claims.left()
        claims.detach()
    claims.note_missing()


def _accept(listener: _socket.socket) -> _Client | None:
    try:
        fd, _ = listener._accept()  # type: ignore[attr-defined]  # what socket.accept() is made of
    except OSError:
        return None
    return _Client(_socket.socket(_socket.AF_UNIX, _socket.SOCK_STREAM, 0, fileno=fd))


def _may(handover: Handover, client: _Client, id: str) -> bool:
    binding = handover.bindings.get(id)
    if binding is None or id not in handover.sessions:
        return False
    pid, uid = credentials(client.sock)
    unit = binding.get("unit")
    return binding.get("uid") == uid and (not unit or unit == unit_of(pid))


def _hand_back(handover: Handover, client: _Client, id: str) -> bool:
    """Session and RESUME; False if the client is gone."""
    session = handover.sessions[id][1].to_bytes(4, sys.byteorder)
    # A bound id was checked when it subscribed: none of its characters needs escaping.
    claimed = b'{"event":"CLAIMED","id":"' + id.encode() + b'"}\n'
    try:
        client.sock.sendmsg(
            [claimed],
            [(_socket.SOL_SOCKET, _socket.SCM_RIGHTS, session)],
            _socket.MSG_NOSIGNAL | _socket.MSG_DONTWAIT,
        )
        if client.suspends:
            client.sock.send(RESUME_EVENT, _socket.MSG_NOSIGNAL | _socket.MSG_DONTWAIT)
    except OSError:
        return False
    client.claimed = id
    return True
