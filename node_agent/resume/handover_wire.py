"""A Handover between two processes: its words as JSON, its fds beside them.

    keeper → agent   messages `F` with fds, in order; messages `J` with JSON; `.`
    agent → keeper   TAKEN, all of it has arrived
    keeper → agent   YOURS, nothing of it is here any more

Before YOURS it is the keeper's, and the agent closes what it got. An agent that dies in between
leaves the sessions parked. One that is too slow is hung up on, and asks again.
"""

from __future__ import annotations

import errno

from node_agent.resume import fdpass
from node_agent.resume.handover import ClientLeft, Handover, Mark
from node_agent.resume.words import dump, scan

TYPE_CHECKING = False
if TYPE_CHECKING:
    import _socket
    from collections.abc import Mapping
    from typing import Any

TAKE, NONE, TAKEN, YOURS = b"TAKE", b"NONE", b"TAKEN", b"YOURS"

_ONE = ("journal_fd", "listener_fd", "agent_session_fd", "token_fd")
_PLAIN = ("attempt", "jump", "bindings", "agent_session", "errors")


def send(sock: _socket.socket, handover: Handover) -> None:
    """The first part. The fds stay the sender's too. Raises OSError."""
    fds: list[int] = []

    def place(fd: int) -> int:
        if fd < 0:
            return -1
        fds.append(fd)
        return len(fds) - 1

    said: dict[str, object] = {name: place(getattr(handover, name)) for name in _ONE}
    said |= {name: getattr(handover, name) for name in _PLAIN}
    said["token"] = handover.token.decode("latin-1")
    said["sessions"] = {id: [name, place(fd)] for id, (name, fd) in handover.sessions.items()}
    said["marks"] = {name: [m.realtime_ns, m.boottime_ns] for name, m in handover.marks.items()}
    said["clients"] = [
        [place(c.fd), c.workload, c.suspends, c.pending.decode("latin-1"), c.resumed.decode("latin-1")]
        for c in handover.clients
    ]
    for at in range(0, len(fds), fdpass.FDS_A_MESSAGE):
        fdpass.send(sock, b"F", fds[at : at + fdpass.FDS_A_MESSAGE])
    text = dump(said)
    for at in range(0, len(text), fdpass.MESSAGE_BYTES - 1):
        fdpass.send(sock, b"J" + text[at : at + fdpass.MESSAGE_BYTES - 1])
    fdpass.send(sock, b".")


def take(sock: _socket.socket) -> Handover | None:
    """Ask for it and take it over; None if there is none to be had.

    Raises OSError: it broke off, or made no sense. It is the keeper's still.
    """
    fdpass.send(sock, TAKE)
    fds: list[int] = []
    text = b""
    try:
        while True:
            data, some = fdpass.receive(sock)
            fds += some
            if data == b".":
                break
            if data == NONE:
                return None
            if data[:1] not in (b"F", b"J"):
                raise OSError(errno.EPROTO, "the keeper")
            text += data[1:]
        handover = _read(scan(text), fds)
        fdpass.send(sock, TAKEN)
        if fdpass.receive(sock)[0] != YOURS:
            raise OSError(errno.EPROTO, "the keeper")
    except (KeyError, IndexError, TypeError, ValueError):
        raise OSError(errno.EPROTO, "the keeper") from None
    else:
        fds = []
        return handover
    finally:
        fdpass.close_all(fds)


def _read(said: Mapping[str, Any], fds: list[int]) -> Handover:
    def fd(place: int) -> int:
        return fds[place] if place >= 0 else -1

    handover = Handover()
    for name in _ONE:
        setattr(handover, name, fd(said[name]))
    for name in _PLAIN:
        setattr(handover, name, said[name])
    handover.token = said["token"].encode("latin-1")
    handover.sessions = {id: (name, fd(place)) for id, (name, place) in said["sessions"].items()}
    handover.marks = {name: Mark(*at) for name, at in said["marks"].items()}
    handover.clients = [
        ClientLeft(fd(place), workload, suspends, pending.encode("latin-1"), resumed.encode("latin-1"))
        for place, workload, suspends, pending, resumed in said["clients"]
    ]
    return handover
