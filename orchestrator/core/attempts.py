"""What is decided about attempts under way: lost, undone, let go on, committed; and their members.

Rules
1. An open attempt whose silence lease has run out is LOST: it leaves the blackout count, keeps
   its unavailable slot, and needs a person.
2. PREPARE that a linked node does not acknowledge in time is cancelled. CANCEL stays wanted
   until the attempt settles.
3. PROCEED goes to PRESERVED only, echoes a fresh stamp of the attempt's own boot, and is valid
   for proceed_lease from it. Unacknowledged, it is sent again with a newer stamp, unless its
   gates have closed since: then CANCEL replaces it, for good.
4. When the gates close, PRESERVED attempts and PREPAREs that nobody has acknowledged are undone
   at once; a cancel or a rollback undoes every attempt before its jump.
5. A node that has baked is committed, if its rollout may take the step. One that is back is
   committed even when its rollout has ended, or a cold boot would start the kernel it came from.
6. A member is settled from its settled attempt together with the clearing of what was wanted.
"""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime, timedelta

from orchestrator.core.draft import Draft, desiring
from orchestrator.core.fleet import Fleet
from orchestrator.core.halts import halt_for
from orchestrator.core.index import RolloutIndex
from orchestrator.core.model import (
    AttemptRow,
    DesiredCancel,
    DesiredCommit,
    DesiredProceed,
    MemberRow,
    NewEvent,
    NodeRow,
    Row,
    Stamp,
)
from orchestrator.core.permits import SPARING, Refusal, refusal, start_refusal
from orchestrator.core.phases import Kind, Link, Outcome, Phase
from orchestrator.core.settlement import settle
from orchestrator.core.standing import Flag


def event(kind: str, a: AttemptRow, message: str, cause: str = "", /, **fields: str) -> NewEvent:
    """An event about an attempt."""
    return NewEvent(
        kind,
        message,
        rollout_id=a.rollout_id,
        node_id=a.node_id,
        generation=a.generation,
        cause=cause,
        fields=fields,
    )


def lose(draft: Draft, index: RolloutIndex) -> None:
    """Rule 1; an open attempt of a written-off node ends so too."""
    fleet = draft.fleet
    for node_id in index.flagged_nodes(Flag.SILENT):
        a, node = fleet.newest_attempt(node_id), fleet.nodes[node_id]
        assert a is not None, "what is flagged SILENT is an attempt"
        lost = replace(
            a,
            phase=Phase.LOST,
            phase_at=draft.now,
            settled_at=draft.now,
            failed=True,
            failure=a.failure or "lost",
            ever_lost=True,
        )
        heard = fleet.last_heard(node_id)
        since = f", last heard of {heard.at:%H:%M:%S} UTC" if heard is not None else ""
        text = f"{node_id} is lost in {a.phase}{since}"
        draft.add(
            "lost", a.rollout_id, [lost], [event("attempt.lost", lost, text, phase=a.phase.value)], [node]
        )
        draft.held.add(a.rollout_id)


def settle_members(draft: Draft, index: RolloutIndex) -> None:
    """Rule 6. Failures that break a budget halt the rollout in the same change.

    Others rely on the rollout's row: it says how many failures an operator has forgiven. While it is
    halted they write it, so that a clear_halt forgives just the failures that it has counted.
    """
    fleet, row = draft.fleet, index.row
    order = index.last_order
    failed: list[tuple[MemberRow, AttemptRow, list[Row], list[NewEvent]]] = []
    for node_id in index.flagged_nodes(Flag.SETTLE):
        node, member = fleet.nodes[node_id], index.members[node_id]
        own = fleet.attempts.get((node_id, member.generation))
        after = settle(row, member, own, node, order + 1, draft.now)
        if after.updated_order > order:
            order = after.updated_order
        writes: list[Row] = [after]
        if node_id in fleet.stale_desires:
            writes.append(desiring(node, None))
        guards: list[Row] = [own] if own is not None else []
        events = [_settled(after, own)]
        if after.failed and after.outcome is Outcome.FAILED and own is not None:
            failed.append((after, own, writes, events))
        else:
            draft.add("settle", row.rollout_id, writes, events, guards)
    if not failed:
        return
    draft.held.add(row.rollout_id)
    halt = halt_for(index, [(after, own) for after, own, _, _ in failed])
    if halt is None and not row.halted:
        for _, own, writes, events in failed:
            draft.add("settle", row.rollout_id, writes, events, [own, row])
        return
    all_writes: list[Row] = [halt.row if halt is not None else row]
    all_events: list[NewEvent] = []
    for _, _, writes, events in failed:
        all_writes += writes
        all_events += events
    guards = [own for _, own, _, _ in failed]
    if halt is not None:
        all_events.append(halt.event)
    draft.add("settle" if halt is None else "halt", row.rollout_id, all_writes, all_events, guards)


def _settled(member: MemberRow, own: AttemptRow | None) -> NewEvent:
    text = f"{member.node_id} is {member.outcome}"
    if member.reason:
        text += f" ({member.reason})"
    fields = {"outcome": member.outcome.value}
    if member.not_before is not None:
        fields["not_before"] = member.not_before.isoformat()
    return NewEvent(
        "member.retrying" if member.outcome is Outcome.PENDING else "member.settled",
        text,
        rollout_id=member.rollout_id,
        node_id=member.node_id,
        generation=own.generation if own is not None else 0,
        cause=member.reason,
        fields=fields,
    )


def undo(draft: Draft, index: RolloutIndex) -> None:
    """Rules 2 and 4."""
    if not index.flagged[Flag.UNDOABLE]:
        return
    fleet = draft.fleet
    refusals = {kind: start_refusal(draft, index, kind) for kind in Kind}
    if any(refusals.values()):
        nodes = index.flagged_nodes(Flag.UNDOABLE)
    else:
        nodes = sorted(index.flagged[Flag.UNANSWERED] | index.flagged[Flag.DOOMED])
    for node_id in nodes:
        a = fleet.newest_attempt(node_id)
        assert a is not None, "what is flagged UNDOABLE is an attempt"
        why = _undo_cause(draft, index, a, refusals[a.kind])
        if why is not None:
            _cancel(draft, a, fleet.nodes[node_id], why)


def _undo_cause(draft: Draft, index: RolloutIndex, a: AttemptRow, no: Refusal | None) -> Refusal | None:
    if a.cancel_cause:
        return Refusal(a.cancel_cause, "decided before, and not followed yet")
    if a.ever_lost:
        return Refusal("lost", "it was lost, and returned before its jump")
    if no is not None:
        every = no.cause in ("cancel", "roll_back")
        if every or a.phase is Phase.PRESERVED or (a.phase is Phase.LOADING and not a.acknowledged):
            return no
        return None
    timeout = index.row.spec.acknowledge_timeout
    linked = draft.fleet.link(a.node_id, draft.now) is Link.UP
    if a.node_id in index.flagged[Flag.UNANSWERED] and linked:
        return Refusal("ack_timeout", f"PREPARE was not acknowledged within {timeout.total_seconds():g} s")
    return None


def _cancel(draft: Draft, a: AttemptRow, node: NodeRow, why: Refusal) -> None:
    cancelled = replace(a, cancel_cause=why.cause, spares_budget=why.cause in SPARING)
    wanted = desiring(node, DesiredCancel(a.generation, f"{why.cause}: {why.text}"))
    text = f"{a.node_id}: attempt {a.generation} is to be undone ({why.cause}: {why.text})"
    draft.add(
        "cancel",
        a.rollout_id,
        [wanted, cancelled],
        [event("attempt.cancelled", a, text, why.cause, phase=a.phase.value)],
        hint=[a.node_id],
    )


def fresh_stamp(fleet: Fleet, a: AttemptRow) -> tuple[Stamp, datetime] | None:
    """The newest stamp of the attempt's own boot, and when it arrived."""
    found: list[tuple[datetime, Stamp]] = []
    if a.stamp is not None and a.stamp_at is not None:
        found.append((a.stamp_at, a.stamp))
    heard = fleet.last_heard(a.node_id)
    if heard is not None and heard.stamp is not None:
        found.append((heard.at, heard.stamp))
    ours = [(at, stamp) for at, stamp in found if stamp.boot_id == a.expected_boot_id]
    if not ours:
        return None
    at, stamp = max(ours, key=lambda pair: pair[0])
    return stamp, at


def is_fresh(at: datetime, lease: timedelta, now: datetime) -> bool:
    """Half of the lease must be left: a PROCEED that arrives late would only be refused."""
    return now - at < lease / 2


def proceed(draft: Draft, index: RolloutIndex) -> None:
    """Rule 3."""
    row, fleet = index.row, draft.fleet
    if row.rollout_id in draft.held:
        return
    for node_id in index.flagged_nodes(Flag.PRESERVED):
        a, node = fleet.newest_attempt(node_id), fleet.nodes[node_id]
        if a is None or start_refusal(draft, index, a.kind) is not None:
            continue
        found = fresh_stamp(fleet, a)
        if found is None or not is_fresh(found[1], row.spec.proceed_lease, draft.now):
            continue
        if fleet.link(node_id, draft.now) is not Link.UP:
            continue
        stamp, at = found
        lease = row.spec.proceed_lease
        going = replace(a, proceed_until=at + lease)
        wanted = desiring(node, DesiredProceed(a.generation, stamp, lease))
        writes: list[Row] = [wanted, going]
        member = index.members[node_id]
        if not member.crossed:
            writes.append(replace(member, crossed=True))
        text = f"{node_id}: attempt {a.generation} may jump within {lease.total_seconds():g} s"
        draft.add(
            "proceed",
            row.rollout_id,
            writes,
            [event("attempt.proceeded", a, text)],
            [row, fleet.row],
            [node_id],
        )


def commit(draft: Draft, index: RolloutIndex) -> None:
    """Rule 5."""
    row, fleet = index.row, draft.fleet
    if row.rollout_id in draft.held or not index.flagged[Flag.COMMIT]:
        return
    refusals = {kind: refusal(draft, index, kind) for kind in Kind}
    if row.ended_at is not None and not fleet.row.stopped:
        refusals[Kind.ROLLBACK] = None
    if all(refusals.values()):
        return
    for node_id in index.flagged_nodes(Flag.COMMIT):
        a, node = fleet.newest_attempt(node_id), fleet.nodes[node_id]
        if a is None or refusals[a.kind] is not None:
            continue
        wanted = desiring(node, DesiredCommit(a.generation))
        text = f"{node_id} has baked: {a.to_release} becomes what a cold boot starts"
        draft.add(
            "commit",
            row.rollout_id,
            [wanted],
            [event("attempt.committing", a, text)],
            [row, fleet.row, a],
            [node_id],
        )


def clear(draft: Draft) -> None:
    """Take back what is wanted of nodes and no longer stands."""
    for node_id in sorted(draft.fleet.stale_desires):
        node = draft.fleet.nodes[node_id]
        if draft.free(node):
            draft.add("clear", "", [desiring(node, None)], hint=[node_id])
