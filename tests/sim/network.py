"""The wire between agents and the orchestrator, in memory: real proto messages as bytes, late and lost.

A Stream is one gRPC stream: in order within itself, and it may break on either side first. What
was under way up when the agent gave up may still arrive, under an old link epoch, after the new
stream's Hello. The server's side is served by the real rpc/agents.AgentService over a context
of ours; the agent's side is a link_transport.Transport.
"""

from __future__ import annotations

import asyncio
import random
from collections import deque
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any, NoReturn

import grpc
from google.rpc import error_details_pb2, status_pb2
from liveroll.v1 import agent_pb2 as pb

from node_agent.errors import LinkError
from node_agent.runtime.link_transport import Transport
from tests.sim.virtual import NOBODY

if TYPE_CHECKING:
    from tests.sim.life import Life
    from tests.sim.world import World

BEATS_KEPT = 200
"""Old commands kept a node, to be delivered once more."""
SENDS = 0.3
"""How likely a message is the last thing that its sender does, beside a commit."""


class Ended(Exception):
    """The pipe has ended; why is for the reader to know."""


class Pipe:
    """One direction: bytes arrive in order, each at its own time."""

    def __init__(self) -> None:
        self._ready: deque[bytes] = deque()
        self._news = asyncio.Event()
        self._last_s = 0.0
        self._ended = False
        self._lost = False

    def put(self, data: bytes, latency_s: float) -> None:
        loop = asyncio.get_running_loop()
        # In order: never before what was sent earlier.
        self._last_s = max(self._last_s + 1e-6, loop.time() + latency_s)
        # What has been sent is on its way, whatever becomes of its sender.
        loop.call_at(self._last_s, self._arrive, data, context=NOBODY)

    def _arrive(self, data: bytes) -> None:
        if not self._lost:
            self._ready.append(data)
            self._news.set()

    def lose(self) -> None:
        """What has not arrived never will."""
        self._lost = True

    def end(self) -> None:
        """The reader is told once it has read what arrived."""
        self._ended = True
        self._news.set()

    async def get(self) -> bytes:
        """Raises Ended."""
        while not self._ready:
            if self._ended:
                raise Ended
            self._news.clear()
            await self._news.wait()
        return self._ready.popleft()


class Stream:
    """Both directions, and which side still believes in it."""

    def __init__(self, world: World, node_id: str) -> None:
        self.node_id = node_id
        self.up, self.down = Pipe(), Pipe()
        self.error: LinkError | None = None
        """What the agent is told; None at the end: a polite end."""
        self.agent_gone = False
        self.server: asyncio.Task[None] | None = None
        self._world = world
        self._cut = False
        self.welcomed = False
        """The server has taken the node's Hello."""

    def latency_s(self) -> float:
        network = self._world.network
        return network.rng.uniform(0.0002, max(0.0003, network.latency_s))

    def send_up(self, message: pb.LinkRequest) -> None:
        if not self._cut:
            self.up.put(message.SerializeToString(deterministic=True), self.latency_s())

    def send_down(self, message: pb.LinkResponse) -> None:
        if not self._cut:
            self.down.put(message.SerializeToString(deterministic=True), self.latency_s())

    def cut(self, agent_after_s: float | None, server_after_s: float | None) -> None:
        """Nothing sent from now on arrives; each side notices in its own time (None: never)."""
        self._cut = True
        loop = asyncio.get_running_loop()
        if agent_after_s is not None:
            loop.call_later(agent_after_s, self.break_agent, unreachable(), context=NOBODY)
        if server_after_s is not None:
            loop.call_later(server_after_s, self.break_server, context=NOBODY)

    def break_agent(self, error: LinkError | None) -> None:
        """The agent's side ends."""
        self.error = self.error or error
        self.down.end()

    def break_server(self) -> None:
        """The server's handler is cancelled, as grpc does when a client is gone."""
        self.up.lose()
        if self.server is not None:
            self.server.cancel()


def unreachable() -> LinkError:
    return LinkError(
        "cannot reach the orchestrator", reason="UNREACHABLE", remedy="see that the orchestrator runs"
    )


class AgentSide:
    """link_transport.Transport."""

    def __init__(self, stream: Stream) -> None:
        self._stream = stream

    async def send(self, message: pb.LinkRequest) -> None:
        if self._stream.error is not None:
            raise self._stream.error
        self._stream.send_up(message)

    async def receive(self) -> pb.LinkResponse | None:
        stream = self._stream
        try:
            data = await stream.down.get()
        except Ended:
            if stream.error is not None:
                raise stream.error from None
            return None
        return pb.LinkResponse.FromString(data)


class Aborted(Exception):
    """context.abort() was called."""


class ServerSide:
    """grpc.aio.ServicerContext, as far as AgentService uses it."""

    def __init__(self, world: World, stream: Stream, life: Life) -> None:
        self._world = world
        self._stream = stream
        self._life = life

    def peer(self) -> str:
        return f"sim:{self._stream.node_id}"

    def auth_context(self) -> dict[str, list[bytes]]:
        return {}

    def invocation_metadata(self) -> tuple[tuple[str, str], ...]:
        return ()

    async def read(self) -> Any:
        try:
            message = pb.LinkRequest.FromString(await self._stream.up.get())
        except Ended:
            return grpc.aio.EOF  # type: ignore[attr-defined]  # missing in the stubs
        self._world.checks.promises.heard(self._stream.node_id, message)
        newest = self._world.network.newest.get(self._stream.node_id)
        if newest is not self._stream and self._stream.agent_gone:
            self._world.story.count("message of an older stream came later")
        return message

    async def write(self, message: pb.LinkResponse) -> None:
        life = self._life
        if life.dead or self._crashes(f"before it sends {message.WhichOneof('message')}"):
            return
        network, stream = self._world.network, self._stream
        self._world.checks.promises.speaks(life, stream.node_id)
        stream.welcomed = True
        self._world.checks.sent(stream.node_id, message)
        stream.send_down(message)
        if self._crashes(f"after it sends {message.WhichOneof('message')}"):
            return
        if message.WhichOneof("message") != "command":
            return
        if network.rng.random() < network.duplicates:
            self._world.story.count("command duplicated")
            stream.send_down(message)
        old = network.sent.setdefault(stream.node_id, deque(maxlen=BEATS_KEPT))
        if old and network.rng.random() < network.stale:
            self._world.story.count("stale command delivered")
            stream.send_down(network.rng.choice(old))
        old.append(message)

    def _crashes(self, when: str) -> bool:
        life = self._life
        if life.take_chance(self._world.rates.orchestrator_crash * SENDS / 2):
            life.crash(when)
        return life.dead

    async def abort(self, code: grpc.StatusCode, details: str, trailers: Any = ()) -> NoReturn:
        if not self._life.dead:
            reason, remedy = code.name, ""
            for _, value in trailers:
                for detail in status_pb2.Status.FromString(value).details:
                    info, hint = error_details_pb2.ErrorInfo(), error_details_pb2.Help()
                    if detail.Unpack(info):
                        reason = info.reason or reason
                    elif detail.Unpack(hint):
                        remedy = "; ".join(link.description for link in hint.links)
            error = LinkError(details, reason=reason, remedy=remedy or "see the log", code=code.name)
            self._world.story.count(f"link ended: {reason}")
            loop = asyncio.get_running_loop()
            latency_s = self._stream.latency_s()
            loop.call_later(latency_s, self._stream.break_agent, error, context=NOBODY)
        raise Aborted(details)


class Network:
    """Who can reach whom."""

    def __init__(self, world: World) -> None:
        rates = world.scenario.rates
        self._world = world
        self.rng = random.Random(f"network {world.scenario.seed}")
        self.latency_s = rates.latency_s
        self.duplicates = rates.duplicates
        self.stale = rates.stale
        self.parted: set[str] = set()
        """Nodes that cannot reach the orchestrator."""
        self.parted_slots: set[int] = set()
        """Replicas that no node can reach."""
        self.sent: dict[str, deque[pb.LinkResponse]] = {}
        self.streams: dict[str, list[Stream]] = {}
        self.newest: dict[str, Stream] = {}

    def heal(self) -> None:
        self.latency_s = min(self.latency_s, 0.02)
        self.duplicates = self.stale = 0.0
        self.parted.clear()
        self.parted_slots.clear()

    def cut(self, node_id: str) -> None:
        """Break the node's streams: half-open for a while on either side."""
        for stream in self.streams.get(node_id, ()):
            agent_s, server_s = self.rng.choice(
                ((0.0, 0.0), (0.0, 0.0), (0.1, 20.0), (0.1, None), (25.0, 0.1), (5.0, 5.0))
            )
            stream.cut(agent_s, server_s)

    def part(self, node_ids: list[str]) -> None:
        """Nothing passes between these and the orchestrator until healed or joined."""
        self.parted.update(node_ids)
        for node_id in node_ids:
            for stream in self.streams.get(node_id, ()):
                stream.cut(self.rng.uniform(1, 20), self.rng.choice((1.0, 20.0, None)))

    def join(self, node_ids: list[str]) -> None:
        self.parted.difference_update(node_ids)

    @asynccontextmanager
    async def connect(self, node_id: str, vanishes: Callable[[], bool]) -> AsyncIterator[Transport]:
        """A stream of a node. vanishes: asked at its end, whether the node disappears without a
        word (power, kexec), so that the server finds out by silence only."""
        stream = Stream(self._world, node_id)
        await asyncio.sleep(stream.latency_s())
        # Any replica will do; who finds nobody there backs off, and dials another.
        host = self._world.host
        slot = self.rng.randrange(host.slots)
        server = host.at(slot)
        if node_id in self.parted or slot in self.parted_slots or server is None:
            raise unreachable()
        if server.process.stopped:
            # The kernel takes the connection, and nobody answers.
            self._world.story.count("dialled a replica that is stopped")
        self.streams.setdefault(node_id, []).append(stream)
        self.newest[node_id] = stream
        server.serve(stream)
        try:
            yield AgentSide(stream)
        finally:
            self.streams[node_id].remove(stream)
            stream.agent_gone = True
            stream.cut(None, None if vanishes() else stream.latency_s())
