"""One workload's connection to the broker: who is there, lines in, events and session fds out.

Rules:
- who the peer is comes from the kernel (SO_PEERCRED), never from what it says. Its systemd unit
  is read from /proc once, at the connection; only a *.service counts, scopes get new names;
- nothing is received without a bound: fds a client sends are refused by the kernel itself (no
  control buffer is offered, so they are closed and never installed) and the client is cut off;
- one question at a time; an answer that comes after its question ran out is dropped, any other
  answer without a question is a breach.

Not here: what commands mean (broker.py).
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import Awaitable, Callable
from typing import TypeVar

from node_agent.errors import AgentError, BrokerError, Retry
from node_agent.resume.identity import credentials, unit_of
from node_agent.runtime.broker_leaving import unpreservable
from node_agent.workloads import protocol
from node_agent.workloads.protocol import Claim, Command, Event, LineBuffer, Subscribe

RECEIVE_BYTES = 4096
SEND_TIMEOUT_S = 5.0
"""Events are tens of bytes: a client whose socket takes none for this long does not read."""

FIRST_WORD_TIMEOUT_S = 10.0
"""A connection that has not said who it is by then is cut off, so that idle ones cannot pile up."""

_Answer = TypeVar("_Answer")


class Peer:
    """A connected client. Owns its socket; run() is its whole life."""

    def __init__(self, sock: socket.socket, *, pending: bytes = b"") -> None:
        sock.setblocking(False)
        self._sock = sock
        self.pid, self.uid = credentials(sock)
        self.unit = unit_of(self.pid)
        self.workload = ""
        self.suspends = False
        """It knows SUSPEND, RESUME and RELEASE."""
        self.gone = False
        self._lines = LineBuffer()
        self._pending = pending
        self._question: tuple[type[Command], asyncio.Future[Command]] | None = None
        self._overdue: list[type[Command]] = []
        self._owed: type[Command] | None = None
        self._early: Command | None = None
        self._reading: asyncio.Future[None] | None = None

    def hung_up(self) -> bool:
        """The other end has closed, though our reader may not have come to know it yet."""
        try:
            return self.gone or self._sock.recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT) == b""
        except BlockingIOError:
            return False
        except OSError:
            return True

    async def run(self, heard: Callable[[Peer, Command], Awaitable[None]]) -> None:
        """Read until the peer leaves or breaks the protocol; `heard` gets what is no answer.

        Never raises because of the peer. Closes the socket.
        """
        try:
            while True:
                data = await (self._receive() if self.workload else self._first_words())
                if not data:
                    return
                for line in self._lines.feed(data):
                    await self._take(protocol.parse_command(line), heard)
        except AgentError as error:  # the kernel's too: one client's trouble is not the broker's
            with contextlib.suppress(BrokerError):
                await self.send(protocol.Error(error.reason, error.message, error.remedy))
        except (TimeoutError, OSError):
            return
        finally:
            self.close()

    async def send(self, event: Event, fd: int | None = None) -> None:
        """Raises BrokerError (WORKLOAD_GONE)."""
        data = protocol.encode_event(event)
        try:
            if fd is not None:
                # Events are far below the socket's buffer: a full one is a client that never reads.
                socket.send_fds(self._sock, [data], [fd])
            else:
                async with asyncio.timeout(SEND_TIMEOUT_S):
                    await asyncio.get_running_loop().sock_sendall(self._sock, data)
        except (OSError, TimeoutError) as error:
            self.close()
            raise self._gone() from error

    def owes(self, answer: type[Command]) -> None:
        """`answer` was asked for by whoever had this connection before: it may come at any time, and the
        next ask() for it does not ask again."""
        self._owed = answer

    async def ask(
        self, event: Event, answer: type[_Answer], timeout_s: float, fd: int | None = None
    ) -> _Answer:
        """Send `event`, wait for `answer`.

        Raises BrokerError: WORKLOAD_GONE, WORKLOAD_UNPRESERVABLE (it said FAILED), WORKLOAD_REFUSED
        (it said ERROR, its own reason is in the fields), WORKLOAD_TIMEOUT, WORKLOAD_BUSY if another
        question is open.
        """
        if self.gone:
            raise self._gone()
        if self._question is not None:
            raise BrokerError(
                f"workload {self.workload} has not answered the last question yet",
                reason="WORKLOAD_BUSY",
                workload=self.workload,
            )
        future: asyncio.Future[Command] = asyncio.get_running_loop().create_future()
        kind: type[Command] = answer  # type: ignore[assignment]
        self._question = (kind, future)
        asked, self._owed = self._owed is kind, None
        if self._early is not None and _answers(self._early, kind):
            future.set_result(self._early)
            asked, self._early = True, None
        try:
            if not asked:
                await self.send(event, fd)
            async with asyncio.timeout(timeout_s):
                command = await future
        except TimeoutError:
            said = answer.__name__.upper()
            raise BrokerError(
                f"workload {self.workload} did not say {said} within {timeout_s:g} s",
                reason="WORKLOAD_TIMEOUT",
                remedy=f"Look at what {self.workload} (pid {self.pid}) is doing; it must answer {said}.",
                workload=self.workload,
                answer=said,
                pid=self.pid,
            ) from None
        finally:
            self._question = None
            if not future.done() or future.cancelled():
                self._overdue.append(kind)
        if isinstance(command, protocol.Error):
            raise BrokerError(
                f"workload {self.workload} refused: {command.message or command.reason}",
                reason="WORKLOAD_REFUSED",
                remedy=command.remedy or f"Read the log of {self.workload}.",
                workload=self.workload,
                says=command.reason,
            )
        if isinstance(command, protocol.Failed):
            raise unpreservable(self.workload, command)
        assert isinstance(command, answer)
        return command

    async def tell(self, event: Event, answer: type[Command]) -> None:
        """Send `event`; its answer may come and interests nobody. Raises BrokerError (WORKLOAD_GONE)."""
        self._overdue.append(answer)
        await self.send(event)

    def close(self) -> None:
        """Idempotent; fails the open question and ends run()."""
        if self.gone:
            return
        self.gone = True
        with contextlib.suppress(RuntimeError):
            asyncio.get_running_loop().remove_reader(self._sock)
        self._sock.close()
        if self._reading is not None:
            _settle(self._reading)
        if self._question is not None and not self._question[1].done():
            self._question[1].set_exception(self._gone())

    async def _take(self, command: Command, heard: Callable[[Peer, Command], Awaitable[None]]) -> None:
        if isinstance(command, Subscribe | Claim):
            await heard(self, command)
            return
        if isinstance(command, protocol.Running) and self.suspends:
            return  # of use in the blackout path only
        if self._question is not None:
            kind, future = self._question
            if _answers(command, kind) and not future.done():
                future.set_result(command)
                return
        if self._owed is not None and _answers(command, self._owed):
            self._owed, self._early = None, command
            return
        for overdue in self._overdue:
            if _answers(command, overdue):
                self._overdue.remove(overdue)
                return
        if isinstance(command, protocol.Error):
            return
        raise BrokerError(
            f"{type(command).__name__.upper()} answers no question",
            reason="UNEXPECTED",
            retry=Retry.NEVER,
            workload=self.workload,
        )

    async def _first_words(self) -> bytes:
        """Raises TimeoutError if there are none in time."""
        try:
            async with asyncio.timeout(FIRST_WORD_TIMEOUT_S):
                return await self._receive()
        except TimeoutError:
            # A loop that was busy for so long (imports, on a loaded machine) sees both at once: the end of
            # the wait, and what had come long before.
            if not self._has_spoken():
                raise
        return await self._receive()

    def _has_spoken(self) -> bool:
        try:
            return bool(self._sock.recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT))
        except OSError:
            return False

    async def _receive(self) -> bytes:
        """The next bytes; empty at the end. Raises BrokerError (UNEXPECTED_FDS)."""
        if self._pending:
            data, self._pending = self._pending, b""
            return data
        while True:
            try:
                data, _, flags, _ = self._sock.recvmsg(RECEIVE_BYTES)
            except BlockingIOError:
                await self._readable()
                continue
            if flags & socket.MSG_CTRUNC:
                raise BrokerError(
                    "a client must not send file descriptors", reason="UNEXPECTED_FDS", retry=Retry.NEVER
                )
            return data

    async def _readable(self) -> None:
        loop = asyncio.get_running_loop()
        future = self._reading = loop.create_future()
        loop.add_reader(self._sock, _settle, future)
        try:
            await future
        finally:
            if not self.gone:
                loop.remove_reader(self._sock)

    def _gone(self) -> BrokerError:
        return BrokerError(
            f"workload {self.workload or self.pid} closed its connection",
            reason="WORKLOAD_GONE",
            remedy=f"Is {self.workload or 'the workload'} running? It must stay connected to the broker.",
            workload=self.workload,
        )


def _answers(command: Command, asked: type[Command]) -> bool:
    """ERROR answers any question, FAILED the one for READY."""
    if isinstance(command, protocol.Failed):
        return asked is protocol.Ready
    return isinstance(command, asked | protocol.Error)


def _settle(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)
