"""The independent checker in the running service: what was just applied, against the invariants.

A violation stops the fleet, once each, with an event and a metric; it never ends the process,
and a fleet that is stopped already is only told. The check itself is pure (core/invariants.py).

Rules
1. It judges in the replica that plans, from the moment at which that replica has caught up with all
   that was committed before it began to plan. Nobody else makes starts then, so every start is seen.
2. The planner's own commits are judged one by one, in their order, against all that its plans knew.
3. What other replicas wrote (reports, links, operators' words) is read some commits at a time: it
   is taken in as it stands, and asked only what holds between any two moments. So a pause that was
   committed after a start, and read before the start's answer came, raises no alarm: the follower
   waits for own commits under way before it hands others' rows over.
4. Own events follow each other without gaps where nobody else has written in between.
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Iterable, Sequence
from dataclasses import replace
from datetime import datetime
from typing import Any, Protocol

import structlog

from orchestrator.core.fleet import Fleet
from orchestrator.core.model import Change, Event, NewEvent, Row, guarding
from orchestrator.core.policy import FleetPolicy
from orchestrator.errors import Conflict, LiverollError
from orchestrator.ports import Clock, Committed
from orchestrator.runtime.known import all_rows
from orchestrator.runtime.observer import Observer

log = structlog.get_logger("liveroll.runtime")

REMEMBERED = 1000
"""Violations that are told once; a fleet with more has been stopped long since."""

TRIES = 8


class Violated(Protocol):
    """What a check finds."""

    @property
    def invariant(self) -> str:
        """I1 … I14"""
        ...

    @property
    def message(self) -> str: ...


class Check(Protocol):
    """Follows commits (invariants.Checker)."""

    def committed(
        self, rows: Sequence[Row], events: Sequence[Event], now: datetime
    ) -> Iterable[Violated]: ...
    def followed(self, rows: Sequence[Row], now: datetime) -> Iterable[Violated]: ...
    def skip_to(self, seq: int) -> None:
        """Events up to seq are others'."""
        ...


class MakeCheck(Protocol):
    """Begins at everything that is stored."""

    def __call__(
        self, rows: Iterable[Row], *, policy: FleetPolicy, incarnation: str, head_seq: int
    ) -> Check: ...


Commit = Callable[[Change], Coroutine[Any, Any, Committed]]


class Checker:
    """AfterApply."""

    def __init__(
        self,
        *,
        make: MakeCheck,
        policy: FleetPolicy,
        clock: Clock,
        observer: Observer,
        spawn: Callable[[Coroutine[Any, Any, None]], object],
        commit: Commit,
        fleet: Callable[[], Fleet],
    ) -> None:
        self._make = make
        self._policy = policy
        self._check: Check | None = None
        self._clock = clock
        self._observer = observer
        self._spawn = spawn
        self._commit = commit
        self._fleet = fleet
        self._told: set[tuple[str, str]] = set()
        self.violations: list[str] = []
        """As sentences, for readiness."""

    def begin(self, fleet: Fleet, head_seq: int) -> None:
        """This replica plans from now on: it knows all that the fleet does."""
        self._check = self._make(
            all_rows(fleet), policy=self._policy, incarnation=fleet.incarnation, head_seq=head_seq
        )

    def end(self) -> None:
        """It does not plan, or what was committed is not known for certain: nothing is judged until
        the next begin()."""
        self._check = None

    def committed(self, committed: Committed, *, contiguous: bool) -> None:
        def look(check: Check) -> Iterable[Violated]:
            if committed.events and not contiguous:
                check.skip_to(committed.events[0].seq - 1)
            return check.committed(committed.rows, committed.events, self._clock.now())

        self._judge(look)

    def followed(self, rows: Sequence[Row], head_seq: int) -> None:
        def look(check: Check) -> Iterable[Violated]:
            check.skip_to(head_seq)
            return check.followed(rows, self._clock.now())

        self._judge(look)

    def _judge(self, look: Callable[[Check], Iterable[Violated]]) -> None:
        if self._check is None:
            return
        try:
            found = [(each.invariant, each.message) for each in look(self._check)]
        except Exception:  # a fault in the checker must not stop what it watches
            log.exception("the checker failed")
            found = [("CHECKER", "the checker itself failed; see the log")]
        for invariant, message in found:
            if (invariant, message) in self._told or len(self._told) >= REMEMBERED:
                continue
            self._told.add((invariant, message))
            self.violations.append(f"{invariant}: {message}")
            log.error("an invariant is violated", invariant=invariant, violation=message)
            self._observer.violated(invariant)
            self._spawn(self._stop(invariant, message))

    async def _stop(self, invariant: str, message: str) -> None:
        for _ in range(TRIES):
            try:
                row = self._fleet().row
                event = NewEvent("invariant.violated", message, cause=invariant)
                if row.stopped:
                    await self._commit(Change(guards=(guarding(row),), events=(event,)))
                    return
                stopped = replace(
                    row,
                    stopped="INVARIANT_VIOLATED",
                    stop_message=f"{invariant}: {message}",
                    stopped_by="checker",
                    stopped_at=self._clock.now(),
                )
                told = NewEvent(
                    "fleet.stopped", f"stopped by the checker: {message}", cause="INVARIANT_VIOLATED"
                )
                await self._commit(Change((stopped,), events=(event, told)))
            except Conflict:
                continue
            except LiverollError:
                log.exception("the fleet could not be stopped", invariant=invariant)
            return
