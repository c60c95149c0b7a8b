"""The promises of the system, checked from committed rows alone, by nobody's aggregates.

I1  No PREPARE is committed that takes unavailable nodes over max_unavailable, a domain over its
    cap, or the fleet over its own bound.
I2  No PREPARE is committed that takes blackout slots over max_in_blackout.
I3  Generations, link epochs and command serials of a node only rise, an attempt stays what it
    was begun as, and jumps at most once.
I5  Beyond wave 0 a PREPARE is of a kernel pair that has passed or of that pair's canary, and of
    a wave whose turn has come and that was approved if it had to be.
I6  Paused, halted (forward), stopped, ended, with another goal, outside every window or under
    embargo: no new PREPARE and no new PROCEED.
I11 Only the method's own success counts: what is BAKING or COMMITTED was live-updated with its
    memory intact, and a member is updated only if its attempt is.
I12 Events are gapless in commit order.
I14 A node has at most one open attempt, whatever its rollout.

How it is used: one Checker, begun from a snapshot, is given every commit in order (the planner's own
one by one; where there are other replicas, theirs as `followed`); it looks at
the rows that changed (cost: those, and the unavailable nodes of a rollout that starts one), so
it can run beside the service. A violation there means fleet stop, never a crash. `check` is the
same from scratch, for tests.

An attempt that was adopted (core/transitions_forgotten.py) is no start: the store had forgotten it, and
its node told of it. It is of no rollout until one takes it in, once.

What rows cannot say: links that are silent but not known to have ended, so I1 counts fewer
unavailable nodes than the planner does, never more. Capacity is guarded (capacity.py), so I1 and
I2 know no tolerance; only a window may close between a plan and its commit, which no row tells:
`slack` is how long that may take.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from orchestrator.core.invariants_rows import Rows
from orchestrator.core.invariants_starts import check_prepare, check_proceed
from orchestrator.core.model import (
    AttemptRow,
    DesiredProceed,
    Event,
    MemberRow,
    NodeRow,
    RolloutRow,
    Row,
)
from orchestrator.core.phases import BEFORE_JUMP, SETTLED, Method, Outcome, Phase, RolloutState, Verdict
from orchestrator.core.policy import FleetPolicy

WINDOW_SLACK = timedelta(seconds=2)
"""Longer than a commit takes; a start that was planned longer before is outside its window."""

_UPDATED = frozenset({Phase.BAKING, Phase.COMMITTED})
_COUNTS_AS_UPDATED = frozenset({Outcome.BAKING, Outcome.UPDATED, Outcome.UNCOMMITTED})
_UNFINISHED = frozenset({Outcome.PENDING, Outcome.OPEN, Outcome.BAKING})


@dataclass(frozen=True, slots=True)
class Broken:
    """One promise that does not hold."""

    invariant: str
    message: str
    node_id: str = ""
    rollout_id: str = ""


class Checker:
    """Follows commits and says which of them broke a promise.

    Args:
        rows: everything stored at the beginning. head_seq: newest event then.
        slack: at a window's edge; zero where time stands still between a plan and its commits.
    """

    def __init__(
        self,
        rows: Iterable[Row],
        *,
        policy: FleetPolicy,
        incarnation: str,
        head_seq: int = 0,
        slack: timedelta = WINDOW_SLACK,
    ) -> None:
        self._rows = Rows()
        for row in rows:
            self._rows.put(row)
        self._policy = policy
        self._incarnation = incarnation
        self._head_seq = head_seq
        self._slack = slack

    def committed(self, rows: Sequence[Row], events: Sequence[Event], now: datetime) -> list[Broken]:
        """Take in one commit, in commit order; the promises that it broke."""
        known = self._rows
        broken = list(self._events(events))
        prepared: list[AttemptRow] = []
        proceeded: list[NodeRow] = []
        highest = {r.node_id: known.highest(r.node_id) for r in rows if isinstance(r, AttemptRow)}
        freed = known.freeze([r.node_id for r in rows if isinstance(r, NodeRow | AttemptRow)])
        for row in rows:
            match row:
                case NodeRow():
                    broken += _node(known.nodes.get(row.node_id), row)
                    if _proceeds(known.nodes.get(row.node_id), row):
                        proceeded.append(row)
                case AttemptRow():
                    before = known.attempts.get((row.node_id, row.generation))
                    broken += _attempt(before, row, highest[row.node_id])
                    if before is None and not row.adopted:
                        prepared.append(row)
                case _:
                    pass
            known.put(row)
        for row in rows:
            match row:
                case AttemptRow():
                    broken += self._one_open(row)
                case MemberRow():
                    broken += self._member(row)
                case RolloutRow():
                    broken += self._rollout(row)
                case _:
                    pass
        for attempt in prepared:
            for invariant, text in check_prepare(known, self._policy, attempt, freed, self._slack):
                broken.append(Broken(invariant, text, attempt.node_id, attempt.rollout_id))
        for node in proceeded:
            for invariant, text in check_proceed(known, node, now, self._slack):
                broken.append(Broken(invariant, text, node.node_id))
        return broken

    def followed(self, rows: Sequence[Row], now: datetime) -> list[Broken]:
        """Take in what others have committed since, as it stands now: any number of commits at once.

        None of it is a start (or it is a former planner's, whose promises it kept itself), and what
        lay in between is not known. So only what holds between any two moments is asked."""
        known = self._rows
        broken: list[Broken] = []
        for row in rows:
            match row:
                case NodeRow():
                    broken += _node(known.nodes.get(row.node_id), row)
                case AttemptRow() if before := known.attempts.get((row.node_id, row.generation)):
                    broken += _attempt(before, row, row.generation)
                case _:
                    pass
            known.put(row)
        for row in rows:
            if isinstance(row, AttemptRow):
                broken += self._one_open(row)
        return broken

    def skip_to(self, seq: int) -> None:
        """Events up to seq have been committed, and not all of them are seen here."""
        self._head_seq = max(self._head_seq, seq)

    def _events(self, events: Sequence[Event]) -> Iterable[Broken]:
        for event in events:
            if event.incarnation != self._incarnation or event.seq != self._head_seq + 1:
                yield Broken(
                    "I12",
                    f"event {event.incarnation}:{event.seq} follows {self._incarnation}:{self._head_seq}",
                    event.new.node_id,
                    event.new.rollout_id,
                )
            self._head_seq = event.seq

    def _one_open(self, row: AttemptRow) -> Iterable[Broken]:
        generations = self._rows.open_generations(row.node_id)
        if len(generations) > 1:
            told = ", ".join(str(g) for g in sorted(generations))
            yield Broken("I14", f"{row.node_id} has open attempts {told}", row.node_id, row.rollout_id)

    def _member(self, row: MemberRow) -> Iterable[Broken]:
        if row.outcome not in _COUNTS_AS_UPDATED:
            return
        attempt = self._rows.attempts.get((row.node_id, row.generation))
        if attempt is None or attempt.phase not in _UPDATED:
            phase = attempt.phase if attempt is not None else "absent"
            text = f"{row.node_id} counts as {row.outcome}, but its attempt {row.generation} is {phase}"
            yield Broken("I11", text, row.node_id, row.rollout_id)

    def _rollout(self, row: RolloutRow) -> Iterable[Broken]:
        if row.ended_at is None:
            return
        members = self._rows.members.get(row.rollout_id, {}).values()
        if row.ended_as == RolloutState.SUCCEEDED:
            wrong = [m.node_id for m in members if m.outcome in _UNFINISHED]
            word = "unfinished"
        elif row.ended_as == RolloutState.ROLLED_BACK:
            wrong = [m.node_id for m in members if m.crossed and m.outcome is not Outcome.WRITTEN_OFF]
            word = "not back"
        else:
            return
        if wrong:
            text = f"{row.rollout_id} ended {row.ended_as}, but {', '.join(sorted(wrong)[:3])} are {word}"
            yield Broken("I11", text, "", row.rollout_id)


def check(
    before: Iterable[Row],
    rows: Sequence[Row],
    events: Sequence[Event] = (),
    *,
    policy: FleetPolicy,
    incarnation: str,
    now: datetime,
    head_seq: int = 0,
    slack: timedelta = timedelta(0),
) -> list[Broken]:
    """One commit on top of the rows before it."""
    checker = Checker(before, policy=policy, incarnation=incarnation, head_seq=head_seq, slack=slack)
    return checker.committed(rows, events, now)


def _proceeds(before: NodeRow | None, after: NodeRow) -> bool:
    if not isinstance(after.desired, DesiredProceed):
        return False
    return before is None or before.desired != after.desired


def _node(before: NodeRow | None, after: NodeRow) -> Iterable[Broken]:
    if before is None:
        return
    for name in ("highest_generation", "link_epoch", "command_serial"):
        old, new = getattr(before, name), getattr(after, name)
        if new < old:
            yield Broken("I3", f"{after.node_id}: {name} fell from {old} to {new}", after.node_id)
    if before.desired != after.desired and before.command_serial == after.command_serial:
        text = f"{after.node_id}: another command under the serial {after.command_serial}"
        yield Broken("I3", text, after.node_id)


def _attempt(before: AttemptRow | None, after: AttemptRow, highest: int) -> Iterable[Broken]:
    where = {"node_id": after.node_id, "rollout_id": after.rollout_id}
    name = f"{after.node_id}: attempt {after.generation}"
    if before is None:
        if after.generation <= highest and not after.adopted:
            yield Broken("I3", f"{name} begins, but {highest} was given out before", **where)
    else:
        for field in ("incarnation", "rollout_id", "kind", "method", "from_release", "to_release"):
            taken_in = field == "rollout_id" and before.adopted and not before.rollout_id
            if getattr(before, field) != getattr(after, field) and not taken_in:
                yield Broken("I3", f"{name} changed its {field}", **where)
        if (before.failed and not after.failed) or (before.ever_lost and not after.ever_lost):
            yield Broken("I11", f"{name} had failed, and no longer has", **where)
        if _jumps_again(before.phase, after.phase):
            yield Broken("I3", f"{name} goes from {before.phase} to {after.phase}: a second jump", **where)
    if after.phase not in _UPDATED or (before is not None and before.phase in _UPDATED):
        return
    if after.method is Method.LIVE and after.verdict is not Verdict.LIVE_UPDATED:
        yield Broken("I11", f"{name} is {after.phase} with the verdict {after.verdict}", **where)
    if after.memory_intact < after.workloads:
        lost = after.workloads - after.memory_intact
        yield Broken("I11", f"{name} is {after.phase}, but {lost} workloads lost memory", **where)


_AFTER_JUMP = (frozenset(Phase) - BEFORE_JUMP - SETTLED - {Phase.JUMPING}) | {
    Phase.ABORTED,
    Phase.BAKING,
    Phase.COMMITTED,
    Phase.AWAITING_ROLLBACK,
    Phase.COLD_BOOTED,
}
"""No way leads from here to a jump of the same attempt; LOST and QUARANTINED may be news of an
earlier moment that came late."""


def _jumps_again(before: Phase, after: Phase) -> bool:
    return before in _AFTER_JUMP and after in (Phase.SUSPENDING, Phase.JUMPING)
