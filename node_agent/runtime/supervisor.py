"""One life of the agent in one boot: its runner and its link, started and ended together.

Rules:
- The boot is classified before the link says Hello.
- A corrupt journal is set aside whole, and the node reports itself QUARANTINED from a new one
  under the same installation id, above the highest generation that can still be read.
- Everything that the runner journals is counted as it is journalled, once.

Not here: where kernels, workloads and settings come from (app, simulate).
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

from node_agent.core.attempt import NodeState
from node_agent.core.codec import decode
from node_agent.core.history import body_of
from node_agent.core.model import Problem
from node_agent.core.phases import SETTLED, Phase
from node_agent.core.report import Report
from node_agent.core.rota import Rota
from node_agent.errors import AgentError, JournalCorrupt, JournalUnavailable, Retry
from node_agent.ports import Clock, Journal, JournalRecord
from node_agent.runtime.journal import FileJournal
from node_agent.runtime.journal_over import JournalOver
from node_agent.runtime.link import Link, LinkView
from node_agent.runtime.metrics import Meter
from node_agent.runtime.runner import NodeRunner
from node_agent.runtime.runner_boot import Boot, read_history
from node_agent.runtime.runner_effects import Pace, Ports
from node_agent.runtime.runner_items import Identity
from node_agent.runtime.supervisor_log import Log

if TYPE_CHECKING:
    from concurrent.futures import Executor

    from node_agent.runtime.link_transport import Connector

NO_ROOM = "JOURNAL_FULL"


class RoomAgain(JournalUnavailable):
    """The journal found no room in the middle of an attempt, and has some again. The runner stands
    still for good: the agent must start anew, and its first act is to go on from the journal."""

    reason = NO_ROOM
    retry = Retry.CALL
    remedy = "Nothing is to be done: its service manager starts it again."


STANDING = SETTLED | {Phase.PRESERVED}
"""Phases that last until somebody says something."""


class JournalTap(JournalOver):
    """It tells of what goes through it.

    Args:
        journal: the real one.
        told: called with each report that became durable.
        full: called when a record found no room.
    """

    def __init__(
        self,
        journal: Journal,
        clock: Clock,
        meter: Meter,
        told: Callable[[Report], None],
        full: Callable[[], None] = lambda: None,
    ) -> None:
        super().__init__(journal)
        self._clock = clock
        self._meter = meter
        self._told = told
        self._full = full

    async def append(self, kind: str, body: Mapping[str, object]) -> JournalRecord:
        """See ports.Journal."""
        began_s = self._clock.boottime_s()
        try:
            record = await super().append(kind, body)
        except JournalUnavailable as error:
            if error.reason == NO_ROOM:
                self._full()
            raise
        self._meter.synced(max(self._clock.boottime_s() - began_s, 0.0))
        if (raw := body.get("report")) is not None:
            self._told(replace(decode(Report, raw), seq=record.seq))
        return record


@dataclass(slots=True)
class NodeLife:
    """What one life needs; `live()` lives it.

    connect: opens the link; None is a node without an orchestrator.
    rota: whom `connect` dials; it may outlive this life. None: `connect` knows one orchestrator.
    served: runs beside runner and link (the control socket), given the living node.
    complain: warn, once, while the orchestrator has never been reached.
    """

    identity: Identity
    ports: Ports
    boot: Boot
    meter: Meter
    log: Log
    connect: Connector | None = None
    rota: Rota | None = None
    pace: Pace | None = None
    rng: random.Random = field(default_factory=random.Random)
    served: Callable[[NodeLife], Awaitable[None]] | None = None
    on_view: Callable[[LinkView], None] = lambda _view: None
    complain: bool = True
    runner: NodeRunner = field(init=False)
    link: Link | None = field(init=False, default=None)
    _news: asyncio.Event = field(init=False, default_factory=asyncio.Event)
    _full: asyncio.Event = field(init=False, default_factory=asyncio.Event)

    async def live(self) -> None:
        """Until cancelled. The journal is closed at the end, whatever ends it.

        Raises (in a group):
            RoomAgain: a full disk has stopped the runner, and is not full any more.
        """
        tap = JournalTap(self.ports.journal, self.ports.clock, self.meter, self._told, self._full.set)
        try:
            self.runner = NodeRunner(self.identity, replace(self.ports, journal=tap), self.boot, self.pace)
            self.meter.phase(self.identity.node_id, self.runner.status().phase, healthy=True)
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(self.runner.run())
                tasks.create_task(self._link())
                tasks.create_task(self._room(tap))
                if self.served is not None:
                    tasks.create_task(_forever(self.served(self)))
        finally:
            await tap.close()
            self.meter.link(self.identity.node_id, up=False)

    async def _room(self, tap: JournalTap) -> None:
        """A disk tells nobody that it has room again: looked at only while that is waited for."""
        every_s = (self.pace or Pace()).watch_s
        while True:
            await self._full.wait()
            self._full.clear()
            await self.ports.clock.sleep(every_s)
            while self._stands_still():
                try:
                    await tap.ensure_room()
                except JournalUnavailable:
                    await self.ports.clock.sleep(every_s)
                else:
                    raise RoomAgain("the journal has room again, the agent starts anew")

    def _stands_still(self) -> bool:
        status = self.runner.status()
        reason = status.problem.reason if status.problem is not None else ""
        return status.phase is Phase.QUARANTINED and reason == NO_ROOM

    async def _link(self) -> None:
        await self.runner.ready.wait()
        status = self.runner.status()
        self.meter.phase(self.identity.node_id, status.phase, healthy=status.healthy)
        if self.connect is None:
            return
        rota = self.rota or Rota((), self.rng)
        self.link = Link(self.runner, self.connect, rota=rota, on_view=self._seen)
        await self.link.run()

    async def until_standing(self) -> None:
        """Until the node waits for somebody's word: settled, or PRESERVED."""
        while self.runner.status().phase not in STANDING:
            self._news.clear()
            await self._news.wait()

    async def until_news(self) -> None:
        """Until something is journalled."""
        self._news.clear()
        await self._news.wait()

    def _told(self, report: Report) -> None:
        node_id = self.identity.node_id
        self.meter.report(node_id, report, tsc_hz=self.ports.clock.tsc_hz)
        # The runner replaces its state right after the append: wake whoever waits after that.
        asyncio.get_running_loop().call_soon(self._news.set)
        fields: dict[str, object] = {"node": node_id, "phase": report.phase.value, "seq": report.seq}
        if report.attempt is not None:
            fields["attempt"] = report.attempt.id
        problem = report.problem or (report.refusal.problem if report.refusal is not None else None)
        if problem is None:
            self.log.info(report.event, **fields)
        else:
            self.log.warning(report.event, **fields, reason=problem.reason, why=problem.message)

    def _seen(self, view: LinkView) -> None:
        node_id, problem = self.identity.node_id, view.problem
        self.meter.link(node_id, up=view.up, reason=problem.reason if problem is not None else "")
        if view.up and view.terms is not None:
            at = {"orchestrator": view.address} if view.address else {}
            self.log.info("linked", node=node_id, epoch=view.terms.link_epoch, **at)
        elif problem is not None:
            say = self.log.error if view.refused else self.log.info
            if view.connects == 0 and not view.refused:
                say = self.log.warning if self.complain else self.log.debug
                # Said once: the same every few seconds tells nobody anything.
                self.complain = False
            say("link down", node=node_id, reason=problem.reason, why=problem.message, remedy=problem.remedy)
        self.on_view(view)


async def _forever(work: Awaitable[None]) -> None:
    await work


def open_journal(
    path: Path, *, fd: int = -1, executor: Executor | None = None
) -> tuple[FileJournal, Problem | None]:
    """The journal, and why the node is quarantined if the one that was there is corrupt. Blocks.

    Raises:
        JournalLocked, JournalUnavailable.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        journal = FileJournal.open(path, fd=fd, executor=executor)
    except JournalCorrupt as error:
        return _quarantined(path, error, executor)
    try:
        read_history(journal.records)
    except JournalCorrupt as error:
        # The checksums are right and the sense is not: no restart will ever read it.
        journal.let_go()
        return _quarantined(path, error, executor)
    return journal, None


def _quarantined(path: Path, error: JournalCorrupt, executor: Executor | None) -> tuple[FileJournal, Problem]:
    def note(kept: Path, readable: Sequence[JournalRecord]) -> Mapping[str, object]:
        problem = corrupt_problem(error, str(kept))
        return body_of(node=NodeState(highest_generation=_floor(readable), healthy=False, quarantine=problem))

    kept, _ = FileJournal.set_aside(path, note)
    return FileJournal.open(path, executor=executor), corrupt_problem(error, str(kept))


def _floor(records: Sequence[JournalRecord]) -> int:
    """The highest generation that a record which can be read names: generations only rise."""
    nodes = [node for record in records if isinstance(node := record.body.get("node"), Mapping)]
    floors = [floor for node in nodes if isinstance(floor := node.get("highest_generation"), int)]
    return max(floors, default=0)


def corrupt_problem(error: JournalCorrupt, kept: str) -> Problem:
    """Why a node with a corrupt journal stands still."""
    return Problem(
        "JOURNAL_CORRUPT",
        Retry.FIX_STATE,
        "the journal was corrupt and was set aside; what this node was doing is not known",
        f"Look at the node and at {kept}, then retry the node by name.",
        {**error.fields, "kept": kept, "damage": error.message},
    )


async def end(task: asyncio.Task[None]) -> None:
    """Cancel a task and wait until it has let go. Raises what it failed with."""
    task.cancel()
    with suppress(asyncio.CancelledError):
        await task


def first_error(error: BaseException) -> BaseException:
    """What ended everything, out of its groups: an expected error before any other."""
    if isinstance(error, BaseExceptionGroup):
        inner = [first_error(e) for e in error.exceptions]
        return next((e for e in inner if isinstance(e, AgentError)), inner[0])
    return error
