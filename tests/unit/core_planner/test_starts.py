"""Who may start: slots, caps, canaries, gates, and what each refusal says."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, time, timedelta
from typing import Any

import pytest

from orchestrator.core.budgets import uses
from orchestrator.core.model import DesiredPrepare, DesiredStage, Maintenance
from orchestrator.core.phases import Goal, Outcome, Phase, WaveState
from orchestrator.core.policy import FleetPolicy
from orchestrator.core.spec import Amount, DomainBudget, Embargo, RollbackPolicy, Schedule, Window
from tests.unit.core_planner.builders import NEW, START, World, node, nodes, planned, settled_attempt, spec


def opened(w: World, **changes: Any) -> World:
    """Past its canary: wave 1 runs and the pair has passed."""
    pair = ("6.19.0", NEW, "m1")
    changes = {"wave": 1, "wave_state": WaveState.RUNNING, "pairs_passed": frozenset({pair}), **changes}
    w.set_rollout(**changes)
    for member in list(w.fleet.members("r1").values()):
        if member.wave == 0:
            w.set_member(member.node_id, outcome=Outcome.ALREADY)
    return w


def begun(count: int, zone: str = "", policy: FleetPolicy | None = None, **how: object) -> World:
    w = World(nodes(count, zone=zone), policy or FleetPolicy())
    w.rollout(spec(**how))  # type: ignore[arg-type]
    return opened(w)


def test_a_start_takes_its_slot_and_its_blackout_slot_with_the_commit() -> None:
    w = World(nodes(1))
    w.rollout(spec())
    w.settle_plans()
    a, n = w.attempt("n0"), w.node("n0")
    assert (a.phase, a.acknowledged, a.expected_boot_id, a.from_release) == (
        Phase.LOADING,
        False,
        "n0-boot-1",
        "6.19.0",
    )
    assert a.pair_canary
    assert isinstance(n.desired, DesiredPrepare)
    assert (n.attempt, n.highest_generation, n.command_serial) == (1, 1, 1)
    assert w.member("n0").outcome is Outcome.OPEN
    assert w.member("n0").from_artifact == "sha-6.19.0"
    used = {u.budget: u.used for u in uses(w.fleet, "r1")}
    assert (used["max_unavailable"], used["max_in_blackout"], used["max_uncommitted"]) == (1, 1, 1)


def test_generation_is_above_whatever_the_node_has_seen() -> None:
    w = World([node("n0", highest_generation=41)])
    w.rollout(spec())
    w.settle_plans()
    assert w.attempt("n0").generation == 42


def test_max_unavailable_bounds_starts() -> None:
    w = begun(6, unavailable=2)
    w.settle_plans()
    assert w.open_nodes() == ["n1", "n2"]
    assert "BUDGET_UNAVAILABLE" in w.reasons()


def test_a_node_that_cannot_be_reached_spends_max_unavailable() -> None:
    w = begun(6, unavailable=2)
    w.cut("n5")
    w.settle_plans()
    assert w.open_nodes() == ["n1"]


def test_an_unhealthy_node_spends_max_unavailable_and_is_not_started() -> None:
    w = begun(3, unavailable=1)
    w.set_node("n2", healthy=False)
    w.settle_plans()
    assert w.open_nodes() == []
    assert {"BUDGET_UNAVAILABLE", "NODE_UNHEALTHY"} <= w.reasons()


def test_a_start_on_a_node_counted_unavailable_takes_no_new_slot() -> None:
    w = begun(3, unavailable=1)
    w.put(settled_attempt(w.node("n1"), Phase.QUARANTINED, rollout_id="r1"))
    w.set_member("n1", generation=1, operator_word=True)
    w.settle_plans()
    assert w.open_nodes() == ["n1"]
    assert w.attempt("n1").operator_word
    assert not w.member("n1").operator_word


def test_maintenance_leaves_numerator_and_denominator() -> None:
    w = begun(10, budgets={}, unavailable=100)
    tight = replace(w.row().spec.budgets, max_unavailable=Amount(percent=20))
    w.set_rollout(spec=replace(w.row().spec, budgets=tight))
    for node_id in ("n5", "n6", "n7", "n8", "n9"):
        w.set_node(node_id, maintenance=Maintenance("ops", "disk"), healthy=False)
    w.settle_plans()
    assert len(w.open_nodes()) == 1


def test_maintenance_ends_by_itself() -> None:
    w = begun(2)
    w.set_node("n1", maintenance=Maintenance("ops", "disk", START + timedelta(minutes=1)))
    w.set_rollout(wave_names=("canary", "w1", "stragglers"), wave=2)
    w.settle_plans()
    assert "NODE_IN_MAINTENANCE" in w.reasons()
    assert w.last_plan.next_wake is not None
    assert w.last_plan.next_wake <= START + timedelta(minutes=1)
    w.tick(timedelta(minutes=1))
    w.settle_plans()
    assert w.open_nodes() == ["n1"]


def test_max_in_blackout_bounds_starts() -> None:
    w = begun(6, blackout=3)
    w.settle_plans()
    assert len(w.open_nodes()) == 3
    assert "BUDGET_BLACKOUT" in w.reasons()


def test_a_blackout_slot_is_given_back_when_workloads_run_again() -> None:
    w = begun(3, blackout=1)
    w.settle_plans()
    w.set_attempt("n1", phase=Phase.VERIFYING, acknowledged=True)
    assert planned(w, "prepare") == ["n2"]


def test_max_uncommitted_counts_baking_nodes_and_those_that_will_bake() -> None:
    w = begun(6, budgets={"max_uncommitted": Amount(count=2)})
    w.settle_plans()
    assert len(w.open_nodes()) == 2
    assert "BUDGET_UNCOMMITTED" in w.reasons()


def test_a_domain_is_held_at_its_cap_while_the_others_go_on() -> None:
    w = begun(7, zone="ab", budgets={"domain": DomainBudget("zone", Amount(count=1))})
    w.settle_plans()
    assert w.open_nodes() == ["n1", "n2"]
    assert "DOMAIN_CAP" in w.reasons()


def test_an_attempt_counts_under_the_labels_it_started_with_and_the_current_ones() -> None:
    w = begun(7, zone="abc", budgets={"domain": DomainBudget("zone", Amount(count=1))})
    w.settle_plans()
    assert sorted(w.open_nodes()) == ["n1", "n2", "n3"]
    w.set_node("n1", labels={"zone": "d"})
    assert planned(w, "prepare") == []
    domains = {u.budget: u.used for u in uses(w.fleet, "r1")}
    assert (domains["domain:zone=b"], domains["domain:zone=d"]) == (1, 1)


@pytest.mark.parametrize(("percent", "members", "limit"), [(10, 25, 2), (1, 25, 1), (100, 3, 3)])
def test_percentages_round_down_with_a_minimum_of_one(percent: float, members: int, limit: int) -> None:
    assert Amount(percent=percent).of(members) == limit


def test_rollouts_share_the_fleets_budgets() -> None:
    w = World(nodes(6), FleetPolicy(max_unavailable=Amount(count=3), max_in_blackout=Amount(count=2)))
    w.rollout(spec(), waves=[["n0", "n1"], []])
    w.rollout(spec(name="r2"), waves=[["n2", "n3"], []])
    w.settle_plans()
    assert w.open_nodes() == ["n0", "n1"]
    assert "FLEET_BUDGET_BLACKOUT" in w.reasons("r2")
    for node_id in ("n0", "n1"):
        w.set_attempt(node_id, phase=Phase.VERIFYING, acknowledged=True)
    assert planned(w, "prepare") == ["n2"]
    w.settle_plans()
    assert "FLEET_BUDGET_UNAVAILABLE" in w.reasons("r2")
    assert {"fleet_max_unavailable", "fleet_max_in_blackout"} <= {u.budget for u in uses(w.fleet, "r1")}


def test_an_open_attempt_of_another_rollout_blocks_and_says_which() -> None:
    w = World(nodes(1))
    w.rollout(spec(), waves=[["n0"], []])
    w.settle_plans()
    w.rollout(spec(name="r2"), waves=[["n0"], []])
    w.settle_plans()
    blockers = {b.reason: b for b in w.plan().blockers["r2"]}
    assert "r1" in blockers["OTHER_ROLLOUT"].message
    assert w.attempt("n0").rollout_id == "r1"


def test_a_node_that_bakes_for_another_rollout_is_waited_for() -> None:
    w = World(nodes(1))
    w.rollout(spec(), waves=[["n0"], []])
    w.run(until="BAKING")
    w.settle_plans()
    w.rollout(spec(name="r2"), waves=[["n0"], []])
    assert "OTHER_ROLLOUT" in w.reasons("r2")


def test_needs_a_rollback_artifact_or_a_word_that_there_is_none() -> None:
    w = World([node("n0", rollback_artifact="")])
    w.rollout(spec())
    w.settle_plans()
    assert w.open_nodes() == []
    (blocker,) = w.plan().blockers["r1"]
    assert blocker.reason == "NO_ROLLBACK_ARTIFACT"
    assert blocker.remedy
    w.set_rollout(spec=replace(w.row().spec, rollback=RollbackPolicy(none=True)))
    w.settle_plans()
    assert w.open_nodes() == ["n0"]


@pytest.mark.parametrize("phase", [Phase.QUARANTINED, Phase.COLD_BOOTED, Phase.LOST, Phase.AWAITING_ROLLBACK])
def test_after_a_bad_end_only_a_person_begins_another(phase: Phase) -> None:
    w = begun(2)
    w.put(settled_attempt(w.node("n1"), phase))
    w.settle_plans()
    assert w.open_nodes() == []
    assert "NEEDS_OPERATOR" in w.reasons()


def test_a_node_on_the_target_release_at_its_turn_is_already_there() -> None:
    w = begun(3)
    w.set_node("n1", release=NEW)
    w.settle_plans()
    assert w.member("n1").outcome is Outcome.ALREADY
    assert w.open_nodes() == ["n2"]


# --- the canary rule ---------------------------------------------------------------------


def test_beyond_wave_0_nothing_starts_before_wave_0_has_passed() -> None:
    w = World(nodes(4))
    w.rollout(spec())
    w.run(until="BAKING")
    w.settle_plans()
    assert set(w.phases()) == {"n0"}


def test_a_pair_found_late_gets_its_canary_in_place() -> None:
    w = begun(4)
    for node_id in ("n2", "n3"):
        w.set_node(node_id, hardware_model="m2")
    w.settle_plans()
    assert w.row().pair_canaries == {"6.19.0|7.1.0|m2": "n2"}
    assert sorted(w.open_nodes()) == ["n1", "n2"]
    assert w.attempt("n2").pair_canary
    assert "CANARY_UNDER_WAY" in w.reasons()
    w.run()
    assert w.state() == "SUCCEEDED"
    assert ("6.19.0", NEW, "m2") in w.row().pairs_passed


def test_a_preferred_canary_is_chosen() -> None:
    w = begun(4)
    for node_id in ("n2", "n3"):
        w.set_node(node_id, hardware_model="m2")
    w.set_rollout(spec=replace(w.row().spec, canary=replace(w.row().spec.canary, nodes=("n3",))))
    w.settle_plans()
    assert w.row().pair_canaries == {"6.19.0|7.1.0|m2": "n3"}


def test_more_pairs_than_max_nodes_wait_their_turn_listed() -> None:
    w = begun(5)
    for i, node_id in enumerate(("n1", "n2", "n3", "n4")):
        w.set_node(node_id, hardware_model=f"x{i}")
    w.set_rollout(spec=replace(w.row().spec, canary=replace(w.row().spec.canary, max_nodes=2)))
    w.settle_plans()
    assert w.open_nodes() == ["n1", "n2"]
    assert "PAIR_WAITS" in w.reasons()
    w.run()
    assert w.state() == "SUCCEEDED"


def canaried() -> World:
    w = begun(4)
    for node_id in ("n1", "n2", "n3"):
        w.set_node(node_id, hardware_model="m2")
    w.settle_plans()
    assert w.open_nodes() == ["n1"]
    return w


def test_a_canary_lost_before_its_jump_is_replaced() -> None:
    w = canaried()
    w.cut("n1")
    w.tick(timedelta(minutes=6))
    w.settle_plans()
    assert w.row().halted == "HALT_ON_LOST"
    w.set_rollout(halted="", failures_forgiven=1)
    w.settle_plans()
    assert w.row().pair_canaries == {"6.19.0|7.1.0|m2": "n2"}
    assert w.open_nodes() == ["n2"]


def test_a_canary_lost_after_its_jump_is_never_replaced() -> None:
    w = canaried()
    w.run(until="SUSPENDING")
    w.cut("n1")
    w.tick(timedelta(minutes=6))
    w.settle_plans()
    w.set_rollout(halted="", failures_forgiven=1)
    w.settle_plans()
    assert w.row().pair_canaries == {"6.19.0|7.1.0|m2": "n1"}
    assert w.open_nodes() == []
    assert "CANARY_FAILED" in w.reasons()


def test_in_wave_0_another_member_of_the_pair_takes_the_canarys_place() -> None:
    w = World(nodes(3))
    w.rollout(spec(), pair_canaries={"6.19.0|7.1.0|m1": "n0"})
    w.set_member("n0", outcome=Outcome.EXCLUDED)
    w.settle_plans()
    assert w.member("n1").wave == 0
    assert w.open_nodes() == ["n1"]


# --- gates -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"paused": "lunch"}, "PAUSED"),
        ({"halted": "X", "halt_message": "y"}, "HALTED"),
        ({"goal": Goal.CANCEL}, None),
    ],
)
def test_a_closed_gate_lets_nothing_start_and_says_so(change: dict[str, Any], reason: str | None) -> None:
    w = begun(3)
    w.set_rollout(**change)
    assert planned(w, "prepare") == []
    if reason is not None:
        blocker = next(b for b in w.last_plan.blockers["r1"] if b.reason == reason)
        assert blocker.remedy


def test_a_fleet_stop_lets_nothing_start() -> None:
    w = begun(3)
    w.set_fleet(stopped="OPERATOR", stop_message="smoke")
    assert planned(w, "prepare") == []
    assert "FLEET_STOPPED" in w.reasons()


def test_outside_its_window_nothing_starts_and_the_opening_is_the_next_wake() -> None:
    w = begun(3)
    window = Window(frozenset({0}), time(14), time(15))
    w.set_rollout(spec=replace(w.row().spec, schedule=Schedule(windows=(window,))))
    assert planned(w, "prepare") == []
    opens = datetime(2026, 3, 2, 14, tzinfo=UTC)
    (blocker,) = [b for b in w.last_plan.blockers["r1"] if b.reason == "WINDOW"]
    assert blocker.until == opens
    assert w.last_plan.next_wake is not None
    assert w.last_plan.next_wake <= opens
    w.tick(timedelta(hours=2))
    assert planned(w, "prepare") == ["n1", "n2"]


def test_under_an_embargo_nothing_starts() -> None:
    w = begun(3)
    ban = Embargo(START, START + timedelta(days=3), "end of quarter")
    w.set_rollout(spec=replace(w.row().spec, schedule=Schedule(embargoes=(ban,))))
    assert planned(w, "prepare") == []
    assert "EMBARGO" in w.reasons()


def test_an_unknown_link_spends_budget_but_is_neither_started_nor_deferred() -> None:
    w = begun(3, unavailable=1)
    w.fleet = type(w.fleet).rebuild(w.policy, "inc-1", list(w.rows.values()))
    assert planned(w, "prepare") == []
    assert "LINK_UNKNOWN" in w.reasons()
    assert w.member("n1").wave == 1


# --- staging -----------------------------------------------------------------------------


def test_staging_runs_ahead_within_its_own_bound_and_takes_no_slot() -> None:
    w = World(nodes(9, staged=frozenset()), FleetPolicy(max_staging=3))
    w.rollout(spec(waves=[Amount(count=4), None]), waves=[["n0"], ["n1", "n2", "n3", "n4"], ["n5", "n6"]])
    w.settle_plans()
    staging = [n for n in w.fleet.nodes if isinstance(w.node(n).desired, DesiredStage)]
    assert staging == ["n0", "n1", "n2"]
    assert w.fleet.unavailable == 0
    assert {"STAGING"} <= w.reasons()
    w.step("n1")
    w.settle_plans()
    assert isinstance(w.node("n3").desired, DesiredStage)
    assert w.open_nodes() == []


def test_prepare_comes_only_once_the_artifact_is_staged() -> None:
    w = World(nodes(1, staged=frozenset()))
    w.rollout(spec())
    w.settle_plans()
    assert w.open_nodes() == []
    w.step("n0")
    w.settle_plans()
    assert w.open_nodes() == ["n0"]


def test_a_desire_that_no_longer_stands_is_cleared() -> None:
    w = World(nodes(2, staged=frozenset()))
    w.rollout(spec())
    w.settle_plans()
    w.set_rollout(goal=Goal.CANCEL)
    w.settle_plans()
    assert all(n.desired is None for n in w.fleet.nodes.values())
    assert w.state() == "CANCELLED"


def test_the_plan_is_deterministic() -> None:
    w = begun(9, zone="abc", unavailable=4)
    first = w.plan()
    assert first == w.plan()
    assert [a.kind for a in first.actions].count("prepare") == 4
