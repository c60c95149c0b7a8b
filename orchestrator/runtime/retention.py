"""Forgets old events and answers to old calls; never an event of a rollout that still runs.

Rules
1. Events go when they are older than `age` or beyond `count`, oldest first, in one cut: what is
   kept is gapless.
2. The cut stays below the first kept event of every rollout that has not ended. As it is one cut,
   everything else that happened since then, of the fleet and of other rollouts, is kept with it.
3. An idempotency row is kept for `answers`: longer than any client retries.
4. One replica trims, that which plans. One that is behind the store cuts less, never more: what it
   has not heard of is newer than all that it would cut. Where the store does not have the newest event
   that is known here, it has gone back in time, and nothing is cut by what was known.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta

import structlog

from orchestrator.core.fleet import Fleet
from orchestrator.errors import LiverollError
from orchestrator.ports import Clock, Store
from orchestrator.runtime.commits import Commits
from orchestrator.runtime.eventlog import seq_before

log = structlog.get_logger("liveroll.runtime")


@dataclass(frozen=True, slots=True)
class Retention:
    """How much is kept."""

    age: timedelta = timedelta(days=90)
    count: int = 1_000_000
    """About 500 MB of SQLite."""
    answers: timedelta = timedelta(days=1)
    every: timedelta = timedelta(hours=1)


async def keep_trimmed(
    store: Store,
    clock: Clock,
    commits: Commits,
    head_seq: Callable[[], int],
    rules: Retention,
    plans: Callable[[], bool],
) -> None:
    """Until cancelled; the replica that plans does it. A trim that fails is tried again at its next turn."""
    while True:
        await clock.sleep(rules.every)
        if not plans():
            continue
        try:
            await trim(store, commits.fleet, head_seq(), clock.now(), rules)
        except LiverollError as error:
            log.warning("events were not trimmed", reason=error.reason, error=error.message)


async def trim(store: Store, fleet: Fleet, head: int, now: datetime, rules: Retention) -> int:
    """The newest seq that is gone."""
    cut = await find_cut(store, fleet, head, now, rules)
    await store.trim(keep_events_after=cut, idempotency_before=now - rules.answers)
    return cut


async def find_cut(store: Store, fleet: Fleet, head: int, now: datetime, rules: Retention) -> int:
    """Events up to and including this seq may go."""
    first = await store.first_seq()
    if first <= head and not await store.events(head - 1, limit=1):
        return first - 1
    cut = max(head - rules.count, await seq_before(store, first, head, now - rules.age))
    for rollout in fleet.rollouts.values():
        if rollout.ended_at is None:
            found = await store.events(first - 1, limit=1, rollout_id=rollout.rollout_id)
            if found:
                cut = min(cut, found[0].seq - 1)
    return max(cut, first - 1)
