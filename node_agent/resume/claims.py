"""Answering CLAIMs in the blackout: the broker's protocol, as much of it as is needed there.

Understood: CLAIM of a bound id whose session was retrieved, and RESUMED after it. Any other
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
    __slots__ = ("claimed", "data", "parked", "resumed", "sock", "suspends")

    def __init__(self, sock: _socket.socket) -> None:
        self.sock = sock
        self.data = b""
        self.claimed = ""
        self.suspends = False
        self.resumed = b""
        self.parked = False


def serve(handover: Handover, deadline_s: float) -> None:
    """Until every session of the handover is back with its workload, or deadline_s have passed.

    Leaves listener and clients in the handover; notes the mark `resume` if all came back.
    """
    listener = _socket.socket(
        _socket.AF_UNIX, _socket.SOCK_STREAM | _socket.SOCK_NONBLOCK, 0, fileno=handover.listener_fd
    )
    clients: dict[int, _Client] = {}
    waiting = set(handover.sessions)
    poll = select.poll()
    poll.register(handover.listener_fd, select.POLLIN)
    give_up = time.monotonic() + deadline_s
    try:
        while waiting and (left_s := give_up - time.monotonic()) > 0:
            for fd, _ in poll.poll(left_s * 1000):
                if fd != handover.listener_fd:
                    _read(handover, poll, clients, fd, waiting)
                    continue
                client = _accept(listener)
                if client is not None:
                    clients[client.sock.fileno()] = client
                    poll.register(client.sock.fileno(), select.POLLIN)
                    if len(clients) >= MAX_CLIENTS:
                        poll.unregister(handover.listener_fd)
        if not waiting:
            handover.marks["resume"] = Mark.now()
    finally:
        listener.detach()
        for client in clients.values():
            handover.clients.append(
                ClientLeft(client.sock.detach(), client.claimed, client.suspends, client.data, client.resumed)
            )
    for id in waiting:
        handover.errors[handover.sessions[id][0]] = "not claimed and resumed in time"


def _accept(listener: _socket.socket) -> _Client | None:
    try:
        fd, _ = listener._accept()  # type: ignore[attr-defined]  # what socket.accept() is made of
    except OSError:
        return None
    return _Client(_socket.socket(_socket.AF_UNIX, _socket.SOCK_STREAM, 0, fileno=fd))


def _read(
    handover: Handover, poll: select.poll, clients: dict[int, _Client], fd: int, waiting: set[str]
) -> None:
    """One turn of a client: at most one buffer is read and every line in it heard."""
    client = clients[fd]
    try:
        data, _, flags, _ = client.sock.recvmsg(MAX_LINE_BYTES, 0, _socket.MSG_DONTWAIT)
    except BlockingIOError:
        return
    except OSError:
        data, flags = b"", 0
    client.data += data
    if not data or flags & _socket.MSG_CTRUNC or len(client.data) > MAX_LINE_BYTES:
        # Gone, or a breach (fds, flood): closing is all the answer there is time for.
        poll.unregister(fd)
        del clients[fd]
        client.sock.close()
        if client.claimed and not client.resumed:
            waiting.add(client.claimed)
        return
    while not client.parked and b"\n" in client.data:
        line, _, rest = client.data.partition(b"\n")
        if _hear(handover, client, clients, line, waiting):
            client.data = rest
        else:
            client.parked = True
            poll.unregister(fd)


def _hear(
    handover: Handover, client: _Client, clients: dict[int, _Client], line: bytes, waiting: set[str]
) -> bool:
    """False: left to the broker."""
    words = scan(line)
    if words.get("cmd") == "RESUMED" and client.claimed and client.suspends:
        client.resumed = line
        waiting.discard(client.claimed)
        return True
    id = words.get("id")
    if (
        words.get("cmd") != "CLAIM"
        or client.claimed
        or not isinstance(id, str)
        or not _may(handover, client, id)
    ):
        return False
    if any(other.claimed == id for other in clients.values()):
        return False
    extensions = words.get("extensions")
    client.suspends = isinstance(extensions, list) and "suspend" in extensions
    return _hand_back(handover, client, id, waiting)


def _may(handover: Handover, client: _Client, id: str) -> bool:
    binding = handover.bindings.get(id)
    if binding is None or id not in handover.sessions:
        return False
    pid, uid = credentials(client.sock)
    unit = binding.get("unit")
    return binding.get("uid") == uid and (not unit or unit == unit_of(pid))


def _hand_back(handover: Handover, client: _Client, id: str, waiting: set[str]) -> bool:
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
        return True
    client.claimed = id
    if not client.suspends:
        waiting.discard(id)
    return True
