"""The node's state together with what made it durable: journal, outbox and story in step.

Everything that changes NodeState goes through here, so that no state is shown that the journal
does not hold.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from node_agent.core import events as ev
from node_agent.core.attempt import Attempt, KexecByHand, NodeState
from node_agent.core.commands import Prepare
from node_agent.core.history import (
    EVENT,
    JUMP_INTENT,
    NODE,
    STORY_RECORDS,
    StoryLine,
    body_of,
    jump_intent,
)
from node_agent.core.model import AttemptRef, BootStamp, Problem
from node_agent.core.phases import Phase
from node_agent.core.report import CommandRefusal, Report, StageResult
from node_agent.ports import BootFacts
from node_agent.runtime.outbox import Outbox
from node_agent.runtime.runner_boot import read_history
from node_agent.runtime.runner_effects import Ports
from node_agent.runtime.runner_report import build_report

REFUSALS_REMEMBERED = 32
"""A node has one desired command at a time; luoctl adds a few."""


class Ledger:
    """What the node is, and who has been told.

    Args:
        keep_reports: False on a node without an orchestrator.

    Raises:
        JournalCorrupt: the journal's records make no sense.
    """

    def __init__(self, ports: Ports, facts: BootFacts, *, keep_reports: bool) -> None:
        history = read_history(ports.journal.records)
        self._ports = ports
        self._facts = facts
        self._refused: dict[str, str] = {}
        self.node = history.node
        self.story = list(history.story)
        self.outbox = Outbox(history.unacknowledged, history.acked, keep=keep_reports)
        self.rollback = ""
        """Digest of the artifact that boots the running release."""
        self.changes = asyncio.Event()

    def stamp(self) -> BootStamp:
        """This instant of this boot."""
        return BootStamp(self._facts.boot_id, self._ports.clock.boottime_s())

    def told(self) -> tuple[str, ...]:
        """The newest part of the story, for IllegalTransition."""
        return tuple(str(line) for line in self.story[-20:])

    async def look_for_rollback(self) -> None:
        """Ask anew which artifact leads back."""
        self.rollback = await self._ports.artifacts.rollback_artifact()

    async def commit(
        self, node: NodeState, name: str, ref: AttemptRef | None, event: ev.Event | None
    ) -> None:
        """The node has become this through that event. JournalUnavailable."""
        kind, extra = EVENT, None
        if isinstance(event, ev.JumpIntentRecorded) and node.attempt is not None:
            kind, extra = JUMP_INTENT, jump_intent(node.attempt, node)
        report = self._report(name, node, ref, event)
        seq = await self._append(kind, node, report, extra)
        if node.attempt is not None:
            node = replace(node, attempt=replace(node.attempt, seq=seq))
        self.node = node

    async def staged(self, result: StageResult) -> None:
        """A STAGE has ended. JournalUnavailable."""
        report = self._report("Staged", self.node)
        await self._append(EVENT, None, replace(report, stage=result, problem=result.problem))

    async def refused(self, refusal: CommandRefusal, ref: AttemptRef | None = None) -> None:
        """A command was refused; told once, since it is sent again for as long as it stands.
        JournalUnavailable."""
        reason = refusal.problem.reason
        if self._refused.get(refusal.command_id) == reason:
            return
        report = self._report("CommandRefused", self.node, ref)
        await self._append(EVENT, None, replace(report, refusal=refusal, problem=refusal.problem))
        self._refused[refusal.command_id] = reason
        while len(self._refused) > REFUSALS_REMEMBERED:
            self._refused.pop(next(iter(self._refused)))

    async def by_hand(self, event: str, problem: Problem, kexec: KexecByHand | None = None) -> None:
        """An operator drives LUO beside any attempt. kexec: about to be called. JournalUnavailable."""
        # Of a node that is not well, what is wrong with it is told on: the last that is said of it counts.
        stands = None if self.node.healthy else self.node.problem
        report = replace(self._report(event, self.node), problem=stands or problem)
        if kexec == self.node.kexec_by_hand:
            await self._append(EVENT, None, report)
            return
        node = replace(self.node, kexec_by_hand=kexec)
        await self._append(NODE, node, report)
        self.node = node

    async def raise_floor(self, ref: AttemptRef) -> None:
        """That attempt never began and never will, which is as good as aborted. JournalUnavailable."""
        node = replace(self.node, highest_generation=ref.generation)
        report = replace(self._report("FloorRaised", node, ref), phase=Phase.ABORTED, problem=None)
        await self._append(NODE, node, report)
        self.node = node

    async def met(self, incarnation: str, serial: int) -> None:
        """The orchestrator's store has this incarnation. JournalUnavailable."""
        node = replace(self.node, incarnation=incarnation, incarnation_serial=serial)
        await self._append(NODE, node, None)
        self.node = node

    def _report(
        self,
        name: str,
        node: NodeState,
        ref: AttemptRef | None = None,
        event: ev.Event | None = None,
    ) -> Report:
        return build_report(
            name, node, self._facts, self.stamp(), ref=ref, event=event, rollback=self.rollback
        )

    async def _append(
        self,
        kind: str,
        node: NodeState | None,
        report: Report | None,
        extra: Mapping[str, Any] | None = None,
    ) -> int:
        at = self._ports.clock.realtime().isoformat(timespec="milliseconds")
        body = body_of(node=node, report=report, acked=self.outbox.acked, at=at, extra=extra)
        record = await self._ports.journal.append(kind, body)
        if report is not None:
            report = replace(report, seq=record.seq)
            self.outbox.add(report)
            self.story.append(StoryLine.of(report, at))
            del self.story[:-STORY_RECORDS]
        self.changes.set()
        return record.seq


def begun(node: NodeState, prepare: Prepare, facts: BootFacts) -> NodeState:
    """The node with the attempt that PREPARE begins, in this boot."""
    attempt = Attempt.begin(
        prepare,
        release=facts.release,
        boot_id=facts.boot_id,
        emulated=facts.emulated,
        was_quarantined=node.phase is Phase.QUARANTINED,
    )
    generation = prepare.attempt.generation
    return replace(node, attempt=attempt, highest_generation=generation, quarantine=None)


def with_attempt(node: NodeState, attempt: Attempt) -> NodeState:
    """The node with its attempt as it is now; the attempt's verdict on health is the node's."""
    healthy = node.healthy if attempt.healthy is None else attempt.healthy
    return replace(node, attempt=attempt, healthy=healthy)
