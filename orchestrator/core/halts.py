"""When failures halt a rollout: the failure budget, and failures that halt at the first.

A halt is written with the settlement that calls for it, so an operator's clear_halt (which
forgives the failures so far) is not undone by the next plan.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from orchestrator.core.budgets import failure_limit, failures
from orchestrator.core.index import RolloutIndex
from orchestrator.core.model import AttemptRow, MemberRow, NewEvent, RolloutRow
from orchestrator.core.phases import Goal
from orchestrator.core.settlement import failure_kinds

HALT_ON = "HALT_ON_"
FAILURE_BUDGET = "FAILURE_BUDGET"
GATE_FAILED = "GATE_FAILED"


@dataclass(frozen=True, slots=True)
class Halt:
    row: RolloutRow
    event: NewEvent


def halted(row: RolloutRow, reason: str, message: str) -> Halt:
    """The rollout, halted, and the event that says so."""
    after = replace(row, halted=reason, halt_message=message)
    event = NewEvent("rollout.halted", f"halted: {message}", rollout_id=row.rollout_id, cause=reason)
    return Halt(after, event)


def halt_for(index: RolloutIndex, settled: Sequence[tuple[MemberRow, AttemptRow]]) -> Halt | None:
    """Whether these failures, about to be settled, halt the rollout."""
    row = index.row
    if row.goal is not Goal.FORWARD or row.halted or row.ended_at is not None:
        return None
    for member, attempt in settled:
        for kind in failure_kinds(attempt):
            if kind in row.spec.budgets.failures.halt_on:
                text = f"{member.node_id} is {kind.replace('_', ' ')}, and a rollout halts at the first"
                return halted(row, HALT_ON + kind.upper(), _told(text, attempt))
    new = sum(not index.members[member.node_id].failed for member, _ in settled)
    count, limit = failures(index) + new, failure_limit(index)
    if new and count > limit:
        names = ", ".join(member.node_id for member, _ in settled[:3])
        text = f"{count} failed nodes, {limit} allowed (newest: {names})"
        return halted(row, FAILURE_BUDGET, _told(text, settled[0][1]))
    return None


def _told(text: str, attempt: AttemptRow) -> str:
    return f"{text}: {attempt.problem.message}" if attempt.problem is not None else text
