"""The real runtime over a memory store in virtual time, with a planner that the test writes."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from datetime import datetime, timedelta
from typing import Any

from orchestrator.core.actions import Action, Plan
from orchestrator.core.fleet import Fleet
from orchestrator.core.messages import Heartbeat, Hello, NodeStatus, Report
from orchestrator.core.model import Artifact, Change, Problem, Row, Stamp
from orchestrator.core.phases import Phase
from orchestrator.core.policy import FleetPolicy
from orchestrator.errors import LiverollError, StoreUnavailable
from orchestrator.runtime.observer import NullObserver
from orchestrator.runtime.service import Orchestrator
from orchestrator.store.memory import Disk, Hooks, MemoryStore
from tests.sim.virtual import VirtualClock, run

__all__ = ["Faults", "Heard", "Planned", "World", "beat", "hello", "report", "run", "seconds"]

POLICY = FleetPolicy(restart_grace=timedelta(seconds=60), silence=timedelta(seconds=30))


def seconds(number: float) -> timedelta:
    return timedelta(seconds=number)


def hello(node_id: str, **more: Any) -> Hello:
    return Hello(node_id, f"installation-{node_id}", "boot-1", "6.12.0", **more)


def beat(*, healthy: bool = True, stamp: float | None = None, not_ready: Problem | None = None) -> Heartbeat:
    at = Stamp("boot-1", seconds(stamp)) if stamp is not None else None
    return Heartbeat(NodeStatus(healthy=healthy, not_ready=not_ready), at)


def report(seq: int, event: str = "Checked") -> Report:
    """Of a node at rest."""
    return Report(seq, event, Phase.IDLE)


class Catalogue:
    """No artifacts."""

    async def resolve(self, name_or_digest: str) -> Artifact:
        return Artifact(name_or_digest, "digest", "6.12.1", "http://artifacts")

    async def names(self) -> Sequence[str]:
        return ()


class Faults(Hooks):
    """A store that does as it is told."""

    def __init__(self) -> None:
        self.delay_s = 0.001
        self.refuse: LiverollError | None = None
        self.lose_answers: LiverollError | None = None
        self.refuse_reading: LiverollError | None = None
        self.batches: list[int] = []

    async def before(self, changes: Sequence[Change]) -> None:
        await asyncio.sleep(self.delay_s)
        if self.refuse is not None:
            raise self.refuse

    async def after(self, changes: Sequence[Change]) -> None:
        self.batches.append(len(changes))
        if self.lose_answers is not None:
            raise self.lose_answers

    async def reading(self, what: str) -> None:
        if self.refuse_reading is not None:
            raise self.refuse_reading


def no_store() -> StoreUnavailable:
    return StoreUnavailable("the disk is full", reason="DISK_FULL")


class Planned:
    """A planner of the test's: `decide` gives the actions, everything is counted."""

    def __init__(self) -> None:
        self.decide: Callable[[Fleet, datetime], Sequence[Action]] = lambda fleet, now: ()
        self.next_wake: Callable[[datetime], datetime | None] = lambda now: None
        self.times: list[datetime] = []

    def __call__(self, fleet: Fleet, now: datetime) -> Plan:
        self.times.append(now)
        fleet.advance(now)
        return Plan(tuple(self.decide(fleet, now)), next_wake=self.next_wake(now))


class Heard(NullObserver):
    """An observer that remembers."""

    def __init__(self) -> None:
        self.rows: list[tuple[Row | None, Row]] = []
        self.conflicts = 0
        self.failures: list[str] = []
        self.violations: list[str] = []
        self.closed: list[str] = []
        self.opened = 0

    def row_applied(self, before: Row | None, after: Row) -> None:
        self.rows.append((before, after))

    def conflicted(self) -> None:
        self.conflicts += 1

    def store_failed(self, reason: str) -> None:
        self.failures.append(reason)

    def violated(self, invariant: str) -> None:
        self.violations.append(invariant)

    def link_opened(self) -> None:
        self.opened += 1

    def link_closed(self, cause: str) -> None:
        self.closed.append(cause)


class World:
    """One disk, and what runs on it."""

    def __init__(self) -> None:
        self.disk = Disk()
        self.clock = VirtualClock()
        self.faults = Faults()
        self.planned = Planned()
        self.heard = Heard()

    @asynccontextmanager
    async def running(self, holder: str = "a", **more: Any) -> AsyncIterator[Orchestrator]:
        orchestrator = Orchestrator(
            store=MemoryStore(self.disk, self.clock, hooks=self.faults),
            clock=self.clock,
            catalogue=Catalogue(),
            policy=POLICY,
            holder=holder,
            observer=self.heard,
            planner=self.planned,
            **more,
        )
        async with orchestrator:
            yield orchestrator

    async def passes(self, duration_s: float) -> None:
        await asyncio.sleep(duration_s)

    def told(self) -> list[str]:
        """Kinds of the committed events."""
        return [event.new.kind for event in self.disk.events]
