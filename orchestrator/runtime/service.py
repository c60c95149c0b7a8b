"""The running orchestrator: owner of every task, and the one thing that rpc/, web/ and app.py talk to.

    async with Orchestrator(store=..., clock=..., replica=..., ...) as orchestrator:
        await orchestrator.run_until(stop)

Starting loads the fleet and takes the planner lease if nobody has it; only then may links and calls
come in. Any number of replicas serve one store: each follows it (follower.py) and takes links, calls
and watches; the one that holds the lease also plans (leader.py). Nothing here decides: plan,
transitions and operations (core/) do; this commits what they say, applies what was committed, and
wakes who must know.
"""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack
from datetime import datetime, timedelta
from types import TracebackType
from typing import Self

from orchestrator.core import invariants
from orchestrator.core.actions import Plan
from orchestrator.core.facts import Replicas
from orchestrator.core.fleet import Fleet
from orchestrator.core.messages import Hello
from orchestrator.core.model import IdempotencyRow
from orchestrator.core.policy import FleetPolicy
from orchestrator.errors import LiverollError
from orchestrator.ports import ArtifactCatalogue, Clock, Lease, Snapshot, Store
from orchestrator.runtime.agent_link import AgentLink
from orchestrator.runtime.alarm import Alarm
from orchestrator.runtime.calls import Operated, Operation, operate
from orchestrator.runtime.checker import Checker, MakeCheck
from orchestrator.runtime.commits import Commits
from orchestrator.runtime.eventlog import EventLog, EventsPage
from orchestrator.runtime.feed import Feed
from orchestrator.runtime.follower import Follower
from orchestrator.runtime.ingest import Ingest
from orchestrator.runtime.leader import TTL, Leader
from orchestrator.runtime.link_desk import LinkDesk, command_of
from orchestrator.runtime.links import MAX_LINKS, Command, Links
from orchestrator.runtime.loading import loaded
from orchestrator.runtime.observer import NullObserver, Observer
from orchestrator.runtime.reconciler import Planner, Reconciler, planned
from orchestrator.runtime.retention import Retention, keep_trimmed
from orchestrator.runtime.silence import Silence
from orchestrator.runtime.store_clock import StoreClock
from orchestrator.runtime.tasks import Tasks, shutting_down

__all__ = ["AgentLink", "Command", "EventsPage", "Operated", "Operation", "Orchestrator"]


class Orchestrator:
    """See the module.

    Args:
        clock: the host's; all instants are the store's (store_clock.py).
        holder: names this process for the planner lease.
        replica: names it as a holder of links, once for all time; default: holder.
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
        replica: str = "",
        observer: Observer | None = None,
        make_check: MakeCheck = invariants.Checker,
        planner: Planner = planned,
        lease_ttl: timedelta = TTL,
        retention: Retention | None = None,
        max_links: int = MAX_LINKS,
    ) -> None:
        self.catalogue = catalogue
        self._store = store
        self._clock = clock = StoreClock(clock)
        self.replica = replica or holder
        self._policy = policy
        self._observer = observer or NullObserver()
        self._retention = retention or Retention()
        self._feed = Feed()
        self._alarm = Alarm(clock)
        self._links = Links(lambda node_id: command_of(self._commits, node_id), max_links=max_links)
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
            lead=self._lead,
            follow=self._follow_only,
            serves=lambda: self._follower.serves,
        )
        self._checker = Checker(
            make=make_check,
            policy=policy,
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
            on_fenced=self._leader.fenced,
            on_gap=lambda: self._tasks.spawn(self._follower.try_catch_up()),
            catch_up=lambda: self._follower.catch_up(),
            on_nodes=lambda nodes: self._desk.end_replaced(nodes),
            is_fresh=lambda: self._follower.is_fresh(),
        )
        self._follower = Follower(
            store=store,
            clock=clock,
            replica=self.replica,
            ttl=lease_ttl,
            commits=self._commits,
            begin=self._begin,
            end=self._end,
            on_replicas=lambda replicas: self._silence.hear_of(replicas),
            on_beat=self._leader.hear,
        )
        self._reconciler = Reconciler(
            clock=clock,
            alarm=self._alarm,
            commits=self._commits,
            hints=self._links,
            observer=self._observer,
            on_doubt=self._doubt,
            epoch=lambda: self._leader.epoch if self._follower.serves else None,
            planner=planner,
        )
        self._ingest = Ingest(
            clock=clock, commits=self._commits, links=self._links, tasks=self._tasks, plans=self.plans
        )
        self._desk = LinkDesk(
            clock=clock,
            commits=self._commits,
            links=self._links,
            ingest=self._ingest,
            tasks=self._tasks,
            observer=self._observer,
            plans=self.plans,
            catch_up=self._follower.catch_up,
            on_open=lambda: self._silence.look(),
            on_unwritten=lambda: self._silence.stale_from(clock.now() + policy.silence),
        )
        self._silence = Silence(
            clock=clock,
            policy=policy,
            commits=self._commits,
            links=self._links,
            ingest=self._ingest,
            end=lambda handle, error: self._desk.end(handle, error, "silent"),
            plans=self.plans,
        )

    # --- life ----------------------------------------------------------------------------

    async def __aenter__(self) -> Self:
        """StoreUnavailable (STORE_IN_USE: another has the file), CorruptState, Unsupported."""
        async with AsyncExitStack() as stack:
            await self._store.open()
            stack.push_async_callback(self._store.close)
            await self._follower.start()
            await self._leader.turn()
            await self._group.__aenter__()
            stack.push_async_exit(self._wind_up)
            for work in (
                self._follower.run_beats(),
                self._follower.run_hints(),
                self._follower.run_watch(),
                self._leader.run(),
                self._reconciler.run(),
                self._silence.run(),
                keep_trimmed(
                    self._store,
                    self._clock,
                    self._commits,
                    lambda: self._feed.head_seq,
                    self._retention,
                    self.plans,
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
        """Stop planning, cut links, let what is being written land, give the leases back."""
        for loop in self._loops:
            loop.cancel()
        self._links.close_all(shutting_down())
        self._feed.close()
        await self._tasks.idle()
        self._commits.end()
        await self._leader.give_back("stopped")
        await self._follower.leave()
        # The group must see a cancellation (it may be its own); any other error is the caller's,
        # and would come out wrapped.
        if isinstance(error, asyncio.CancelledError):
            await self._group.__aexit__(kind, error, trace)
        else:
            await self._group.__aexit__(None, None, None)

    async def run_until(self, stop: asyncio.Event) -> None:
        await stop.wait()

    # --- loading -------------------------------------------------------------------------

    async def _begin(self, snapshot: Snapshot, replicas: Replicas) -> None:
        """The store was read as a whole. Conflict: to be read again."""
        made = await loaded(self._store, snapshot, self._policy, replicas, self._clock.now())
        self._events.incarnation = snapshot.incarnation
        self._feed.restart(made.head_seq)
        self._commits.begin(made.fleet, made.batch)
        if self._leader.epoch is not None:
            self._checker.begin(made.fleet, made.head_seq)
        if made.fleet.grace_ends_at is not None:
            self._silence.begin(made.fleet.grace_ends_at)
        self._leader.look()
        self._alarm.wake()

    def _end(self, error: LiverollError) -> None:
        self._commits.end()
        self._checker.end()
        self._links.close_all(error)
        self._alarm.wake()

    def _doubt(self, why: str) -> None:
        # A commit that nobody heard of would look like a gap in what follows it.
        self._checker.end()
        self._follower.doubt(why)

    async def _lead(self, lease: Lease) -> None:
        """This replica has the planner lease anew: nothing is planned before all is known that was
        committed under the epochs before."""
        self._commits.plans = True
        try:
            await self._follower.catch_up()
            await self._commits.landed()
        except LiverollError:
            self._commits.plans = False
            raise
        self._checker.begin(self._commits.fleet, self._feed.head_seq)
        self._silence.stale_from(self._clock.now())
        self._alarm.wake()

    def _follow_only(self) -> None:
        self._commits.plans = False
        self._checker.end()
        self._alarm.wake()

    # --- what is known -------------------------------------------------------------------

    @property
    def fleet(self) -> Fleet:
        """Read only. What has been committed and applied. NotServing until loaded, and while this
        replica does not know how the store stands."""
        return self._commits.fleet

    def plans(self) -> bool:
        """This replica is the planner."""
        return self._leader.epoch is not None and self._follower.serves

    @property
    def replicas(self) -> int:
        """Known to live, this one too."""
        return self._follower.alive

    @property
    def planner(self) -> str:
        """Who plans, as far as is known here; empty if nobody does."""
        return self._leader.planner

    @property
    def role(self) -> str:
        """planner, follower, or none while it does not serve."""
        if not self._follower.serves:
            return "none"
        return "planner" if self._leader.epoch is not None else "follower"

    @property
    def last_plan(self) -> Plan | None:
        """This replica's own; None while another plans."""
        return self._reconciler.last_plan

    def plan_to_show(self) -> Plan | None:
        """For views: the planner's newest plan; where another plans, what this replica would."""
        return self._reconciler.to_show()

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
        """(ready, why not): the view of the store, the planner lease as this replica finds it, and
        planning if it is this one's. A follower is ready, and so is a stopped fleet: both serve."""
        reasons = tuple(
            f"{what}: {why}"
            for what, why in (
                ("store", self._follower.trouble),
                ("lease", self._leader.trouble),
                ("planner", self._reconciler.trouble),
            )
            if why
        )
        return not reasons, reasons

    async def refresh(self) -> None:
        """Whatever was committed before the call, by any replica, is in `fleet` when it returns, unless
        the store does not answer: then `fleet` is as fresh as it can be, or refuses."""
        if not self._follower.alone:
            await self._follower.try_catch_up()

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
        work = operate(call, operation, self._store, self._commits, self._clock, self._follower.refresh)
        return await self._tasks.finish(work)

    # --- agents --------------------------------------------------------------------------

    async def open_link(self, hello: Hello, *, actor: str = "") -> AgentLink:
        """Committed when it returns. Raises the Hello's refusal. The newest link wins: an older
        one of the same node is closed."""
        return await self._desk.open(hello, actor)

    # --- events --------------------------------------------------------------------------

    def cursor(self, seq: int | None = None) -> str:
        """Of an event, or of the newest one applied."""
        return self._events.cursor(self.head_seq if seq is None else seq)

    async def events_since(self, instant: datetime) -> str:
        """The cursor that the first event at or after the instant follows. NotServing, StoreUnavailable."""
        self._commits.check_serving()
        return await self._events.since(instant)

    async def events_after(
        self, cursor: str, *, limit: int = 500, rollout_id: str = "", node_id: str = ""
    ) -> EventsPage:
        """cursor empty: from the first that is kept. InvalidSpec for a malformed cursor, OutOfRange
        if events after it were trimmed or it belongs to another incarnation or to the future; NotServing
        as `fleet`, which it never runs ahead of."""
        self._commits.check_serving()
        return await self._events.after(cursor, limit=limit, rollout_id=rollout_id, node_id=node_id)
