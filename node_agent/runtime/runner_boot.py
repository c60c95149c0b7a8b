"""What the runner knows when it starts: which boot this is, and what an earlier one left.

Only a process that holds the journal's lock may get here (JournalLocked otherwise).
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from datetime import timedelta

from node_agent.core import events as ev
from node_agent.core import timing
from node_agent.core.attempt import Attempt, KexecByHand, NodeState
from node_agent.core.history import History, replay
from node_agent.core.model import BY_HAND, KexecTelemetry, Mark, Problem
from node_agent.core.phases import Phase, Verdict
from node_agent.core.recovery import BootView, SessionFinding, came_by_hand, classify
from node_agent.errors import JournalCorrupt, KernelError, Retry
from node_agent.kernel.tokens import UPDATED
from node_agent.ports import BootFacts, Clock, JournalRecord, Kernel, Session
from node_agent.runtime.runner_session import AgentSession, Found

log = logging.getLogger(__name__)

MAY_HAVE_CROSSED = frozenset(
    {Phase.PRESERVING, Phase.PRESERVED, Phase.SUSPENDING, Phase.JUMPING, Phase.UNWINDING}
)
"""Phases whose sessions a kexec may have carried over."""


@dataclass(frozen=True, slots=True)
class Boot:
    """What the composition root knows of this boot."""

    facts: BootFacts
    agent_session: Session | None = None
    """The attempt's agent session, if the resume path has retrieved it already."""
    marks: Sequence[Mark] = field(default_factory=tuple)
    """Marks that the resume path made; kernel_start and userspace_start are made up if absent."""
    quarantine: Problem | None = None
    """The journal of before was corrupt and was set aside: stand still, and say so."""


def read_history(records: Sequence[JournalRecord]) -> History:
    """The journal's content.

    Raises:
        JournalCorrupt: a record with a right checksum makes no sense.
    """
    try:
        return replay(records)
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise JournalCorrupt(
            "the journal holds a record that makes no sense",
            remedy="It was written by another version, or damaged. Set it aside and retry the node by name.",
        ) from error


async def classify_boot(
    node: NodeState, boot: Boot, session: AgentSession, kernel: Kernel, clock: Clock
) -> tuple[ev.BootClassified, float]:
    """Look for the attempt's session and name the boot; the TSC frequency that crossed, or 0.

    Raises:
        KernelError: the device refuses for a reason that says nothing about the session.
    """
    facts, attempt = boot.facts, node.attempt
    found = Found(SessionFinding.ABSENT)
    new_boot = node.boot_id not in ("", facts.boot_id)
    if attempt is not None and new_boot and not facts.poisoned and attempt.phase in MAY_HAVE_CROSSED:
        found = await session.find(kernel, attempt, boot.agent_session)
    told = await _told(kernel) if new_boot else None
    view = BootView(
        facts.boot_id,
        facts.release,
        facts.command_line,
        facts.poisoned,
        found.finding,
        facts.kexec_count,
        told is not None or facts.luo_state == UPDATED,
    )
    verdict = classify(node, view)
    marks: tuple[Mark, ...] = ()
    if attempt is not None and new_boot:
        crossed = _unknown(attempt, found.marks)
        before = timing.find((*attempt.marks, *crossed), timing.PRE_REBOOT)
        marks = (*crossed, *_start_marks(boot, clock, told, before))
    by_hand = problem = None
    if verdict is Verdict.FOREIGN_KEXEC and came_by_hand(node, view):
        assert node.kexec_by_hand is not None
        by_hand = _by_hand(node.kexec_by_hand, facts)
    else:
        problem = _problem(verdict, attempt, facts, found)
    return ev.BootClassified(verdict, facts.boot_id, facts.release, marks, problem, by_hand), found.tsc_hz


def named(node: NodeState, event: ev.BootClassified, quarantine: Problem | None) -> NodeState:
    """The node, whose boot has its name now.

    Args:
        quarantine: what keeps it from beginning anything, whatever the boot is.
    """
    again = event.verdict is Verdict.SAME_BOOT
    if node.attempt is None and event.verdict is Verdict.POISONED:
        quarantine = event.problem
    if quarantine is not None:
        node = replace(node, quarantine=quarantine, healthy=False)
    return replace(
        node,
        boot_id=event.boot_id,
        verdict=event.verdict,
        kexec_by_hand=None,
        by_hand=node.by_hand if again else event.by_hand is not None,
    )


async def _told(kernel: Kernel) -> KexecTelemetry | None:
    """Telemetry is evidence of time: a kernel that cannot give it does not keep the boot from being named."""
    try:
        return await kernel.telemetry()
    except KernelError as error:
        log.warning("no kexec telemetry: %s", error.message)
        return None


def _unknown(attempt: Attempt, marks: Sequence[Mark]) -> tuple[Mark, ...]:
    """The marks of the area that the journal does not hold: pre_reboot, at least."""
    known = {mark.name for mark in attempt.marks}
    return tuple(mark for mark in marks if mark.name not in known)


def _start_marks(
    boot: Boot, clock: Clock, told: KexecTelemetry | None, before: Mark | None
) -> tuple[Mark, ...]:
    """In the order of their times. The kernel's word, where it gives one, goes before what is reckoned."""
    marks = {mark.name: mark for mark in boot.marks}
    now = Mark(timing.USERSPACE_START, clock.realtime(), clock.boottime_s(), clock.tsc(), boot.facts.boot_id)
    marks.setdefault(timing.USERSPACE_START, now)
    if timing.KERNEL_START not in marks:
        # CLOCK_BOOTTIME is zero when the kernel starts to keep time.
        back_s = now.boottime_s
        tsc = max(0, now.tsc - round(back_s * clock.tsc_hz)) if now.tsc else 0
        at = now.realtime_at - timedelta(seconds=back_s)
        marks[timing.KERNEL_START] = Mark(timing.KERNEL_START, at, 0.0, tsc, now.boot_id)
    if told is not None:
        marks.update({mark.name: mark for mark in timing.told_marks(told, before, now, tsc_hz=clock.tsc_hz)})
    order = (timing.KERNEL_LEFT, timing.KERNEL_START, timing.INIT_START, timing.USERSPACE_START)
    return tuple(marks[name] for name in order if name in marks)


_BOOT_PROBLEMS: dict[Verdict, tuple[str, Retry, str, str]] = {
    Verdict.STATE_LOST: (
        "STATE_LOST",
        Retry.FIX_STATE,
        "the new kernel booted, but the session did not cross",
        "Check the target's KHO and LUO options and its log; bring the workloads back, then retry by name.",
    ),
    Verdict.COLD_BOOT: (
        "COLD_BOOTED",
        Retry.FIX_STATE,
        "the node restarted without its memory",
        "Look for a panic or a power loss in its console log; bring the workloads back, then retry by name.",
    ),
    Verdict.WRONG_KERNEL: (
        "WRONG_KERNEL",
        Retry.FIX_STATE,
        "the node booted another kernel than the one it was sent to",
        "Check what the artifact's kernel calls itself, and what else loads kexec images on the node.",
    ),
    Verdict.POISONED: (
        "DEVICE_POISONED",
        Retry.FIX_STATE,
        "/dev/liveupdate answers EIO in this boot",
        "Reboot the node in full (cold), bring the workloads back, then retry by name.",
    ),
    Verdict.FOREIGN_KEXEC: (
        "FOREIGN_KEXEC",
        Retry.FIX_STATE,
        "somebody else called kexec while the attempt was under way",
        "Find what called reboot (systemctl kexec, another agent) and stop it, then retry by name.",
    ),
}


def _by_hand(meant: KexecByHand, facts: BootFacts) -> Problem:
    fields = {"by_hand": "kexec", "release": facts.release, "expected_release": meant.release}
    return Problem(
        BY_HAND,
        Retry.NEVER,
        "luoctl kexec: an operator brought the node into this boot, by hand",
        "`luoctl finish` ends an update that came over, `luoctl list` says what came with it.",
        fields | {"boot_id": facts.boot_id},
    )


def _problem(verdict: Verdict, attempt: Attempt | None, facts: BootFacts, found: Found) -> Problem | None:
    """What is wrong about the boot; None where nothing is, or nothing was under way."""
    if verdict not in _BOOT_PROBLEMS or (attempt is None and verdict is not Verdict.POISONED):
        return None
    reason, retry, message, remedy = _BOOT_PROBLEMS[verdict]
    fields = {"release": facts.release, "boot_id": facts.boot_id}
    if attempt is not None:
        fields |= {"expected_release": attempt.to_release, "was": attempt.phase.value}
    if found.why:
        fields["session"] = found.why
    return Problem(reason, retry, message, remedy, fields)
