"""One effect, bounded: it ends with an event, whatever happens to it.

Rules
1. The bound is the step's timeout on the injected clock; for SUSPEND also what is left of the lease,
   since workloads must not stand still for a jump that may no longer happen.
2. An error becomes StepFailed with its reason, retry class and remedy; so does one that nobody
   foresaw, because whatever was begun must still be undone.
3. BRING_BACK says nothing: the state it serves knows no events.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Coroutine
from dataclasses import replace
from typing import Any, TypeVar

from node_agent.core import events as ev
from node_agent.core import timing
from node_agent.core.admission import lease_problem
from node_agent.core.attempt import Attempt
from node_agent.core.model import BootStamp, Problem
from node_agent.core.phases import Phase
from node_agent.core.steps import Effect, timeout_s
from node_agent.errors import AgentError, JournalUnavailable, Retry
from node_agent.ports import Clock
from node_agent.runtime.runner_effects import Effects, Ports

log = logging.getLogger(__name__)

T = TypeVar("T")
Commit = Coroutine[Any, Any, None]

STALL_S = 10.0
"""A disk that is merely slow lets the lease expire and the attempt unwind in order; one that hangs for
longer costs the node its journal, and the workloads run again."""


async def perform_bounded(
    effects: Effects, clock: Clock, effect: Effect, attempt: Attempt, now: BootStamp
) -> ev.Event | None:
    """Perform a cancellable effect within its bound. Raises only CancelledError."""
    limit_s, expired = _bound(effect, attempt, now)
    try:
        event = await within(clock, limit_s, effects.perform(effect, attempt))
    except TimeoutError:
        event = expired
    except AgentError as error:
        event = ev.StepFailed(Problem.of(error, step=attempt.phase.value))
    except Exception as error:  # rule 2: no failure of a step may keep it from being undone
        log.exception("%s failed in a way nobody foresaw", effect)
        event = ev.StepFailed(_unforeseen(error, attempt))
    if effect is Effect.RETRIEVE and isinstance(event, (ev.StepFailed, ev.TimedOut)):
        event = replace(event, problem=await effects.as_far_as_it_came(event.problem))
    if effect is Effect.BRING_BACK:
        if event is not None:
            log.error("workloads could not be brought back: %s", event)
        return None
    return event


async def in_time(clock: Clock, attempt: Attempt, event: ev.Event, now: BootStamp, commit: Commit) -> None:
    """Journal an event; while workloads stand still for a jump, for not much longer than the lease.

    Raises:
        JournalUnavailable: it failed; or it hangs, and what becomes of the record nobody knows.
    """
    stands_still = isinstance(event, ev.Suspended) or attempt.phase is Phase.JUMPING
    if not stands_still:
        return await commit
    assert attempt.lease is not None
    left_s = attempt.lease.stamp.boottime_s + attempt.lease.valid_for_s - now.boottime_s
    try:
        await within(clock, max(left_s, 0.0) + STALL_S, commit)
    except TimeoutError:
        raise JournalUnavailable(
            f"the journal's disk gave no answer until {STALL_S:g} s after the lease ran out",
            reason="JOURNAL_STALLED",
            remedy="Check the disk that holds the state directory, then restart the agent.",
        ) from None


class _Late(Exception):
    """The lease ran out, seen as the last act before reboot."""

    def __init__(self, problem: Problem) -> None:
        super().__init__(problem.message)
        self.problem = problem


async def jump(effects: Effects, ports: Ports, attempt: Attempt, stamp: Callable[[], BootStamp]) -> ev.Event:
    """All that comes after the JumpIntent; why there is still somebody to say so.

    The write-back and the look at LUO are cut short by the lease, because workloads stand still meanwhile.
    Nothing has left this boot yet, so that every failure may unwind. The lease is judged last: between that
    and reboot nothing is waited for, and least of all while filesystems are frozen.
    """
    lease = attempt.lease
    assert lease is not None

    def left_s() -> float:
        return lease.stamp.boottime_s + lease.valid_for_s - stamp().boottime_s

    def last() -> None:
        mark = effects.mark(timing.PRE_REBOOT)
        effects.session.write_marks((*attempt.marks, mark), attempt.tsc_hz)
        late = lease_problem(lease, stamp())
        if late is not None:
            raise _Late(late)

    try:
        await within(ports.clock, left_s(), got_ready(ports))
        await ports.disks.jump(ports.kernel, last, left_s())
    except _Late as late:
        return ev.LeaseExpired(late.problem)
    except TimeoutError:
        return ev.LeaseExpired(
            lease_problem(lease, stamp()) or _expired(attempt, "the node was ready to jump")
        )
    except AgentError as error:
        return ev.RebootRefused(Problem.of(error, step=Phase.JUMPING.value))
    except Exception as error:  # rule 2
        log.exception("the jump failed before the reboot in a way nobody foresaw")
        return ev.RebootRefused(_unforeseen(error, attempt))


async def got_ready(ports: Ports) -> None:
    """What comes before a jump and may take as long as a disk, or the device, does. Raises AgentError."""
    await ports.disks.settle()
    await ports.kernel.ready_to_jump()


async def within(clock: Clock, limit_s: float | None, work: Coroutine[Any, Any, T]) -> T:
    """Await work for at most limit_s of the clock.

    Raises:
        TimeoutError: it took longer; it was cancelled and has let go.
    """
    if limit_s is None:
        return await work
    working = asyncio.ensure_future(work)
    sleeping = asyncio.ensure_future(clock.sleep(max(limit_s, 0.0)))
    try:
        await asyncio.wait((working, sleeping), return_when=asyncio.FIRST_COMPLETED)
        if not working.done():
            raise TimeoutError
        return working.result()
    finally:
        for task in (working, sleeping):
            task.cancel()
        await asyncio.gather(working, sleeping, return_exceptions=True)


def _bound(effect: Effect, attempt: Attempt, now: BootStamp) -> tuple[float | None, ev.Event]:
    """How long the effect may take, and what it means if it takes longer."""
    step = attempt.phase.value
    limit_s = timeout_s(effect, attempt)
    lease = attempt.lease
    if effect is Effect.SUSPEND and lease is not None and limit_s is not None:
        left_s = lease.stamp.boottime_s + lease.valid_for_s - now.boottime_s
        if left_s < limit_s:
            return left_s, ev.LeaseExpired(_expired(attempt, "every workload stood still"))
    return limit_s, ev.TimedOut(
        Problem(
            "STEP_TIMEOUT",
            Retry.REPLAN,
            f"{step} took longer than {limit_s or 0:g} s",
            f"Find out what {step} waits for, or allow more time in the rollout's timeouts.",
            {"step": step, "timeout_s": f"{limit_s or 0:g}"},
        )
    )


def _expired(attempt: Attempt, before: str) -> Problem:
    assert attempt.lease is not None
    return Problem(
        "LEASE_EXPIRED",
        Retry.REPLAN,
        f"the lease ran out before {before}",
        "Allow a longer proceed_lease, or find out what is slow: a workload to suspend, or the disk.",
        {"step": attempt.phase.value, "valid_for_s": f"{attempt.lease.valid_for_s:g}"},
    )


def _unforeseen(error: Exception, attempt: Attempt) -> Problem:
    return Problem(
        "INTERNAL",
        Retry.REPLAN,
        f"the step failed with {type(error).__name__}",
        "Read the agent's log for the traceback, and report it.",
        {"step": attempt.phase.value, "error": str(error)},
    )
