"""Every write of this process: commit, then apply, then tell; in that order and never half of it.

Rules
1. What is committed is applied before whoever asked hears of it. Callers that may be cancelled
   (a call's handler) run their work by Tasks.finish, so that both halves happen.
2. Rows are applied in commit order; a row that the fleet has at that revision or a later one
   is left alone, so that a reload cannot be undone by a commit that it already saw.
3. Nodes whose desired command changed are hinted, the feed moves, the checker looks, the
   planner is woken.
4. A fenced epoch, a commit of unknown outcome and a failure to apply all mean that the fleet no
   longer stands for the store: `on_doubt` is called, and the process loads again.
5. At most IN_FLIGHT at a time; the others wait here, in order, instead of being refused.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Protocol

import structlog

from orchestrator.core.facts import Fact
from orchestrator.core.fleet import Fleet
from orchestrator.core.model import (
    AttemptRow,
    CapacityRow,
    Change,
    FleetRow,
    MemberRow,
    NodeRow,
    RolloutRow,
    Row,
)
from orchestrator.errors import Conflict, CorruptState, NotLeader, StoreUnavailable
from orchestrator.ports import Clock, Committed, NodeHints, Store
from orchestrator.runtime.feed import Feed
from orchestrator.runtime.observer import Observer

log = structlog.get_logger("liveroll.runtime")

IN_FLIGHT = 2048
"""Below the store's queue bound, so that it never has to refuse; above its batch bound, so that
batches are full under load."""


class AfterApply(Protocol):
    """Sees what was applied, right after it was (checker.py)."""

    def __call__(self, committed: Committed) -> None: ...


class Commits:
    """Made by the service; begin() after each load."""

    def __init__(
        self,
        *,
        store: Store,
        clock: Clock,
        hints: NodeHints,
        feed: Feed,
        observer: Observer,
        after_apply: AfterApply,
        wake: Callable[[], None],
        on_doubt: Callable[[str], None],
    ) -> None:
        self._store = store
        self._clock = clock
        self._hints = hints
        self._feed = feed
        self._observer = observer
        self._after_apply = after_apply
        self._wake = wake
        self._on_doubt = on_doubt
        self._places = asyncio.Semaphore(IN_FLIGHT)
        self._in_flight = 0
        self._landed = asyncio.Event()
        self._fleet: Fleet | None = None
        self._epoch = 0

    def begin(self, fleet: Fleet, epoch: int) -> None:
        self._fleet, self._epoch = fleet, epoch

    def end(self) -> None:
        """No commit begins from now on: NotLeader."""
        self._fleet = None

    async def landed(self) -> None:
        """Returns when no commit is in flight. Call end() first, or it may never."""
        while self._in_flight:
            self._landed.clear()
            await self._landed.wait()

    @property
    def fleet(self) -> Fleet:
        """NotLeader before the first load and while this process does not lead."""
        if self._fleet is None:
            raise NotLeader(
                "this orchestrator does not lead now",
                remedy="try again shortly: it is loading, or waits for the planner lease",
            )
        return self._fleet

    async def commit(self, change: Change, facts: Sequence[Fact] = ()) -> Committed:
        """Durable and applied when it returns. facts are applied with it (or alone, if there is
        nothing to write). Conflict, NotLeader (LEASE_LOST), StoreUnavailable.

        Must not be cancelled while this process goes on leading: see Tasks.finish."""
        if not change:
            self.hear(facts)
            return Committed((), ())
        async with self._places:
            fleet, epoch = self.fleet, self._epoch
            began = self._clock.monotonic_s()
            self._in_flight += 1
            try:
                committed = await self._store.commit(epoch, change)
                self._apply(fleet, committed, facts)
            except Conflict as conflict:
                self._observer.conflicted()
                if conflict.reason == "EPOCH_FENCED":
                    self._on_doubt("another planner has taken over")
                    raise _lease_lost() from conflict
                raise
            except StoreUnavailable as error:
                self._observer.store_failed(error.reason)
                if error.reason == "COMMIT_IN_DOUBT":
                    self._on_doubt("it is not known whether a write was made")
                raise
            finally:
                self._in_flight -= 1
                if not self._in_flight:
                    self._landed.set()
            self._observer.committed(self._clock.monotonic_s() - began)
            return committed

    def hear(self, facts: Sequence[Fact]) -> None:
        """What needs no store: signs of life."""
        self._take_in(self.fleet, (), facts)

    def _apply(self, fleet: Fleet, committed: Committed, facts: Sequence[Fact]) -> None:
        try:
            self._take_in(fleet, committed.rows, facts)
        except Exception as error:  # whatever it is, the fleet no longer stands for the store
            log.exception("a committed change could not be applied")
            self._on_doubt("a committed change could not be applied")
            raise CorruptState(
                "a committed change could not be applied",
                reason="APPLY_FAILED",
                remedy="see the log; the orchestrator reads everything again by itself",
            ) from error
        if committed.events:
            self._feed.publish(committed.events[-1].seq)
        self._after_apply(committed)

    def _take_in(self, fleet: Fleet, rows: Sequence[Row], facts: Sequence[Fact]) -> None:
        hinted = []
        news = []
        for row in rows:
            before = known(fleet, row)
            if before is not None and before.revision >= row.revision:
                continue
            news.append(row)
            self._observer.row_applied(before, row)
            if isinstance(row, NodeRow) and (
                not isinstance(before, NodeRow) or before.command_serial != row.command_serial
            ):
                hinted.append(row.node_id)
        fleet.take((*news, *facts))
        if hinted:
            self._hints.hint(hinted)
        self._wake()


def known(fleet: Fleet, row: Row) -> Row | None:
    """What the fleet has in the row's place."""
    match row:
        case NodeRow():
            return fleet.nodes.get(row.node_id)
        case AttemptRow():
            return fleet.attempts.get((row.node_id, row.generation))
        case MemberRow():
            return fleet.member(row.rollout_id, row.node_id)
        case RolloutRow():
            return fleet.rollouts.get(row.rollout_id)
        case FleetRow():
            return fleet.row
        case CapacityRow():
            return fleet.capacity
        case _:
            return None


def _lease_lost() -> NotLeader:
    return NotLeader(
        "another orchestrator has taken over",
        reason="LEASE_LOST",
        remedy="call again: the other one answers, or this one once it leads again",
    )
