"""Every write of this process: commit, then apply, then tell; in that order and never half of it.

Rules
1. What is committed is applied before whoever asked hears of it. Callers that may be cancelled
   (a call's handler) run their work by Tasks.finish, so that both halves happen.
2. Rows are applied in commit order; a row that the fleet has at that revision or a later one
   is left alone, so that neither a reload nor what was read of others is undone by a commit that it
   already saw.
3. Nodes whose desired command changed are hinted, the feed moves, the checker looks, the
   planner is woken.
4. Batches are numbered without gaps. An own commit whose batch is the next one leaves the fleet
   complete up to it. After any other somebody else wrote in between: the rows are applied, but the
   feed stays where it is until the follower has caught up (`on_gap`), so that no reader of events
   is ahead of the fleet.
5. A commit that loses is told so once the fleet has caught up with what it lost to.
6. A fenced epoch ends the leading (`on_fenced`) and nothing else. A commit of unknown outcome, a
   store that was replaced and a failure to apply mean that the fleet no longer stands for the store:
   `on_doubt` is called, and the process loads again.
7. At most IN_FLIGHT at a time; the others wait here, in order, instead of being refused.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace
from typing import Protocol

import structlog

from orchestrator.core.capacity import measured, seen_whole
from orchestrator.core.facts import Fact
from orchestrator.core.fleet import Fleet
from orchestrator.core.model import CapacityRow, Change, NodeRow, Row, RowKey
from orchestrator.errors import Conflict, CorruptState, LiverollError, NotLeader, NotServing, StoreUnavailable
from orchestrator.ports import Changes, Clock, Committed, NodeHints, Store
from orchestrator.runtime.feed import Feed
from orchestrator.runtime.known import known, revision_of
from orchestrator.runtime.observer import Observer

log = structlog.get_logger("liveroll.runtime")

IN_FLIGHT = 2048
"""Below the store's queue bound, so that it never has to refuse; above its batch bound, so that
batches are full under load."""


class AfterApply(Protocol):
    """Sees what was applied, right after it was (checker.py)."""

    def committed(self, committed: Committed, *, contiguous: bool) -> None:
        """An own commit, less what was followed before its answer came. contiguous: nobody else has
        written since what it saw last."""
        ...

    def followed(self, rows: Sequence[Row], head_seq: int) -> None:
        """What others have written, as it is now."""
        ...


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
        on_fenced: Callable[[], None],
        on_gap: Callable[[], object],
        catch_up: Callable[[], Awaitable[None]],
        on_nodes: Callable[[Sequence[NodeRow]], None],
        is_fresh: Callable[[], bool],
    ) -> None:
        self._store = store
        self._clock = clock
        self._hints = hints
        self._feed = feed
        self._observer = observer
        self._after_apply = after_apply
        self._wake = wake
        self._on_doubt = on_doubt
        self._on_fenced = on_fenced
        self._on_gap = on_gap
        self._catch_up = catch_up
        self._on_nodes = on_nodes
        self._is_fresh = is_fresh
        self._places = asyncio.Semaphore(IN_FLIGHT)
        self._begun = 0
        self._in_flight: dict[int, None] = {}
        """Numbers of the commits under way, the oldest first."""
        self._landed = asyncio.Event()
        self._fleet: Fleet | None = None
        self.plans = False
        """Set by who leads, before it reads what came before its epoch."""
        self.batch = 0
        """The fleet has all transactions up to this one, and perhaps own ones after it."""

    def begin(self, fleet: Fleet, batch: int) -> None:
        self._fleet, self.batch = fleet, batch

    def end(self) -> None:
        """No commit begins from now on: NotServing."""
        self._fleet = None

    async def own_first(self) -> None:
        """Before others' changes are taken in: in the replica that plans, returns when the own commits
        that are in flight now have landed. For the planner must not see rows of a Hello without the
        sign of life that came with it, nor the checker its own commits among others'."""
        if self.plans:
            await self.landed()

    async def landed(self) -> None:
        """Returns when no commit is in flight that is so now."""
        newest = self._begun
        while self._in_flight and next(iter(self._in_flight)) <= newest:
            self._landed.clear()
            await self._landed.wait()

    def check_serving(self) -> None:
        """NotServing, as fleet."""
        _ = self.fleet

    @property
    def fleet(self) -> Fleet:
        """NotServing before the first load, and while this process does not know how the store
        stands."""
        if self._fleet is None or not self._is_fresh():
            raise NotServing(
                "this orchestrator has no fresh view of the store now",
                remedy="try again shortly, or another orchestrator of the same store",
            )
        return self._fleet

    async def commit(
        self, change: Change, facts: Sequence[Fact] = (), *, epoch: int | None = None
    ) -> Committed:
        """Durable and applied when it returns. facts are applied with it (or alone, if there is
        nothing to write). epoch: the planner's, of its plans only. Conflict (the fleet has caught up
        by then), NotLeader (LEASE_LOST), NotServing, StoreUnavailable.

        Must not be cancelled while this process goes on: see Tasks.finish."""
        if not change:
            self.hear(facts)
            return Committed((), ())
        async with self._places:
            fleet = self.fleet
            change = measured(fleet, change, self._clock.now())
            before = [_replaced(fleet, row) for row in change.writes]
            began = self._clock.monotonic_s()
            self._begun += 1
            number = self._begun
            self._in_flight[number] = None
            try:
                committed = await self._store.commit(epoch, change)
                self._apply(fleet, committed, facts, before)
            except Conflict as conflict:
                lost = conflict
            except StoreUnavailable as error:
                self._observer.store_failed(error.reason)
                if error.reason == "COMMIT_IN_DOUBT":
                    self._on_doubt("it is not known whether a write was made")
                raise
            else:
                self._observer.committed(self._clock.monotonic_s() - began)
                return committed
            finally:
                del self._in_flight[number]
                self._landed.set()
        raise await self._lost(fleet, change, lost)

    async def _lost(self, fleet: Fleet, change: Change, conflict: Conflict) -> LiverollError:
        self._observer.conflicted()
        if conflict.reason == "EPOCH_FENCED":
            self._on_fenced()
            return _lease_lost()
        if conflict.reason == "STORE_REPLACED":
            self._on_doubt("the store was replaced")
            return reloading()
        if not _explained(fleet, change):
            try:
                await self._catch_up()
            except LiverollError as error:
                # Whoever asks again meets the same trouble, and says so.
                log.debug("not caught up after a conflict", reason=error.reason, error=error.message)
        return conflict

    def hear(self, facts: Sequence[Fact]) -> None:
        """What needs no store: signs of life."""
        self.fleet.take(facts)
        self._wake()

    def follow(self, fleet: Fleet, changes: Changes, facts: Sequence[Fact] = ()) -> None:
        """Take in what was read after self.batch, and facts with it. Left alone if another fleet was
        loaded since."""
        if fleet is not self._fleet:
            return
        try:
            news = self._take_in(fleet, changes.rows, facts)
            self.batch = max(self.batch, changes.batch)
        except Exception as error:
            raise self._not_applied() from error
        self._feed.publish(changes.head_seq)
        self._after_apply.followed(news, changes.head_seq)
        if news:
            self._on_nodes([row for row in news if isinstance(row, NodeRow)])
            self._wake()

    def _apply(
        self, fleet: Fleet, committed: Committed, facts: Sequence[Fact], before: Sequence[Row | None]
    ) -> None:
        contiguous = committed.batch <= self.batch + 1
        try:
            for old, row in zip(before, committed.rows, strict=False):
                self._observer.row_applied(old, row)
            news = self._take_in(fleet, _seen(fleet, committed.rows), facts)
        except Exception as error:  # whatever it is, the fleet no longer stands for the store
            raise self._not_applied() from error
        unheard = tuple(event for event in committed.events if event.seq > self._feed.head_seq)
        if contiguous:
            self.batch = max(self.batch, committed.batch)
            if committed.events:
                self._feed.publish(committed.events[-1].seq)
        else:
            self._on_gap()
        self._after_apply.committed(
            replace(committed, rows=tuple(news), events=unheard), contiguous=contiguous
        )
        self._wake()

    def _not_applied(self) -> CorruptState:
        log.exception("a committed change could not be applied")
        self._on_doubt("a committed change could not be applied")
        return CorruptState(
            "a committed change could not be applied",
            reason="APPLY_FAILED",
            remedy="see the log; the orchestrator reads everything again by itself",
        )

    def _take_in(self, fleet: Fleet, rows: Sequence[Row], facts: Sequence[Fact]) -> list[Row]:
        """The rows that were news."""
        hinted = []
        news = []
        for row in rows:
            before = known(fleet, row)
            if before is not None and before.revision >= row.revision:
                continue
            news.append(row)
            if isinstance(row, NodeRow) and (
                not isinstance(before, NodeRow) or before.command_serial != row.command_serial
            ):
                hinted.append(row.node_id)
        fleet.take((*news, *facts))
        if hinted:
            self._hints.hint(hinted)
        return news


def _seen(fleet: Fleet, rows: Sequence[Row]) -> Sequence[Row]:
    """The rows of an own commit, less a CapacityRow that counts losses which the fleet has not seen."""
    return [r for r in rows if not isinstance(r, CapacityRow) or seen_whole(fleet.capacity, r)]


def _replaced(fleet: Fleet, row: Row) -> Row | None:
    """What a row of a change takes the place of, if the change stands. Asked before it does: others'
    changes, read meanwhile, may show it first."""
    before = known(fleet, row)
    return before if before is not None and before.revision == row.revision else None


def _explained(fleet: Fleet, change: Change) -> bool:
    """Whether the fleet has moved on from what the change relied on: no need to read."""
    relied: list[tuple[RowKey, int]] = [((row.table, row.key), row.revision) for row in change.writes]
    return any(revision_of(fleet, key) > revision for key, revision in (*relied, *change.guards))


def _lease_lost() -> NotLeader:
    return NotLeader(
        "another orchestrator has taken over",
        reason="LEASE_LOST",
        remedy="call again: the other one answers, or this one once it leads again",
    )


def reloading() -> NotServing:
    return NotServing("the orchestrator loads again", reason="RELOADING", remedy="dial or call again")
