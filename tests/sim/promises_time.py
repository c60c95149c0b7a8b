"""Promises that are watched by the clock: what must have happened within seconds, and has not.

See promises.py, which lists them and tells this to look every second or so.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from typing import TYPE_CHECKING

from orchestrator.core.invariants_starts import is_open
from orchestrator.core.model import AttemptRow, RolloutRow
from orchestrator.core.phases import Goal, Kind, Phase
from tests.sim.virtual import VirtualClock

if TYPE_CHECKING:
    from tests.sim.life import Life
    from tests.sim.network import Stream
    from tests.sim.world import World

AT_ONCE_S = 30.0
"""Within that an undisturbed planner has taken a PRESERVED node back."""
ENDS_LINKS = timedelta(seconds=10)
"""After its lease a replica that runs has ended its links, and its handlers have seen it."""


@dataclass(slots=True)
class Watch:
    """look() every second or so."""

    world: World
    _planner: Life | None = None
    _waiting: dict[tuple[str, int], float] = field(default_factory=dict)
    """Attempts that wait PRESERVED behind closed gates → since when the same planner has left them so."""
    _linked: dict[str, set[Stream]] = field(default_factory=dict)
    """Replica that is taken for dead → streams that it has had all the while."""

    def look(self, rollouts: Mapping[str, RolloutRow], stopped: str) -> None:
        """rollouts, stopped: as the database has them."""
        life = self.world.host.current
        if life is None or life is not self._planner or not life.plans or not life.orchestrator.ready()[0]:
            self._planner = life
            self._waiting.clear()
        else:
            self._look_at_the_waiting(rollouts, stopped)
        for each in self.world.host.lives:
            self._look_at_the_links(each)

    def _look_at_the_waiting(self, rollouts: Mapping[str, RolloutRow], stopped: str) -> None:
        now_s = asyncio.get_running_loop().time()
        still: dict[tuple[str, int], float] = {}
        for row in self.world.checks.open_attempts():
            rollout, key = rollouts.get(row.rollout_id), (row.node_id, row.generation)
            if rollout is None or row.phase is not Phase.PRESERVED or row.cancel_cause:
                continue
            invariant, why = _closed(rollout, row, stopped)
            if not why:
                continue
            still[key] = self._waiting.get(key, now_s)
            if now_s - still[key] > AT_ONCE_S:
                text = f"{row.node_id} waits PRESERVED, and {row.rollout_id} is {why}"
                self.world.violated(invariant, text, row.node_id, row.rollout_id)
        self._waiting = still

    def _look_at_the_links(self, life: Life) -> None:
        """Who has long been dead to the others keeps no node."""
        until, now = life.leased_until, self.world.store_clock.now()
        if life.process.stopped or until is None or until >= now:
            self._linked.pop(life.name, None)
            return
        held = {stream for stream in life._streams if stream.welcomed}
        held &= self._linked.setdefault(life.name, held)
        self._linked[life.name] = held
        if held and until < now - ENDS_LINKS:
            names = ", ".join(sorted({stream.node_id for stream in held}))
            self.world.violated("FRESH", f"{life.name} keeps the links of {names}, and is taken for dead")


def _closed(rollout: RolloutRow, attempt: AttemptRow, stopped: str) -> tuple[str, str]:
    """(invariant, how the rollout's gates are closed to it); two empty strings if they are open."""
    forward = attempt.kind is Kind.FORWARD
    if rollout.ended_at is not None:
        return "I7", "over"
    if forward and rollout.goal is not Goal.FORWARD:
        return "I7", rollout.goal.value
    if stopped:
        return "I6", "stopped"
    if rollout.paused:
        return "I6", "paused"
    if forward and rollout.halted:
        return "I6", "halted"
    if not is_open(rollout.spec.schedule, VirtualClock().now()):
        return "I6", "outside its windows"
    return "", ""
