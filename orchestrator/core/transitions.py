"""What agents' messages do to rows: one pure function a message, each giving an Observation.

The caller commits `change` first (if it is not empty), then applies the committed rows and
`facts` to the Fleet, and only then answers: welcome, acknowledgement or refusal. A refusal
may come together with a change (STORE_REGRESSED stops the fleet and refuses the link).

Ingest writes NodeRow and AttemptRow (and FleetRow, when the store is proven to have gone
back in time), never members or rollouts: what a settled attempt means for its member, its
retries and its rollout is the planner's (settlement.py).

Rules
1. A report at or below the node's acknowledged seq is acknowledged again, without effect.
2. Everything under another link epoch than the node's newest is refused (STALE_LINK).
3. A node's desired command is cleared as soon as the node has answered it.
4. Heartbeats write nothing but the edges of a node's health and of its readiness. A phase that contradicts
   the row is ignored: the report that explains it is on its way.
5. A luoctl attempt (incarnation `local`) is not ours: it raises the generation, no more.
6. Whatever a message changes it writes together with the node's row, and PREPARE, PROCEED, CANCEL
   write that row, too. So the node's revision guards what was read of its attempts; only LOST and
   stamps are written on the attempt alone, and a Hello guards against that.
"""

from __future__ import annotations

from collections import ChainMap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import TYPE_CHECKING

from orchestrator.core import link_gap
from orchestrator.core.facts import Arrival, Heard, LinkDown
from orchestrator.core.messages import BY_HAND, Heartbeat, Hello, Report, Welcome
from orchestrator.core.model import (
    AttemptRow,
    Change,
    Guard,
    NewEvent,
    NodeRow,
    Row,
    RowKey,
    Sample,
    guarding,
    row_key,
)
from orchestrator.core.phases import Phase
from orchestrator.core.transitions_attempt import learn
from orchestrator.core.transitions_forgotten import take_in
from orchestrator.core.transitions_hello import baking_edge, gap_of, seen_again
from orchestrator.core.transitions_node import absorb_report, answered, described, refused_command
from orchestrator.core.transitions_regression import (
    LOCAL_INCARNATION,
    kept_and_stopped,
    noticed,
    regression,
    stands,
    stopped,
    told,
)
from orchestrator.errors import LiverollError, NodeIdConflict, StaleGeneration, StoreRegressed

if TYPE_CHECKING:
    from orchestrator.core.fleet import Fleet

NOTHING = Change()


@dataclass(frozen=True, slots=True)
class Observation:
    """What a message means: what to write, what was heard, and how to answer."""

    change: Change = NOTHING
    facts: tuple[Heard | LinkDown, ...] = ()
    """For Fleet.apply, after the change is committed."""
    refusal: LiverollError | None = None
    """End the link with this status."""
    welcome: Welcome | None = None
    """hello only."""
    acknowledge_seq: int | None = None
    """report only: acknowledge up to here, once the change is committed."""


def hello(
    fleet: Fleet, message: Hello, actor: str, now: datetime, came: Arrival | None = None
) -> Observation:
    """A node opens a link. welcome or refusal is set.

    came: when it came in, for the gap in the link; in all functions here None where nobody measures.

    Refusals: NodeIdConflict, StoreRegressed (change: the fleet stops).
    """
    known = fleet.nodes.get(message.node_id)
    if known is not None and known.installation_id not in ("", message.installation_id):
        if not known.written_off:
            return Observation(refusal=_clone(known))
        known = replace(known, acknowledged_seq=0)
    found = regression(fleet, known, message)
    replica = fleet.replicas.mine if fleet.replicas is not None else ""
    node = described(known, message, now, replica)
    if found is not None:
        node = noticed(fleet, known, node, message, found, now)
        if found.refused:
            enrolled = _link_events(None, node, actor) if known is None else ()
            change = kept_and_stopped(fleet, known, node, found, enrolled, now)
            return Observation(change, refusal=found.error)
    node = replace(node, incarnation=fleet.incarnation)
    gap = gap_of(fleet, known, message, now, came)
    events = [*_link_events(known, node, actor, gap), *_readiness_events(known, node)]
    late = known is not None and known.beyond is not None and known.beyond.refused
    taken = take_in(fleet, known, node, message, now) if found is not None or late else None
    learnt = seen_again(fleet, known, node, message, gap, now) if taken is None else None
    writes: list[Row] = []
    if found is not None:
        events.append(told(fleet, node.node_id, found))
        if not found.known and not stands(fleet.row):
            writes.append(stopped(fleet.row, found.error, now))
    elif late and node.beyond is not None:
        node = replace(node, beyond=replace(node.beyond, refused=False))
    if taken is not None:
        node = replace(taken.node, beyond=node.beyond)
        writes += taken.attempts
        events += taken.events
    elif learnt is not None:
        node = answered(node, learnt.attempt)
        writes.append(learnt.attempt)
        events += learnt.events
    writes.insert(0, node)
    welcome = Welcome(
        incarnation=fleet.incarnation,
        incarnation_serial=fleet.incarnation_serial,
        link_epoch=node.link_epoch,
        active_heartbeat=fleet.policy.active_heartbeat,
        idle_heartbeat=fleet.idle_interval(),
        acknowledged_seq=node.acknowledged_seq,
    )
    return Observation(
        Change(tuple(writes), _unwritten(fleet, node, writes, found is not None), tuple(events)),
        facts=(Heard(node.node_id, now, came=came),),
        welcome=welcome,
    )


def heartbeat(
    fleet: Fleet,
    node_id: str,
    message: Heartbeat,
    link_epoch: int,
    now: datetime,
    came: Arrival | None = None,
) -> Observation:
    """A node still beats. Writes only the edges of rule 4; the stamp is in `facts`.

    Refusals: StaleGeneration (STALE_LINK) under an older link epoch.
    """
    node = fleet.nodes.get(node_id)
    if node is None or node.link_epoch != link_epoch:
        return Observation(refusal=_stale(node_id, node, link_epoch))
    facts = (Heard(node_id, now, message.stamp, came),)
    status = message.status
    told = replace(node, not_ready=status.not_ready, not_ready_epoch=node.link_epoch)
    events = _readiness_events(node, told)
    if status.healthy == node.healthy:
        return Observation(Change((told,), events=events) if events else NOTHING, facts)
    told = replace(told, healthy=status.healthy, problem=status.problem)
    writes: list[Row] = [told]
    attempt = fleet.newest_attempt(node_id)
    if attempt is not None and attempt.phase is Phase.BAKING:
        writes.append(baking_edge(attempt, status.healthy, now))
    word = "healthy again" if status.healthy else "unhealthy"
    reason = f": {status.problem.message}" if status.problem is not None else ""
    event = NewEvent(
        "node.recovered" if status.healthy else "node.sickened",
        f"{node_id} is {word}{reason}",
        rollout_id=attempt.rollout_id if attempt is not None else "",
        node_id=node_id,
        actor=node_id,
    )
    return Observation(Change(tuple(writes), events=(event, *events)), facts)


def report(
    fleet: Fleet | _Ahead,
    node_id: str,
    message: Report,
    link_epoch: int,
    now: datetime,
    came: Arrival | None = None,
) -> Observation:
    """A node tells one journalled event. Idempotent; acknowledge_seq or refusal is set.

    Refusals: StaleGeneration (STALE_LINK) under an older link epoch, StoreRegressed for an
    attempt that this store should know but does not.
    """
    known = fleet.nodes.get(node_id)
    if known is None or known.link_epoch != link_epoch:
        return Observation(refusal=_stale(node_id, known, link_epoch))
    facts = (Heard(node_id, now, message.stamp, came),)
    if message.seq <= known.acknowledged_seq:
        return Observation(facts=facts, acknowledge_seq=known.acknowledged_seq)
    attempt = _attempt_of(fleet, message)
    ref = message.attempt
    ours = ref is not None and ref.incarnation == fleet.incarnation
    if ref is not None and ours and attempt is None and ref.generation > known.highest_generation:
        lost = StoreRegressed(
            f"{node_id} reports attempt {ref.generation}, which this store never made",
            remedy=_REGRESSED,
            node_id=node_id,
            generation=ref.generation,
        )
        kept = replace(known, highest_generation=ref.generation)
        event = NewEvent("fleet.stopped", lost.message, node_id=node_id, cause="STORE_REGRESSED")
        change = Change((kept, stopped(fleet.row, lost, now)), events=(event,))
        return Observation(change, facts, refusal=lost)

    node = absorb_report(known, message, now)
    writes: list[Row] = []
    events: list[NewEvent] = []
    if message.refusal is not None:
        node, learnt = refused_command(fleet, node, message.refusal, attempt, now)
        attempt = learnt.attempt if learnt is not None else attempt
        events += (learnt.events if learnt is not None else ()) or (_refusal_event(node, message),)
        if learnt is not None:
            writes.append(replace(learnt.attempt, seq=message.seq))
    elif attempt is not None:
        learnt = learn(attempt, message, newest=attempt.generation >= _newest(fleet, node_id), now=now)
        writes.append(learnt.attempt)
        events += learnt.events
        node = answered(node, learnt.attempt)
    else:
        events.append(_node_event(node, message))
        resting = fleet.newest_attempt(node_id)
        if resting is not None and resting.phase is Phase.BAKING and node.healthy is not known.healthy:
            writes.append(baking_edge(resting, node.healthy, now))
    return Observation(Change((node, *writes), events=tuple(events)), facts, acknowledge_seq=message.seq)


def reports(
    fleet: Fleet,
    node_id: str,
    messages: Sequence[Report],
    link_epoch: int,
    now: datetime,
    came: Arrival | None = None,
) -> Observation:
    """Several reports of one node, in order, as one change: each sees what those before it made.

    Ends at the first that is refused; what came before it is written with the refusal.
    """
    if len(messages) == 1:
        return report(fleet, node_id, messages[0], link_epoch, now, came)
    ahead = _Ahead(fleet)
    seen = Observation()
    for message in messages:
        one = report(ahead, node_id, message, link_epoch, now, came)
        change = Change(ahead.take(one.change.writes), events=seen.change.events + one.change.events)
        seen = replace(one, change=change, facts=seen.facts + one.facts)
        if one.refusal is not None:
            break
    return seen


class _Ahead:
    """The fleet as it will be once what was taken is committed."""

    def __init__(self, fleet: Fleet) -> None:
        self._fleet = fleet
        self._taken: dict[RowKey, Row] = {}
        self.incarnation = fleet.incarnation
        self.row = fleet.row
        self.nodes: Mapping[str, NodeRow] = fleet.nodes
        self.attempts: Mapping[tuple[str, int], AttemptRow] = fleet.attempts

    def take(self, rows: Sequence[Row]) -> tuple[Row, ...]:
        """All rows taken so far, each as the last report left it. Their revisions are the store's."""
        for row in rows:
            self._taken[row_key(row)] = row
        taken = tuple(self._taken.values())
        self.nodes = ChainMap({r.node_id: r for r in taken if isinstance(r, NodeRow)}, self._fleet.nodes)
        self.attempts = ChainMap(
            {(r.node_id, r.generation): r for r in taken if isinstance(r, AttemptRow)}, self._fleet.attempts
        )
        return taken

    def newest_attempt(self, node_id: str) -> AttemptRow | None:
        """See Fleet. Reports make no attempts."""
        newest = self._fleet.newest_attempt(node_id)
        return self.attempts[node_id, newest.generation] if newest is not None else None


def link_down(fleet: Fleet, node_id: str, link_epoch: int, now: datetime, cause: str = "") -> Observation:
    """A link ended. Nothing happens if a newer one has taken its place."""
    node = fleet.nodes.get(node_id)
    if node is None or node.link_epoch != link_epoch or not node.link_up:
        return Observation()
    down = replace(node, link_up=False, link_changed_at=now)
    event = NewEvent("node.unlinked", f"{node_id}: the link ended", node_id=node_id, cause=cause)
    return Observation(Change((down,), events=(event,)), (LinkDown(node_id, now),))


def _unwritten(fleet: Fleet, node: NodeRow, writes: Sequence[Row], differs: bool) -> tuple[Guard, ...]:
    """What a Hello relied on and does not write.

    The newest attempt: the planner writes LOST on the attempt alone, and a node that is back must not be
    left LOST by a Hello that did not see it. The fleet's stop, if the node has lived longer than the
    store: it may have been released, and nobody has accepted this difference.
    """
    written = {row_key(row) for row in writes}
    newest = fleet.newest_attempt(node.node_id)
    relied = [row for row in (newest, fleet.row if differs else None) if row is not None]
    return tuple(guarding(row) for row in relied if row_key(row) not in written)


def _attempt_of(fleet: Fleet | _Ahead, message: Report) -> AttemptRow | None:
    ref = message.attempt
    if ref is None:
        return None
    attempt = fleet.attempts.get((ref.node_id, ref.generation))
    return attempt if attempt is not None and attempt.incarnation == ref.incarnation else None


def _newest(fleet: Fleet | _Ahead, node_id: str) -> int:
    newest = fleet.newest_attempt(node_id)
    return newest.generation if newest is not None else 0


def _link_events(
    known: NodeRow | None, node: NodeRow, actor: str, gap: Sample | None = None
) -> tuple[NewEvent, ...]:
    who = actor or node.node_id
    name = node.node_id
    if known is None or known.installation_id != node.installation_id:
        verb = "enrolled" if known is None else "enrolled anew"
        return (NewEvent("node.enrolled", f"{name} is {verb}, {node.release}", node_id=name, actor=who),)
    seen = {"blackout": link_gap.told(gap)} if gap is not None else {}
    linked = NewEvent(
        "node.linked", f"{name} is linked, {node.release}", node_id=name, actor=who, fields=seen
    )
    if known.written_off:
        back = f"{name} is back; its write-off ({known.written_off}) ends"
        return (linked, NewEvent("node.returned", back, node_id=name, actor=who))
    return (linked,)


def _readiness_events(known: NodeRow | None, node: NodeRow) -> tuple[NewEvent, ...]:
    """That the node would refuse an attempt from now on, or no longer; none if it says what it said."""
    name, problem = node.node_id, node.refuses
    if problem == (known.refuses if known is not None else None):
        return ()
    if problem is None:
        return (NewEvent("node.ready", f"{name} would take an attempt again", node_id=name, actor=name),)
    return (
        NewEvent(
            "node.not_ready",
            f"{name} would refuse an attempt now: {problem.message}",
            node_id=name,
            actor=name,
            fields={"problem": problem.reason},
        ),
    )


def _refusal_event(node: NodeRow, message: Report) -> NewEvent:
    assert message.refusal is not None
    problem = message.refusal.problem
    return NewEvent(
        "node.refused",
        f"{node.node_id} refused a command: {problem.message}",
        node_id=node.node_id,
        actor=node.node_id,
        fields={"problem": problem.reason, "command_id": message.refusal.command_id},
    )


def _node_event(node: NodeRow, message: Report) -> NewEvent:
    ref = message.attempt
    if message.stage is not None:
        verb = "staged" if message.stage.verified else "could not stage"
        text = f"{node.node_id} {verb} {message.stage.artifact_digest[:12]}"
        kind = "node.staged" if message.stage.verified else "node.stage_failed"
    elif ref is not None:
        whose = "a luoctl attempt" if ref.incarnation == LOCAL_INCARNATION else "an unknown attempt"
        text = f"{node.node_id}: {whose}, generation {ref.generation}, is {message.phase}"
        kind = "attempt.foreign"
    else:
        text = f"{node.node_id}: {message.phase}"
        kind = "node.reported"
    problem = message.stage.problem if message.stage is not None else message.problem
    fields = {"problem": problem.reason, "problem_message": problem.message} if problem is not None else {}
    if message.by_hand and message.boot_verdict is not None:
        fields |= {"verdict": message.boot_verdict.value, BY_HAND: message.by_hand}
    return NewEvent(kind, text, node_id=node.node_id, actor=node.node_id, fields=fields)


def _clone(known: NodeRow) -> NodeIdConflict:
    return NodeIdConflict(
        f"node {known.node_id} is enrolled with another installation",
        remedy=(
            "Give this node an id of its own. If it was installed afresh, say so with "
            f"`liveroll write-off {known.node_id}`; then it may link."
        ),
        node_id=known.node_id,
        installation_id=known.installation_id,
    )


def _stale(node_id: str, node: NodeRow | None, link_epoch: int) -> StaleGeneration:
    newest = node.link_epoch if node is not None else 0
    return StaleGeneration(
        f"link {link_epoch} of {node_id} has been replaced by link {newest}",
        reason="STALE_LINK",
        remedy="Open a new link with Hello; if this repeats, two agents use this node id.",
        node_id=node_id,
        link_epoch=newest,
    )


_REGRESSED = (
    "Compare the store with its nodes (`liveroll events`, `liveroll nodes`): it was restored from an older "
    "copy. Then release the fleet stop; attempts it forgot are not made again under the same numbers."
)
