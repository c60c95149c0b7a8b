"""The running orchestrator: owner of every task, and the one thing that rpc/, web/ and app.py talk to.

    async with Orchestrator(store=..., clock=..., ...) as orchestrator:
        await orchestrator.run_until(stop)

Starting takes the planner lease and loads the fleet; only then may links and calls come in.
Nothing here decides: plan, transitions and operations (core/) do; this commits what they say,
applies what was committed, and wakes who must know.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from dataclasses import replace
from datetime import datetime, timedelta
from types import TracebackType
from typing import Self

from orchestrator.core import invariants
from orchestrator.core.actions import Plan
from orchestrator.core.facts import GraceEnds
from orchestrator.core.fleet import Fleet
from orchestrator.core.messages import Heartbeat, Hello, Report, Welcome
from orchestrator.core.model import (
    Change,
    DesiredStage,
    IdempotencyRow,
    NewEvent,
)
from orchestrator.core.policy import FleetPolicy
from orchestrator.errors import (
    LiverollError,
    StaleGeneration,
)
from orchestrator.ports import ArtifactCatalogue, Clock, Lease, Store
from orchestrator.runtime.alarm import Alarm
from orchestrator.runtime.calls import Operated, Operation, operate
from orchestrator.runtime.checker import Checker, MakeCheck
from orchestrator.runtime.commits import Commits
from orchestrator.runtime.eventlog import EventLog, EventsPage
from orchestrator.runtime.feed import Feed
from orchestrator.runtime.ingest import Ingest
from orchestrator.runtime.leader import TTL, Leader
from orchestrator.runtime.links import MAX_LINKS, Command, LinkHandle, Links
from orchestrator.runtime.observer import NullObserver, Observer
from orchestrator.runtime.reconciler import Planner, Reconciler, planned
from orchestrator.runtime.retention import Retention, keep_trimmed
from orchestrator.runtime.silence import Silence
from orchestrator.runtime.tasks import Tasks, shutting_down

__all__ = ["AgentLink", "Command", "EventsPage", "Operated", "Operation", "Orchestrator"]


class AgentLink:
    """One node's live link, from Hello to close(). Made by Orchestrator.open_link only."""

    def __init__(self, orchestrator: Orchestrator, handle: LinkHandle, welcome: Welcome) -> None:
        self._orchestrator = orchestrator
        self._handle = handle
        self.welcome = welcome
        self.node_id = handle.node_id

    def heartbeat(self, beat: Heartbeat) -> None:
        """Never blocks. StaleGeneration if a newer link has taken over."""
        self._orchestrator._ingest.heartbeat(self._handle, beat)

    async def report(self, *reports: Report) -> int:
        """Committed when it returns, together: the seq to acknowledge (cumulative). Call it in the
        order of arrival, one call at a time. StaleGeneration, StoreRegressed, StoreUnavailable, Conflict."""
        ingest = self._orchestrator._ingest
        return await self._orchestrator._tasks.finish(ingest.report(self._handle, reports))

    async def commands(self) -> AsyncIterator[Command]:
        """The newest desired command whenever it changed (and again when it stands for long).
        Ends by StaleGeneration (LINK_REPLACED, LINK_SILENT), NotLeader, or when closed."""
        while True:
            try:
                yield await self._handle.next_command(self._orchestrator.now)
            except _Closed:
                return

    async def close(self, cause: str = "closed") -> None:
        """The stream ended. Idempotent; a link that was replaced writes nothing. Does not wait
        for the store."""
        self._orchestrator._end_link(self._handle, _Closed("the link is closed"), cause)


class _Closed(StaleGeneration):
    """close() was called."""

    reason = "LINK_CLOSED"


class Orchestrator:
    """See the module.

    Args:
        holder: names this process for the planner lease.
        planner, make_check: core's; tests give others.
    """

    def __init__(
        self,
        *,
        store: Store,
        clock: Clock,
        catalogue: ArtifactCatalogue,
        policy: FleetPolicy,
        holder: str,
        observer: Observer | None = None,
        make_check: MakeCheck = invariants.Checker,
        planner: Planner = planned,
        lease_ttl: timedelta = TTL,
        retention: Retention | None = None,
        max_links: int = MAX_LINKS,
    ) -> None:
        self.catalogue = catalogue
        self._store = store
        self._clock = clock
        self._policy = policy
        self._make_check = make_check
        self._observer = observer or NullObserver()
        self._retention = retention or Retention()
        self._feed = Feed()
        self._alarm = Alarm(clock)
        self._links = Links(self._command_of, max_links=max_links)
        self._events = EventLog(store, self._feed)
        self._group = asyncio.TaskGroup()
        self._tasks = Tasks(self._group)
        self._loops: list[asyncio.Task[None]] = []
        self._stack = AsyncExitStack()
        self._leader = Leader(
            store=store,
            clock=clock,
            holder=holder,
            ttl=lease_ttl,
            load=self._load,
            forget=self._forget,
        )
        self._checker = Checker(
            clock=clock,
            observer=self._observer,
            spawn=self._tasks.spawn,
            commit=lambda change: self._commits.commit(change),
            fleet=lambda: self._commits.fleet,
        )
        self._commits = Commits(
            store=store,
            clock=clock,
            hints=self._links,
            feed=self._feed,
            observer=self._observer,
            after_apply=self._checker,
            wake=self._alarm.wake,
            on_doubt=self._doubt,
        )
        self._reconciler = Reconciler(
            clock=clock,
            alarm=self._alarm,
            commits=self._commits,
            hints=self._links,
            observer=self._observer,
            on_doubt=self._doubt,
            planner=planner,
        )
        self._ingest = Ingest(clock=clock, commits=self._commits, links=self._links, tasks=self._tasks)
        self._silence = Silence(
            clock=clock,
            policy=policy,
            commits=self._commits,
            links=self._links,
            ingest=self._ingest,
            end=lambda handle, error: self._end_link(handle, error, "silent"),
        )

    # --- life ----------------------------------------------------------------------------

    async def __aenter__(self) -> Self:
        """NotLeader (another has the store), StoreUnavailable, CorruptState, Unsupported."""
        async with AsyncExitStack() as stack:
            await self._store.open()
            stack.push_async_callback(self._store.close)
            await self._leader.take()
            await self._group.__aenter__()
            stack.push_async_exit(self._wind_up)
            for work in (
                self._leader.run(),
                self._reconciler.run(),
                self._silence.run(),
                keep_trimmed(
                    self._store,
                    self._clock,
                    self._commits,
                    lambda: self._feed.head_seq,
                    self._retention,
                ),
            ):
                self._loops.append(self._group.create_task(work))
            self._stack = stack.pop_all()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._stack.__aexit__(kind, error, trace)

    async def _wind_up(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Stop planning, cut links, let what is being written land, give the lease back."""
        for loop in self._loops:
            loop.cancel()
        self._links.close_all(shutting_down())
        self._feed.close()
        await self._tasks.idle()
        self._commits.end()
        await self._leader.give_back()
        # The group must see a cancellation (it may be its own); any other error is the caller's,
        # and would come out wrapped.
        if isinstance(error, asyncio.CancelledError):
            await self._group.__aexit__(kind, error, trace)
        else:
            await self._group.__aexit__(None, None, None)

    async def run_until(self, stop: asyncio.Event) -> None:
        await stop.wait()

    async def run(self) -> None:
        """Until cancelled."""
        async with self:
            await asyncio.get_running_loop().create_future()

    # --- loading -------------------------------------------------------------------------

    async def _load(self, lease: Lease) -> None:
        snapshot = await self._store.load()
        now = self._clock.now()
        self._events.incarnation = snapshot.incarnation
        fleet = Fleet.rebuild(self._policy, snapshot.incarnation, snapshot.rows)
        fleet.incarnation_serial = snapshot.incarnation_serial
        grace_ends_at = now + self._policy.restart_grace
        fleet.apply(GraceEnds(grace_ends_at))
        head_seq = snapshot.head_seq
        if snapshot.regressed and not fleet.row.stopped:
            head_seq = await self._stop_regressed(lease.epoch, fleet, snapshot.regressed, now)
        self._feed.restart(head_seq)
        self._checker.begin(
            self._make_check(
                [*snapshot.rows, fleet.row],
                policy=self._policy,
                incarnation=snapshot.incarnation,
                head_seq=head_seq,
            )
        )
        self._commits.begin(fleet, lease.epoch)
        self._silence.begin(grace_ends_at)
        self._alarm.wake()

    async def _stop_regressed(self, epoch: int, fleet: Fleet, why: str, now: datetime) -> int:
        """Nothing starts until a person has seen it. The event's seq."""
        stopped = replace(
            fleet.row, stopped="STORE_REGRESSED", stop_message=why, stopped_by="orchestrator", stopped_at=now
        )
        event = NewEvent("fleet.stopped", why, cause="STORE_REGRESSED")
        committed = await self._store.commit(epoch, Change((stopped,), events=(event,)))
        for row in committed.rows:
            fleet.apply(row)
        return committed.events[-1].seq

    def _doubt(self, why: str) -> None:
        # A commit that nobody heard of would look like a gap in what follows it.
        self._checker.end()
        self._leader.doubt(why)

    async def _forget(self, error: LiverollError) -> None:
        self._commits.end()
        self._links.close_all(error)
        await self._commits.landed()
        self._alarm.wake()

    # --- what is known -------------------------------------------------------------------

    @property
    def fleet(self) -> Fleet:
        """Read only. What has been committed and applied. NotLeader until loaded."""
        return self._commits.fleet

    @property
    def last_plan(self) -> Plan | None:
        return self._reconciler.last_plan

    @property
    def incarnation(self) -> str:
        return self._events.incarnation

    @property
    def head_seq(self) -> int:
        """Newest event applied."""
        return self._feed.head_seq

    @property
    def feed(self) -> Feed:
        return self._feed

    @property
    def links(self) -> int:
        """Live links of this process."""
        return len(self._links)

    def now(self) -> datetime:
        return self._clock.now()

    def ready(self) -> tuple[bool, tuple[str, ...]]:
        """(ready, why not): lease and load, planner, and the store as both find it. A stopped
        fleet is ready: it serves."""
        reasons = tuple(
            f"{what}: {why}"
            for what, why in (
                ("lease", self._leader.trouble),
                ("planner", self._reconciler.trouble),
            )
            if why
        )
        return not reasons, reasons

    def violations(self) -> tuple[str, ...]:
        """Invariants that the checker has seen broken since this process began."""
        return tuple(self._checker.violations)

    def wake(self) -> None:
        """Plan again soon. Only a wake."""
        self._alarm.wake()

    # --- operators -----------------------------------------------------------------------

    async def operate(
        self, *, actor: str, idempotency_key: str, method: str, request_hash: str, operation: Operation
    ) -> Operated:
        """An operator's call: Conflict is retried, the change committed together with its
        idempotency row, applied, and the planner woken. AlreadyExists (IDEMPOTENCY_KEY_REUSED)
        if the key came with another request; whatever `operation` raises. Survives the caller's
        cancellation."""
        call = IdempotencyRow(idempotency_key, method, actor, request_hash, "", self._clock.now())
        return await self._tasks.finish(operate(call, operation, self._store, self._commits, self._clock))

    # --- agents --------------------------------------------------------------------------

    async def open_link(self, hello: Hello, *, actor: str = "") -> AgentLink:
        """Committed when it returns. Raises the Hello's refusal. The newest link wins: an older
        one of the same node is closed."""

        def abandoned(opened: tuple[LinkHandle, Welcome]) -> None:
            self._end_link(opened[0], _Closed("its caller is gone"), "abandoned")

        work = self._ingest.hello(hello, actor or hello.node_id)
        handle, welcome = await self._tasks.finish(work, abandoned=abandoned)
        self._observer.link_opened()
        self._silence.look()
        return AgentLink(self, handle, welcome)

    def _end_link(self, handle: LinkHandle, error: LiverollError, cause: str) -> None:
        was_open = handle.closed is None
        handle.close(error)
        if was_open:
            self._observer.link_closed(cause)
        if self._links.remove(handle):
            self._tasks.spawn(self._ingest.link_down(handle.node_id, handle.link_epoch))

    def _command_of(self, node_id: str) -> Command | None:
        fleet = self._commits.fleet
        node = fleet.nodes.get(node_id)
        if node is None or node.desired is None:
            return None
        attempt = rollout = None
        if not isinstance(node.desired, DesiredStage):
            attempt = fleet.attempts.get((node_id, node.desired.generation))
            rollout = fleet.rollouts.get(attempt.rollout_id) if attempt is not None else None
        return Command(f"{fleet.incarnation}:{node.command_serial}", node_id, node.desired, attempt, rollout)

    # --- events --------------------------------------------------------------------------

    def cursor(self, seq: int | None = None) -> str:
        """Of an event, or of the newest one applied."""
        return self._events.cursor(self.head_seq if seq is None else seq)

    async def events_since(self, instant: datetime) -> str:
        """The cursor that the first event at or after the instant follows. StoreUnavailable."""
        return await self._events.since(instant)

    async def events_after(
        self, cursor: str, *, limit: int = 500, rollout_id: str = "", node_id: str = ""
    ) -> EventsPage:
        """cursor empty: from the first that is kept. InvalidSpec for a malformed cursor, OutOfRange
        if events after it were trimmed or it belongs to another incarnation or to the future.
        Never runs ahead of `fleet`."""
        return await self._events.after(cursor, limit=limit, rollout_id=rollout_id, node_id=node_id)
