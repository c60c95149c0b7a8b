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
from collections.abc import Awaitable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

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
    lease_problem,
    resolve_local,
)
from node_agent.core.attempt import Attempt, NodeState
from node_agent.core.history import EVENT, JUMP_INTENT, NODE, STORY_RECORDS, StoryLine, body_of, jump_intent
from node_agent.core.model import AttemptRef, BootStamp, Problem
from node_agent.core.phases import Phase, Verdict
from node_agent.core.report import (
    CommandRefusal,
    Disposition,
    NodeStatus,
    Outcome,
    Report,
    StageResult,
)
from node_agent.core.saga import transition
from node_agent.core.steps import BEFORE_JUMP, STEPS, Effect
from node_agent.errors import AgentError, JournalUnavailable, KernelError, Retry
from node_agent.runtime.outbox import Outbox
from node_agent.runtime.runner_boot import Boot, classify_boot, read_history
from node_agent.runtime.runner_effects import Effects, Pace, Ports
from node_agent.runtime.runner_items import Happened, Identity, Item, Met, Staged, Unreadable
from node_agent.runtime.runner_report import build_report
from node_agent.runtime.runner_step import perform_bounded

if TYPE_CHECKING:
    from node_agent.runtime.link_transport import HelloFacts

log = logging.getLogger(__name__)

INBOX = 64
"""Commands are level-triggered: what does not fit is sent again."""
REFUSALS_REMEMBERED = 32
STAGES_AT_ONCE = 2


class NodeRunner:
    """One node's runner over one journal, for one life of the agent's process.

    Raises (constructor):
        JournalCorrupt: the journal's records make no sense.
    """

    def __init__(self, identity: Identity, ports: Ports, boot: Boot, pace: Pace | None = None) -> None:
        history = read_history(ports.journal.records)
        self._identity = identity
        self._ports = ports
        self._boot = boot
        self._node = history.node
        self._story = list(history.story)
        self._outbox = Outbox(history.unacknowledged, history.acked, keep=identity.linked)
        self._effects = Effects(ports, pace or Pace(), boot.facts.boot_id)
        self._inbox: asyncio.Queue[Item] = asyncio.Queue(INBOX)
        self._group: asyncio.TaskGroup | None = None
        self._task: asyncio.Task[None] | None = None
        self._epoch = 0
        self._stages: dict[str, asyncio.Task[None]] = {}
        self._stage_slots = asyncio.Semaphore(STAGES_AT_ONCE)
        self._stage_done: dict[str, str] = {}
        self._refused: dict[str, str] = {}
        self._trouble: Problem | None = None
        self._halted = False
        self._rollback = ""
        self.changes = asyncio.Event()
        """Set whenever a report is added or the status changes; whoever waits on it clears it."""

    # -- what others read -----------------------------------------------------------------

    @property
    def node_id(self) -> str:
        """This node."""
        return self._identity.node_id

    @property
    def node(self) -> NodeState:
        """What the node knows of itself."""
        return self._node

    @property
    def attempt(self) -> Attempt | None:
        """The current attempt, or the last one that settled."""
        return self._node.attempt

    def status(self) -> NodeStatus:
        """Where the node stands."""
        node = self._node
        attempt = node.attempt
        return NodeStatus(
            attempt=attempt.ref if attempt is not None else None,
            phase=Phase.QUARANTINED if self._halted else node.phase,
            seq=attempt.seq if attempt is not None else 0,
            healthy=node.healthy and not self._halted,
            problem=self._trouble or node.problem,
        )

    def stamp(self) -> BootStamp:
        """This instant of this boot."""
        return BootStamp(self._boot.facts.boot_id, self._ports.clock.boottime_s())

    def reports(self, after_seq: int = 0) -> Sequence[Report]:
        """Unacknowledged reports after a journal record, oldest first."""
        return self._outbox.after(after_seq)

    def unacknowledged(self) -> Sequence[Report]:
        """All unacknowledged reports, oldest first."""
        return self._outbox.after()

    def story(self) -> Sequence[StoryLine]:
        """What happened on this node, oldest first, as far as the journal reaches back."""
        return tuple(self._story)

    async def hello(self) -> HelloFacts:
        """Who is calling and where it stands."""
        # Imported here: protobuf is not needed before there is a link.
        from node_agent.runtime.link_transport import HelloFacts

        facts, node = self._boot.facts, self._node
        return HelloFacts(
            node_id=self._identity.node_id,
            installation_id=self._ports.journal.installation_id,
            boot_id=facts.boot_id,
            release=facts.release,
            hardware_model=facts.hardware_model,
            capabilities=self._identity.capabilities,
            labels=self._identity.labels,
            highest_generation=node.highest_generation,
            incarnation=node.incarnation,
            incarnation_serial=node.incarnation_serial,
            status=self.status(),
            boot_verdict=node.verdict,
            agent_version=self._identity.agent_version,
            staged_artifacts=tuple(await self._ports.artifacts.staged()),
            rollback_artifact=self._rollback,
            command_line=facts.command_line,
        )

    # -- what others ask ------------------------------------------------------------------

    def submit(self, command: cmd.Command) -> Disposition:
        """Take a command. Never blocks; the disposition is what it means at this moment."""
        if isinstance(command, (cmd.LocalPrepare, cmd.LocalKexec, cmd.LocalCancel, cmd.LocalCommit)):
            facts = self._boot.facts
            resolved = resolve_local(
                self._node, command, self._identity.node_id, self.stamp(), facts.command_line
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
            return Disposition(Outcome.REFUSED, self.status(), _BUSY, ref)
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

    async def acknowledge(self, seq: int) -> None:
        """Reports up to seq are committed at the orchestrator."""
        self._outbox.acknowledge(seq)
        self.renew()

    async def note_incarnation(self, incarnation: str, serial: int) -> None:
        """The orchestrator said which incarnation its store is; only newer ones are kept."""
        self.renew()
        if serial > self._node.incarnation_serial or not self._node.incarnation:
            with contextlib.suppress(asyncio.QueueFull):
                self._inbox.put_nowait(Met(incarnation, serial))

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
                self._rollback = await self._ports.artifacts.rollback_artifact()
                await self._recover()
                while True:
                    await self._take(await self._inbox.get())
        finally:
            self._group = None
            self._effects.session.drop_fds()

    async def _recover(self) -> None:
        """Name the boot and go on from there. A restart that changes nothing is not told."""
        event, tsc_hz = await classify_boot(
            self._node, self._boot, self._effects.session, self._ports.kernel, self._ports.clock
        )
        node = replace(self._node, boot_id=event.boot_id, verdict=event.verdict)
        quarantine = self._boot.quarantine
        if node.attempt is None and event.verdict is Verdict.POISONED:
            quarantine = event.problem
        if quarantine is not None:
            node = replace(node, quarantine=quarantine, healthy=False)
        effect: Effect | None = None
        if (attempt := node.attempt) is not None:
            step = transition(replace(attempt, tsc_hz=tsc_hz or attempt.tsc_hz), event, self._told())
            node, effect = _with_attempt(node, step.attempt), step.effect
        if replace(node, verdict=self._node.verdict) == self._node:
            self._node = node
            await self._start(effect)
            return
        try:
            await self._commit(node, event, ref=attempt.ref if attempt is not None else None)
        except JournalUnavailable as error:
            self._node = node
            await self._journal_failed(error)
            return
        await self._start(effect)

    async def _take(self, item: Item) -> None:
        """Deal with one item; a journal that fails ends everything but answers."""
        try:
            match item:
                case Happened(epoch, event):
                    if epoch == self._epoch:
                        await self._advance(event)
                case Staged(result):
                    await self._tell("Staged", stage=result, problem=result.problem)
                case Met(incarnation, serial):
                    node = replace(self._node, incarnation=incarnation, incarnation_serial=serial)
                    await self._append(NODE, body_of(node=node, acked=self._outbox.acked))
                    self._node = node
                case Unreadable(refusal):
                    await self._tell("CommandRefused", refusal=refusal)
                case _:
                    await self._obey(item)
        except JournalUnavailable as error:
            await self._journal_failed(error)

    async def _obey(self, command: cmd.LinkCommand) -> None:
        decision = self._classify(command)
        match decision:
            case Begin(prepare):
                await self._begin(prepare)
            case Deliver(event):
                await self._advance(event)
            case RaiseFloor(generation):
                assert isinstance(command, cmd.Cancel)
                await self._raise_floor(command.attempt, generation)
            case Fetch():
                assert isinstance(command, cmd.Stage)
                self._stage(command)
            case Refuse(problem):
                await self._refuse(command, problem)
            case Done():
                pass

    def _classify(self, command: cmd.LinkCommand) -> Decision:
        if isinstance(command, cmd.Stage):
            staged = self._stage_done.get(command.artifact.digest) == command.command_id
            return Done() if staged or command.artifact.digest in self._stages else Fetch(command.artifact)
        if self._halted and self._trouble is not None:
            return Refuse(self._trouble)
        return classify_command(self._node, command, self.stamp())

    async def _begin(self, prepare: cmd.Prepare) -> None:
        try:
            await self._ports.journal.ensure_room()
        except JournalUnavailable as error:
            self._trouble = Problem.of(error)
            await self._refuse(prepare, self._trouble)
            return
        self._trouble = None
        await self._stop_effect()
        facts = self._boot.facts
        attempt = Attempt.begin(
            prepare, release=facts.release, boot_id=facts.boot_id, emulated=facts.emulated
        )
        node = replace(
            self._node,
            attempt=attempt,
            highest_generation=prepare.attempt.generation,
            quarantine=None,
        )
        await self._commit(node, None, name="Prepared", ref=attempt.ref)
        await self._start(Effect.LOAD)

    async def _advance(self, event: ev.Event) -> None:
        """Apply an event, journal it, and begin what follows. Effects that must not be cut
        short are performed here, one after the other."""
        attempt = self._node.attempt
        assert attempt is not None
        step = transition(attempt, event, self._told())
        await self._stop_effect()
        await self._commit(_with_attempt(self._node, step.attempt), event, ref=attempt.ref)
        await self._start(step.effect)

    async def _start(self, effect: Effect | None) -> None:
        attempt = self._node.attempt
        if effect is None or attempt is None:
            return
        if not STEPS[effect].cancellable:
            await self._advance(await self._jump(effect, attempt))
            return
        assert self._group is not None
        self._epoch += 1
        self._task = self._group.create_task(
            self._perform(effect, attempt, self._epoch), name=f"{attempt.ref.id} {effect}"
        )

    async def _perform(self, effect: Effect, attempt: Attempt, epoch: int) -> None:
        event = await perform_bounded(self._effects, self._ports.clock, effect, attempt, self.stamp())
        if event is not None:
            await self._inbox.put(Happened(epoch, event))

    async def _stop_effect(self) -> None:
        """Cut the current effect short and wait until it has let go."""
        self._epoch += 1
        task, self._task = self._task, None
        if task is not None and not task.done():
            task.cancel()
            await asyncio.wait([task])

    async def _jump(self, effect: Effect, attempt: Attempt) -> ev.Event:
        """Either side of the point of no return."""
        if effect is Effect.RECORD_INTENT:
            return ev.JumpIntentRecorded()
        assert attempt.lease is not None
        try:
            await self._ports.sync()
            mark = self._effects.mark("pre_reboot")
            self._effects.session.write_marks((*attempt.marks, mark), attempt.tsc_hz)
            # The last act before reboot (rule of the lease).
            late = lease_problem(attempt.lease, self.stamp())
            if late is not None:
                return ev.LeaseExpired(late)
            await self._ports.kernel.reboot_kexec()
        except KernelError as error:
            return ev.RebootRefused(Problem.of(error, step=Phase.JUMPING.value))

    # -- beside the attempt ---------------------------------------------------------------

    def _stage(self, command: cmd.Stage) -> None:
        assert self._group is not None
        digest = command.artifact.digest
        self._stages[digest] = self._group.create_task(self._fetch(command), name=f"stage {digest[:12]}")

    async def _fetch(self, command: cmd.Stage) -> None:
        digest = command.artifact.digest
        result = StageResult(digest, verified=True)
        try:
            async with self._stage_slots:
                await self._ports.artifacts.stage(command.artifact)
            self._rollback = await self._ports.artifacts.rollback_artifact()
            self._stage_done[digest] = command.command_id
        except AgentError as error:
            result = StageResult(digest, verified=False, problem=Problem.of(error))
        finally:
            self._stages.pop(digest, None)
        await self._inbox.put(Staged(result))

    async def _raise_floor(self, ref: AttemptRef, generation: int) -> None:
        node = replace(self._node, highest_generation=generation)
        # Not this node's attempt, and it never will be: that is as good as aborted.
        report = replace(self._report("FloorRaised", node, ref=ref), phase=Phase.ABORTED)
        await self._append(NODE, body_of(node=node, report=report, acked=self._outbox.acked), report)
        self._node = node

    async def _refuse(self, command: cmd.LinkCommand, problem: Problem) -> None:
        """Report a refusal once: the same command is sent again for as long as it stands."""
        if self._refused.get(command.command_id) == problem.reason:
            return
        ref = None if isinstance(command, cmd.Stage) else command.attempt
        refusal = CommandRefusal(command.command_id, problem)
        try:
            await self._tell("CommandRefused", refusal=refusal, ref=ref)
        except JournalUnavailable:
            if self._trouble is None:
                raise
            # The disk is too full even for the refusal: the heartbeat carries the trouble.
            self.changes.set()
            return
        self._refused[command.command_id] = problem.reason
        while len(self._refused) > REFUSALS_REMEMBERED:
            self._refused.pop(next(iter(self._refused)))

    # -- journal --------------------------------------------------------------------------

    async def _commit(
        self, node: NodeState, event: ev.Event | None, *, name: str = "", ref: AttemptRef | None = None
    ) -> None:
        """Journal what the node has become, and tell."""
        kind, extra = EVENT, None
        if isinstance(event, ev.JumpIntentRecorded) and node.attempt is not None:
            kind, extra = JUMP_INTENT, jump_intent(node.attempt, node)
        if isinstance(event, (ev.BootClassified, ev.Finished)):
            self._rollback = await self._ports.artifacts.rollback_artifact()
        report = self._report(name or type(event).__name__, node, ref=ref, event=event)
        body = body_of(node=node, report=report, acked=self._outbox.acked, extra=extra)
        seq = await self._append(kind, body, report)
        if node.attempt is not None:
            node = replace(node, attempt=replace(node.attempt, seq=seq))
        self._node = node
        self.changes.set()

    async def _tell(
        self,
        event: str,
        *,
        ref: AttemptRef | None = None,
        stage: StageResult | None = None,
        refusal: CommandRefusal | None = None,
        problem: Problem | None = None,
    ) -> None:
        """Journal a report that changes nothing on the node."""
        report = replace(
            self._report(event, self._node, ref=ref), stage=stage, refusal=refusal, problem=problem
        )
        await self._append(EVENT, body_of(report=report, acked=self._outbox.acked), report)

    async def _append(self, kind: str, body: dict[str, object], report: Report | None = None) -> int:
        body["at"] = self._ports.clock.realtime().isoformat(timespec="milliseconds")
        record = await self._ports.journal.append(kind, body)
        if report is not None:
            report = replace(report, seq=record.seq)
            self._outbox.add(report)
            self._story.append(StoryLine.of(report, str(body["at"])))
            del self._story[:-STORY_RECORDS]
            self.changes.set()
        return record.seq

    def _report(
        self,
        name: str,
        node: NodeState,
        *,
        ref: AttemptRef | None = None,
        event: ev.Event | None = None,
    ) -> Report:
        return build_report(
            name, node, self._boot.facts, self.stamp(), ref=ref, event=event, rollback=self._rollback
        )

    def _told(self) -> tuple[str, ...]:
        return tuple(str(line) for line in self._story[-20:])

    async def _journal_failed(self, error: JournalUnavailable) -> None:
        """Nothing can be promised any more: undo what was begun before the jump, bring back what
        stands still after it, and stand still. A restart finds the journal as it is."""
        log.error("the journal failed, the node stands still: %s", error.message)
        self._trouble = Problem.of(error)
        self._halted = True
        await self._stop_effect()
        attempt = self._node.attempt
        if attempt is not None:
            if attempt.phase in (*BEFORE_JUMP, Phase.UNWINDING):
                await self._at_best(self._effects.undo_all(attempt))
            elif attempt.phase in (Phase.RETRIEVING, Phase.RESUMING):
                await self._at_best(self._effects.perform(Effect.RETRIEVE, attempt))
                await self._at_best(self._effects.perform(Effect.BRING_BACK, attempt))
        self.changes.set()

    async def _at_best(self, work: Awaitable[object]) -> None:
        try:
            await work
        except AgentError as error:
            log.error("while standing still: %s", error.message)  # noqa: TRY400 - the cause is the journal


def _with_attempt(node: NodeState, attempt: Attempt) -> NodeState:
    healthy = node.healthy if attempt.healthy is None else attempt.healthy
    return replace(node, attempt=attempt, healthy=healthy)


_BUSY = Problem(
    "AGENT_BUSY",
    Retry.CALL,
    "the agent's inbox is full",
    "Send it again; the agent is working through what it has.",
)
