"""The operators' streams: WatchRollout, WatchNodes, ListEvents.

Rules
1. A watch keeps a cursor, not a queue: it reads the store's log behind it, so a slow reader costs
   nothing, and one that takes nothing for SEND_TIMEOUT_S is cut off with RESOURCE_EXHAUSTED and
   the cursor to resume from.
2. Resumed from a cursor, nothing is repeated and nothing lost (I12). The cursor moves over events
   that do not concern the watch, too.
3. The feed is a hint; behind it, watches look by themselves every POLL_S.
4. On shutdown every stream ends with UNAVAILABLE (SHUTTING_DOWN) and its cursor.
"""

from __future__ import annotations

import asyncio
import functools
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

from google.protobuf.message import Message
from liveroll.v1 import rollout_pb2 as pb
from liveroll.v1 import rollout_pb2_grpc

from orchestrator.core import views
from orchestrator.errors import Capacity, NotLeader
from orchestrator.rpc.auth import Role
from orchestrator.rpc.boundary import Context, caller, refuse, unwrap
from orchestrator.rpc.selection import matching_nodes
from orchestrator.rpc.views_out import event_of, node_of, rollout_of
from orchestrator.runtime.service import Orchestrator
from orchestrator.wire.check import Checker

SEND_TIMEOUT_S = 30.0
POLL_S = 2.0
"""Behind the hints: what changes without an event (a blocker's age, a link that fell silent)."""
COALESCE_S = 0.1
"""Snapshots of one watch come no faster: a person sees ten a second as alive, and a view of
10,000 nodes costs milliseconds."""
EVENTS_PAGE = 500
NODES_PAGE = 500

Send = Callable[[Any], Any]


def stream(
    method: Callable[[Any, Any, _Stream], Any],
) -> Callable[[Any, Any, Context], Any]:
    """A streaming call of the service: identity first, errors to statuses."""

    @functools.wraps(method)
    async def served(self: Watches, request: Message, context: Context) -> None:
        try:
            caller(Role.OPERATOR, context, verified=self.verified)
            async with _opened(self, context) as opened:
                await method(self, request, opened)
        except Exception as error:  # noqa: BLE001 - the boundary: every error gets a status
            cause = unwrap(error)
            assert isinstance(cause, Exception)
            await refuse(context, cause, method=method.__name__, peer=context.peer())

    return served


class _Stream:
    """One stream to one reader."""

    def __init__(self, context: Context, orchestrator: Orchestrator, stopping: asyncio.Event) -> None:
        self._context = context
        self._orchestrator = orchestrator
        self._stopping = stopping
        self._news = asyncio.Event()
        self.cursor = ""
        """Where the reader may resume."""

    async def send(self, message: Message) -> None:
        """Raises Capacity (SLOW_READER)."""
        try:
            async with asyncio.timeout(SEND_TIMEOUT_S):
                await self._context.write(message)
        except TimeoutError as error:
            raise Capacity(
                f"nothing was read for {SEND_TIMEOUT_S:g} s",
                reason="SLOW_READER",
                remedy="watch again from the cursor, and read without delay",
                cursor=self.cursor,
            ) from error

    async def listen(self) -> None:
        """Turns the feed into news. Runs beside the watch."""
        async for _ in self._orchestrator.feed.subscribe():
            self._news.set()

    async def stop(self) -> None:
        """Ends the watch when the server stops. Runs beside the watch."""
        await self._stopping.wait()
        self._news.set()

    def check(self) -> None:
        """Raises NotLeader (SHUTTING_DOWN)."""
        if self._stopping.is_set():
            raise NotLeader(
                "the orchestrator is shutting down",
                reason="SHUTTING_DOWN",
                remedy="watch again from the cursor, once it is back",
                cursor=self.cursor,
            )

    async def news(self) -> bool:
        """Until something may have changed. False: only time has passed."""
        try:
            async with asyncio.timeout(POLL_S):
                await self._news.wait()
        except TimeoutError:
            self.check()
            return False
        self.check()
        await asyncio.sleep(COALESCE_S)
        self._news.clear()
        return True


@asynccontextmanager
async def _opened(service: Watches, context: Context) -> AsyncIterator[_Stream]:
    opened = _Stream(context, service.orchestrator, service.stopping)
    opened.check()
    async with asyncio.TaskGroup() as tasks:
        helpers = [tasks.create_task(opened.listen()), tasks.create_task(opened.stop())]
        await asyncio.sleep(0)  # the listener subscribes before the first read, or a hint is lost
        try:
            yield opened
        finally:
            for helper in helpers:
                helper.cancel()


class Watches(rollout_pb2_grpc.RolloutServiceServicer):
    """The streaming half of RolloutService.

    Args:
        verified: the port asks for certificates.
        stopping: set when the server begins to stop.
    """

    def __init__(self, orchestrator: Orchestrator, *, verified: bool, stopping: asyncio.Event) -> None:
        self.orchestrator = orchestrator
        self.verified = verified
        self.stopping = stopping

    def show(self, rollout_id: str) -> pb.Rollout:
        """The rollout as it is now. Raises NotFound."""
        o = self.orchestrator
        return rollout_of(views.rollout_view(o.fleet, rollout_id, o.last_plan, o.now()))

    @stream
    async def WatchRollout(self, request: pb.WatchRolloutRequest, out: _Stream) -> None:
        check = Checker()
        rollout_id = check.name(request.rollout, "rollout")
        out.cursor = check.name(request.cursor, "cursor", required=False, most=200)
        check.done()
        o = self.orchestrator
        shown = self.show(rollout_id)
        if not out.cursor:
            out.cursor = o.cursor()
            shown = self.show(rollout_id)
            await out.send(pb.WatchRolloutResponse(rollout=shown, cursor=out.cursor))
            if shown.HasField("end_time"):
                return
        first = bool(request.cursor)
        while True:
            page = await o.events_after(out.cursor, limit=EVENTS_PAGE, rollout_id=rollout_id)
            now_shown = self.show(rollout_id)
            if page.events or first or now_shown != shown:
                shown, first = now_shown, False
                events = [event_of(e) for e in page.events]
                await out.send(pb.WatchRolloutResponse(rollout=shown, events=events, cursor=page.cursor))
            out.cursor = page.cursor
            if len(page.events) < EVENTS_PAGE:
                if shown.HasField("end_time"):
                    return
                await out.news()

    @stream
    async def WatchNodes(self, request: pb.WatchNodesRequest, out: _Stream) -> None:
        o = self.orchestrator
        told: dict[str, pb.Node] = {}
        cursor = o.cursor()
        changed: set[str] | None = None
        while True:
            names = matching_nodes(o.fleet, request.selector, request.rollout)
            nodes: list[pb.Node] = []
            for name in sorted(names if changed is None else names & changed):
                node = node_of(views.node_view(o.fleet, name, o.now(), request.rollout))
                if told.get(name) != node:
                    told[name] = node
                    nodes.append(node)
            for start in range(0, max(len(nodes), 1), NODES_PAGE):
                part = nodes[start : start + NODES_PAGE]
                if part or (changed is None and len(told) == len(nodes)):
                    await out.send(pb.WatchNodesResponse(nodes=part))
            if not await out.news():
                changed = None
                continue
            changed = set()
            more = True
            while more:
                page = await o.events_after(cursor, limit=EVENTS_PAGE)
                cursor = page.cursor
                changed.update(e.new.node_id for e in page.events)
                more = len(page.events) == EVENTS_PAGE

    @stream
    async def ListEvents(self, request: pb.ListEventsRequest, out: _Stream) -> None:
        check = Checker()
        out.cursor = check.name(request.cursor, "cursor", required=False, most=200)
        rollout_id = check.name(request.rollout, "rollout", required=False)
        node_id = check.name(request.node_id, "node_id", required=False)
        check.done()
        left = request.limit or None
        while True:
            limit = EVENTS_PAGE if left is None else min(EVENTS_PAGE, left)
            page = await self.orchestrator.events_after(
                out.cursor, limit=limit, rollout_id=rollout_id, node_id=node_id
            )
            if page.events:
                await out.send(pb.ListEventsResponse(events=[event_of(e) for e in page.events]))
            out.cursor = page.cursor
            if left is not None:
                left -= len(page.events)
                if left <= 0:
                    return
            if len(page.events) < limit:
                if not request.follow:
                    return
                await out.news()
