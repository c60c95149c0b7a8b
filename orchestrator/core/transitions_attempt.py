"""What one report does to its attempt: the new row and the events that tell of it.

Rules
1. Learn first (marks, samples, verdict, memory, stamp), then judge the phase.
2. `failed` and `ever_lost` never become false again; a node that returns from LOST is believed
   in all else.
3. Only a node's newest attempt may be re-opened: an older one that says it is under way is
   recorded, and left settled (one open attempt a node).
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import datetime

from orchestrator.core.messages import BY_HAND, Report
from orchestrator.core.model import AttemptRow, Mark, NewEvent, Problem, Sample
from orchestrator.core.phases import SETTLED, Phase, Verdict
from orchestrator.core.transitions_tables import (
    CLOSES_BLACKOUT,
    FOLLOWS,
    NEVER_REPORTED,
    OPENS_BLACKOUT,
    UPDATED,
    failure_of,
    spared,
    unproven,
)
from orchestrator.errors import Retry

_LONGEST_EVENT = 40
"""Of the saga's events JumpIntentRecorded is the longest; nodes do not get to invent kinds."""

_LEFT_TOLD = 4
_BLACKOUTS_TOLD = 4
"""In an event; a node may have a thousand workloads, and the attempt's row keeps them all."""


@dataclass(frozen=True, slots=True)
class Learnt:
    """The attempt after a report, and its story."""

    attempt: AttemptRow
    events: tuple[NewEvent, ...]


def learn(attempt: AttemptRow, report: Report, *, newest: bool, now: datetime) -> Learnt:
    """Take a report into its attempt.

    newest: no later attempt exists on the node. The caller has made sure that the report is
    new (seq) and belongs to this attempt.
    """
    if report.seq <= attempt.seq:
        return Learnt(attempt, ())
    known = _absorb(attempt, report, now)
    phase, flag = _phase_after(attempt, report, newest)
    problem = report.problem or known.problem
    missing = ""
    if phase in UPDATED and attempt.phase not in UPDATED:
        failure, missing = unproven(
            known, boot_id=report.boot_id, release=report.release, healthy=report.healthy
        )
        if failure:
            phase = Phase.QUARANTINED
            problem = _not_proven(missing)
    elif phase in UPDATED:
        failure = ""
    else:
        failure = failure_of(known, phase, problem)
    if phase is Phase.COMMITTED and not failure:
        problem = None
    settled = _settle(known, phase, problem, failure, report, now)
    return Learnt(settled, _story(attempt, settled, report, flag, missing))


def never_started(attempt: AttemptRow, problem: Problem | None, now: datetime) -> Learnt:
    """The node refused its PREPARE, or will never follow it: nothing was done, nothing is undone."""
    done = _settle(attempt, Phase.ABORTED, problem, failure_of(attempt, Phase.ABORTED, problem), None, now)
    text = f"{attempt.node_id}: attempt {attempt.generation} never started"
    event = _event(attempt, "attempt.refused", f"{text}: {problem.message}" if problem else text, problem)
    return Learnt(done, (event, _settled_event(done)))


def add_sample(samples: tuple[Sample, ...], new: tuple[Sample, ...]) -> tuple[Sample, ...]:
    """Each vantage and workload counts once, the first time."""
    seen = {(s.vantage, s.workload) for s in samples}
    added: list[Sample] = []
    for sample in new:
        if (sample.vantage, sample.workload) not in seen:
            seen.add((sample.vantage, sample.workload))
            added.append(sample)
    return samples + tuple(added)


def _absorb(attempt: AttemptRow, report: Report, now: datetime) -> AttemptRow:
    check = report.memory_check
    return replace(
        attempt,
        acknowledged=True,
        seq=report.seq,
        marks=_add_marks(attempt.marks, report.marks),
        samples=add_sample(attempt.samples, report.samples),
        verdict=_verdict(attempt, report),
        brownout=report.brownout if report.brownout is not None else attempt.brownout,
        workloads=check.workloads if check else attempt.workloads,
        memory_intact=check.intact if check else attempt.memory_intact,
        memory_bytes=check.bytes_checked if check else attempt.memory_bytes,
    )


def _add_marks(marks: tuple[Mark, ...], new: tuple[Mark, ...]) -> tuple[Mark, ...]:
    seen = {(m.name, m.boot_id) for m in marks}
    return marks + tuple(m for m in new if (m.name, m.boot_id) not in seen)


def _verdict(attempt: AttemptRow, report: Report) -> Verdict | None:
    """The verdict that decides the attempt: later restarts in the same boot, and boots after
    COMMITTED, say nothing about it any more."""
    new = report.boot_verdict
    if new is None or attempt.phase is Phase.COMMITTED:
        return attempt.verdict
    if new is Verdict.SAME_BOOT and attempt.verdict is not None:
        return attempt.verdict
    return new


def _phase_after(attempt: AttemptRow, report: Report, newest: bool) -> tuple[Phase, str]:
    """The phase to believe, and why it is odd (empty if it is not)."""
    said = report.phase
    if said in NEVER_REPORTED:
        return attempt.phase, f"the node calls the attempt {said}"
    if said not in SETTLED and not newest:
        return attempt.phase, f"an attempt that a newer one has followed is said to be {said}"
    if said not in FOLLOWS[attempt.phase]:
        return said, f"{said} does not follow {attempt.phase}"
    return said, ""


def _settle(
    attempt: AttemptRow,
    phase: Phase,
    problem: Problem | None,
    failure: str,
    report: Report | None,
    now: datetime,
) -> AttemptRow:
    moved = phase is not attempt.phase
    open_at = attempt.blackout_open_at
    if phase in OPENS_BLACKOUT:
        open_at = open_at or now
    elif phase in CLOSES_BLACKOUT:
        open_at = None
    stamp, stamp_at = attempt.stamp, attempt.stamp_at
    if phase is Phase.PRESERVED and report is not None and report.stamp is not None:
        stamp, stamp_at = report.stamp, now
    healthy_since = None
    if phase is Phase.BAKING and report is not None and report.healthy:
        healthy_since = attempt.healthy_since or now
    settled_at = None
    if phase in SETTLED:
        settled_at = attempt.settled_at or now
    spares = attempt.spares_budget
    if phase is Phase.ABORTED and moved:
        spares = spared(attempt, problem)
    return replace(
        attempt,
        phase=phase,
        phase_at=now if moved else attempt.phase_at,
        settled_at=settled_at,
        problem=problem,
        failed=attempt.failed or bool(failure),
        failure=_worse(attempt.failure, failure),
        spares_budget=spares,
        blackout_open_at=open_at,
        stamp=stamp,
        stamp_at=stamp_at,
        healthy_since=healthy_since,
    )


def _worse(before: str, after: str) -> str:
    """Lost memory is named whatever else went wrong; otherwise the first failure stays."""
    return after if after == "state_lost" or not before else before


def _not_proven(missing: str) -> Problem:
    return Problem(
        "NOT_PROVEN",
        Retry.FIX_STATE,
        f"the node calls itself updated, but {missing}",
        "Look at the node and at `liveroll story`; then roll it back, or retry it by name.",
    )


def _story(
    before: AttemptRow, after: AttemptRow, report: Report, flag: str, missing: str
) -> tuple[NewEvent, ...]:
    kind = f"attempt.{_snake(report.event)}"
    where = f"{before.phase} → {after.phase}" if before.phase is not after.phase else f"{after.phase}"
    told = _event(after, kind, f"{after.node_id}: {report.event}, {where}", report.problem, report)
    measured = _blackouts(after.samples[len(before.samples) :])
    if measured:
        told = replace(told, fields={**told.fields, "blackout": measured})
    if report.left_behind:
        told = replace(told, fields={**told.fields, "left_behind": _left_behind(report.left_behind)})
    events = [told]
    if flag:
        events.append(_event(after, "attempt.contradicted", f"{after.node_id}: {flag}", None, report))
    if missing:
        events.append(
            _event(after, "attempt.not_proven", f"{after.node_id}: {missing}", after.problem, report)
        )
    if before.phase is Phase.LOST and after.phase is not Phase.LOST:
        text = f"{after.node_id} returned, {after.phase}"
        events.append(_event(after, "node.returned", text, None, report))
    if after.phase in SETTLED and after.phase is not before.phase:
        events.append(_settled_event(after))
    return tuple(events)


def _blackouts(samples: tuple[Sample, ...]) -> str:
    """`w1 0.612 s, host 0.640 s`, the longest first."""
    longest = sorted(samples, key=lambda s: (-s.duration, s.workload))
    said = [
        f"{s.workload or s.vantage.lower()} {s.duration.total_seconds():.3f} s"
        + (f" (rejected: {s.rejected})" if s.rejected else "")
        for s in longest[:_BLACKOUTS_TOLD]
    ]
    if len(longest) > _BLACKOUTS_TOLD:
        said.append(f"{len(longest) - _BLACKOUTS_TOLD} shorter ones")
    return ", ".join(said)


def _left_behind(drained: tuple[tuple[str, Problem], ...]) -> str:
    """`vm-3: workload vm-3 cannot be preserved: PRESERVE_FD: ENOENT; …`"""
    said = [f"{workload}: {why.message or why.reason}" for workload, why in drained[:_LEFT_TOLD]]
    if len(drained) > _LEFT_TOLD:
        said.append(f"and {len(drained) - _LEFT_TOLD} more")
    return "; ".join(said)


def _settled_event(after: AttemptRow) -> NewEvent:
    cause = after.failure or after.cancel_cause
    text = f"{after.node_id}: attempt {after.generation} is {after.phase}"
    return _event(after, "node.settled", f"{text} ({cause})" if cause else text, after.problem)


def _event(
    attempt: AttemptRow, kind: str, message: str, problem: Problem | None, report: Report | None = None
) -> NewEvent:
    fields = {"phase": attempt.phase.value, "kind": attempt.kind.value}
    if attempt.failure:
        fields["failure"] = attempt.failure
    if report is not None and report.boot_verdict is not None:
        fields["verdict"] = report.boot_verdict.value
    if report is not None and report.by_hand:
        fields[BY_HAND] = report.by_hand
    if problem is not None:
        fields["problem"] = problem.reason
        fields["problem_message"] = problem.message
    return NewEvent(
        kind=kind,
        message=message,
        rollout_id=attempt.rollout_id,
        node_id=attempt.node_id,
        generation=attempt.generation,
        actor=attempt.node_id if report is not None else "orchestrator",
        cause=attempt.cancel_cause,
        fields=fields,
    )


def _snake(name: str) -> str:
    """`JumpIntentRecorded` → `jump_intent_recorded`; a name that is none → `reported`."""
    if not (name.isascii() and name.isalpha() and len(name) <= _LONGEST_EVENT):
        return "reported"
    return "".join(f"_{c.lower()}" if c.isupper() and i else c.lower() for i, c in enumerate(name))
