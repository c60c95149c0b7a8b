"""Mistakes in how the orchestrator acts: what it commits, applies, tells, acknowledges and keeps."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import replace
from datetime import datetime
from typing import Any
from unittest.mock import patch

from orchestrator.core import transitions
from orchestrator.core.fleet import Fleet
from orchestrator.core.link_states import LinkStates
from orchestrator.core.messages import Report
from orchestrator.core.model import Change, NodeRow
from orchestrator.core.phases import Link
from orchestrator.core.transitions import Observation
from orchestrator.errors import Conflict
from orchestrator.ports import Committed
from orchestrator.runtime import ingest, retention
from orchestrator.runtime.commits import Commits
from orchestrator.runtime.eventlog import EventLog, EventsPage
from orchestrator.store.admission import risen
from tests.sim import provocations as worlds
from tests.sim.mutant import mutant


@mutant("runtime", "DISPATCH", worlds.undisturbed)
def commands_go_out_before_their_commit() -> Iterator[None]:
    """commit first, dispatch second"""

    async def mistaken(
        self: Commits, change: Change, facts: Sequence[Any] = (), *, epoch: int | None = None
    ) -> Committed:
        if not change:
            self.hear(facts)
            return Committed((), ())
        fleet = self.fleet
        before = [None] * len(change.writes)
        self._apply(fleet, Committed(risen(change), (), self.batch), facts, before)
        return await self._store.commit(epoch, change)

    with patch.object(Commits, "commit", mistaken):
        yield


@mutant("runtime", "ACK", worlds.undisturbed)
def acknowledgements_go_out_before_their_commit() -> Iterator[None]:
    """a report is acknowledged once it is committed, not when it has been read"""
    real = ingest.Ingest.report

    async def mistaken(self: ingest.Ingest, handle: Any, messages: Sequence[Report]) -> int:
        async def later() -> None:
            try:
                await real(self, handle, messages)
            except Exception:  # nobody is left to tell
                return

        self._tasks.spawn(later())
        await asyncio.sleep(0)
        return messages[-1].seq

    with patch.object(ingest.Ingest, "report", mistaken):
        yield


@mutant("runtime", "ACK", worlds.undisturbed)
def acknowledgement_reaches_beyond_the_commit() -> Iterator[None]:
    """what is acknowledged is what was committed, and no report more"""
    real = transitions.report

    def mistaken(*args: Any, **kwargs: Any) -> Observation:
        seen = real(*args, **kwargs)
        return replace(seen, acknowledge_seq=(seen.acknowledge_seq or 0) + 1)

    with patch.object(transitions, "report", mistaken):
        yield


@mutant("runtime", "ACK", worlds.contended_store)
def report_that_lost_is_acknowledged() -> Iterator[None]:
    """a report that loses to another commit is looked at again before it is acknowledged"""

    async def mistaken(self: ingest.Ingest, look: Callable[[Fleet, datetime], Observation]) -> Observation:
        seen = look(self._commits.fleet, self._clock.now())
        with suppress(Conflict):
            await self._commits.commit(seen.change, seen.facts)
        if seen.refusal is not None:
            raise seen.refusal
        return seen

    with patch.object(ingest.Ingest, "_take", mistaken):
        yield


@mutant("runtime", "I9", worlds.restarts)
def restart_counts_as_silence() -> Iterator[None]:
    """who was not listening does not call a node lost: the silence lease counts from the grace's end"""
    real = LinkStates.alive_at

    def mistaken(self: LinkStates, node_id: str, node: NodeRow | None, link: Link) -> datetime | None:
        if node is None or self.heard.get(node_id) is not None or self.down.get(node_id) is not None:
            return real(self, node_id, node, link)
        return node.link_changed_at

    with patch.object(LinkStates, "alive_at", mistaken):
        yield


@mutant("runtime", "I12", worlds.undisturbed)
def watch_skips_an_event() -> Iterator[None]:
    """a watch resumed from a cursor loses nothing"""
    real = EventLog.after

    async def mistaken(self: EventLog, cursor: str, **how: Any) -> EventsPage:
        page = await real(self, cursor, **how)
        return replace(page, events=page.events[:-1]) if len(page.events) > 1 else page

    with patch.object(EventLog, "after", mistaken):
        yield


@mutant("runtime", "I12", worlds.undisturbed)
def watch_repeats_an_event() -> Iterator[None]:
    """a watch resumed from a cursor repeats nothing"""
    real = EventLog.after

    async def mistaken(self: EventLog, cursor: str, **how: Any) -> EventsPage:
        page = await real(self, cursor, **how)
        incarnation, _, seq = page.cursor.rpartition(":")
        return replace(page, cursor=f"{incarnation}:{max(int(seq) - 1, 0)}")

    with patch.object(EventLog, "after", mistaken):
        yield


@mutant("runtime", "I12", worlds.short_memory)
def events_of_a_running_rollout_are_trimmed() -> Iterator[None]:
    """retention never cuts a running rollout"""
    real = retention.find_cut

    async def mistaken(store: Any, fleet: Fleet, head: int, now: datetime, rules: Any) -> int:
        nobody = Fleet(fleet.policy, fleet.incarnation)
        return await real(store, nobody, head, now, rules)

    with patch.object(retention, "find_cut", mistaken):
        yield
