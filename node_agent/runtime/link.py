"""The node's side of the link: hello, commands down, reports and heartbeats up, for ever.

Rules:
- Hello goes first, Welcome must answer it in time; nothing is believed before.
- Reports are what the runner says is unacknowledged: the journal is the queue. They are sent
  in order, those that wait together in one message, at most WINDOW of them without an
  acknowledgement, and all of them again on a new link.
- Whether an update could begin is looked at before each heartbeat and after each change, and told at once
  where that has turned.
- An acknowledgement never reaches beyond what was sent or is known here. A Welcome's may: a machine
  with a copy of this journal has spoken for the node. Later reports are numbered above it.
- Commands are level-triggered: each is handed to the runner, which says if it is news. A
  malformed one is refused by a report; the link goes on.
- A peer that does not read for SEND_S is cut off. The node waits without end for one that is
  away: its state, its lease and its floor of generations are the runner's and do not depend on
  the link.
- Which orchestrator is dialled, and after what wait, is the rota's (core/rota.py); the wait is never
  longer than the pause between heartbeats that the last Welcome asked for: dialling so often loads
  nobody more than a link would, and a node that waits PRESERVED must not wait longer. A refusal
  that time does not heal is reported once, clearly, and retried slowly.

Free of gRPC: it speaks to a Transport. Not here: what commands mean (core), when a lease has
run out (runner).
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

from liveroll.v1 import agent_pb2 as pb

from node_agent.core.commands import LinkCommand
from node_agent.core.model import BootStamp, Problem
from node_agent.core.phases import SETTLED, Phase
from node_agent.core.report import Disposition, NodeStatus, Outcome, Report
from node_agent.core.rota import Rota
from node_agent.errors import CommandRefused, LinkError, Retry
from node_agent.runtime import convert
from node_agent.runtime.link_transport import Connector, HelloFacts, Terms, Transport

WINDOW = 64
"""Reports under way without an acknowledgement; a node makes about fifteen an attempt."""
HANDSHAKE_S = 10.0
SEND_S = 30.0
HELLOS_A_BEAT = 20
"""So many Hellos the orchestrators take in the time of one heartbeat. The pause between heartbeats grows
with the fleet, and with it, beyond some thousand nodes, the time in which lost links come back."""
STEADY_S = 10.0
"""A link that lasted this long was a good one: the next failure starts backing off afresh."""
ACTIVE_S = 5.0
"""As often as nodes in an attempt beat where nobody has said otherwise."""
IMPATIENT_S = 0.5
"""However often a node beats, it may wait so long before it dials."""
TERMINAL = frozenset(
    {
        "NODE_ID_CONFLICT",
        "STORE_REGRESSED",
        "UNAUTHENTICATED",
        "PERMISSION_DENIED",
        "NOT_AN_AGENT",
        "UNSUPPORTED",
        "INVALID_ARGUMENT",
    }
)
"""Refusals that only a person mends."""


class LinkedNode(Protocol):
    """What the link needs of the node's runner."""

    @property
    def node_id(self) -> str: ...
    @property
    def changes(self) -> asyncio.Event:
        """Set whenever a report is added or the phase changes; the link clears it."""
        ...

    async def hello(self) -> HelloFacts: ...
    async def look(self) -> None:
        """Have status() say anew whether an update could begin. Bounded, for a beat waits for it."""
        ...

    def status(self) -> NodeStatus: ...
    def stamp(self) -> BootStamp: ...
    def unacknowledged(self) -> Sequence[Report]:
        """In journal order."""
        ...

    async def acknowledge(self, seq: int) -> None: ...
    async def handle(self, command: LinkCommand) -> Disposition: ...
    async def refuse(self, command_id: str, problem: Problem) -> None:
        """Report that a command could not even be read."""
        ...

    def number_from(self, seq: int) -> None:
        """Reports from here on have numbers above this one."""
        ...

    async def note_incarnation(self, incarnation: str, serial: int) -> None: ...


@dataclass(frozen=True, slots=True)
class LinkView:
    """The link as luoctl and the metrics show it."""

    up: bool = False
    terms: Terms | None = None
    problem: Problem | None = None
    """Why it is down, or went down last."""
    connects: int = 0
    refused: bool = False
    """Down for a reason that only a person mends."""
    address: str = ""
    """Of the orchestrator at the other end, or that was there last."""


class Link:
    """One node's link. run() never returns by itself.

    Args:
        node: the runner.
        connect: opens a stream, to where the rota stands.
        rota: whom to dial, and when; shared with `connect`. One nameless address if omitted.
        on_view: told of every change of the link's state.
    """

    def __init__(
        self,
        node: LinkedNode,
        connect: Connector,
        *,
        rota: Rota | None = None,
        on_view: Callable[[LinkView], None] = lambda _view: None,
    ) -> None:
        self._node = node
        self._connect = connect
        self._rota = rota or Rota((), random.Random())  # noqa: S311 — jitter, not a secret
        self._on_view = on_view
        self._sent_seq = 0
        self._beat_now = False
        self.view = LinkView()

    async def run(self) -> None:
        """Link, and link again, until cancelled. Raises what the runner raises."""
        loop = asyncio.get_running_loop()
        while True:
            began = loop.time()
            try:
                await self._once()
            except LinkError as error:
                fault = error
            was_up = self.view.up
            if was_up and loop.time() - began >= STEADY_S:
                self._rota.lasted()
            refused = fault.reason in TERMINAL
            self._see(replace(self.view, up=False, problem=Problem.of(fault), refused=refused))
            spread_s = self.view.terms.idle_heartbeat_s / HELLOS_A_BEAT if self.view.terms else 0.0
            await asyncio.sleep(
                self._rota.failed(was_up=was_up, refused=refused, most_s=self._most_s(), spread_s=spread_s)
            )

    def _most_s(self) -> float | None:
        """The longest wait that the node can afford; None: the policy's."""
        terms, phase = self.view.terms, self._node.status().phase
        if terms is not None:
            return max(IMPATIENT_S, _cadence_s(phase, terms))
        # A boot that has not been welcomed yet: the kexec's own, with everybody waiting for its word.
        return ACTIVE_S if is_active(phase) else None

    def _see(self, view: LinkView) -> None:
        if view != self.view:
            self.view = view
            self._on_view(view)

    async def _once(self) -> None:
        """One link, until it breaks. Raises LinkError always."""
        async with self._connect() as transport:
            terms = await self._shake_hands(transport)
            address = self._rota.address
            self._see(LinkView(up=True, terms=terms, connects=self.view.connects + 1, address=address))
            # No TaskGroup: cut off in the very moment in which a child fails, that of Python 3.11
            # raises the child's error, and the cancellation is lost.
            both = [asyncio.create_task(w) for w in (self._read(transport), self._write(transport, terms))]
            try:
                await asyncio.wait(both, return_when=asyncio.FIRST_COMPLETED)
            finally:
                for task in both:
                    task.cancel()
                await asyncio.wait(both)
                faults = [e for task in both if not task.cancelled() and (e := task.exception()) is not None]
            # A fault of the runner's own is worth more than the link error it drags along.
            raise sorted(faults, key=lambda e: isinstance(e, LinkError))[0]

    async def _shake_hands(self, transport: Transport) -> Terms:
        try:
            async with asyncio.timeout(HANDSHAKE_S):
                await transport.send(convert.hello(await self._node.hello()))
                answer = await transport.receive()
        except TimeoutError as error:
            raise LinkError(
                f"the orchestrator did not answer the hello within {HANDSHAKE_S:.0f} s",
                reason="HELLO_UNANSWERED",
                remedy="see that a liveroll-orchestrator listens there and is not overloaded",
            ) from error
        if answer is None or answer.WhichOneof("message") != "welcome":
            raise _protocol("the first message down is not a welcome")
        terms = convert.welcome(answer.welcome)
        self._node.number_from(terms.acknowledged_seq)
        await self._node.note_incarnation(terms.incarnation, terms.incarnation_serial)
        self._sent_seq = 0
        await self._acknowledged(terms.acknowledged_seq, everything=True)
        return terms

    async def _acknowledged(self, seq: int, *, everything: bool = False) -> None:
        """Commit an acknowledgement, never beyond what was sent (or, on Welcome, is known)."""
        waiting = self._node.unacknowledged()
        known = [r.seq for r in waiting if r.seq <= seq and (everything or r.seq <= self._sent_seq)]
        if known:
            await self._node.acknowledge(known[-1])
            self._node.changes.set()

    async def _read(self, transport: Transport) -> None:
        while True:
            message = await transport.receive()
            if message is None:
                raise LinkError(
                    "the orchestrator ended the link",
                    reason="LINK_ENDED",
                    remedy="nothing to do: the agent links again by itself",
                )
            which = message.WhichOneof("message")
            if which == "command":
                await self._command(message.command)
            elif which == "ack":
                await self._acknowledged(message.ack.seq)
            else:
                raise _protocol(f"a second {which}" if which else "a message of no known kind")

    async def _command(self, message: pb.Command) -> None:
        try:
            command = convert.command(message, node_id=self._node.node_id)
        except CommandRefused as refusal:
            await self._node.refuse(message.command_id[:200], Problem.of(refusal))
            self._node.changes.set()
            return
        disposition = await self._node.handle(command)
        if disposition.outcome is not Outcome.ACCEPTED:
            # Nothing was journalled for it, so a heartbeat carries the answer.
            self._beat_now = True
        self._node.changes.set()

    async def _write(self, transport: Transport, terms: Terms) -> None:
        loop = asyncio.get_running_loop()
        last_beat = loop.time() - 3600.0  # the first goes at once: it carries a stamp
        changes = self._node.changes
        told = _gist(None)
        while True:
            changes.clear()
            await self._send_reports(transport)
            await self._node.look()
            status = self._node.status()
            every, gist = _cadence_s(status.phase, terms), _gist(status.not_ready)
            if self._beat_now or gist != told or loop.time() >= last_beat + every:
                self._beat_now, told = False, gist
                await self._send(
                    transport,
                    convert.heartbeat(status, self._node.stamp(), len(self._node.unacknowledged())),
                )
                last_beat = loop.time()
            try:
                async with asyncio.timeout_at(last_beat + every):
                    await changes.wait()
            except TimeoutError:
                continue

    async def _send_reports(self, transport: Transport) -> None:
        waiting = self._node.unacknowledged()
        under_way = sum(1 for r in waiting if r.seq <= self._sent_seq)
        fresh = [r for r in waiting if r.seq > self._sent_seq][: max(WINDOW - under_way, 0)]
        for last_seq, message in convert.reports(fresh):
            self._sent_seq = last_seq
            await self._send(transport, message)

    async def _send(self, transport: Transport, message: pb.LinkRequest) -> None:
        try:
            async with asyncio.timeout(SEND_S):
                await transport.send(message)
        except TimeoutError as error:
            raise LinkError(
                f"the orchestrator took no message for {SEND_S:.0f} s",
                reason="PEER_STALLED",
                remedy="look at the orchestrator's load; the agent links again by itself",
            ) from error


def is_active(phase: Phase) -> bool:
    """In an attempt or baking: beats at the active cadence."""
    return phase not in SETTLED or phase is Phase.BAKING


def _cadence_s(phase: Phase, terms: Terms) -> float:
    return terms.active_heartbeat_s if is_active(phase) else terms.idle_heartbeat_s


def _gist(not_ready: Problem | None) -> tuple[str, Mapping[str, str]] | None:
    """What of it is worth a beat of its own. The words are not: they may name each of a thousand files."""
    return (not_ready.reason, not_ready.fields) if not_ready is not None else None


def _protocol(what: str) -> LinkError:
    return LinkError(
        f"the orchestrator broke the protocol: {what}",
        reason="LINK_PROTOCOL",
        retry=Retry.CALL,
        remedy="update whichever of agent and orchestrator is older",
    )
