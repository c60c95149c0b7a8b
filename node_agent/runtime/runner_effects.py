"""The saga's effects, performed through the ports. Each returns one event, or raises AgentError.

Rules
1. An effect decides nothing: what follows from its event is the table's business.
2. Every effect may be performed again after a crash, from the beginning.
3. Waiting is done on the injected clock only.
RECORD_INTENT and REBOOT are the runner's own (runner.py): they run in its task, uncancelled.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import NoReturn

from node_agent.core import events as ev
from node_agent.core import timing
from node_agent.core.attempt import Attempt
from node_agent.core.model import BlackoutSample, Mark, MemoryCheck, Problem, Vantage
from node_agent.core.phases import Phase
from node_agent.core.recovery import name_attempt
from node_agent.core.saga import CROSSED
from node_agent.core.steps import BEFORE_JUMP, Effect, Undo, undo_plan
from node_agent.errors import AgentError, HookFailed, Retry
from node_agent.ports import (
    Artifacts,
    BootChoice,
    Clock,
    DefaultKernel,
    Disks,
    Hooks,
    Journal,
    Kernel,
    KexecImage,
    WorkloadPause,
    Workloads,
)
from node_agent.runtime.preflight import preflight
from node_agent.runtime.runner_session import AgentSession
from node_agent.workloads.default_kernel import NoDriver
from node_agent.workloads.protocol import session_name

log = logging.getLogger(__name__)


class HostedDisks:
    """ports.Disks of an emulated node: its disk is its host's, which goes on."""

    async def settle(self) -> None:
        """Nothing to write back."""

    async def jump(self, kernel: Kernel, last: Callable[[], None], left_s: float) -> NoReturn:
        """See ports.Disks; nothing comes before."""
        last()
        await kernel.reboot_kexec()

    async def let_go(self) -> None:
        """Nothing was got ready."""


LAST_PROBE_PART = 0.05
"""Of VERIFYING's time: so much must be left for one more probe of a node that is not healthy."""


def _nobody() -> Mapping[str, Problem]:
    return {}


def _no_bindings() -> Mapping[str, Mapping[str, object]]:
    return {}


@dataclass(frozen=True, slots=True)
class Ports:
    """What the runner needs of the world."""

    kernel: Kernel
    journal: Journal
    clock: Clock
    workloads: Workloads
    hooks: Hooks
    artifacts: Artifacts
    default_kernel: DefaultKernel = field(default_factory=NoDriver)
    disks: Disks = field(default_factory=HostedDisks)
    bindings: Callable[[], Mapping[str, Mapping[str, object]]] = _no_bindings
    """The broker's bindings of workloads to peers."""
    left_behind: Callable[[], Mapping[str, Problem]] = _nobody
    """Whom the broker drained instead of preserving, and why."""


@dataclass(frozen=True, slots=True)
class Pace:
    """How often things are looked at, in seconds, and how often they may fail."""

    probe_s: float = 1.0
    """Between health probes while VERIFYING."""
    watch_s: float = 5.0
    """Between health probes while BAKING."""
    relapse_after: int = 3
    """Bad probes in a row that make a relapse: one flap must not cost a rollback."""
    finish_tries: int = 3
    finish_wait_s: float = 1.0


class Effects:
    """Performs effects for one node."""

    def __init__(self, ports: Ports, pace: Pace, boot_id: str, early: Sequence[Mark] = ()) -> None:
        self._early = {mark.name: mark for mark in early}
        """Marks of the blackout path: when it retrieved and resumed, before there was a runner."""
        self._ports = ports
        self._pace = pace
        self._boot_id = boot_id
        self.session = AgentSession(ports.clock)
        self.last_word_s = 0.0
        """When the orchestrator was last heard of: it renews the wait for PROCEED."""

    def mark(self, name: str) -> Mark:
        """All clocks, now."""
        clock = self._ports.clock
        return Mark(name, clock.realtime(), clock.boottime_s(), clock.tsc(), self._boot_id)

    def _done(self, name: str) -> Mark:
        """When it was done: by the blackout path, if that did it, else now."""
        return self._early.pop(name, None) or self.mark(name)

    async def perform(self, effect: Effect, attempt: Attempt) -> ev.Event | None:
        """Perform a cancellable effect. None: it has nothing to say.

        Raises:
            AgentError: it failed.
        """
        return await self._table()[effect](attempt)

    def _table(self) -> Mapping[Effect, Callable[[Attempt], Awaitable[ev.Event | None]]]:
        return {
            Effect.LOAD: self._load,
            Effect.DRAIN: self._drain,
            Effect.PRESERVE: self._preserve,
            Effect.AWAIT_PROCEED: self._await_proceed,
            Effect.SUSPEND: self._suspend,
            Effect.RETRIEVE: self._retrieve,
            Effect.RESUME: self._resume,
            Effect.VERIFY: self._verify,
            Effect.FINISH: self._finish,
            Effect.WATCH: self._watch,
            Effect.SET_DEFAULT: self._set_default,
            Effect.UNWIND: self._unwind,
            Effect.BRING_BACK: self._bring_back,
        }

    async def _load(self, attempt: Attempt) -> ev.Event:
        ports = self._ports
        staged, skipped = await preflight(attempt, ports.kernel, ports.artifacts, ports.workloads)
        command_line = name_attempt(attempt.command_line, attempt.ref.id)
        image = KexecImage(staged.kernel_path, staged.initrd_path, command_line, staged.release)
        await self._ports.kernel.load(image)
        return ev.Loaded(staged.release, skipped)

    async def _drain(self, attempt: Attempt) -> ev.Event:
        await self._ports.hooks.drain()
        asked = await self._ports.workloads.subscribers()
        sessions = {id: session_name(attempt.ref.id, id) for id in asked}
        return ev.Drained(sessions, self._ports.bindings())

    async def _preserve(self, attempt: Attempt) -> ev.Event:
        start = self.mark(timing.PRESERVE_START)
        kernel, workloads = self._ports.kernel, self._ports.workloads
        sessions = dict(await workloads.preserve(kernel, attempt.ref.id))
        await self.session.create(kernel, attempt, sessions)
        tokens = await kernel.prepare()
        done = self.mark(timing.PRESERVE_DONE)
        tsc_hz = self._ports.clock.tsc_hz
        self.session.write_marks((start, done), tsc_hz)
        left = self._ports.left_behind()
        return ev.Preserved(sessions, self._ports.bindings(), (start, done), tsc_hz, left, tokens)

    async def _await_proceed(self, attempt: Attempt) -> ev.Event:
        clock, wait_s = self._ports.clock, attempt.timeouts.preserved_s
        self.last_word_s = clock.boottime_s()
        while (left_s := self.last_word_s + wait_s - clock.boottime_s()) > 0:
            await clock.sleep(left_s)
        return ev.LeaseExpired(
            Problem(
                "LEASE_EXPIRED",
                Retry.REPLAN,
                f"no word of the orchestrator for {wait_s:g} s while PRESERVED",
                "Check the link between the node and the orchestrator; nothing was lost.",
                {"step": attempt.phase.value},
            )
        )

    async def _suspend(self, _: Attempt) -> ev.Event:
        # Written back before anything stands still, so that the sync in the blackout is short.
        await self._ports.disks.settle()
        mark = self.mark(timing.SUSPEND)
        await self._ports.workloads.suspend()
        return ev.Suspended((mark,))

    async def _retrieve(self, attempt: Attempt) -> ev.Event:
        await self._ports.workloads.retrieve(self._ports.kernel, attempt.sessions)
        return ev.Retrieved((self._done(timing.RETRIEVED),))

    async def as_far_as_it_came(self, problem: Problem) -> Problem:
        """A failed RETRIEVE's problem, with the workloads whose sessions are held all the same."""
        held = [peer.workload for peer in await self._ports.workloads.peers() if peer.session]
        return replace(problem, fields={**problem.fields, CROSSED: ",".join(held)}) if held else problem

    async def _resume(self, attempt: Attempt) -> ev.Event:
        pauses = await self._ports.workloads.resume()
        marks = (*attempt.marks, self._done(timing.RESUME))
        emulated = attempt.emulated
        samples = [_sample(pause, emulated=emulated) for pause in pauses]
        gap = timing.host_gap(marks, attempt.tsc_hz, emulated=emulated)
        if gap is not None:
            samples.append(gap)
        return ev.Resumed(marks[-1:], tuple(samples), _memory(pauses))

    async def _verify(self, attempt: Attempt) -> ev.Event:
        memory = attempt.memory
        if memory is not None and not memory.passed:
            return ev.Unhealthy(
                Problem(
                    "MEMORY_DIFFERS",
                    Retry.NEVER,
                    f"{memory.workloads - memory.intact} of {memory.workloads} workloads found their "
                    "memory changed",
                    "Do not send this pair of kernels any further; keep the node for inspection.",
                )
            )
        clock, hold_s = self._ports.clock, attempt.health_hold_s
        deadline_s = clock.boottime_s() + attempt.timeouts.verifying_s + hold_s
        held_at_s: float | None = None
        while True:
            healthy, why = await self._probe()
            now_s = clock.boottime_s()
            wait_s = self._pace.probe_s
            if healthy:
                # One sum, compared and waited for: a second one, rounded otherwise, may leave a wait of 0.
                held_at_s = now_s + hold_s if held_at_s is None else held_at_s
                if now_s >= held_at_s:
                    return ev.Healthy()
                wait_s = min(wait_s, held_at_s - now_s)
            else:
                held_at_s = None
            # One that is still at it when the step's time is up would cost the reason: TimedOut has none.
            end_s = deadline_s if healthy else deadline_s - LAST_PROBE_PART * attempt.timeouts.verifying_s
            if now_s + wait_s >= end_s:
                return ev.Unhealthy(_unhealthy(why or "health did not hold for long enough"))
            await clock.sleep(wait_s)

    async def _finish(self, attempt: Attempt) -> ev.Event:
        await self._finish_sessions(attempt)
        await self._again(self._ports.hooks.undrain)
        mark = self.mark(timing.FINISH)
        return ev.Finished((mark,), timing.brownout_s((*attempt.marks, mark), attempt.tsc_hz))

    async def _finish_sessions(self, attempt: Attempt) -> None:
        await self._again(self._ports.workloads.finish)
        await self._again(lambda: self.session.finish(self._ports.kernel, attempt))
        await self._again(self._ports.kernel.finish)

    async def _again(self, call: Callable[[], Awaitable[None]]) -> None:
        """Finishing is worth a few tries: a session that stays unfinished quarantines the node."""
        for _ in range(self._pace.finish_tries - 1):
            try:
                return await call()
            except AgentError:
                await self._ports.clock.sleep(self._pace.finish_wait_s)
        return await call()

    async def _watch(self, _: Attempt) -> ev.Event:
        bad = 0
        while True:
            healthy, why = await self._probe()
            bad = 0 if healthy else bad + 1
            if bad >= self._pace.relapse_after:
                return ev.Relapsed(_unhealthy(why))
            await self._ports.clock.sleep(self._pace.watch_s)

    async def _probe(self) -> tuple[bool, str]:
        try:
            return await self._ports.hooks.healthy()
        except HookFailed as error:
            return False, error.message
        except Exception as error:  # BAKING would begin anew at once, journalling each time
            log.exception("the health probe failed in a way nobody foresaw")
            return False, f"the health probe failed with {type(error).__name__}"

    async def _set_default(self, attempt: Attempt) -> ev.Event:
        staged = await self._ports.artifacts.get(attempt.artifact.digest)
        await self._ports.default_kernel.choose(
            BootChoice(
                staged.digest, staged.release, staged.kernel_path, staged.initrd_path, attempt.command_line
            )
        )
        return ev.Committed()

    async def _unwind(self, attempt: Attempt) -> ev.Event:
        await self.undo_all(attempt)
        return ev.Unwound()

    async def undo_all(self, attempt: Attempt) -> None:
        """Every undo that the attempt needs, also after one of them has failed.

        Raises:
            AgentError: the first failure, or whatever nobody foresaw.
        """
        plan = undo_plan(attempt.furthest)
        await _each([*(partial(self._undo, undo) for undo in plan), self._ports.disks.let_go])

    async def _undo(self, undo: Undo) -> None:
        match undo:
            case Undo.RESUME:
                await self._ports.workloads.resume()
            case Undo.RELEASE:
                await self._release()
            case Undo.UNDRAIN:
                await self._ports.hooks.undrain()
            case Undo.UNLOAD:
                await self._ports.kernel.unload()

    async def _release(self) -> None:
        await _each([self.session.close, self._ports.workloads.release, self._ports.kernel.cancel])

    async def make_safe(self, attempt: Attempt) -> None:
        """Without a journal: undo what was begun before the jump, bring back what stands still
        after it, as well as it goes. Logs what does not."""
        if attempt.phase in (*BEFORE_JUMP, Phase.UNWINDING):
            await _at_best(self.undo_all(attempt))
        elif attempt.phase in (Phase.RETRIEVING, Phase.RESUMING):
            await _at_best(self._retrieve(attempt))
            await _at_best(self._bring_back(attempt))

    async def nothing_crossed(self) -> None:
        """Nothing is retrieved in this boot: whoever waits to claim its memory starts afresh."""
        await _at_best(self._ports.workloads.release())

    async def _bring_back(self, _: Attempt) -> None:
        await self._ports.workloads.resume()


async def _each(calls: Sequence[Callable[[], Awaitable[None]]]) -> None:
    """Every call in turn, also after one has failed in whatever way: none may keep the others from being
    done. Raises the first failure."""
    failed: Exception | None = None
    for call in calls:
        try:
            await call()
        except Exception as error:  # noqa: BLE001 - raised below
            failed = failed or error
    if failed is not None:
        raise failed


async def _at_best(work: Awaitable[object]) -> None:
    try:
        await work
    except AgentError as error:
        log.error("while making the node safe: %s", error.message)  # noqa: TRY400 - expected


def _sample(pause: WorkloadPause, *, emulated: bool) -> BlackoutSample:
    return BlackoutSample(
        vantage=Vantage.WORKLOAD,
        duration_s=pause.duration_s,
        uncertainty_s=pause.uncertainty_s,
        clock="emulated" if emulated else pause.clock,
        workload=pause.workload,
        rejected=pause.rejected,
        emulated=emulated,
    )


def _memory(pauses: Sequence[WorkloadPause]) -> MemoryCheck | None:
    checked = [pause for pause in pauses if pause.memory_intact is not None]
    if not checked:
        return None
    intact = sum(1 for pause in checked if pause.memory_intact)
    return MemoryCheck(len(checked), intact, sum(pause.bytes_checked for pause in checked))


def _unhealthy(why: str) -> Problem:
    return Problem(
        "UNHEALTHY",
        Retry.REPLAN,
        why or "the health hook said no",
        "Look at what the node's health hook checks; roll the node back if the new kernel is at fault.",
    )
