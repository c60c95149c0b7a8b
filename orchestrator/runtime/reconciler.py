"""Plans, and has the plan carried out, again and again. Takes no input: a wake is only a wake.

Rules
1. Wakes coalesce: between two plans lie at least `gap` and REST times what the last plan cost,
   so ten thousand heartbeats are a few plans, and planning never takes more than a fifth of
   the process. A first wake after quiet is served at once.
2. After a plan that committed anything, or lost to another commit, the planner is asked again.
3. No store: back off, keep everything, say so in readiness. Nothing is lost, for what was not
   committed was not decided.
4. A planner that raises is a fault of the program: logged, told in readiness, tried again with
   backoff; links and operators' calls go on.
5. A wall clock that was set says nothing of how long nodes have been silent: nothing is planned on
   what was heard under the old one. Load again, which begins with a grace.
6. To lose to others is nothing unusual: whatever takes room away makes starts void, and where a zone
   goes down that is many a commit. But FUTILE rounds that only lose, and to nothing that the fleet has
   learnt of since, mean that it is not what the store has: load again. Each load drops all links, so
   if that did not mend it, twice as many must be lost before the next one, and so on.
7. Only the replica that holds the planner lease plans, and what it commits is fenced by the epoch
   under which the plan was made.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime, timedelta

import structlog

from orchestrator.core import planner as core_planner
from orchestrator.core.actions import Plan
from orchestrator.core.fleet import Fleet
from orchestrator.errors import NotLeader
from orchestrator.ports import Clock, NodeHints
from orchestrator.runtime.alarm import Alarm
from orchestrator.runtime.commits import Commits
from orchestrator.runtime.executor import Executed, execute
from orchestrator.runtime.observer import Observer
from orchestrator.runtime.store_clock import CLOCK_SET

log = structlog.get_logger("liveroll.runtime")

GAP = timedelta(milliseconds=10)
REST = 4.0
FUTILE = 10
FIRST_BACKOFF = timedelta(milliseconds=100)
MAX_BACKOFF = timedelta(seconds=5)
SHOWN = timedelta(seconds=1)

Planner = Callable[[Fleet, datetime], Plan]


def planned(fleet: Fleet, now: datetime) -> Plan:
    """core/planner.py."""
    return core_planner.plan(fleet, now)


class Reconciler:
    """run() until cancelled."""

    def __init__(
        self,
        *,
        clock: Clock,
        alarm: Alarm,
        commits: Commits,
        hints: NodeHints,
        observer: Observer,
        on_doubt: Callable[[str], None],
        epoch: Callable[[], int | None],
        planner: Planner = planned,
        gap: timedelta = GAP,
    ) -> None:
        self._clock = clock
        self._alarm = alarm
        self._commits = commits
        self._hints = hints
        self._observer = observer
        self._on_doubt = on_doubt
        self._epoch = epoch
        self._planner = planner
        self._gap = gap
        self._backoff = timedelta(0)
        self._futile, self._futile_bound = 0, FUTILE
        self._planned_on: Fleet | None = None
        self._looked_at: tuple[datetime, float] | None = None
        self.last_plan: Plan | None = None
        self._shown: tuple[Fleet, datetime, Plan] | None = None
        self.trouble = ""
        """Why nothing is planned or committed now; empty if all is well."""

    async def run(self) -> None:
        wake_at: datetime | None = None
        while True:
            await self._alarm.wait(wake_at)
            cost_s = 0.0
            try:
                fleet = self._commits.fleet
            except NotLeader:
                self.last_plan, wake_at = None, None  # the next load wakes
                continue
            epoch = self._epoch()
            if epoch is None:
                self.last_plan, wake_at, self.trouble = None, None, ""  # the lease wakes
                self._planned_on = None
                continue
            now = self._clock.now()
            if fleet is not self._planned_on:
                self._planned_on, self._looked_at = fleet, None
            if self._clock_was_set(now):
                self._on_doubt("the wall clock was set")
                wake_at = None  # the load wakes
                continue
            try:
                cost_s, made = self._plan(fleet, now)
            except Exception:  # a fault of the program must not end the service
                log.exception("planning failed")
                self.trouble = "planning failed; see the log"
                wake_at = self._clock.now() + self._back_off()
                continue
            wake_at = made.next_wake
            try:
                executed = await execute(made.actions, self._commits, self._hints, epoch)
            except NotLeader:
                wake_at = self._clock.now() + self._back_off()
                continue
            wake_at = self._judge(executed, wake_at)
            rest = max(self._gap, timedelta(seconds=REST * cost_s))
            await self._clock.sleep(rest)

    def to_show(self) -> Plan | None:
        """For views: the newest plan; where another replica plans, what would be planned here, at
        most SHOWN old. Nothing of it is committed. None while this process does not serve."""
        if self.last_plan is not None:
            return self.last_plan
        try:
            fleet, now = self._commits.fleet, self._clock.now()
        except NotLeader:
            return None
        if self._shown is None or self._shown[0] is not fleet or now - self._shown[1] >= SHOWN:
            try:
                self._shown = (fleet, now, self._planner(fleet, now))
            except Exception:  # a fault of the program, which the planner tells of, too
                log.exception("planning for a view failed")
                return None
        return self._shown[2]

    def _clock_was_set(self, now: datetime) -> bool:
        """Since the last look (rule 5)."""
        monotonic_s = self._clock.monotonic_s()
        before, self._looked_at = self._looked_at, (now, monotonic_s)
        if before is None:
            return False
        passed = timedelta(seconds=monotonic_s - before[1])
        return abs((now - before[0]) - passed) > CLOCK_SET

    def _plan(self, fleet: Fleet, now: datetime) -> tuple[float, Plan]:
        began = self._clock.monotonic_s()
        made = self._planner(fleet, now)
        cost_s = self._clock.monotonic_s() - began
        self.last_plan = made
        self._observer.planned(cost_s, len(made.actions))
        return cost_s, made

    def _judge(self, executed: Executed, next_wake: datetime | None) -> datetime | None:
        """When to plan again at the latest."""
        if executed.unavailable is not None:
            self.trouble = executed.unavailable.message
            return self._clock.now() + self._back_off()
        self.trouble, self._backoff = "", timedelta(0)
        if executed.committed:
            self._futile, self._futile_bound = 0, FUTILE
        elif executed.unexplained:
            self._futile += 1
            if self._futile >= self._futile_bound:
                self._futile, self._futile_bound = 0, self._futile_bound * 2
                self._on_doubt("plans only lose, and to nothing that is known here")
        if executed.committed or executed.conflicts:
            self._alarm.wake()
        return next_wake

    def _back_off(self) -> timedelta:
        self._backoff = min(max(self._backoff * 2, FIRST_BACKOFF), MAX_BACKOFF)
        return self._backoff
