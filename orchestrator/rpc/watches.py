"""The operators' streams: WatchRollout, WatchNodes, ListEvents.

Rules
1. A watch keeps a cursor, not a queue: it reads the store's log behind it, so a slow reader costs
   nothing, and one that takes nothing for SEND_TIMEOUT_S is cut off with RESOURCE_EXHAUSTED and
   the cursor to resume from.
2. Resumed from a cursor, nothing is repeated and nothing lost (I12), here or at another replica. The
   cursor moves over events that do not concern the watch, too. One that is out of range ends the
   stream: what lies between would be lost in silence (WatchNodes has no cursor, and looks anew).
3. The feed is a hint; behind it, watches look by themselves every POLL_S.
4. On shutdown every stream ends with UNAVAILABLE (SHUTTING_DOWN) and its cursor.
"""

from __future__ import annotations

import asyncio
import functools
import itertools
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

from google.protobuf.message import Message
from liveroll.v1 import rollout_pb2 as pb
from liveroll.v1 import rollout_pb2_grpc

from orchestrator.core import views
from orchestrator.errors import Capacity, NotLeader, OutOfRange
from orchestrator.rpc.auth import Role
from orchestrator.rpc.boundary import Context, caller, refuse, unwrap
from orchestrator.rpc.selection import matching_nodes
from orchestrator.rpc.views_out import event_of, node_of, rollout_of
from orchestrator.rpc.wanted import Wanted
from orchestrator.runtime.service import Orchestrator
from orchestrator.wire.check import Checker

SEND_TIMEOUT_S = 30.0
POLL_S = 2.0
"""Behind the hints: what changes without an event (a blocker's age, a link that fell silent)."""
COALESCE_S = 0.1
"""Snapshots of one watch come no faster: a person sees ten a second as alive, and a view of
10,000 nodes costs milliseconds."""
EVENTS_PAGE = 500
PROGRESS_EVENTS = 5000
"""After so many that did not match, a reader who wants to know hears of the cursor: it must not stay
behind until a trim passes it."""
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
            await self.orchestrator.refresh()
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
        return rollout_of(views.rollout_view(o.fleet, rollout_id, o.plan_to_show(), o.now()))

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
            try:
                cursor, changed = await self._touched(cursor)
            except OutOfRange:  # trimmed, or the store was replaced: all nodes are looked at anew
                cursor, changed = o.cursor(), None

    async def _touched(self, cursor: str) -> tuple[str, set[str]]:
        """The nodes that events behind the cursor are of, and the cursor behind those."""
        touched: set[str] = set()
        while True:
            page = await self.orchestrator.events_after(cursor, limit=EVENTS_PAGE)
            cursor = page.cursor
            touched.update(event.new.node_id for event in page.events)
            if len(page.events) < EVENTS_PAGE:
                return cursor, touched

    @stream
    async def ListEvents(self, request: pb.ListEventsRequest, out: _Stream) -> None:
        o, wanted = self.orchestrator, Wanted.of(request)
        if wanted.until_cursor:
            await o.events_after(wanted.until_cursor, limit=1)  # that it is one of this log
        out.cursor = wanted.cursor
        if wanted.since is not None:
            out.cursor = await o.events_since(wanted.since)
        left = wanted.limit or None
        unsaid = 0
        while True:
            size = EVENTS_PAGE if left is None or wanted.sifts else min(EVENTS_PAGE, left)
            page = await o.events_after(
                out.cursor, limit=size, rollout_id=wanted.rollout_id, node_id=wanted.node_id
            )
            within = list(itertools.takewhile(lambda e: not wanted.excludes(e), page.events))
            chosen = [event for event in within if wanted.matches(event)][:left]
            done = left is not None and len(chosen) == left
            ended = done or len(within) < len(page.events)
            cursor = page.cursor
            if ended:
                last = chosen if done else within
                cursor = o.cursor(last[-1].seq) if last else out.cursor or page.cursor
            unsaid += len(page.events)
            if chosen or (wanted.progress and unsaid >= PROGRESS_EVENTS):
                unsaid = 0
                events = [event_of(event) for event in chosen]
                await out.send(pb.ListEventsResponse(events=events, cursor=cursor))
            out.cursor = cursor
            if left is not None:
                left -= len(chosen)
            if ended:
                return
            if len(page.events) < size:
                if wanted.is_over(out.cursor, o.now()):
                    return
                await out.news()
