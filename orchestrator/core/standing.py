"""Where one node stands: what it spends, whether and how it may be started, and until when.

Pure functions of a node's own rows, its link and an instant; fleet.py keeps the answers in
its indexes and asks again when a fact or the answer's own end (`until`) makes it necessary.

Rules
1. Available: linked, serving, and the newest attempt in a phase that leaves it available.
   Unreachable and UNKNOWN nodes are unavailable. Maintenance and a write-off take a node out
   of the count altogether.
2. A node counts under the domain value it carries now and the one its attempt started with.
3. A blackout slot is held by an open attempt in BLACKOUT_SLOT; once LOST it never takes one again.
4. A member is due in one of two lanes: FORWARD (pending, and its rollout goes forward) or BACK
   (it crossed, and its rollout goes back or it was found unhealthy). Its Place says whether it
   may be started now and, if not, what it waits for.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta

from orchestrator.core import staging
from orchestrator.core.model import (
    AttemptRow,
    DesiredCancel,
    DesiredCommit,
    DesiredStage,
    MemberRow,
    NodeRow,
    Pair,
    RolloutRow,
)
from orchestrator.core.phases import (
    BEFORE_JUMP,
    BLACKOUT_SLOT,
    SETTLED,
    UNAVAILABLE,
    Goal,
    Kind,
    Link,
    Outcome,
    Phase,
)
from orchestrator.core.policy import FleetPolicy
from orchestrator.core.settlement import settle_needed

NEEDS_WORD = frozenset({Phase.QUARANTINED, Phase.COLD_BOOTED, Phase.LOST})
"""Settled phases after which only a person's word begins another attempt."""


class Lane(enum.StrEnum):
    """Which way a member's next attempt goes."""

    FORWARD = "FORWARD"
    BACK = "BACK"


class Place(enum.StrEnum):
    """What a member that is due waits for."""

    READY = "READY"
    ALREADY = "ALREADY"
    """FORWARD: runs the target release."""
    UNCOMMITTED = "UNCOMMITTED"
    """FORWARD: runs the target release, but a cold boot would start another: nobody has committed
    the update that brought it there, and its rollout will not."""
    IS_BACK = "IS_BACK"
    """BACK: runs the release it came from."""
    SUPERSEDED = "SUPERSEDED"
    """BACK: another rollout, or one that the store has lost, has taken it elsewhere since."""
    NO_ROLLBACK = "NO_ROLLBACK"
    NOT_DUE = "NOT_DUE"
    UNKNOWN_LINK = "UNKNOWN_LINK"
    UNREACHABLE = "UNREACHABLE"
    MAINTENANCE = "MAINTENANCE"
    UNHEALTHY = "UNHEALTHY"
    NOT_READY = "NOT_READY"
    """It would refuse a PREPARE now, as it says itself: somebody drives its LUO by hand, say."""
    OTHER_ROLLOUT = "OTHER_ROLLOUT"
    NEEDS_WORD = "NEEDS_WORD"
    NOT_STAGED = "NOT_STAGED"
    STAGING = "STAGING"
    STAGE_FAILED = "STAGE_FAILED"


class Flag(enum.StrEnum):
    """What the planner must look at for a member, whatever its rollout's gates say."""

    SETTLE = "SETTLE"
    SILENT = "SILENT"
    """An open attempt's silence lease has run out, or its node was written off."""
    UNANSWERED = "UNANSWERED"
    """PREPARE was not acknowledged in time."""
    PRESERVED = "PRESERVED"
    """Waits for PROCEED, or its PROCEED has run out."""
    UNDOABLE = "UNDOABLE"
    """Before the jump, and no CANCEL is out."""
    DOOMED = "DOOMED"
    """UNDOABLE, and once LOST or cancelled: it must not jump any more."""
    COMMIT = "COMMIT"
    """Baked: COMMIT is due."""


Bucket = tuple[str, Pair, bool]
"""(domain value, pair, takes an unavailable slot): ready members that are blocked or free together."""


@dataclass(frozen=True, slots=True)
class MemberStanding:
    """A node as one of its rollouts sees it."""

    wave: int
    outcome: Outcome
    failed: bool
    counted: bool
    unavailable: bool
    value: str
    """Its domain value now."""
    values: tuple[str, ...]
    """All it counts under while unavailable."""
    blackout: bool
    uncommitted: bool
    silent: bool
    """An attempt of this rollout is open on it, and it has no link."""
    returning: bool
    """Its newest attempt is a rollback of this rollout."""
    updated_order: int
    lane: Lane | None
    place: Place | None
    bucket: Bucket
    order: tuple[int, str]
    flags: tuple[Flag, ...]


@dataclass(frozen=True, slots=True)
class Standing:
    """A node as the fleet sees it."""

    link: Link
    counted: bool
    unavailable: bool
    blackout: bool
    staging: bool
    stale_desire: bool
    members: Mapping[str, MemberStanding]


@dataclass(frozen=True, slots=True)
class Membership:
    """A node's place in one rollout, with the newest attempt made there."""

    rollout: RolloutRow
    member: MemberRow
    own: AttemptRow | None
    last: AttemptRow | None
    """`own`, or the newest that may have taken the node elsewhere since. An attempt that was undone, another
    rollout's or one of a lost future, has taken it nowhere; a way back to where this one left it ends it.
    Of a rollout that has ended always `own`: it begins nothing."""


@dataclass(frozen=True, slots=True)
class Surroundings:
    """All that a node's standing depends on."""

    node: NodeRow
    newest: AttemptRow | None
    memberships: tuple[Membership, ...]
    link: Link
    link_until: datetime | None
    """When the link's state changes unless the node is heard of again."""
    alive_at: datetime | None
    """Newest sign of life that a silence lease may be counted from; None: it may not yet."""


def pair_of(node: NodeRow, rollout: RolloutRow) -> Pair:
    """The kernel pair that an attempt on the node would be of now."""
    return (node.release, rollout.artifact.release, node.hardware_model)


def pair_key(pair: Pair) -> str:
    """As RolloutRow.pair_canaries spells it."""
    return "|".join(pair)


def in_maintenance(node: NodeRow, now: datetime) -> bool:
    maintenance = node.maintenance
    return maintenance is not None and (maintenance.expires_at is None or now < maintenance.expires_at)


def is_open(attempt: AttemptRow | None) -> bool:
    return attempt is not None and attempt.phase not in SETTLED


def is_unavailable(node: NodeRow, newest: AttemptRow | None, link: Link) -> bool:
    """Rule 1, maintenance and write-off left aside."""
    if link is not Link.UP or not node.healthy:
        return True
    return newest is not None and newest.phase in UNAVAILABLE


def holds_blackout_slot(attempt: AttemptRow | None) -> bool:
    """Rule 3."""
    return attempt is not None and attempt.phase in BLACKOUT_SLOT and not attempt.ever_lost


def lost_at(s: Surroundings, policy: FleetPolicy) -> datetime | None:
    """When the open attempt's silence becomes evidence; None while it cannot."""
    a = s.newest
    rollout = _rollout_of(s)
    if a is None or rollout is None or s.alive_at is None:
        return None
    return max(s.alive_at, a.phase_at) + rollout.spec.silence_lease + policy.clock_slack


def commit_at(a: AttemptRow, rollout: RolloutRow) -> datetime | None:
    """When a BAKING node has been healthy for long enough. A rollback needs no bake."""
    if a.healthy_since is None:
        return None
    return a.healthy_since + (rollout.spec.bake.node if a.kind is Kind.FORWARD else timedelta(0))


def desire_stands(node: NodeRow, newest: AttemptRow | None, wanted: frozenset[str]) -> bool:
    """Whether what is wanted of the node still has a sense.

    wanted: digests that an active rollout still wants staged on it.
    """
    match node.desired:
        case None:
            return True
        case DesiredStage(artifact=artifact):
            return artifact.digest in wanted and artifact.digest not in node.staged
        case DesiredCommit(generation=generation):
            return newest is not None and newest.generation == generation and newest.phase is Phase.BAKING
        case desired:
            return newest is not None and newest.generation == desired.generation and is_open(newest)


def stand(s: Surroundings, policy: FleetPolicy, now: datetime) -> tuple[Standing, datetime | None]:
    """The node's standing, and when it changes by itself (None: only by a fact)."""
    node, newest = s.node, s.newest
    ends: list[datetime | None] = [s.link_until]
    maintained = in_maintenance(node, now)
    if maintained and node.maintenance is not None:
        ends.append(node.maintenance.expires_at)
    counted = not maintained and not node.written_off
    unavailable = is_unavailable(node, newest, s.link)
    wanted: set[str] = set()
    members: dict[str, MemberStanding] = {}
    for m in s.memberships:
        lane = _lane(m)
        place: Place | None = None
        if lane is Lane.FORWARD:
            place, end = _forward(s, m, policy, maintained, now)
            ends.append(end)
            wanted.add(m.rollout.artifact.digest)
        elif lane is Lane.BACK:
            place, end = _back(s, m, maintained, now)
            ends.append(end)
        mine = newest is not None and newest.rollout_id == m.rollout.rollout_id
        flags, end = _flags(s, m, mine, policy, now)
        ends.append(end)
        value, values = _domains(node, newest, m.rollout)
        order = m.member.position if lane is not Lane.BACK else -m.member.updated_order
        members[m.rollout.rollout_id] = MemberStanding(
            wave=m.member.wave,
            outcome=m.member.outcome,
            failed=m.member.failed,
            counted=counted,
            unavailable=counted and unavailable,
            value=value,
            values=values,
            blackout=mine and holds_blackout_slot(newest),
            uncommitted=mine and newest is not None and _uncommitted(newest) and not node.written_off,
            silent=mine and is_open(newest) and s.link is not Link.UP,
            returning=mine and newest is not None and newest.kind is Kind.ROLLBACK,
            updated_order=m.member.updated_order,
            lane=lane,
            place=place,
            bucket=(value, pair_of(node, m.rollout), counted and not unavailable),
            order=(order, node.node_id),
            flags=flags,
        )
    standing = Standing(
        link=s.link,
        counted=counted,
        unavailable=counted and unavailable,
        blackout=holds_blackout_slot(newest),
        staging=_is_staging(node, s.link),
        stale_desire=not desire_stands(node, newest, frozenset(wanted)),
        members=members,
    )
    return standing, min((e for e in ends if e is not None and e > now), default=None)


def _rollout_of(s: Surroundings) -> RolloutRow | None:
    for m in s.memberships:
        if s.newest is not None and m.rollout.rollout_id == s.newest.rollout_id:
            return m.rollout
    return None


def _uncommitted(a: AttemptRow) -> bool:
    return a.phase is Phase.BAKING and a.kind is Kind.FORWARD


def _is_staging(node: NodeRow, link: Link) -> bool:
    desired = node.desired
    return (
        isinstance(desired, DesiredStage)
        and link is Link.UP
        and desired.artifact.digest not in node.staged
        and node.stage_problem_digest != desired.artifact.digest
    )


def _domains(node: NodeRow, newest: AttemptRow | None, rollout: RolloutRow) -> tuple[str, tuple[str, ...]]:
    budget = rollout.spec.budgets.domain
    if budget is None:
        return "", ()
    value = node.labels.get(budget.key, "")
    if newest is None or newest.phase not in UNAVAILABLE:
        return value, (value,)
    started = newest.domains.get(budget.key, value)
    return value, (value,) if started == value else (value, started)


def _lane(m: Membership) -> Lane | None:
    member, own = m.member, m.own
    if m.rollout.ended_at is not None or member.outcome in _DONE:
        return None
    if member.crossed and own is not None:
        if own.kind is Kind.ROLLBACK:
            return Lane.BACK if member.outcome is Outcome.PENDING else None
        if m.rollout.goal is Goal.BACK or own.phase is Phase.AWAITING_ROLLBACK:
            return Lane.BACK
    if member.outcome is Outcome.PENDING and m.rollout.goal is Goal.FORWARD:
        return Lane.FORWARD
    return None


_DONE = frozenset({Outcome.OPEN, Outcome.ALREADY, Outcome.EXCLUDED, Outcome.WRITTEN_OFF, Outcome.ROLLED_BACK})


def _taken(s: Surroundings, m: Membership) -> bool:
    """Another rollout has an open attempt on the node, or still watches it bake (or will, once it
    has taken note that the attempt bakes)."""
    newest = s.newest
    if newest is None or newest.rollout_id == m.rollout.rollout_id:
        return False
    if is_open(newest):
        # Of a lost future, it is lost by nobody's lease: its node is waited for like any that is silent.
        return bool(newest.rollout_id) or s.link is Link.UP
    if newest.phase is not Phase.BAKING:
        return False
    return any(
        other.rollout.rollout_id == newest.rollout_id
        and other.rollout.ended_at is None
        and (
            other.member.outcome is Outcome.BAKING
            or settle_needed(other.rollout, other.member, other.own, s.node)
        )
        for other in s.memberships
    )


def _reach(s: Surroundings, maintained: bool) -> Place | None:
    """What keeps any attempt from the node at all."""
    if maintained:
        return Place.MAINTENANCE
    if s.link is Link.UNKNOWN:
        return Place.UNKNOWN_LINK
    return Place.UNREACHABLE if s.link is Link.DOWN else None


def _forward(
    s: Surroundings, m: Membership, policy: FleetPolicy, maintained: bool, now: datetime
) -> tuple[Place, datetime | None]:
    node, newest, member, rollout = s.node, s.newest, m.member, m.rollout
    word = member.operator_word
    if _taken(s, m):
        return Place.OTHER_ROLLOUT, None
    if (reach := _reach(s, maintained)) is not None:
        return reach, None
    if newest is not None and (
        newest.phase is Phase.AWAITING_ROLLBACK or (newest.phase in NEEDS_WORD and not word)
    ):
        return Place.NEEDS_WORD, None
    mended = newest is not None and newest.phase in NEEDS_WORD
    if node.release == rollout.artifact.release and not mended:
        baking = newest is not None and newest.phase is Phase.BAKING
        return (Place.UNCOMMITTED if baking else Place.ALREADY), None
    if not node.healthy and not word:
        return Place.UNHEALTHY, None
    if not rollout.spec.rollback.none and not node.rollback_artifact:
        return Place.NO_ROLLBACK, None
    if member.not_before is not None and now < member.not_before:
        return Place.NOT_DUE, member.not_before
    digest = rollout.artifact.digest
    if digest in node.staged:
        return _now(node), None
    held, until = staging.is_held(node, rollout, policy, now)
    if held:
        return Place.STAGE_FAILED, until
    desired = node.desired
    under_way = isinstance(desired, DesiredStage) and desired.artifact.digest == digest
    return Place.STAGING if under_way else Place.NOT_STAGED, None


def _back(s: Surroundings, m: Membership, maintained: bool, now: datetime) -> tuple[Place, datetime | None]:
    node, newest, member, last = s.node, s.newest, m.member, m.last
    if _taken(s, m):
        return Place.OTHER_ROLLOUT, None
    if (reach := _reach(s, maintained)) is not None:
        return reach, None
    if node.release == member.from_release and (newest is None or newest.phase is not Phase.LOST):
        return Place.IS_BACK, None
    if last is not None and last.rollout_id != m.rollout.rollout_id:
        return Place.SUPERSEDED, None
    if last is not None and last.phase in NEEDS_WORD and not member.operator_word:
        return Place.NEEDS_WORD, None
    if not member.from_artifact:
        return Place.NO_ROLLBACK, None
    if member.not_before is not None and now < member.not_before:
        return Place.NOT_DUE, member.not_before
    return _now(node), None


def _now(node: NodeRow) -> Place:
    """Of a node of which nothing else is waited for. What it says of itself comes last: an artifact can be
    staged meanwhile."""
    return Place.READY if node.refuses is None else Place.NOT_READY


def _told_at(node: NodeRow, a: AttemptRow, rollout: RolloutRow) -> datetime:
    """When the node could hear its PREPARE: a link that came back brings it anew, within bounds,
    for an agent that dies of it dials again and again."""
    if not node.link_up or node.link_changed_at is None:
        return a.opened_at
    return max(a.opened_at, min(node.link_changed_at, a.opened_at + rollout.spec.silence_lease))


def _flags(
    s: Surroundings, m: Membership, mine: bool, policy: FleetPolicy, now: datetime
) -> tuple[tuple[Flag, ...], datetime | None]:
    """What to look at, and when the next of it falls due."""
    flags: list[Flag] = []
    ends: list[datetime] = []
    node, a = s.node, s.newest
    if settle_needed(m.rollout, m.member, m.own, node):
        flags.append(Flag.SETTLE)
    if not mine or a is None:
        return tuple(flags), None

    def due(at: datetime | None, flag: Flag) -> None:
        if at is None:
            return
        if at <= now:
            flags.append(flag)
        else:
            ends.append(at)

    if a.phase is Phase.BAKING:
        over = m.rollout.ended_at is not None and a.kind is Kind.FORWARD
        if not isinstance(node.desired, DesiredCommit) and node.healthy and not over:
            due(commit_at(a, m.rollout), Flag.COMMIT)
    elif a.phase not in SETTLED:
        due(now if node.written_off else lost_at(s, policy), Flag.SILENT)
        if a.phase in BEFORE_JUMP and not isinstance(node.desired, DesiredCancel):
            flags.append(Flag.UNDOABLE)
            if a.ever_lost or a.cancel_cause:
                flags.append(Flag.DOOMED)
            elif a.phase is Phase.PRESERVED:
                due(a.proceed_until if a.proceed_until is not None else now, Flag.PRESERVED)
            elif a.phase is Phase.LOADING and not a.acknowledged:
                due(_told_at(node, a, m.rollout) + m.rollout.spec.acknowledge_timeout, Flag.UNANSWERED)
    return tuple(flags), min(ends, default=None)
