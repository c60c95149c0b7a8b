"""The agents' service: one bidirectional stream a node, Hello first.

Rules
1. Up: messages are taken in order. Reports that came in while the last were being committed are
   committed together: at most READ_AHEAD messages, beyond which a fast node waits in its own
   socket's window, not in our memory.
2. Down: level-triggered. What is sent is always the newest acknowledgement and the newest
   command; there is no queue. A node that does not take it within SEND_TIMEOUT_S is cut off.
3. Whatever ends the stream is a status with a reason, and the link is closed in the store.
4. On shutdown every link ends with UNAVAILABLE (SHUTTING_DOWN): dial again, elsewhere if you can.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence

import grpc
from liveroll.v1 import agent_pb2, agent_pb2_grpc

from orchestrator.core import messages as core
from orchestrator.errors import Capacity, InvalidSpec, LiverollError, NotLeader, Violation
from orchestrator.rpc import link_in, link_out
from orchestrator.rpc.auth import Peer, Role, check_node
from orchestrator.rpc.boundary import Context, caller, refuse, unwrap
from orchestrator.runtime.service import AgentLink, Orchestrator

HELLO_TIMEOUT_S = 10.0
"""An agent says Hello right after dialling; more is a port scanner's stream."""
SEND_TIMEOUT_S = 30.0
"""As long as a link may be silent (FleetPolicy.silence): a node that takes nothing is not there."""
BEATS_PER_S = 50.0
BEATS_BURST = 200.0
"""Heartbeats cost no commit, so nothing else slows a node that floods them; agents send at most
20 a second, and replay bursts are reports, not heartbeats."""


Inbox = asyncio.Queue[agent_pb2.LinkRequest | None]
READ_AHEAD = 16
"""A zero-time attempt is told in 15 reports; at their largest these are 4 MiB a link."""

BATCH_MOST = 64
"""Reports in one message, and about as many in one commit."""


class HungUp(Exception):
    """The node went away while something was on its way to it, as every kexec does."""


def shutting_down() -> NotLeader:
    return NotLeader(
        "the orchestrator is shutting down",
        reason="SHUTTING_DOWN",
        remedy="dial again, or another orchestrator of the same store",
    )


class AgentService(agent_pb2_grpc.AgentServiceServicer):
    """Link, over an Orchestrator.

    Args:
        verified: the port asks for certificates.
        stopping: set when the server begins to stop.
    """

    def __init__(self, orchestrator: Orchestrator, *, verified: bool, stopping: asyncio.Event) -> None:
        self._orchestrator = orchestrator
        self._verified = verified
        self._stopping = stopping
        self.links = 0
        """Open now."""

    async def Link(self, request_iterator: object, context: Context) -> None:
        del request_iterator
        who = context.peer()
        try:
            peer = caller(Role.AGENT, context, verified=self._verified)
            if self._stopping.is_set():
                raise shutting_down()
            hello = link_in.read_hello(await _first(context))
            who = hello.node_id
            check_node(peer, hello.node_id)
            link = await self._orchestrator.open_link(hello, actor=_actor(peer, hello.node_id))
            self.links += 1
            try:
                await self._carry(link, context)
            finally:
                self.links -= 1
        except Exception as error:  # noqa: BLE001 - the boundary: every error gets a status
            cause = unwrap(error)
            assert isinstance(cause, Exception)
            await refuse(context, cause, method="Link", peer=who)

    async def _carry(self, link: AgentLink, context: Context) -> None:
        """Until the node hangs up (returns), or something ends it (raises)."""
        cause = "closed"
        try:
            await _send(context, link_out.welcome_of(link.welcome))
            down = _Down(context)
            async with asyncio.TaskGroup() as tasks:
                others = [
                    tasks.create_task(down.run()),
                    tasks.create_task(_commands(link, down)),
                    tasks.create_task(self._stop()),
                ]
                inbox: Inbox = asyncio.Queue(READ_AHEAD)
                others.append(tasks.create_task(_read(context, inbox)))
                await _take(link, inbox, down)
                for task in others:
                    task.cancel()
        except HungUp:
            cause = "cut"
        except BaseExceptionGroup as group:
            first = unwrap(group)
            if isinstance(first, HungUp):
                cause = "cut"
                return
            cause = first.reason if isinstance(first, LiverollError) else "failed"
            raise
        except asyncio.CancelledError:
            cause = "cut"
            raise
        finally:
            await link.close(cause)

    async def _stop(self) -> None:
        await self._stopping.wait()
        raise shutting_down()


class _Down:
    """What goes to the node: the newest acknowledgement and the newest command."""

    def __init__(self, context: Context) -> None:
        self._context = context
        self._news = asyncio.Event()
        self._ack = 0
        self._acked = 0
        self._command: agent_pb2.LinkResponse | None = None

    def acknowledge(self, seq: int) -> None:
        self._ack = max(self._ack, seq)
        self._news.set()

    def command(self, message: agent_pb2.LinkResponse) -> None:
        self._command = message
        self._news.set()

    async def run(self) -> None:
        while True:
            await self._news.wait()
            self._news.clear()
            if self._ack > self._acked:
                self._acked = self._ack
                await _send(self._context, link_out.ack_of(self._acked))
            if self._command is not None:
                message, self._command = self._command, None
                await _send(self._context, message)


async def _commands(link: AgentLink, down: _Down) -> None:
    async for command in link.commands():
        down.command(link_out.command_of(command))


async def _read(context: Context, inbox: Inbox) -> None:
    """Fills the inbox until the node hangs up."""
    while isinstance(message := await context.read(), agent_pb2.LinkRequest):
        await inbox.put(message)
    await inbox.put(None)


async def _take(link: AgentLink, inbox: Inbox, down: _Down) -> None:
    """Takes what was read, in order, until the node has hung up."""
    beats = _Allowance(BEATS_PER_S, BEATS_BURST, asyncio.get_running_loop().time)
    reports: list[core.Report] = []

    async def commit() -> None:
        down.acknowledge(await link.report(*reports))
        reports.clear()

    while True:
        message = await inbox.get()
        kind = message.WhichOneof("message") if message is not None else None
        told = kind in ("report", "reports")
        if message is not None and told:
            try:
                for each in _reports(message):
                    reports.append(link_in.read_report(each))
            except InvalidSpec:
                if reports:  # what came before is well-formed, and will not be sent in another order
                    await commit()
                raise
        if reports and (not told or inbox.empty() or len(reports) >= BATCH_MOST):
            await commit()
        if message is None:
            return
        if kind == "heartbeat":
            beats.take()
            link.heartbeat(link_in.read_heartbeat(message.heartbeat))
        elif not told:
            raise _unexpected(kind, "a heartbeat or a report")


def _reports(message: agent_pb2.LinkRequest) -> Sequence[agent_pb2.Report]:
    """InvalidSpec for more than a message may carry."""
    if message.WhichOneof("message") == "report":
        return (message.report,)
    if len(message.reports.reports) > BATCH_MOST:
        text = f"it carries {len(message.reports.reports)} reports"
        raise InvalidSpec(
            [Violation("reports", text, f"Send at most {BATCH_MOST} in a message.")], "the batch is too large"
        )
    return message.reports.reports


async def _first(context: Context) -> agent_pb2.Hello:
    try:
        async with asyncio.timeout(HELLO_TIMEOUT_S):
            message = await context.read()
    except TimeoutError as error:
        raise Capacity(
            f"no hello within {HELLO_TIMEOUT_S:g} s",
            reason="HELLO_TIMEOUT",
            remedy="send Hello as soon as the stream is open",
        ) from error
    if not isinstance(message, agent_pb2.LinkRequest):
        raise _unexpected(None, "a hello")
    if message.WhichOneof("message") != "hello":
        raise _unexpected(message.WhichOneof("message"), "a hello")
    hello: agent_pb2.Hello = message.hello
    return hello


async def _send(context: Context, message: agent_pb2.LinkResponse) -> None:
    try:
        async with asyncio.timeout(SEND_TIMEOUT_S):
            await context.write(message)
    except grpc.aio.BaseError as error:
        raise HungUp from error
    except TimeoutError as error:
        raise Capacity(
            f"the node took nothing for {SEND_TIMEOUT_S:g} s",
            reason="SLOW_PEER",
            remedy="read the stream without delay, then dial again",
        ) from error


def _actor(peer: Peer, node_id: str) -> str:
    return f"agent:{node_id}" if peer.authenticated else f"local:{node_id}"


def _unexpected(got: str | None, wanted: str) -> InvalidSpec:
    return InvalidSpec(
        [Violation("message", f"it is {got or 'empty'}", f"Send {wanted}.")], "the message is out of place"
    )


class _Allowance:
    """A token bucket: `burst` at once, `rate` a second in the long run."""

    def __init__(self, rate: float, burst: float, clock: Callable[[], float]) -> None:
        self._rate, self._burst, self._clock = rate, burst, clock
        self._left, self._at = burst, clock()

    def take(self) -> None:
        """Raises Capacity (TOO_MANY_MESSAGES) when nothing is left."""
        now = self._clock()
        self._left = min(self._burst, self._left + (now - self._at) * self._rate)
        self._at = now
        if self._left < 1:
            raise Capacity(
                f"more than {self._rate:g} heartbeats a second",
                reason="TOO_MANY_MESSAGES",
                remedy="beat as often as Welcome says",
            )
        self._left -= 1
