"""Who starts now, and who fetches ahead of its turn.

Rules
1. Candidates are ready members of waves whose turn has come, in the order of the waves and of
   their positions; on the way back, in the reverse order of their updates. Rollbacks first.
2. A start must be let through by the rollout's gates, by every budget (budgets.py) and, forward
   and beyond wave 0, by the canary rule: its kernel pair has passed, or it is that pair's canary.
3. What is refused is refused for a whole bucket at once, and told as such.
4. One change takes the slot, the blackout slot and the generation: node, attempt and member are
   written together, under guard of the rollout, of the fleet stop, of the node's last attempt and
   of the capacity: whatever took room away since, at any replica, makes the start void (capacity.py).
5. STAGE goes to members of the waves whose turn has come and of the next, max_staging at a time.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterator
from dataclasses import dataclass, field, replace

from orchestrator.core import canaries, staging
from orchestrator.core.attempts import event
from orchestrator.core.budgets import Use
from orchestrator.core.cmdline import attempt_id, compose, ruled
from orchestrator.core.draft import Draft, desiring
from orchestrator.core.index import Order, Queue, RolloutIndex
from orchestrator.core.model import (
    Artifact,
    AttemptRow,
    DesiredPrepare,
    DesiredStage,
    MemberRow,
    NewEvent,
    NodeRow,
    Row,
)
from orchestrator.core.permits import refusal, start_refusal
from orchestrator.core.phases import Kind, Outcome, Phase, WaveState
from orchestrator.core.settlement import NO_TRIES
from orchestrator.core.spec import Target
from orchestrator.core.standing import Bucket, Lane, Place, pair_key


@dataclass(slots=True)
class Held:
    """Ready members that did not start, by what refused them."""

    by_budget: dict[str, tuple[Use, list[Order]]] = field(default_factory=dict)
    by_pair: dict[str, list[Order]] = field(default_factory=dict)

    def budget(self, use: Use, orders: list[Order]) -> None:
        known = self.by_budget.setdefault(use.budget, (use, []))
        known[1].extend(orders)

    def pair(self, key: str, orders: list[Order]) -> None:
        self.by_pair.setdefault(key, []).extend(orders)


def start(draft: Draft, index: RolloutIndex) -> Held:
    """Commit PREPAREs as far as budgets go; returns who was held back by what."""
    held = Held()
    if index.row.rollout_id in draft.held:
        return held
    if start_refusal(draft, index, Kind.ROLLBACK) is None:
        _run(draft, index, Lane.BACK, index.queue(Lane.BACK), held)
    if index.row.wave_state is WaveState.RUNNING and start_refusal(draft, index, Kind.FORWARD) is None:
        _recall(draft, index)
        for wave, queue in index.due_queues():
            _run(draft, index, Lane.FORWARD, queue, held, wave)
    return held


def _recall(draft: Draft, index: RolloutIndex) -> None:
    """Canaries that stand in the last wave, and could start now (canaries.py, rule 4)."""
    row = index.row
    for member in canaries.recalled(index):
        text = f"{member.node_id} can take its turn as a canary again"
        told = NewEvent("member.recalled", text, rollout_id=row.rollout_id, node_id=member.node_id)
        draft.add("progress", row.rollout_id, [member], [told], [row])


def _run(draft: Draft, index: RolloutIndex, lane: Lane, queue: Queue, held: Held, wave: int = 0) -> None:
    """Start from the queue's open buckets, lowest order first, until a budget refuses."""
    heads: list[tuple[Order, int, Bucket, list[Order]]] = []
    for serial, (bucket, orders) in enumerate(sorted(queue.ready.items())):
        admitted = orders if lane is Lane.BACK or wave == 0 else _admitted(index, bucket, orders, held)
        if admitted:
            heads.append((admitted[0], serial, bucket, admitted))
    heapq.heapify(heads)
    taken: dict[int, int] = {}
    while heads:
        _, serial, bucket, orders = heads[0]
        done = taken.get(serial, 0)
        use = draft.purse.refusal(index, lane)
        if use is not None:
            for _, other, _, rest in heads:
                held.budget(use, rest[taken.get(other, 0) :])
            return
        if bucket[2]:
            use = draft.purse.domain_refusal(index, bucket) or draft.purse.slot_refusal(index)
            if use is not None:
                held.budget(use, orders[done:])
                heapq.heappop(heads)
                continue
        node_id = orders[done][1]
        if _prepare(draft, index, lane, node_id):
            draft.purse.take(index, node_id, new_slot=bucket[2])
        taken[serial] = done + 1
        if done + 1 < len(orders):
            heapq.heapreplace(heads, (orders[done + 1], serial, bucket, orders))
        else:
            heapq.heappop(heads)


def _admitted(index: RolloutIndex, bucket: Bucket, orders: list[Order], held: Held) -> list[Order]:
    """The canary rule (I5) for one bucket."""
    row, pair = index.row, bucket[1]
    if row.wave > 0 and pair in row.pairs_passed:
        return orders
    canary = row.pair_canaries.get(pair_key(pair))
    ours = [order for order in orders if order[1] == canary] if canary is not None else []
    held.pair(pair_key(pair), [order for order in orders if order[1] != canary])
    return ours


def _prepare(draft: Draft, index: RolloutIndex, lane: Lane, node_id: str) -> bool:
    """Rule 4."""
    fleet, row = draft.fleet, index.row
    node, member = fleet.nodes[node_id], index.members[node_id]
    newest = fleet.newest_attempt(node_id)
    generation = max(node.highest_generation, node.attempt, newest.generation if newest else 0) + 1
    if lane is Lane.FORWARD:
        kind, artifact, target = Kind.FORWARD, row.artifact, ruled(row.spec.target, row.artifact)
        base = node.command_line
        member = _outbound(member, node)
    else:
        kind, artifact = Kind.ROLLBACK, _previous(member, row.artifact)
        base, target = _undone(member, node, ruled(row.spec.target, row.artifact))
        own = fleet.attempts.get((node_id, member.generation))
        if own is not None and own.kind is Kind.FORWARD:
            member = replace(member, tries=NO_TRIES)
    attempt = AttemptRow(
        node_id=node_id,
        generation=generation,
        incarnation=fleet.incarnation,
        rollout_id=row.rollout_id,
        kind=kind,
        method=row.spec.method,
        phase=Phase.LOADING,
        artifact=artifact,
        from_release=node.release,
        to_release=artifact.release,
        hardware_model=node.hardware_model,
        expected_boot_id=node.boot_id,
        command_line=compose(base, target, attempt_id(generation, fleet.incarnation)),
        opened_at=draft.now,
        phase_at=draft.now,
        domains=node.labels,
        wave=member.wave,
        pair_canary=kind is Kind.FORWARD and node_id in row.pair_canaries.values(),
        operator_word=member.operator_word,
    )
    going = replace(
        member,
        outcome=Outcome.OPEN,
        generation=generation,
        operator_word=False,
        not_before=None,
        reason="",
    )
    prepared = replace(
        desiring(node, DesiredPrepare(generation, artifact, attempt.command_line)),
        attempt=generation,
        highest_generation=generation,
        beyond=None,
    )
    told = event(
        "attempt.prepared",
        attempt,
        f"{node_id}: attempt {generation} begins, {node.release} → {artifact.release}",
        kind=kind.value,
        wave=str(member.wave),
        canary=str(attempt.pair_canary).lower(),
    )
    guards: list[Row] = [row, fleet.row, fleet.capacity]
    if newest is not None:
        guards.append(newest)
    return draft.add("prepare", row.rollout_id, [prepared, attempt, going], [told], guards, [node_id])


def _outbound(member: MemberRow, node: NodeRow) -> MemberRow:
    """What a rollback goes back to is what the node runs and keeps before it first crosses."""
    if member.crossed:
        return member
    return replace(
        member,
        from_release=node.release,
        from_artifact=node.rollback_artifact,
        from_command_line=node.command_line,
    )


def _previous(member: MemberRow, artifact: Artifact) -> Artifact:
    """The node keeps it; nothing is fetched."""
    return Artifact(
        name=member.from_release,
        digest=member.from_artifact,
        release=member.from_release,
        url="",
        emulated=artifact.emulated,
    )


def _undone(member: MemberRow, node: NodeRow, target: Target) -> tuple[str, Target]:
    """What a rollback's command line is composed from, and by which rules.

    The line that the node came with, as it was. Where that is not known, the one it has now less
    what the target added: what the target took away cannot be brought back then.
    """
    if member.from_command_line is not None:
        return member.from_command_line, Target(artifact="")
    return node.command_line, Target(artifact="", command_line_remove=target.command_line_append)


def stage(draft: Draft, index: RolloutIndex) -> None:
    """Rule 5."""
    if refusal(draft, index, Kind.FORWARD) is not None:
        return
    for order in _unstaged(index):
        if draft.staging >= draft.fleet.policy.max_staging:
            return
        _stage(draft, index, order[1])


def _unstaged(index: RolloutIndex) -> Iterator[Order]:
    for lane, wave in sorted(index.queues):
        if lane is Lane.FORWARD and wave <= index.row.wave + 1:
            yield from index.queues[lane, wave].waiting.get(Place.NOT_STAGED, ())


def _stage(draft: Draft, index: RolloutIndex, node_id: str) -> None:
    node, artifact = draft.fleet.nodes[node_id], index.row.artifact
    if node.desired is not None and node_id not in draft.fleet.stale_desires:
        return
    wanted = desiring(staging.begun(node, artifact.digest), DesiredStage(artifact))
    if draft.free(node) and draft.add("stage", index.row.rollout_id, [wanted], hint=[node_id]):
        draft.staging += 1
