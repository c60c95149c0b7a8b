"""The broker's client, for whoever writes a workload: synchronous, standard library only.

    client = Client("/run/liveroll/broker.sock", "vm-1")
    session = client.claim()                 # after a live update: the session's fd
    if session is None:
        client.subscribe()                   # a fresh start
    for event in client.events():
        match event:
            case StartPreservation(): client.preserve(memfd, token=1); client.ready()
            case Suspend():           stop(); client.suspended()
            case Resume():            run();  client.resumed(Resumed(duration_s=…, …))
            case Release():           client.released()

Rules: a broken connection comes as Lost(), the copy of the session is closed with it (an agent
that is gone preserves nothing any more, and a copy left open would hold the session), and the
next call connects and subscribes again, telling the broker if the workload is still suspended.
fileno() serves a workload that has an event loop of its own. One thread at a time.
"""

from __future__ import annotations

import array
import os
import select
import socket
import time
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from types import TracebackType

from node_agent.errors import BrokerError
from node_agent.kernel.emulated import syncclient
from node_agent.workloads import protocol
from node_agent.workloads.early import Back
from node_agent.workloads.protocol import (
    Claim,
    Claimed,
    Command,
    Error,
    Event,
    Failed,
    LineBuffer,
    Ready,
    Released,
    Resumed,
    StartPreservation,
    Subscribe,
    Subscribed,
    Suspended,
)

RECONNECT_FIRST_S = 0.002
RECONNECT_MOST_S = 0.25
"""The broker restarts within seconds, and after a kexec every millisecond is blackout."""

_EXTENSIONS = frozenset({protocol.SUSPEND_EXTENSION})


@dataclass(frozen=True, slots=True)
class Lost:
    """The broker closed the connection."""


class Client:
    """One workload's end. Owns its socket and its copy of the session fd.

    answer_s: how long claim() and subscribe() wait for the broker, its start included. A CLAIM may
    have to wait there until the agent has retrieved the session.
    """

    def __init__(self, socket_path: str, workload: str, *, answer_s: float = 60.0) -> None:
        self.socket_path = socket_path
        self.workload = workload
        self.answer_s = answer_s
        self.session_fd = -1
        self.is_suspended = False
        self._socket: socket.socket | None = None
        self._lines = LineBuffer()
        self._fds: deque[int] = deque()
        self._events: deque[Event] = deque()
        self._subscribe_again = False
        self._told_lost = False
        self._asked = False
        """A CLAIM is on its way already."""

    def __enter__(self) -> Client:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    @classmethod
    def adopt(cls, socket_path: str, workload: str, back: Back, *, answer_s: float = 60.0) -> Client:
        """Go on where early.come_back() stopped: it has said CLAIM, and may have the session and the
        first tick after RESUME behind it. Takes over its connection and its session."""
        client = cls(socket_path, workload, answer_s=answer_s)
        client._socket = socket.socket(fileno=back.sock_fd)
        client._socket.setblocking(True)
        client.session_fd = back.session_fd
        client._events.extend(protocol.parse_event(line) for line in client._lines.feed(back.pending))
        if back.memory_fd < 0:
            client._asked = True
            client._fds.extend(fd for fd in (back.session_fd,) if fd >= 0)
            client.session_fd = -1
        else:
            client._subscribe_again = True
            client.is_suspended = not back.resumed_at
        return client

    def fileno(self) -> int:
        """-1 while there is no connection."""
        return -1 if self._socket is None else self._socket.fileno()

    def claim(self) -> int | None:
        """The session that crossed the kexec, or None if this is a fresh start.

        The fd stays the client's (session_fd); retrieve() what is in it, then drop_session().
        Raises BrokerError: what the broker refused (NOT_YOURS, ID_IN_USE), or NO_BROKER.
        """
        answer = self._demand(Claim(self.workload, _EXTENSIONS), Claimed)
        if isinstance(answer, Error):
            if answer.reason == "NO_SUCH_CLAIM":
                return None
            raise _refused(answer)
        self._subscribe_again = True
        # Handed back is not yet running: until RESUME it counts as suspended.
        self.is_suspended = True
        return self.session_fd

    def subscribe(self) -> None:
        """Take part. Raises BrokerError like claim()."""
        answer = self._demand(Subscribe(self.workload, _EXTENSIONS, self.is_suspended), Subscribed)
        if isinstance(answer, Error):
            raise _refused(answer)
        self._subscribe_again = True

    def next_event(self, timeout_s: float | None = None) -> Event | Lost | None:
        """What comes next; None after timeout_s seconds without anything.

        Raises BrokerError if the broker breaks the protocol or refuses to have us back.
        """
        deadline = None if timeout_s is None else time.monotonic() + timeout_s
        while True:
            if self._socket is None:
                if not self._subscribe_again:
                    raise BrokerError("claim or subscribe first", reason="NOT_SUBSCRIBED")
                if not self._connect(deadline):
                    return None
                self._send(Subscribe(self.workload, _EXTENSIONS, self.is_suspended))
            event = self._next(deadline)
            if isinstance(event, Error):
                raise _refused(event)
            if isinstance(event, Lost) and self._told_lost:
                # A broker on its way out took the connection: still the same loss.
                time.sleep(RECONNECT_FIRST_S)
                continue
            if isinstance(event, Subscribed):
                self._told_lost = False
                continue
            self._told_lost = isinstance(event, Lost) or self._told_lost
            return event

    def events(self) -> Iterator[Event | Lost]:
        """next_event() without end."""
        while True:
            event = self.next_event()
            if event is not None:
                yield event

    def preserve(self, fd: int, token: int) -> None:
        """Put `fd` into the session of START_PRESERVATION. Raises OSError as the kernel does."""
        syncclient.preserve_fd(self.session_fd, fd, token)

    def retrieve(self, token: int) -> int:
        """An fd out of the claimed session; the caller's. Raises OSError as the kernel does."""
        return syncclient.retrieve_fd(self.session_fd, token)

    def drop_session(self) -> None:
        """Close our copy. After a claim the broker's own copy keeps the session until FINISH."""
        if self.session_fd >= 0:
            os.close(self.session_fd)
            self.session_fd = -1

    def ready(self) -> None:
        self._send(Ready())

    def failed(self, error: str) -> None:
        """Answer no to START_PRESERVATION: this cannot be preserved, and our copy of the session is
        closed. error: why, with the errno's name, for instance `PRESERVE_FD: ENOENT`."""
        self.drop_session()
        self._send(Failed(error))

    def suspended(self) -> None:
        self.is_suspended = True
        self._send(Suspended())

    def resumed(self, measured: Resumed) -> None:
        self.is_suspended = False
        self._send(measured)

    def released(self) -> None:
        self.drop_session()
        self._send(Released())

    def refuse(self, reason: str, message: str, remedy: str = "") -> None:
        """Answer no to SUSPEND or RESUME (or START_PRESERVATION); `reason` is UPPER_SNAKE."""
        self._send(Error(reason, message, remedy))

    def close(self) -> None:
        """Idempotent."""
        self._disconnect()
        self._subscribe_again = False

    # -- the connection ----------------------------------------------------------------------

    def _demand(self, command: Command, answer: type[Event]) -> Event:
        """Send until answered: a broker that dies meanwhile is asked again."""
        deadline = time.monotonic() + self.answer_s
        while True:
            if self._socket is None and not self._connect(deadline):
                raise self._no_broker()
            if not self._asked:
                self._send(command)
            self._asked = False
            event = self._next(deadline)
            if event is None:
                raise self._no_broker()
            if isinstance(event, Error | answer):
                return event
            if isinstance(event, Lost):
                # A broker that accepts and hangs up must not make us spin.
                time.sleep(RECONNECT_FIRST_S)
                if time.monotonic() >= deadline:
                    raise self._no_broker()

    def _connect(self, deadline: float | None) -> bool:
        wait_s = RECONNECT_FIRST_S
        while True:
            sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
            try:
                sock.connect(self.socket_path)
            except (FileNotFoundError, ConnectionRefusedError):
                sock.close()
            else:
                self._socket = sock
                return True
            left_s = wait_s if deadline is None else min(wait_s, deadline - time.monotonic())
            if left_s <= 0:
                return False
            time.sleep(left_s)
            wait_s = min(2 * wait_s, RECONNECT_MOST_S)

    def _send(self, command: Command) -> None:
        """A lost connection shows at the next read, where it is dealt with."""
        if self._socket is not None:
            try:
                self._socket.sendall(protocol.encode_command(command))
            except (BrokenPipeError, ConnectionResetError):
                return

    def _next(self, deadline: float | None) -> Event | Lost | None:
        while not self._events:
            if self._socket is None:
                return Lost()
            if deadline is not None:
                wait_ms = max(0, int((deadline - time.monotonic()) * 1000))
                poll = select.poll()
                poll.register(self._socket, select.POLLIN)
                if not poll.poll(wait_ms):
                    return None
            if not self._receive():
                self._disconnect()
                return Lost()
        event = self._events.popleft()
        if isinstance(event, StartPreservation | Claimed):
            self.drop_session()
            if not self._fds:
                raise BrokerError("a session was announced and none came", reason="NO_SESSION_FD")
            self.session_fd = self._fds.popleft()
        return event

    def _receive(self) -> bool:
        """False at the end of the connection."""
        assert self._socket is not None
        room = array.array("i")
        try:
            data, ancillary, _, _ = self._socket.recvmsg(
                protocol.MAX_LINE_BYTES, socket.CMSG_SPACE(4 * room.itemsize), socket.MSG_CMSG_CLOEXEC
            )
        except ConnectionResetError:
            return False
        for level, kind, payload in ancillary:
            if (level, kind) == (socket.SOL_SOCKET, socket.SCM_RIGHTS):
                fds = array.array("i", payload[: len(payload) - len(payload) % room.itemsize])
                self._fds.extend(fds)
        if not data:
            return False
        self._events.extend(protocol.parse_event(line) for line in self._lines.feed(data))
        return True

    def _disconnect(self) -> None:
        self.drop_session()
        while self._fds:
            os.close(self._fds.popleft())
        self._events.clear()
        self._lines = LineBuffer()
        if self._socket is not None:
            self._socket.close()
            self._socket = None

    def _no_broker(self) -> BrokerError:
        return BrokerError(
            f"no broker answered at {self.socket_path} within {self.answer_s:g} s",
            reason="NO_BROKER",
            remedy="Is liveroll-agent running on this node, with this socket?",
        )


def _refused(answer: Error) -> BrokerError:
    return BrokerError(answer.message, reason=answer.reason, remedy=answer.remedy)
