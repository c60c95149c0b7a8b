"""Taking in what the store has forgotten: an attempt of its lost future, or the rest of one it knows.

Rules
1. Only of a node that has been found to have lived longer than the store (transitions_regression.py).
2. A known attempt whose reports were acknowledged and lost is caught up with from the Hello, if the
   node has no report left that would tell it.
3. An unknown attempt gets its row: adopted, as it stands, of no rollout yet (adoption.py). What the node
   calls updated is judged by the method's own rule here, too. Reports that are still to come are
   taken into it like any others.
4. Before its jump it is undone, whatever it was for: the store that allowed it is gone.
5. An older attempt that the store has as open is over, one way or another: one open attempt a node.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import datetime
from typing import TYPE_CHECKING

from orchestrator.core.messages import AttemptRef, Hello
from orchestrator.core.model import Artifact, AttemptRow, DesiredCancel, NewEvent, NodeRow, Problem
from orchestrator.core.phases import BEFORE_JUMP, SETTLED, Kind, Method, Phase
from orchestrator.core.settlement import FORGOTTEN
from orchestrator.core.transitions_hello import told_by
from orchestrator.core.transitions_node import clear_desired
from orchestrator.core.transitions_regression import LOCAL_INCARNATION, of_this_store
from orchestrator.errors import Retry

if TYPE_CHECKING:
    from orchestrator.core.fleet import Fleet

CAUSE = "regressed"
"""AttemptRow.cancel_cause of rule 4."""


@dataclass(frozen=True, slots=True)
class TakenIn:
    """The node and its attempts afterwards."""

    node: NodeRow
    attempts: tuple[AttemptRow, ...]
    events: tuple[NewEvent, ...]


def take_in(
    fleet: Fleet, known: NodeRow | None, node: NodeRow, message: Hello, now: datetime
) -> TakenIn | None:
    """None if there is nothing to take in. node: as its Hello describes it."""
    ref = message.status.attempt
    if ref is None or ref.incarnation == LOCAL_INCARNATION:
        return None
    if not of_this_store(fleet, message, ref.incarnation):
        return None
    own = fleet.attempts.get((node.node_id, ref.generation))
    if own is None:
        newest = fleet.newest_attempt(node.node_id)
        if newest is not None and newest.generation > ref.generation:
            return None
        return _adopted(fleet, known, node, ref, message, now)
    told = message.status.seq <= message.acknowledged_seq
    if own.incarnation != ref.incarnation or not told or message.status.seq <= own.seq:
        return None
    learnt = told_by(own, message, "Adopted", now)
    caught_up = replace(learnt.attempt, seq=message.status.seq)
    return TakenIn(node, (caught_up,), _without_doubt(learnt.events))


def _adopted(
    fleet: Fleet, known: NodeRow | None, node: NodeRow, ref: AttemptRef, message: Hello, now: datetime
) -> TakenIn:
    row = _row(known, ref, message, now)
    events = [_event(row, "attempt.adopted", f"{row.node_id}: attempt {row.generation} is of a lost future")]
    if row.seq >= message.status.seq:
        learnt = told_by(row, message, "Adopted", now)
        row, events = learnt.attempt, list(_without_doubt(learnt.events))
    forgotten = [_ended(a, row.generation, now) for a in fleet.attempts_at(node.node_id) if _is_open(a)]
    events += [
        _event(a, "node.settled", f"{a.node_id}: attempt {a.generation} is {a.phase}", CAUSE)
        for a in forgotten
    ]
    node = replace(node, attempt=row.generation)
    if message.status.phase in BEFORE_JUMP and _is_open(row):
        row = replace(row, cancel_cause=CAUSE, spares_budget=True)
        why = f"{CAUSE}: the store that prepared it is gone"
        node = replace(
            node, desired=DesiredCancel(row.generation, why), command_serial=node.command_serial + 1
        )
        text = f"{row.node_id}: attempt {row.generation} is to be undone ({why})"
        events.append(_event(row, "attempt.cancelled", text, CAUSE))
    elif node.desired is not None:
        node = clear_desired(node)
    return TakenIn(node, (row, *forgotten), tuple(events))


def _row(known: NodeRow | None, ref: AttemptRef, message: Hello, now: datetime) -> AttemptRow:
    """The attempt before anything of it is believed."""
    said, memory = message.status, message.memory
    artifact = memory.artifact if memory is not None else Artifact(message.release, "", message.release, "")
    before = known or NodeRow(message.node_id)
    return AttemptRow(
        node_id=message.node_id,
        generation=ref.generation,
        incarnation=ref.incarnation,
        rollout_id="",
        kind=memory.kind if memory is not None else Kind.FORWARD,
        method=Method.LIVE,
        phase=Phase.LOADING,
        artifact=artifact,
        from_release=(memory.from_release if memory is not None else "") or before.release,
        to_release=artifact.release,
        hardware_model=message.hardware_model,
        expected_boot_id=(memory.from_boot_id if memory is not None else "") or before.boot_id,
        command_line=message.command_line,
        opened_at=now,
        phase_at=now,
        domains=message.labels,
        acknowledged=True,
        # An agent that does not say what was acknowledged is believed at once: nobody knows of more.
        seq=min(said.seq, message.acknowledged_seq) if memory is not None else said.seq,
        adopted=True,
    )


def _ended(attempt: AttemptRow, by: int, now: datetime) -> AttemptRow:
    """Rule 5. How it ended is not known, so it is held against nobody."""
    return replace(
        attempt,
        phase=Phase.ABORTED,
        phase_at=now,
        settled_at=now,
        spares_budget=True,
        cancel_cause=CAUSE,
        blackout_open_at=None,
        proceed_until=None,  # whatever boot the node is in by now, it is not this attempt's doing
        problem=Problem(
            FORGOTTEN,
            Retry.REPLAN,
            f"the store went back in time, and the node has begun attempt {by} since",
            "Nothing to do: the newer attempt says where the node stands.",
        ),
    )


def _is_open(attempt: AttemptRow) -> bool:
    return attempt.phase not in SETTLED


def _without_doubt(events: tuple[NewEvent, ...]) -> tuple[NewEvent, ...]:
    """That phases do not follow each other is no contradiction here: what lay between is lost."""
    return tuple(event for event in events if event.kind != "attempt.contradicted")


def _event(attempt: AttemptRow, kind: str, text: str, cause: str = "") -> NewEvent:
    return NewEvent(
        kind,
        text,
        rollout_id=attempt.rollout_id,
        node_id=attempt.node_id,
        generation=attempt.generation,
        cause=cause,
        fields={"phase": attempt.phase.value, "kind": attempt.kind.value},
    )
