"""An agent without its journal's lock: it says STUCK over the link and touches nothing.

Another process holds the journal, and may be inside reboot(2). Rules:
- what is told is the last that the journal says, with the problem STUCK and not healthy; the boot is
  not classified, and no report is made, since a report's number is a journal record's;
- every command is refused with STUCK: the next heartbeat, sent at once, is the answer;
- where the other process turns out to have a link of its own, this one falls silent: the node has
  one voice, and it is that of whoever holds the journal;
- with the lock everything goes the ordinary way, as after any start.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from node_agent.core.attempt import NodeState
from node_agent.core.commands import LinkCommand
from node_agent.core.model import BootStamp, Problem
from node_agent.core.report import Disposition, NodeStatus, Outcome, Report
from node_agent.core.rota import Rota
from node_agent.errors import JournalCorrupt, JournalLocked, Retry
from node_agent.ports import Artifacts, BootFacts, Clock, JournalRecord
from node_agent.runtime.journal_wait import read_unlocked, wait_for_lock
from node_agent.runtime.link import Link, LinkView
from node_agent.runtime.link_transport import Connector, HelloFacts
from node_agent.runtime.runner_boot import read_history
from node_agent.runtime.runner_items import Identity
from node_agent.runtime.runner_report import build_hello
from node_agent.runtime.supervisor_log import Log

SUPERSEDED = "STALE_LINK"
"""The orchestrator has a newer link of this node."""


def stuck_problem(error: JournalLocked) -> Problem:
    """Why the node takes no commands."""
    return Problem(
        "STUCK",
        Retry.FIX_STATE,
        "another process holds this node's journal and may be inside reboot; nothing is touched",
        "Wait for the old agent to end. If it hangs, find it with `fuser` on the journal, and power-cycle "
        "the node if it cannot be killed; never run two agents over one state directory.",
        error.fields,
    )


@dataclass(slots=True)
class StuckNode:
    """link.LinkedNode of a node that another process holds.

    node: what its journal says. artifacts: only looked at.
    """

    identity: Identity
    installation_id: str
    node: NodeState
    facts: BootFacts
    clock: Clock
    artifacts: Artifacts
    problem: Problem
    changes: asyncio.Event = field(default_factory=asyncio.Event)

    @property
    def node_id(self) -> str:
        """This node."""
        return self.identity.node_id

    async def look(self) -> None:
        """It is not healthy, and nothing begins."""

    def status(self) -> NodeStatus:
        """Where the journal says the node stands."""
        attempt = self.node.attempt
        return NodeStatus(
            attempt=attempt.ref if attempt is not None else None,
            phase=self.node.phase,
            seq=attempt.seq if attempt is not None else 0,
            healthy=False,
            problem=self.problem,
        )

    def stamp(self) -> BootStamp:
        """This instant of this boot."""
        return BootStamp(self.facts.boot_id, self.clock.boottime_s())

    def unacknowledged(self) -> Sequence[Report]:
        """None: they are for whoever holds the journal to tell."""
        return ()

    async def hello(self) -> HelloFacts:
        """Who is calling, without a verdict on this boot."""
        return build_hello(
            self.identity,
            self.installation_id,
            self.facts,
            replace(self.node, verdict=None),
            self.status(),
            staged=await self.artifacts.staged(),
            rollback=await self.artifacts.rollback_artifact(),
        )

    async def handle(self, command: LinkCommand) -> Disposition:
        """Refused, whatever it is."""
        return Disposition(Outcome.REFUSED, self.status(), self.problem)

    async def refuse(self, command_id: str, problem: Problem) -> None:
        """No report can be made; the heartbeat says STUCK."""

    async def acknowledge(self, seq: int) -> None:
        """There is nothing to acknowledge."""

    def number_from(self, seq: int) -> None:
        """It writes no reports."""

    async def note_incarnation(self, incarnation: str, serial: int) -> None:
        """Learnt again on the next link, once it can be written down."""


def stuck_node(
    records: Sequence[JournalRecord],
    identity: Identity,
    facts: BootFacts,
    clock: Clock,
    artifacts: Artifacts,
    problem: Problem,
) -> StuckNode | None:
    """The node as its journal knows it; None where that cannot be read: it would be nobody."""
    try:
        node = read_history(records).node
    except JournalCorrupt:
        return None
    installation_id = str(records[0].body.get("installation_id", "")) if records else ""
    if not installation_id:
        return None
    return StuckNode(identity, installation_id, node, facts, clock, artifacts, problem)


async def wait_stuck(
    path: Path,
    error: JournalLocked,
    identity: Identity,
    facts: BootFacts,
    clock: Clock,
    artifacts: Artifacts,
    connect: Connector | None,
    rota: Rota | None,
    log: Log,
) -> int:
    """The journal's fd, locked, once the other process has let go; STUCK on the link until then.

    Args:
        connect, rota: open the link; None on a node without an orchestrator.

    Raises:
        JournalUnavailable: the journal can be neither opened nor made.
    """
    problem = stuck_problem(error)
    log.error("stuck", reason=problem.reason, why=problem.message, remedy=problem.remedy, journal=str(path))
    records = await asyncio.to_thread(read_unlocked, path)
    node = stuck_node(records, identity, facts, clock, artifacts, problem)
    async with asyncio.TaskGroup() as tasks:
        telling = tasks.create_task(_tell(node, connect, rota, log)) if node and connect else None
        fd = await wait_for_lock(path)
        if telling is not None:
            telling.cancel()
    log.info("the journal is free, the agent goes on")
    return fd


async def _tell(node: StuckNode, connect: Connector, rota: Rota | None, log: Log) -> None:
    """Keep the link until cancelled, or until another one of this node turns up."""
    superseded = asyncio.Event()

    def seen(view: LinkView) -> None:
        if view.up:
            log.info("linked, stuck")
        elif view.problem is not None and view.problem.reason == SUPERSEDED:
            superseded.set()

    async with asyncio.TaskGroup() as tasks:
        linking = tasks.create_task(Link(node, connect, rota=rota, on_view=seen).run())
        await superseded.wait()
        linking.cancel()
    log.error(
        "another agent of this node has a link: this one says nothing until it is gone",
        remedy="end one of the two agents",
    )
