"""Whether a committed PREPARE or PROCEED was allowed: I1, I2, I5, I6, from rows alone."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from datetime import UTC, datetime, timedelta
from math import floor
from zoneinfo import ZoneInfo

from orchestrator.core.invariants_rows import Rows
from orchestrator.core.model import AttemptRow, DesiredProceed, MemberRow, NodeRow, RolloutRow
from orchestrator.core.phases import Goal, Kind
from orchestrator.core.policy import FleetPolicy
from orchestrator.core.spec import Amount, Promotion, Schedule, Window

Finding = tuple[str, str]
"""(invariant, what is wrong)"""


def check_prepare(
    rows: Rows,
    policy: FleetPolicy,
    attempt: AttemptRow,
    was_unavailable: Mapping[str, bool],
    slack: timedelta,
) -> Iterator[Finding]:
    """Every promise about a start. rows: as they are with the commit that made the attempt."""
    rollout = rows.rollouts.get(attempt.rollout_id)
    if rollout is None:
        yield "I6", f"{attempt.node_id} was prepared for {attempt.rollout_id}, which does not exist"
        return
    at = attempt.opened_at
    yield from _gates(rows, rollout, attempt.kind, (at, at - slack), f"PREPARE of {attempt.node_id}")
    yield from _canary(rollout, attempt)
    yield from _blackout(rows, policy, rollout, attempt)
    if not was_unavailable.get(attempt.node_id, False):
        yield from _unavailable(rows, policy, rollout, attempt)


def check_proceed(rows: Rows, node: NodeRow, now: datetime, slack: timedelta) -> Iterator[Finding]:
    """A PROCEED must be as free to go as a PREPARE."""
    assert isinstance(node.desired, DesiredProceed)
    attempt = rows.attempts.get((node.node_id, node.desired.generation))
    rollout = rows.rollouts.get(attempt.rollout_id) if attempt is not None else None
    if attempt is None or rollout is None:
        yield "I6", f"{node.node_id} was told to jump in an attempt that does not exist"
        return
    yield from _gates(rows, rollout, attempt.kind, (now, now - slack), f"PROCEED of {node.node_id}")


def _gates(
    rows: Rows, rollout: RolloutRow, kind: Kind, instants: tuple[datetime, ...], what: str
) -> Iterator[Finding]:
    name = rollout.rollout_id
    if rows.fleet.stopped:
        yield "I6", f"{what}, although the fleet is stopped ({rows.fleet.stopped})"
    if rollout.paused:
        yield "I6", f"{what}, although {name} is paused"
    if rollout.ended_at is not None:
        yield "I6", f"{what}, although {name} has ended"
    if kind is Kind.FORWARD and rollout.goal is Goal.CANCEL:
        # Nodes found unhealthy are rolled back under a cancel, too.
        yield "I6", f"{what}, although {name} is cancelled"
    if kind is Kind.FORWARD and rollout.goal is Goal.BACK:
        yield "I6", f"{what}, although {name} goes back"
    if kind is Kind.FORWARD and rollout.halted:
        yield "I6", f"{what}, although {name} is halted ({rollout.halted})"
    if not any(is_open(rollout.spec.schedule, at) for at in instants):
        yield "I6", f"{what}, outside every window or under embargo"


def is_open(schedule: Schedule, at: datetime) -> bool:
    """Whether starts are allowed at an instant."""
    if any(e.start <= at < e.end for e in schedule.embargoes):
        return False
    return not schedule.windows or any(_within(w, at) for w in schedule.windows)


def _within(window: Window, at: datetime) -> bool:
    """In the window of today, or of yesterday if it goes over midnight.

    Compared as instants, so that the hour that a change of the clocks repeats or skips counts.
    """
    zone = ZoneInfo(window.time_zone)
    today = at.astimezone(zone).date()
    for day in (today - timedelta(days=1), today):
        if window.days and day.weekday() not in window.days:
            continue
        last = day + timedelta(days=1) if window.end <= window.start else day
        start = datetime.combine(day, window.start, zone).astimezone(UTC)
        end = datetime.combine(last, window.end, zone).astimezone(UTC)
        if start <= at < end:
            return True
    return False


def _canary(rollout: RolloutRow, attempt: AttemptRow) -> Iterator[Finding]:
    if attempt.kind is not Kind.FORWARD or attempt.wave == 0:
        return
    name, pair = attempt.node_id, (attempt.from_release, attempt.to_release, attempt.hardware_model)
    if rollout.wave < attempt.wave:
        yield "I5", f"{name} of wave {attempt.wave} started in wave {rollout.wave}"
    if pair not in rollout.pairs_passed and rollout.pair_canaries.get("|".join(pair)) != name:
        yield "I5", f"{name} started, but {' → '.join(pair[:2])} on {pair[2]} has not passed its canary"
    if rollout.spec.promotion is not Promotion.AUTOMATIC and not rollout.approved:
        yield "I5", f"{name} of wave {attempt.wave} started, but nobody has approved any wave"


def _blackout(rows: Rows, policy: FleetPolicy, rollout: RolloutRow, attempt: AttemptRow) -> Iterator[Finding]:
    members = rows.members.get(rollout.rollout_id, {})
    counted = _counted(rows, rollout, members, attempt.opened_at)
    budgets = rollout.spec.rollback if rollout.goal is Goal.BACK else rollout.spec.budgets
    limit = at_most(budgets.max_in_blackout, counted)
    used = sum(1 for _ in rows.slots(rollout.rollout_id))
    if used > limit:
        yield "I2", f"{attempt.node_id} is blackout slot {used} of {limit} of {rollout.rollout_id}"
    if policy.max_in_blackout is not None:
        limit = at_most(policy.max_in_blackout, len(rows.nodes))
        used = sum(1 for _ in rows.slots())
        if used > limit:
            yield "I2", f"{attempt.node_id} is blackout slot {used} of {limit} of the fleet"


def _unavailable(
    rows: Rows, policy: FleetPolicy, rollout: RolloutRow, attempt: AttemptRow
) -> Iterator[Finding]:
    """The node was available: it took a slot. Slots of the same plan count, too."""
    members = rows.members.get(rollout.rollout_id, {})
    at = attempt.opened_at
    used = _spending(rows, members, attempt)
    if rollout.goal is Goal.BACK:
        limit = at_most(rollout.spec.rollback.max_unavailable, _counted(rows, rollout, members, at))
        limit += rollout.rollback_baseline
    else:
        limit = at_most(rollout.spec.budgets.max_unavailable, _counted(rows, rollout, members, at))
    if len(used) > limit:
        text = f"{attempt.node_id} makes {len(used)} unavailable members of {rollout.rollout_id}"
        yield "I1", f"{text}, {limit} allowed"
    yield from _domain(rows, rollout, attempt, used)
    if policy.max_unavailable is not None:
        everywhere = _spending(rows, rows.nodes, attempt)
        limit = at_most(policy.max_unavailable, len(rows.nodes))
        if len(everywhere) > limit:
            yield "I1", f"{attempt.node_id} makes {len(everywhere)} unavailable nodes, {limit} allowed"


def _spending(rows: Rows, among: Mapping[str, object], attempt: AttemptRow) -> list[str]:
    """Nodes that spend a slot, the attempt's own among them."""
    return sorted({*rows.unavailable_among(among, attempt.opened_at), attempt.node_id})


def _domain(
    rows: Rows,
    rollout: RolloutRow,
    attempt: AttemptRow,
    used: list[str],
) -> Iterator[Finding]:
    domain = rollout.spec.budgets.domain
    if domain is None:
        return
    back = rollout.goal is Goal.BACK
    for value in rows.values(attempt.node_id, domain.key):
        counted = [n for n in used if not back or rows.goes_back(n, rollout.rollout_id)]
        mine = sum(1 for n in counted if value in rows.values(n, domain.key))
        carrying = rows.carrying(rollout.rollout_id, domain.key, value, attempt.opened_at)
        limit = at_most(domain.max_unavailable, carrying)
        if mine > limit:
            yield "I1", f"{attempt.node_id} makes {mine} unavailable in {domain.key}={value}, {limit} allowed"


def _counted(rows: Rows, rollout: RolloutRow, members: Mapping[str, MemberRow], at: datetime) -> int:
    return max(0, rollout.members - rows.out_of(members, at))


def at_most(amount: Amount, members: int) -> int:
    """A budget in nodes: rounded down, at least one. Reckoned here, and not by Amount itself, whose
    mistakes the checker is to find."""
    if amount.percent is None:
        return amount.count or 0
    return max(1, floor(members * amount.percent / 100 + 1e-9))
