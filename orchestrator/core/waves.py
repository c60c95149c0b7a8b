"""How a rollout gets from wave to wave: settle, bake, gates, approval, next; and its last waves.

Rules
1. RUNNING until no member of the wave (or of an earlier one) is pending or open; then BAKING for
   bake.wave. Baking nodes must be committed before the wave passes.
2. Then every gate judges. All PASS promotes; FAIL does what the gate says (halt, roll back,
   hold); anything else holds the wave GATED until the evidence changes or an operator waives
   the gates of this wave (RolloutRow.gates_waived).
3. A wave that needs an operator's approval waits AWAITING_APPROVAL before it begins.
4. Members that cannot be reached, are in maintenance, or would refuse an attempt at their turn move to a
   last wave of stragglers, where they are waited for. Late nodes join it if the rollout wants them.
5. Members found on the target release at their turn are ALREADY there: nothing is done to them.
   One that another rollout has left there uncommitted is waited for: a cold boot would undo it.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from types import MappingProxyType

from orchestrator.core import canaries, resolve, selectors
from orchestrator.core.draft import Draft
from orchestrator.core.fleet import Fleet
from orchestrator.core.gates import FAIL, PASS, Evidence, judge
from orchestrator.core.halts import GATE_FAILED, halted
from orchestrator.core.index import RolloutIndex
from orchestrator.core.model import AttemptRow, GateVerdict, MemberRow, NewEvent, NodeRow, RolloutRow
from orchestrator.core.permits import refusal
from orchestrator.core.phases import Goal, Kind, Outcome, RolloutState, WaveState
from orchestrator.core.spec import LateNodes, OnFail, Promotion
from orchestrator.core.standing import Lane, Place, pair_key

STRAGGLERS = "stragglers"

UNSETTLED = (Outcome.PENDING, Outcome.OPEN)
BATCH = 500
"""Members written in one change at most: a bigger transaction would hold up every report."""


@dataclass(slots=True)
class Step:
    """A rollout's next row, with what goes along with it."""

    row: RolloutRow
    members: list[MemberRow] = field(default_factory=list)
    events: list[NewEvent] = field(default_factory=list)

    def say(self, kind: str, message: str, cause: str = "") -> None:
        self.events.append(NewEvent(kind, message, rollout_id=self.row.rollout_id, cause=cause))


def wave_name(row: RolloutRow, wave: int) -> str:
    """As operators know it."""
    return row.wave_names[wave] if 0 <= wave < len(row.wave_names) else f"wave {wave}"


def has_stragglers(row: RolloutRow) -> bool:
    """Whether the last wave is the stragglers' (the spec has no say in it)."""
    return len(row.wave_names) > 1 + len(row.spec.waves)


def needs_approval(row: RolloutRow, wave: int) -> bool:
    """Rule 3, whether or not it was given."""
    if row.spec.promotion is Promotion.MANUAL:
        return wave >= 1
    return row.spec.promotion is Promotion.MANUAL_CANARY and wave == 1


def progress(draft: Draft, index: RolloutIndex) -> None:
    """Take the rollout as far as one change of its row goes."""
    row = index.row
    if row.rollout_id in draft.held or refusal(draft, index, Kind.FORWARD) is not None:
        return
    step = Step(row)
    _turn(draft, index, step)
    if step.row == row and not step.members:
        _members_already_there(draft, index)
        return
    if draft.add("progress", row.rollout_id, [step.row, *step.members], step.events):
        draft.held.add(row.rollout_id)


def _turn(draft: Draft, index: RolloutIndex, step: Step) -> None:
    row = index.row
    if row.wave_state is WaveState.AWAITING_APPROVAL:
        if row.wave in row.approved:
            step.row = replace(row, wave_state=WaveState.RUNNING)
            step.say("wave.started", f"wave {wave_name(row, row.wave)} begins, approved")
        return
    if row.wave_state is WaveState.RUNNING:
        _defer(index, step)
        _join_late(draft.fleet, index, step)
        _choose_canaries(index, step)
        _pass_pairs(draft.fleet, index, step)
        if step.row is not row or step.members:
            return
    if index.count(*UNSETTLED, upto=row.wave):
        if row.wave_state is not WaveState.RUNNING:
            step.row = replace(row, wave_state=WaveState.RUNNING, wave_settled_at=None)
            step.say("wave.reopened", f"wave {wave_name(row, row.wave)} has members to update again")
        return
    if row.wave_state is WaveState.RUNNING:
        step.row = replace(row, wave_state=WaveState.BAKING, wave_settled_at=draft.now)
        step.say("wave.baking", f"wave {wave_name(row, row.wave)} has settled and bakes")
        return
    if row.wave_state is WaveState.PASSED:
        _next_wave(index, step, draft.now)
        return
    if not _baked(index, draft.now) or index.count(Outcome.BAKING, upto=row.wave):
        return
    _judge(draft.fleet, index, step)


def bake_ends_at(index: RolloutIndex) -> datetime | None:
    """When the current wave's own healthy wait is over; nothing to wait for where nothing was
    updated."""
    row = index.row
    if row.wave_settled_at is None or not any(
        index.count(outcome, wave=row.wave) for outcome in (Outcome.BAKING, Outcome.UPDATED, Outcome.FAILED)
    ):
        return row.wave_settled_at
    return row.wave_settled_at + row.spec.bake.wave


def _baked(index: RolloutIndex, now: datetime) -> bool:
    ends_at = bake_ends_at(index)
    return ends_at is None or ends_at <= now


# --- rules 4 and 5 -----------------------------------------------------------------------


def _members_already_there(draft: Draft, index: RolloutIndex) -> None:
    if index.row.wave_state is not WaveState.RUNNING:
        return
    found = [
        replace(index.members[node_id], outcome=Outcome.ALREADY, reason="")
        for _, queue in index.due_queues()
        for _, node_id in queue.waiting.get(Place.ALREADY, ())
    ]
    settle_in_batches(draft, index, found, f"runs {index.row.artifact.release} already")


def settle_in_batches(draft: Draft, index: RolloutIndex, members: Sequence[MemberRow], why: str) -> None:
    """Write members' outcomes that follow from no attempt."""
    for at in range(0, len(members), BATCH):
        some = members[at : at + BATCH]
        events = [
            NewEvent(
                "member.settled",
                f"{m.node_id} is {m.outcome}: {why}",
                rollout_id=m.rollout_id,
                node_id=m.node_id,
                fields={"outcome": m.outcome.value},
            )
            for m in some
        ]
        draft.add("settle", index.row.rollout_id, list(some), events)


_DEFERRED = {
    Place.UNREACHABLE: "unreachable",
    Place.MAINTENANCE: "in maintenance",
    Place.NOT_READY: "not ready for an attempt",
}
"""Rule 4: somebody is at work there, or nobody knows, and that need not hold up the others."""


def _defer(index: RolloutIndex, step: Step) -> None:
    row = step.row
    last = len(row.wave_names) - 1
    if has_stragglers(row) and row.wave >= last:
        return
    for place, why in _DEFERRED.items():
        for wave, queue in index.due_queues():
            for _, node_id in queue.waiting.get(place, ())[: BATCH - len(step.members)]:
                member = index.members[node_id]
                target = last if has_stragglers(row) else last + 1
                step.members.append(replace(member, wave=target))
                step.events.append(
                    NewEvent(
                        "member.deferred",
                        f"{node_id} is {why} at wave {wave_name(row, wave)}'s turn: it waits for the end",
                        rollout_id=row.rollout_id,
                        node_id=node_id,
                        cause=place.value.lower(),
                    )
                )
    if step.members:
        step.row = _with_stragglers(row)


def _with_stragglers(row: RolloutRow) -> RolloutRow:
    if has_stragglers(row):
        return row
    return replace(row, wave_names=(*row.wave_names, STRAGGLERS))


def _join_late(fleet: Fleet, index: RolloutIndex, step: Step) -> None:
    row = step.row
    if row.spec.late_nodes is not LateNodes.LAST_WAVE:
        return
    late = [n for n in fleet.enrolled_after(row.created_at) if n.node_id not in index.members]
    able = [n for n in late if _selected(row, n) and resolve.left_out(n, row.spec, fleet.now) is None]
    fitting = able[: max(0, BATCH - len(step.members))]
    if not fitting:
        return
    step.row = row = _with_stragglers(row)
    place = max((m.position for m in index.members.values()), default=0)
    for node in fitting:
        place += 1
        member = MemberRow(row.rollout_id, node.node_id, len(row.wave_names) - 1, place)
        step.members.append(member)
        text = f"{node.node_id} came late and joins the last wave"
        step.events.append(NewEvent("member.joined", text, rollout_id=row.rollout_id, node_id=node.node_id))


def _selected(row: RolloutRow, node: NodeRow) -> bool:
    selection = row.spec.selection
    if node.node_id in selection.exclude or (selection.nodes and node.node_id not in selection.nodes):
        return False
    return selectors.parse(selection.selector).matches(node.labels)


# --- canaries ----------------------------------------------------------------------------


def _choose_canaries(index: RolloutIndex, step: Step) -> None:
    taken = {m.node_id for m in step.members}
    found = canaries.choose(index)
    if dict(found.chosen) != dict(step.row.pair_canaries):
        step.row = replace(step.row, pair_canaries=MappingProxyType(dict(found.chosen)))
        step.events += found.events
        step.members += [m for m in found.moved if m.node_id not in taken]


def _pass_pairs(fleet: Fleet, index: RolloutIndex, step: Step) -> None:
    """Late pairs: wave 0's pass with the wave."""
    row = step.row
    if row.wave == 0:
        return
    passed = {pair_key(pair) for pair in row.pairs_passed}
    for key, node_id in row.pair_canaries.items():
        member = index.members.get(node_id)
        if key in passed or member is None or member.outcome is not Outcome.UPDATED:
            continue
        evidence = _evidence(fleet, index, [member])
        if not evidence or pair_key(_pair(evidence[0].attempt)) != key:
            continue
        verdicts = [
            (gate.on_fail, _of_pair(judge(gate, evidence, member.wave), key)) for gate in row.spec.gates
        ]
        failed = [(action, verdict) for action, verdict in verdicts if verdict.result == FAIL]
        if failed and row.wave not in row.gates_waived:
            action, verdict = failed[0]
            if not _said_before(row, verdict):
                step.row = replace(step.row, gates=(*step.row.gates, verdict))
                if action is not OnFail.HOLD:
                    _fail(index, step, action, verdict)
                return
            continue
        step.row = replace(step.row, pairs_passed=step.row.pairs_passed | {_pair(evidence[0].attempt)})
        step.say("pair.passed", f"{key} has passed on its canary {node_id}")


def _of_pair(verdict: GateVerdict, key: str) -> GateVerdict:
    return replace(verdict, gate=f"{verdict.gate} of {key}")


def _pair(attempt: AttemptRow) -> tuple[str, str, str]:
    return (attempt.from_release, attempt.to_release, attempt.hardware_model)


# --- gates and promotion -----------------------------------------------------------------


def forward_attempt(fleet: Fleet, member: MemberRow) -> AttemptRow | None:
    """The member's newest forward attempt in its rollout."""
    own = fleet.attempts.get((member.node_id, member.generation))
    if own is None or own.kind is Kind.FORWARD:
        return own
    return fleet.forward_attempt(member.node_id, member.rollout_id)


def _evidence(fleet: Fleet, index: RolloutIndex, members: Iterable[MemberRow]) -> list[Evidence]:
    left_out = (Outcome.EXCLUDED, Outcome.WRITTEN_OFF, Outcome.ALREADY, Outcome.PENDING)
    found = []
    for member in members:
        attempt = forward_attempt(fleet, member)
        if attempt is not None and member.outcome not in left_out:
            node = fleet.nodes[member.node_id]
            found.append(Evidence(member.node_id, attempt, member.outcome, node.healthy))
    return found


def judge_wave(fleet: Fleet, index: RolloutIndex, wave: int) -> tuple[GateVerdict, ...]:
    """Every gate's word on one wave now, remembered until a member changes."""
    memo = index.judged
    if memo is not None and memo[:2] == (index.version, wave):
        return memo[2]
    members = sorted((m for m in index.members.values() if m.wave == wave), key=lambda m: m.position)
    evidence = _evidence(fleet, index, members)
    verdicts = tuple(judge(gate, evidence, wave) for gate in index.row.spec.gates)
    index.judged = (index.version, wave, verdicts)
    return verdicts


def _judge(fleet: Fleet, index: RolloutIndex, step: Step) -> None:
    row = index.row
    verdicts = judge_wave(fleet, index, row.wave)
    kept = (*(v for v in row.gates if v.wave != row.wave), *verdicts)
    name = wave_name(row, row.wave)
    waived = row.wave in row.gates_waived
    if waived or all(v.result == PASS for v in verdicts):
        step.row = replace(row, wave_state=WaveState.PASSED, gates=kept)
        if row.wave == 0:
            step.row = replace(step.row, pairs_passed=row.pairs_passed | _updated_pairs(fleet, index))
        step.say("wave.passed", f"wave {name} has passed" + (", its gates waived" if waived else ""))
        return
    step.row = replace(row, wave_state=WaveState.GATED, gates=kept)
    failed = [(gate.on_fail, v) for gate, v in zip(row.spec.gates, verdicts, strict=True) if v.result == FAIL]
    new = [pair for pair in failed if pair[0] is not OnFail.HOLD and not _said_before(row, pair[1])]
    if new:
        _fail(index, step, *min(new, key=lambda pair: _SEVERITY.index(pair[0])))
    elif step.row != row:
        held = next(v for v in verdicts if v.result != PASS)
        step.say("wave.gated", f"wave {name} is held by gate {held.gate}: {held.result}, {held.evidence}")


_SEVERITY = (OnFail.ROLL_BACK, OnFail.HALT)


def _said_before(row: RolloutRow, verdict: GateVerdict) -> bool:
    """The gate's FAIL has had its effect, and an operator has gone on from it: it only holds now."""
    return any((v.gate, v.wave, v.result) == (verdict.gate, verdict.wave, FAIL) for v in row.gates)


def _updated_pairs(fleet: Fleet, index: RolloutIndex) -> frozenset[tuple[str, str, str]]:
    attempts = (
        forward_attempt(fleet, m)
        for m in index.members.values()
        if m.wave == 0 and m.outcome is Outcome.UPDATED
    )
    return frozenset(_pair(a) for a in attempts if a is not None)


def _fail(index: RolloutIndex, step: Step, action: OnFail, verdict: GateVerdict) -> None:
    """What a gate that failed wants done."""
    text = f"gate {verdict.gate} failed in wave {wave_name(step.row, verdict.wave)}: {verdict.evidence}"
    if action is OnFail.ROLL_BACK:
        step.row = replace(step.row, goal=Goal.BACK, rollback_baseline=index.unavailable)
        step.say("rollout.rolling_back", text, GATE_FAILED)
    else:
        halt = halted(step.row, GATE_FAILED, text)
        step.row = halt.row
        step.events.append(halt.event)


def _next_wave(index: RolloutIndex, step: Step, now: datetime) -> None:
    row = index.row
    following = row.wave + 1
    if following >= len(row.wave_names):
        _succeed(index, step, now)
        return
    waits = needs_approval(row, following) and following not in row.approved
    state = WaveState.AWAITING_APPROVAL if waits else WaveState.RUNNING
    step.row = replace(row, wave=following, wave_state=state, wave_settled_at=None)
    name = wave_name(row, following)
    if waits:
        step.say("wave.awaiting_approval", f"wave {name} waits for approval")
    else:
        step.say("wave.started", f"wave {name} begins")


def _succeed(index: RolloutIndex, step: Step, now: datetime) -> None:
    """The end of the last wave. Failures stayed within what the budget or an operator allowed;
    a rollout that only failed has not succeeded."""
    if way_back_open(index):
        return
    good = index.count(Outcome.UPDATED, Outcome.ALREADY)
    state = RolloutState.FAILED if not good and index.failed else RolloutState.SUCCEEDED
    step.row = replace(step.row, ended_at=now, ended_as=state.value)
    step.say("rollout.ended", f"{state}: {good} of {len(index.members)} nodes are on the target")


def way_back_open(index: RolloutIndex) -> bool:
    """Whether members still wait to be rolled back, and can be."""
    queue = index.queue(Lane.BACK)
    return bool(queue.ready) or bool(queue.waiting.keys() - {Place.NO_ROLLBACK, Place.SUPERSEDED})
