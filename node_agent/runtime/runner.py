"""The runner: performs what the saga decides, one attempt at a time, journal before effect.

Rules
1. run() owns every task; ending it is the end of this agent's process as far as the node knows.
2. All changes go through one inbox and one task, in order: commands, effects' events, stages.
3. A transition is journalled before its effect begins. Without the journal nothing is begun: what
   was begun before the jump is undone as well as it goes, and the node stands still.
4. An effect is bounded on the injected clock and cancellable, but for RECORD_INTENT and REBOOT,
   which run in run()'s own task. reboot is called at most once an attempt.
5. STAGE is beside the saga.
6. submit() never blocks; what it answers is what the command means now, and the command is
   classified again when its turn comes.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, TypeVar

from node_agent.core import commands as cmd
from node_agent.core import events as ev
from node_agent.core.admission import (
    Begin,
    Decision,
    Deliver,
    Done,
    Fetch,
    RaiseFloor,
    Refuse,
    classify_command,
    resolve_local,
)
from node_agent.core.attempt import Attempt, KexecByHand, NodeState
from node_agent.core.history import StoryLine
from node_agent.core.model import AttemptRef, BootStamp, Problem
from node_agent.core.phases import Phase, Verdict
from node_agent.core.report import CommandRefusal, Disposition, NodeStatus, Outcome, Report
from node_agent.core.saga import transition
from node_agent.core.steps import STEPS, Effect
from node_agent.errors import JournalUnavailable
from node_agent.ports import StagedArtifact
from node_agent.runtime.by_hand import Deed, in_turn, perform
from node_agent.runtime.preflight import preflight_staged
from node_agent.runtime.readiness import Readiness
from node_agent.runtime.runner_boot import Boot, classify_boot, named
from node_agent.runtime.runner_current import CurrentEffect
from node_agent.runtime.runner_effects import Effects, Pace, Ports
from node_agent.runtime.runner_items import BUSY, Happened, Identity, Item, Met, Staged, Unreadable
from node_agent.runtime.runner_ledger import Ledger, begun, with_attempt
from node_agent.runtime.runner_report import build_hello
from node_agent.runtime.runner_stages import Stages
from node_agent.runtime.runner_step import in_time, jump

if TYPE_CHECKING:
    from node_agent.runtime.link_transport import HelloFacts

T = TypeVar("T")
log = logging.getLogger(__name__)

INBOX = 64
"""Commands are level-triggered: what does not fit is sent again."""


class NodeRunner:
    """One node's runner over one journal, for one life of the agent's process.

    Raises (constructor):
        JournalCorrupt: the journal's records make no sense.
    """

    def __init__(self, identity: Identity, ports: Ports, boot: Boot, pace: Pace | None = None) -> None:
        self._identity = identity
        self._ports = ports
        self._boot = boot
        self._ledger = Ledger(ports, boot.facts, keep_reports=identity.linked)
        self._effects = Effects(ports, pace or Pace(), boot.facts.boot_id, boot.marks)
        self._stages = Stages(ports.artifacts, self._ahead)
        self._readiness = Readiness(ports.kernel, boot.facts)
        self._inbox: asyncio.Queue[Item | Deed] = asyncio.Queue(INBOX)
        self._group: asyncio.TaskGroup | None = None
        self._current = CurrentEffect(self._effects, ports.clock, self.stamp, self._inbox.put)
        self._cancel: cmd.Cancel | None = None
        """The last one that was accepted for an attempt under way."""
        self._trouble: Problem | None = None
        """Why the journal takes nothing new."""
        self._halted = False
        """The journal has failed: only answers are given."""
        self.ready = asyncio.Event()
        """Set once the boot is classified: before that there is nothing to say Hello with."""

    # -- what others read -----------------------------------------------------------------

    @property
    def node_id(self) -> str:
        """This node."""
        return self._identity.node_id

    @property
    def changes(self) -> asyncio.Event:
        """Set whenever a report is added or the status changes; whoever waits on it clears it."""
        return self._ledger.changes

    @property
    def node(self) -> NodeState:
        """What the node knows of itself."""
        return self._ledger.node

    @property
    def attempt(self) -> Attempt | None:
        """The current attempt, or the last one that settled."""
        return self.node.attempt

    def status(self) -> NodeStatus:
        """Where the node stands."""
        node, attempt = self.node, self.attempt
        return NodeStatus(
            attempt=attempt.ref if attempt is not None else None,
            phase=Phase.QUARANTINED if self._halted else node.phase,
            seq=attempt.seq if attempt is not None else 0,
            healthy=node.healthy and not self._halted,
            problem=self._trouble or node.problem,
            not_ready=self._readiness.of(node),
        )

    async def look(self) -> None:
        """Find out anew what status() says of an update that would begin now."""
        await self._readiness.look(self.node)

    def stamp(self) -> BootStamp:
        """This instant of this boot."""
        return self._ledger.stamp()

    def reports(self, after_seq: int = 0) -> Sequence[Report]:
        """Unacknowledged reports after a journal record, oldest first."""
        return self._ledger.outbox.after(after_seq)

    def unacknowledged(self) -> Sequence[Report]:
        """All unacknowledged reports, oldest first."""
        return self._ledger.outbox.after()

    def story(self) -> Sequence[StoryLine]:
        """What happened on this node, oldest first, as far as the journal reaches back."""
        return tuple(self._ledger.story)

    async def hello(self) -> HelloFacts:
        """Who is calling and where it stands."""
        await self.look()
        return build_hello(
            self._identity,
            self._ports.journal.installation_id,
            self._boot.facts,
            self.node,
            self.status(),
            staged=self._stages.ready(await self._ports.artifacts.staged()),
            rollback=self._ledger.rollback,
            acknowledged_seq=self._ledger.outbox.acked,
        )

    # -- what others ask ------------------------------------------------------------------

    def submit(self, command: cmd.Command) -> Disposition:
        """Take a command. Never blocks; the disposition is what it means at this moment."""
        if isinstance(command, (cmd.LocalPrepare, cmd.LocalKexec, cmd.LocalCancel, cmd.LocalCommit)):
            resolved = resolve_local(
                self.node, command, self._identity.node_id, self.stamp(), self._boot.facts.command_line
            )
            if isinstance(resolved, Refuse):
                return Disposition(Outcome.REFUSED, self.status(), resolved.problem)
            return self.submit(resolved)
        self.renew()
        decision = self._classify(command)
        ref = None if isinstance(command, cmd.Stage) else command.attempt
        if isinstance(decision, Done):
            return Disposition(Outcome.ALREADY_DONE, self.status(), attempt=ref)
        try:
            self._inbox.put_nowait(command)
        except asyncio.QueueFull:
            return Disposition(Outcome.REFUSED, self.status(), BUSY, ref)
        if isinstance(command, cmd.Cancel) and isinstance(decision, Deliver):
            self._cancel = command
        if isinstance(decision, Refuse):
            return Disposition(Outcome.REFUSED, self.status(), decision.problem, ref)
        return Disposition(Outcome.ACCEPTED, self.status(), attempt=ref)

    async def handle(self, command: cmd.LinkCommand) -> Disposition:
        """submit(), for the link."""
        return self.submit(command)

    async def refuse(self, command_id: str, problem: Problem) -> None:
        """Report that a command could not even be read."""
        with contextlib.suppress(asyncio.QueueFull):
            self._inbox.put_nowait(Unreadable(CommandRefusal(command_id, problem)))

    async def by_hand(
        self, verb: str, do: Callable[[], Coroutine[Any, Any, T]], kexec: KexecByHand | None = None
    ) -> T:
        """Do something to LUO for an operator. Raises as by_hand.in_turn()."""
        trouble = self._trouble if self._halted else None
        return await in_turn(self._inbox, trouble, verb, do, kexec)

    async def acknowledge(self, seq: int) -> None:
        """Reports up to seq are committed at the orchestrator."""
        self._ledger.outbox.acknowledge(seq)
        self.renew()

    def number_from(self, seq: int) -> None:
        """The orchestrator has this of the node, whoever told it: reports from here on come after it."""
        self._ports.journal.number_from(seq)

    async def note_incarnation(self, incarnation: str, serial: int) -> None:
        """The orchestrator said which incarnation its store is; only newer ones are kept."""
        self.renew()
        if self._is_newer(serial):
            with contextlib.suppress(asyncio.QueueFull):
                self._inbox.put_nowait(Met(incarnation, serial))

    def _is_newer(self, serial: int) -> bool:
        return serial > self.node.incarnation_serial or not self.node.incarnation

    def renew(self) -> None:
        """The orchestrator was heard of: the wait for PROCEED begins anew."""
        self._effects.last_word_s = self._ports.clock.boottime_s()

    # -- the life of the agent ------------------------------------------------------------

    async def run(self) -> None:
        """Classify the boot, go on from there, and serve until cancelled.

        Raises:
            KernelError: the boot cannot be classified.
            IllegalTransition: a bug; a restart classifies anew.
        """
        try:
            async with asyncio.TaskGroup() as group:
                self._group = group
                await self._ledger.look_for_rollback()
                await self._recover()
                self.ready.set()
                while True:
                    await self._take(await self._inbox.get())
        except BaseExceptionGroup as group_of_one:
            # There is one cause: the first that fails cancels the rest.
            raise group_of_one.exceptions[0] from None
        finally:
            self._group = None
            self._effects.session.drop_fds()

    async def _recover(self) -> None:
        """Name the boot and go on from there. A restart that changes nothing is not told."""
        before = self.node
        if before.attempt is not None:
            await self._ports.kernel.recall(before.attempt.tokens)
        event, tsc_hz = await classify_boot(
            before, self._boot, self._effects.session, self._ports.kernel, self._ports.clock
        )
        node = named(before, event, self._boot.quarantine)
        effect: Effect | None = None
        if (attempt := node.attempt) is not None:
            step = transition(replace(attempt, tsc_hz=tsc_hz or attempt.tsc_hz), event, self._ledger.told())
            node, effect = with_attempt(node, step.attempt), step.effect
        if replace(node, verdict=before.verdict) == before:
            self._ledger.node = node
        else:
            ref = attempt.ref if attempt is not None else None
            try:
                await self._ledger.commit(node, "BootClassified", ref, event)
            except JournalUnavailable as error:
                self._ledger.node = node
                await self._journal_failed(error)
                return
        if effect is None and event.verdict is not Verdict.SAME_BOOT:
            await self._effects.nothing_crossed()
        await self._start(effect)

    async def _take(self, item: Item | Deed) -> None:
        """Deal with one item; a journal that fails ends everything but answers."""
        try:
            match item:
                case Happened():
                    if self._current.said(item):
                        await self._advance(item.event)
                case Staged(result):
                    await self._ledger.look_for_rollback()
                    await self._ledger.staged(result)
                case Met(incarnation, serial):
                    if self._is_newer(serial):
                        await self._ledger.met(incarnation, serial)
                case Deed():
                    ports, phase = self._ports, self.status().phase
                    await perform(item, phase, self._ledger, ports.journal, ports.clock)
                    self.changes.set()  # of what LUO is now, nothing was journalled
                case Unreadable(refusal):
                    await self._ledger.refused(refusal)
                case _:
                    await self._obey(item)
        except JournalUnavailable as error:
            await self._journal_failed(error)

    async def _obey(self, command: cmd.LinkCommand) -> None:
        ref = None if isinstance(command, cmd.Stage) else command.attempt
        match self._classify(command):
            case Begin(prepare):
                await self._begin(prepare)
            case Deliver(event):
                await self._advance(event)
            case RaiseFloor(floor):
                await self._ledger.raise_floor(floor)
            case Fetch(stage):
                assert self._group is not None
                self._group.create_task(self._stage(stage), name=f"stage {stage.artifact.digest[:12]}")
            case Refuse(problem):
                await self._refuse(command.command_id, problem, ref)
            case Done():
                pass

    def _classify(self, command: cmd.LinkCommand) -> Decision:
        if self._halted and self._trouble is not None:
            return Refuse(self._trouble)
        if isinstance(command, cmd.Stage) and self._stages.needless(command):
            return Done()
        return classify_command(self.node, command, self.stamp())

    async def _ahead(self, staged: StagedArtifact) -> None:
        ports = self._ports
        await preflight_staged(staged, ports.kernel, ports.artifacts, ports.workloads)

    async def _stage(self, command: cmd.Stage) -> None:
        await self._inbox.put(Staged(await self._stages.stage(command)))

    async def _begin(self, prepare: cmd.Prepare) -> None:
        try:
            await self._ports.journal.ensure_room()
        except JournalUnavailable as error:
            self._trouble = Problem.of(error)
            await self._refuse(prepare.command_id, self._trouble, prepare.attempt)
            return
        self._trouble = None
        await self._current.stop()
        node = begun(self.node, prepare, self._boot.facts)
        await self._ledger.commit(node, "Prepared", prepare.attempt, None)
        await self._start(Effect.LOAD)

    async def _refuse(self, command_id: str, problem: Problem, ref: AttemptRef | None) -> None:
        try:
            await self._ledger.refused(CommandRefusal(command_id, problem), ref)
        except JournalUnavailable:
            if self._trouble is None:
                raise
            # The disk is too full even for the refusal: the heartbeat carries the trouble.
            self.changes.set()

    async def _advance(self, event: ev.Event) -> None:
        """Apply an event, journal it, and begin what follows."""
        node = self.node
        assert node.attempt is not None
        ref = node.attempt.ref
        step = transition(node.attempt, event, self._ledger.told())
        await self._current.stop()
        if isinstance(event, ev.Finished):
            await self._ledger.look_for_rollback()
        commit = self._ledger.commit(with_attempt(node, step.attempt), type(event).__name__, ref, event)
        await in_time(self._ports.clock, node.attempt, event, self.stamp(), commit)
        await self._start(step.effect)

    async def _start(self, effect: Effect | None) -> None:
        """Begin an effect. One that must not be cut short is performed here and now."""
        attempt = self.attempt
        if effect is None or attempt is None:
            return
        if not STEPS[effect].cancellable:
            await self._advance(await self._jump(effect, attempt))
            return
        assert self._group is not None
        self._current.begin(self._group, effect, attempt)

    async def _jump(self, effect: Effect, attempt: Attempt) -> ev.Event:
        """Either side of the point of no return."""
        if effect is Effect.RECORD_INTENT:
            if (cancel := self._cancel) is not None and cancel.attempt == attempt.ref:
                # Accepted while the last workload came to stand still: it waits in the inbox.
                return ev.CancelRequested(cancel.reason)
            return ev.JumpIntentRecorded()
        return await jump(self._effects, self._ports, attempt, self.stamp)

    async def _journal_failed(self, error: JournalUnavailable) -> None:
        """Nothing can be promised any more. A restart finds the journal as it is."""
        if self._halted:
            return
        log.error("the journal failed, the node stands still: %s", error.message)
        self._trouble = Problem.of(error)
        self._halted = True
        await self._current.stop()
        if self.attempt is not None:
            await self._effects.make_safe(self.attempt)
        self.changes.set()
