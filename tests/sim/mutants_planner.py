"""Mistakes in what the orchestrator decides: budgets, canaries, gates, settlement, stamps.

Each breaks one rule in one place of orchestrator/core, never the checks (core/invariants*).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from datetime import datetime
from typing import Any
from unittest.mock import patch

from orchestrator.core import (
    attempts,
    budgets,
    canaries,
    permits,
    schedule,
    settlement,
    standing,
    starts,
    waves,
)
from orchestrator.core.fleet import Fleet
from orchestrator.core.index import Order, RolloutIndex
from orchestrator.core.model import AttemptRow, MemberRow, NodeRow, RolloutRow, Stamp
from orchestrator.core.phases import Goal, Kind, Outcome, Phase
from orchestrator.core.settlement import BAD_ENDS
from orchestrator.core.spec import Amount
from orchestrator.core.standing import pair_key
from tests.sim import provocations as worlds
from tests.sim.mutant import mutant
from tests.sim.virtual import VirtualClock

ENDLESS = 1_000_000

# --- I1: budgets ---------------------------------------------------------------------------


@mutant("planner", "I1", worlds.crowded)
def planner_forgets_what_is_under_way() -> Iterator[None]:
    """max_unavailable counts attempts in flight, not only what was unavailable before"""
    real = budgets.unavailable

    def mistaken(index: RolloutIndex) -> budgets.Use:
        use = real(index)
        return replace(use, used=max(0, use.used - index.count(Outcome.OPEN)))

    with patch.object(budgets, "unavailable", mistaken):
        yield


@mutant("planner", "I1", worlds.lost_nodes)
def lost_node_frees_its_slot() -> Iterator[None]:
    """a LOST node keeps its unavailable slot until it returns or is written off"""
    real = standing.is_unavailable

    def mistaken(node: NodeRow, newest: AttemptRow | None, link: Any) -> bool:
        return real(node, newest, link) and not (newest is not None and newest.phase is Phase.LOST)

    with patch.object(standing, "is_unavailable", mistaken):
        yield


@mutant("planner", "I1", worlds.one_a_zone)
def planner_forgets_the_domain() -> Iterator[None]:
    """a failure domain has a cap of its own"""
    with patch.object(budgets, "domain", lambda index, value: None):
        yield


@mutant("planner", "I1", worlds.odd_percentages)
def percentages_are_rounded_up() -> Iterator[None]:
    """percentages are rounded down"""

    def mistaken(self: Amount, members: int) -> int:
        if self.count is not None:
            return self.count
        assert self.percent is not None
        return max(1, -int(-members * self.percent // 100))

    with patch.object(Amount, "of", mistaken):
        yield


@mutant("planner", "I1", worlds.hasty_bakes)
def planner_forgets_what_bakes() -> Iterator[None]:
    """max_uncommitted bounds the nodes that bake or will"""
    with patch.object(budgets, "uncommitted", lambda index: budgets.Use("max_uncommitted", ENDLESS, 0)):
        yield


@mutant("planner", "I1", worlds.turned_back)
def way_back_has_no_budget() -> Iterator[None]:
    """a rollback has a budget of its own, above its baseline"""
    real = budgets.unavailable

    def mistaken(index: RolloutIndex) -> budgets.Use:
        use = real(index)
        return replace(use, limit=ENDLESS) if index.row.goal is Goal.BACK else use

    with patch.object(budgets, "unavailable", mistaken):
        yield


# --- I2: blackout slots --------------------------------------------------------------------


@mutant("planner", "I2", worlds.undisturbed)
def planner_forgets_blackout_slots() -> Iterator[None]:
    """no more blackout slots are out than max_in_blackout"""
    with patch.object(budgets, "blackout", lambda index: budgets.Use("max_in_blackout", ENDLESS, 0)):
        yield


@mutant("planner", "I2", worlds.slow_kernels)
def expiry_frees_the_blackout_slot() -> Iterator[None]:
    """expiry alone never frees a slot; evidence does"""
    real = standing.holds_blackout_slot

    def mistaken(attempt: AttemptRow | None) -> bool:
        if attempt is not None and attempt.proceed_until is not None:
            return real(attempt) and VirtualClock().now() < attempt.proceed_until
        return real(attempt)

    with patch.object(standing, "holds_blackout_slot", mistaken):
        yield


# --- I4: stamps ----------------------------------------------------------------------------


@mutant("planner", "I4", worlds.late_proceeds)
def planner_makes_the_stamp_up() -> Iterator[None]:
    """PROCEED echoes a stamp of the node; nobody reckons one for it"""
    real = attempts.fresh_stamp

    def mistaken(fleet: Fleet, a: AttemptRow) -> tuple[Stamp, datetime] | None:
        found = real(fleet, a)
        if found is None:
            return None
        stamp, at = found
        return replace(stamp, boottime=stamp.boottime + (fleet.now - at)), fleet.now

    with patch.object(attempts, "fresh_stamp", mistaken):
        yield


# --- I5: canaries --------------------------------------------------------------------------


@mutant("planner", "I5", worlds.many_kinds)
def nobody_waits_for_the_canary() -> Iterator[None]:
    """beyond wave 0 a node waits until its kernel pair has passed"""

    def mistaken(index: RolloutIndex, bucket: Any, orders: list[Order], held: Any) -> list[Order]:
        return orders

    with patch.object(starts, "_admitted", mistaken):
        yield


@mutant("planner", "I5", worlds.bad_kernels)
def canary_is_replaced_after_its_jump() -> Iterator[None]:
    """a canary lost before its jump is replaced, after it never"""
    real = canaries.stands

    def mistaken(index: RolloutIndex, key: str, node_id: str) -> bool:
        member = index.members.get(node_id)
        return real(index, key, node_id) and not (member is not None and member.outcome is Outcome.FAILED)

    def ready(index: RolloutIndex, key: str, node_id: str) -> bool:
        return mistaken(index, key, node_id)

    with patch.object(canaries, "stands", ready):
        yield


@mutant("planner", "I5", worlds.approvals)
def nobody_is_asked_for_approval() -> Iterator[None]:
    """a wave that needs a person's approval waits for it"""
    with patch.object(waves, "needs_approval", lambda row, wave: False):
        yield


@mutant("planner", "I5", worlds.many_kinds)
def pair_passes_when_its_canary_is_chosen() -> Iterator[None]:
    """a pair passes when its canary is updated, not before"""
    real = waves._pass_pairs

    def mistaken(fleet: Fleet, index: RolloutIndex, step: waves.Step) -> None:
        real(fleet, index, step)
        for key, node_id in step.row.pair_canaries.items():
            found = index.standings.get(node_id)
            if step.row.wave > 0 and found is not None and pair_key(found.bucket[1]) == key:
                step.row = replace(step.row, pairs_passed=step.row.pairs_passed | {found.bucket[1]})

    with patch.object(waves, "_pass_pairs", mistaken):
        yield


# --- I6: gates -----------------------------------------------------------------------------


def _deaf_to(cause: str, kind: Kind | None = None) -> Any:
    """permits.refusal, without one of its reasons."""
    real = permits.refusal

    def mistaken(draft: Any, index: RolloutIndex, of: Kind) -> permits.Refusal | None:
        no = real(draft, index, of)
        return None if no is not None and no.cause == cause and kind in (None, of) else no

    return patch.object(permits, "refusal", mistaken)


@mutant("planner", "I6", worlds.impatient_people)
def pause_stops_no_proceed() -> Iterator[None]:
    """a pause stops PROCEED as it stops PREPARE"""
    real = permits.start_refusal

    def mistaken(draft: Any, index: RolloutIndex, kind: Kind) -> permits.Refusal | None:
        no = real(draft, index, kind)
        return None if no is not None and no.cause == "pause" else no

    with patch.object(attempts, "start_refusal", mistaken):
        yield


@mutant("planner", "I6", worlds.stopped_on_the_way_back)
def way_back_ignores_the_fleet_stop() -> Iterator[None]:
    """the fleet stop stops rollbacks, too"""
    with _deaf_to("fleet_stop", Kind.ROLLBACK):
        yield


@mutant("planner", "I6", worlds.failing_fleet)
def failures_never_halt() -> Iterator[None]:
    """one failure more than the budget halts the rollout"""
    from orchestrator.core import attempts as where

    with patch.object(where, "halt_for", lambda index, settled: None):
        yield


@mutant("planner", "I6", worlds.short_windows)
def window_ends_for_prepare_only() -> Iterator[None]:
    """PROCEED must fall in the window, too"""
    real = permits.start_refusal

    def mistaken(draft: Any, index: RolloutIndex, kind: Kind) -> permits.Refusal | None:
        no = real(draft, index, kind)
        return None if no is not None and no.cause == "window" else no

    with patch.object(attempts, "start_refusal", mistaken):
        yield


@mutant("planner", "I6", worlds.embargoes)
def planner_forgets_embargoes() -> Iterator[None]:
    """an embargo closes whatever the windows say"""
    with patch.object(schedule, "_embargo", lambda of, at: None):
        yield


@mutant("planner", "I6", worlds.long_closings)
def closed_gates_leave_who_waits() -> Iterator[None]:
    """pause, halt, window's end and embargo unwind PRESERVED nodes at once"""
    real = attempts._cancel

    def mistaken(draft: Any, a: AttemptRow, node: NodeRow, why: permits.Refusal) -> None:
        if why.cause not in ("pause", "halt", "window", "embargo"):
            real(draft, a, node, why)

    with patch.object(attempts, "_cancel", mistaken):
        yield


# --- I7: everything ends -------------------------------------------------------------------


@mutant("planner", "I7", worlds.bad_kernels)
def failures_settle_no_member() -> Iterator[None]:
    """a member whose attempt failed is settled"""
    real = settlement.settle_needed

    def mistaken(rollout: Any, member: Any, own: Any, node: Any) -> bool:
        return real(rollout, member, own, node) and (own is None or own.phase not in BAD_ENDS)

    with patch.object(standing, "settle_needed", mistaken):
        yield


@mutant("planner", "I7", worlds.early_cancels)
def cancel_leaves_who_waits() -> Iterator[None]:
    """a cancel unwinds whatever has not jumped"""
    real = attempts._cancel

    def mistaken(draft: Any, a: AttemptRow, node: NodeRow, why: permits.Refusal) -> None:
        if why.cause != "cancel":
            real(draft, a, node, why)

    with patch.object(attempts, "_cancel", mistaken):
        yield


@mutant("planner", "I7", worlds.cancelled_bakes)
def cancel_forgets_who_bakes() -> Iterator[None]:
    """a cancel lists baking nodes as updated, uncommitted; nobody stays BAKING after the end"""
    real = settlement.settle_needed

    def mistaken(rollout: RolloutRow, member: MemberRow, own: Any, node: Any) -> bool:
        baking = rollout.goal is Goal.CANCEL and member.outcome is Outcome.BAKING
        return real(rollout, member, own, node) and not (baking and own.phase is Phase.BAKING)

    with patch.object(standing, "settle_needed", mistaken):
        yield


# --- what a settled attempt admits ---------------------------------------------------------


@mutant("planner", "ADMITS", worlds.bad_kernels)
def failed_node_goes_round_by_itself() -> Iterator[None]:
    """after QUARANTINED, COLD_BOOTED or LOST nothing begins without a person's word"""
    real = settlement._failed

    def mistaken(member: MemberRow, reason: str) -> MemberRow:
        after = real(member, reason)
        if member.retries:
            return after
        return replace(after, outcome=Outcome.PENDING, operator_word=True, retries=1)

    with patch.object(settlement, "_failed", mistaken):
        yield
