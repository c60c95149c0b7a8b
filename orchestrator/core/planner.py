"""What to do now: a pure function of the fleet and an instant.

Rules
1. Evidence first: attempts of a lost future find their rollout (adoption.py); attempts that are lost
   or settled are written down, and halt what they must, before anything of their rollout starts.
2. Then every rollout's own progress; then what undoes; then what goes on; then what starts,
   oldest rollout first; staging last.
3. The same fleet at the same instant gives the same plan. Nothing is chosen in execution.
4. Whatever does not move has a blocker, a next wake, or both (I7).
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from types import MappingProxyType

from orchestrator.core import adoption, attempts, blocking_uncommitted, endings, starts, waves
from orchestrator.core.actions import Action, Plan
from orchestrator.core.blockers import Blocker
from orchestrator.core.blocking import blockers_of, wakes_of
from orchestrator.core.draft import Draft
from orchestrator.core.fleet import Fleet
from orchestrator.core.index import RolloutIndex

__all__ = ["Action", "Blocker", "Plan", "plan"]

_ALL: tuple[Callable[[Draft, RolloutIndex], None], ...] = (
    attempts.lose,
    attempts.settle_members,
    attempts.undo,
)
"""For ended rollouts too: a node may return from LOST after the end."""

_ACTIVE: tuple[Callable[[Draft, RolloutIndex], None], ...] = (
    waves.progress,
    endings.wind_up,
    attempts.proceed,
)


def plan(fleet: Fleet, now: datetime) -> Plan:
    """Decide everything that can be decided now.

    Advances the fleet's own time; writes nothing. now: aware UTC, not before any earlier one
    (an earlier one counts as the latest).
    """
    fleet.advance(now)
    draft = Draft(fleet, fleet.now)
    indexes = sorted(fleet.indexes.values(), key=lambda i: (i.row.created_at, i.row.rollout_id))
    active = [index for index in indexes if index.row.ended_at is None]
    adoption.take_in(draft)
    for step in _ALL:
        for index in indexes:
            step(draft, index)
    for step in _ACTIVE:
        for index in active:
            step(draft, index)
    for index in indexes:
        attempts.commit(draft, index)
    held = {index.row.rollout_id: starts.start(draft, index) for index in active}
    for index in active:
        starts.stage(draft, index)
    attempts.clear(draft)
    wakes = [fleet.next_wake(), *(wake for index in active for wake in wakes_of(draft, index))]
    return Plan(
        actions=tuple(draft.actions),
        blockers=MappingProxyType(
            {
                i.row.rollout_id: (
                    *blockers_of(draft, i, held[i.row.rollout_id]),
                    *blocking_uncommitted.waiting(fleet, i),
                )
                for i in active
            }
        ),
        next_wake=min((wake for wake in wakes if wake is not None and wake > fleet.now), default=None),
    )
