"""What operators' calls do to rows: one pure function a call, each giving a Change.

All raise NotFound (with near misses), and where the state forbids the call IllegalTransition
(fields: state, allowed) or Blocked. Nothing is written by a call that raises. Every call
leaves an event with its actor and reason: the audit.

Rules
1. operations_table.ALLOWED says which call which state admits.
2. Calls set goals, gates and words; what follows from them is the planner's.
3. A rollout's id is its name.
4. Every word on a rollout writes its row, so that words and the planner's steps of it come one
   after the other. A call that changes nothing guards the rows that say so: no replica answers
   "it is stopped" from what it was.
"""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from datetime import datetime
from typing import TYPE_CHECKING

from orchestrator.core import resolve, validate
from orchestrator.core.gates import FAIL
from orchestrator.core.halts import GATE_FAILED
from orchestrator.core.model import Artifact, Change, MemberRow, NewEvent, RolloutRow
from orchestrator.core.operations_fleet import fleet_stop
from orchestrator.core.operations_nodes import (
    OnNodes,
    commit_nodes,
    exclude_nodes,
    find_node,
    find_rollout,
    retry_nodes,
    set_maintenance,
    unchanged,
    write_off,
)
from orchestrator.core.operations_table import Meant, Operation, admit, shown_state
from orchestrator.core.phases import Goal, Outcome, RolloutState, WaveState
from orchestrator.core.selectors import near
from orchestrator.core.spec import Promotion, RolloutSpec
from orchestrator.core.standing import pair_key
from orchestrator.errors import AlreadyExists, Blocked, IllegalTransition, InvalidSpec, NotFound, Violation

if TYPE_CHECKING:
    from orchestrator.core.fleet import Fleet

__all__ = [
    "Created",
    "Meant",
    "OnNodes",
    "Operation",
    "approve",
    "cancel",
    "commit_nodes",
    "create",
    "exclude_nodes",
    "find_node",
    "find_rollout",
    "fleet_stop",
    "pause",
    "resolved",
    "resume",
    "retry_nodes",
    "roll_back",
    "set_maintenance",
    "write_off",
]

NOTHING = Change()
GATES = frozenset({"blackout", "health"})
"""Names of gates on a whole wave; a late pair's add which pair."""


@dataclass(frozen=True, slots=True)
class Created:
    """rollout_id is the spec's name. existing: the same body was created before (no change)."""

    rollout_id: str
    change: Change = NOTHING
    existing: bool = False


def create(fleet: Fleet, spec: RolloutSpec, artifact: Artifact, actor: str, now: datetime) -> Created:
    """Begin a rollout: membership and waves are fixed now. InvalidSpec, AlreadyExists."""
    known = fleet.rollout_named(spec.name) if spec.name else None
    if known is not None:
        if known.spec == spec and known.artifact.digest == artifact.digest:
            return Created(known.rollout_id, existing=True)
        differing = [f.name for f in fields(spec) if getattr(spec, f.name) != getattr(known.spec, f.name)]
        if known.artifact.digest != artifact.digest:
            differing.append("the artifact's digest")
        raise AlreadyExists(
            f"rollout {spec.name} exists with another body",
            remedy=f"Choose another name, or send the same body. Different: {', '.join(differing)}.",
            name=spec.name,
            differing=",".join(differing),
        )
    membership = resolved(fleet, spec, artifact, now)
    members: list[MemberRow] = []
    for wave, nodes in enumerate(membership.waves):
        for node_id in nodes:
            position = len(members)
            members.append(MemberRow(spec.name, node_id, wave=wave, position=position))
    rollout = RolloutRow(
        rollout_id=spec.name,
        spec=spec,
        artifact=artifact,
        created_at=now,
        created_by=actor,
        wave_names=membership.wave_names,
        pair_canaries={pair_key(pair): node for pair, node in membership.canaries.items()},
        members=len(members),
    )
    event = NewEvent(
        "rollout.created",
        f"{spec.name}: {len(members)} nodes to {artifact.release} in {len(membership.waves)} waves",
        rollout_id=spec.name,
        actor=actor,
        fields={"artifact": artifact.digest, "release": artifact.release},
    )
    return Created(spec.name, Change((rollout, *members), events=(event,)))


def resolved(fleet: Fleet, spec: RolloutSpec, artifact: Artifact, now: datetime) -> resolve.Membership:
    """Who would take part. InvalidSpec with every violation, the specification's and the fleet's."""
    violations = list(validate.check(spec).violations)
    startable = frozenset(n for n in fleet.nodes if fleet.available(n, now))
    try:
        membership = resolve.membership(fleet.nodes, spec, artifact, startable, now)
    except InvalidSpec as error:
        seen = {(v.path, v.problem) for v in violations}
        violations += [v for v in error.violations if (v.path, v.problem) not in seen]
        raise InvalidSpec(violations) from error
    if violations:
        raise InvalidSpec(violations)
    return membership


def pause(fleet: Fleet, rollout_id: str, reason: str, actor: str, now: datetime) -> Change:
    """No start and no jump until resume; nodes that wait for PROCEED unwind."""
    rollout, _ = _admitted(fleet, rollout_id, Operation.PAUSE)
    if rollout.paused:
        return unchanged(rollout)
    paused = replace(rollout, paused=_why(reason, actor))
    return _changed(paused, "rollout.paused", "paused", reason, actor)


def resume(
    fleet: Fleet,
    rollout_id: str,
    reason: str,
    clear_halt: bool,
    actor: str,
    now: datetime,
    meant: Meant | None = None,
) -> Change:
    """End a pause and, if clear_halt says so, a halt: the failures so far are accepted.

    If a gate called for the halt, the gates of the wave are waived; their verdicts stay on record.
    meant: of the call, if it is looked at again after it lost. Blocked (MOVED_ON).
    """
    rollout, _ = _admitted(fleet, rollout_id, Operation.RESUME)
    if rollout.halted and not clear_halt and not rollout.paused:
        raise IllegalTransition(
            f"rollout {rollout.rollout_id} is HALTED: {rollout.halted}",
            remedy="Look at the cause (`liveroll why`); then resume with --clear-halt, roll back or cancel.",
            state=RolloutState.HALTED.value,
            allowed="resume with clear_halt",
            halted=rollout.halted,
        )
    resumed = replace(rollout, paused="")
    word = "resumed"
    if rollout.halted and clear_halt:
        if meant is not None:
            meant.same(rollout, f"the halt {rollout.halted} ({rollout.halt_message})")
        word = f"resumed; halt {rollout.halted} cleared"
        index = fleet.indexes.get(rollout.rollout_id)
        waived = rollout.gates_waived
        if rollout.halted == GATE_FAILED:
            waived |= {rollout.wave}
        resumed = replace(
            resumed,
            halted="",
            halt_message="",
            failures_forgiven=index.failed if index is not None else 0,
            gates_waived=waived,
        )
    return _changed(resumed, "rollout.resumed", word, reason, actor)


def approve(
    fleet: Fleet,
    rollout_id: str,
    wave: str,
    remark: str,
    actor: str,
    now: datetime,
    meant: Meant | None = None,
) -> Change:
    """Let a wave begin, or waive the gates that hold the current one.

    wave: by name; empty: whatever waits for a person. The verdicts stay on record. meant: as for resume.
    """
    rollout, _ = _admitted(fleet, rollout_id, Operation.APPROVE)
    index = _named_wave(rollout, wave) if wave else _waiting_wave(rollout)
    name = rollout.wave_names[index]
    waives = index == rollout.wave and _held_by_gate(rollout)
    if meant is not None:
        meant.same(rollout, f"the gates of wave {name}" if waives else f"the beginning of wave {name}")
    if waives:
        if index in rollout.gates_waived:
            return unchanged(rollout)
        waived = replace(rollout, gates_waived=rollout.gates_waived | {index})
        return _changed(waived, "wave.gates_waived", f"gates of wave {name} waived", remark, actor)
    if index == 0:
        raise InvalidSpec([Violation("wave", "the canary needs no approval", "Name a later wave.")])
    if index in rollout.approved:
        return unchanged(rollout)
    approved = replace(rollout, approved=rollout.approved | {index})
    return _changed(approved, "wave.approved", f"wave {name} approved", remark, actor)


def cancel(
    fleet: Fleet, rollout_id: str, reason: str, roll_back_too: bool, actor: str, now: datetime
) -> Change:
    """Start nothing any more, unwind what has not jumped; roll back the rest if asked for."""
    rollout, _ = _admitted(fleet, rollout_id, Operation.CANCEL)
    if roll_back_too:
        _can_go_back(fleet, rollout, must_have=False)
    if rollout.goal is Goal.CANCEL and (rollout.roll_back_after_cancel or not roll_back_too):
        return unchanged(rollout)
    cancelled = replace(rollout, goal=Goal.CANCEL, roll_back_after_cancel=roll_back_too, paused="")
    word = "cancel and roll back" if roll_back_too else "cancel"
    return _changed(cancelled, "rollout.cancel_wanted", word, reason, actor)


def roll_back(fleet: Fleet, rollout_id: str, reason: str, actor: str, now: datetime) -> Change:
    """Bring every node that crossed back to the kernel it came from."""
    rollout, _ = _admitted(fleet, rollout_id, Operation.ROLL_BACK)
    _can_go_back(fleet, rollout, must_have=True)
    back = replace(
        rollout,
        goal=Goal.BACK,
        paused="",
        roll_back_after_cancel=False,
        rollback_baseline=rollout.rollback_baseline
        if rollout.goal is Goal.BACK and rollout.ended_at is None
        else fleet.unavailable_members(rollout.rollout_id),
        ended_at=None,
        ended_as="",
    )
    return _changed(back, "rollout.rollback_wanted", "roll back", reason, actor)


def _admitted(fleet: Fleet, rollout_id: str, operation: Operation) -> tuple[RolloutRow, RolloutState]:
    rollout = find_rollout(fleet, rollout_id)
    state = shown_state(rollout, fleet.members(rollout.rollout_id).values())
    admit(rollout, state, operation)
    return rollout, state


def _can_go_back(fleet: Fleet, rollout: RolloutRow, *, must_have: bool) -> None:
    if rollout.spec.rollback.none:
        raise Blocked(
            f"rollout {rollout.rollout_id} was created with rollback.none",
            reason="ROLLBACK_NONE",
            remedy="There is no way back; create a rollout to an artifact that you trust.",
        )
    # Nodes that were unhealthy are back already; of a rollout that runs, it is ended as ROLLED_BACK.
    running = rollout.ended_at is None
    crossed = any(
        m.crossed or (running and m.outcome is Outcome.ROLLED_BACK)
        for m in fleet.members(rollout.rollout_id).values()
    )
    if must_have and not crossed:
        raise Blocked(
            f"no node of {rollout.rollout_id} runs the new kernel",
            reason="NOTHING_TO_ROLL_BACK",
            remedy="Use cancel to end it.",
        )


def _named_wave(rollout: RolloutRow, wave: str) -> int:
    names = rollout.wave_names
    if wave in names:
        return names.index(wave)
    like = near(wave, names)
    raise NotFound(
        f"{rollout.rollout_id} has no wave {wave}",
        remedy=f"Did you mean {like[0]}?" if like else f"Its waves: {', '.join(names)}.",
    )


def _waiting_wave(rollout: RolloutRow) -> int:
    """The wave that a person is waited for, or will be."""
    if rollout.wave_state is WaveState.AWAITING_APPROVAL or _held_by_gate(rollout):
        return rollout.wave
    following = rollout.wave + 1
    if rollout.spec.promotion is Promotion.AUTOMATIC or following >= len(rollout.wave_names):
        raise Blocked(
            f"no wave of {rollout.rollout_id} waits for an approval",
            reason="NOTHING_TO_APPROVE",
            remedy="See `liveroll why` for what it waits for.",
        )
    return following


def _held_by_gate(rollout: RolloutRow) -> bool:
    """The current wave is gated, or a canary found late in it has failed its gate."""
    if rollout.wave_state is WaveState.GATED:
        return True
    late = any(v.result == FAIL and v.gate not in GATES for v in rollout.gates)
    return late and rollout.wave_state is WaveState.RUNNING


def _why(reason: str, actor: str) -> str:
    return reason.strip() or f"asked for by {actor}"


def _changed(rollout: RolloutRow, kind: str, word: str, reason: str, actor: str) -> Change:
    text = f"{rollout.rollout_id}: {word} by {actor}" + (f": {reason}" if reason else "")
    return Change(
        (rollout,),
        events=(NewEvent(kind, text, rollout_id=rollout.rollout_id, actor=actor, cause=reason),),
    )
