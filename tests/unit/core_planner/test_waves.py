"""From wave to wave: baking, gates, approval, stragglers, late nodes, and the end."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta

import pytest

from orchestrator.core.budgets import failure_limit
from orchestrator.core.facts import GraceEnds
from orchestrator.core.model import Maintenance
from orchestrator.core.phases import Goal, Outcome, Phase, WaveState
from orchestrator.core.spec import (
    Amount,
    BlackoutGate,
    FailureBudget,
    HealthGate,
    LateNodes,
    OnFail,
    Promotion,
    Selection,
)
from orchestrator.errors import Retry
from tests.unit.core_planner.builders import NEW, World, node, nodes, spec


def s(seconds: float) -> timedelta:
    return timedelta(seconds=seconds)


def test_a_rollout_goes_through_canary_and_waves_to_its_success() -> None:
    w = World(nodes(6, zone="ab"))
    w.rollout(spec(waves=[Amount(count=2), None], unavailable=2, blackout=1))
    w.run()
    assert w.state() == "SUCCEEDED"
    assert set(w.phases().values()) == {"COMMITTED"}
    kinds = [e.kind for e in w.events]
    assert kinds.count("wave.passed") == 3
    assert kinds[-1] == "rollout.ended"


def test_a_wave_bakes_from_when_all_its_members_have_settled() -> None:
    w = World(nodes(2))
    w.rollout(spec(bake=s(60)))
    w.run(until="BAKING")
    w.settle_plans()
    settled_at = w.row().wave_settled_at
    assert w.row().wave_state is WaveState.BAKING
    assert settled_at is not None
    blockers = {b.reason: b for b in w.plan().blockers["r1"]}
    assert blockers["WAVE_BAKING"].until == settled_at + s(60)
    assert w.last_plan.next_wake is not None
    assert w.last_plan.next_wake <= settled_at + s(60)
    w.tick(s(55))
    w.settle_plans()
    assert w.row().wave == 0
    w.tick(s(5))
    w.settle_plans()
    w.agents()
    w.settle_plans()
    assert w.row().wave == 1


def test_a_wave_with_members_to_update_again_runs_again() -> None:
    w = World(nodes(1))
    w.rollout(spec(bake=s(60), budgets={"failures": FailureBudget(Amount(count=1))}))
    w.script("n0", fail_at="LOADING", retry=Retry.NEVER, times=1)
    w.run(bound=5)
    assert w.row().wave_state is WaveState.BAKING
    w.set_member("n0", outcome=Outcome.PENDING)
    w.settle_plans()
    assert w.row().wave_state is WaveState.RUNNING
    assert w.open_nodes() == ["n0"]


@pytest.mark.parametrize(
    ("promotion", "waves"),
    [(Promotion.MANUAL, [1, 2]), (Promotion.MANUAL_CANARY, [1]), (Promotion.AUTOMATIC, [])],
)
def test_waves_wait_for_approval(promotion: Promotion, waves: list[int]) -> None:
    w = World(nodes(3))
    w.rollout(spec(waves=[Amount(count=1), None], promotion=promotion))
    seen = []
    for _ in range(4):
        w.run()
        if w.row().wave_state is WaveState.AWAITING_APPROVAL:
            seen.append(w.row().wave)
            (blocker,) = w.plan().blockers["r1"]
            assert blocker.reason == "AWAITING_APPROVAL"
            assert "approve" in blocker.remedy
            w.set_rollout(approved=w.row().approved | {w.row().wave})
    assert seen == waves
    assert w.state() == "SUCCEEDED"


# --- gates -------------------------------------------------------------------------------


def gated(*gates: BlackoutGate | HealthGate, count: int = 2, waves: int = 1, **script: object) -> World:
    w = World(nodes(count))
    w.rollout(spec(gates=gates, waves=[None] * waves))
    w.script("n0", **script)
    w.run()
    return w


def test_gates_that_pass_promote() -> None:
    w = gated(BlackoutGate(0.99, s(1), s(2)), HealthGate(100))
    assert w.state() == "SUCCEEDED"
    assert {(v.gate, v.result) for v in w.row().gates} == {("blackout", "PASS"), ("health", "PASS")}


def test_a_failing_gate_halts_and_its_evidence_says_why() -> None:
    w = gated(BlackoutGate(0.99, s(1)), blackout=s(3))
    assert (w.state(), w.row().halted) == ("HALTED", "GATE_FAILED")
    assert "p99 of 1 samples is 3.000 s, the maximum is 1.000 s" in w.row().halt_message
    assert w.row().wave == 0


def test_a_forgiven_gate_holds_its_wave_until_it_is_waived() -> None:
    w = gated(BlackoutGate(0.99, s(1)), blackout=s(3))
    w.set_rollout(halted="")
    w.run()
    assert (w.row().halted, w.row().wave_state) == ("", WaveState.GATED)
    assert "GATE_FAIL" in w.reasons()
    w.set_rollout(gates_waived=frozenset({0}))
    w.run()
    assert w.state() == "SUCCEEDED"


def test_a_gate_may_ask_to_roll_back() -> None:
    w = gated(BlackoutGate(0.99, s(1), on_fail=OnFail.ROLL_BACK), HealthGate(100), blackout=s(3))
    assert w.state() == "ROLLED_BACK"
    assert w.node("n0").release != NEW
    assert w.member("n1").outcome is Outcome.EXCLUDED


def test_a_gate_may_only_hold() -> None:
    w = gated(BlackoutGate(0.99, s(1), on_fail=OnFail.HOLD), blackout=s(3))
    assert (w.state(), w.row().wave_state) == ("FORWARD", WaveState.GATED)
    (blocker,) = w.plan().blockers["r1"]
    assert blocker.reason == "GATE_FAIL"
    assert blocker.remedy


def test_too_few_samples_are_inconclusive_and_do_not_promote() -> None:
    w = gated(BlackoutGate(0.99, s(1), min_samples=5))
    assert w.row().wave_state is WaveState.GATED
    assert "GATE_INCONCLUSIVE" in w.reasons()


def test_a_late_pair_passes_only_if_no_gate_fails_on_its_canary() -> None:
    w = World([node("n0"), node("n1", hardware_model="m2"), node("n2", hardware_model="m2")])
    w.rollout(spec(gates=(BlackoutGate(0.99, s(1)),)))
    w.script("n1", blackout=s(4))
    w.run()
    assert w.row().halted == "GATE_FAILED"
    w.set_rollout(halted="")
    w.run()
    assert "CANARY_GATED" in w.reasons()
    w.set_rollout(gates_waived=frozenset({1}))
    w.run()
    assert w.state() == "SUCCEEDED"


# --- stragglers and late nodes -----------------------------------------------------------


@pytest.mark.parametrize("how", ["unreachable", "maintenance"])
def test_who_cannot_take_its_turn_moves_to_a_last_wave_of_stragglers(how: str) -> None:
    w = World(nodes(3))
    w.rollout(spec())
    if how == "unreachable":
        w.cut("n1")
    else:
        w.set_node("n1", maintenance=Maintenance("ops", "disk"))
    w.run(bound=60)
    assert w.row().wave_names == ("canary", "w1", "stragglers")
    assert w.member("n1").wave == 2
    assert w.member("n2").outcome is Outcome.UPDATED
    blockers = {b.reason: b for b in w.plan().blockers["r1"]}
    reason = "NODE_UNREACHABLE" if how == "unreachable" else "NODE_IN_MAINTENANCE"
    assert blockers[reason].nodes == ("n1",)
    assert blockers[reason].remedy
    if how == "unreachable":
        w.mend("n1")
    else:
        w.set_node("n1", maintenance=None)
    w.run()
    assert w.state() == "SUCCEEDED"


def test_a_link_of_which_nothing_is_known_is_no_straggler_before_the_grace_ends() -> None:
    w = World(nodes(2), linked=False)
    w.rollout(spec())
    w.settle_plans()
    assert w.member("n0").wave == 0
    w.fleet.apply(GraceEnds(w.now + s(60)))
    assert w.plan().next_wake == w.now + s(60)
    w.now += s(60)
    w.settle_plans()
    assert w.member("n0").wave == 2


@pytest.mark.parametrize(("late", "joins"), [(LateNodes.LAST_WAVE, True), (LateNodes.IGNORE, False)])
def test_late_nodes(late: LateNodes, joins: bool) -> None:
    w = World(nodes(2, labels={"pool": "prod"}))
    chosen = Selection("pool=prod", exclude=("n8",))
    w.rollout(spec(late_nodes=late, selection=chosen))
    for node_id, pool in (("n7", "prod"), ("n8", "prod"), ("n9", "lab")):
        w.put(node(node_id, labels={"pool": pool}, enrolled_at=w.now + s(1)))
        w.hear(node_id)
    w.run()
    assert w.state() == "SUCCEEDED"
    assert ("n7" in w.fleet.members("r1")) is joins
    assert not {"n8", "n9"} & w.fleet.members("r1").keys()
    assert w.row().members == 2


def test_late_nodes_by_name() -> None:
    w = World(nodes(1))
    w.rollout(spec(late_nodes=LateNodes.LAST_WAVE, selection=Selection(nodes=("n0", "n7"))))
    for node_id in ("n6", "n7"):
        w.put(node(node_id, enrolled_at=w.now + s(1)))
        w.hear(node_id)
    w.run()
    assert set(w.fleet.members("r1")) == {"n0", "n7"}


def test_a_late_node_that_cannot_do_the_method_does_not_join() -> None:
    w = World(nodes(2))
    w.rollout(spec(late_nodes=LateNodes.LAST_WAVE))
    w.put(node("n7", enrolled_at=w.now + s(1), capabilities=frozenset({"kho"})))
    w.hear("n7")
    w.run()
    assert (w.state(), set(w.fleet.members("r1"))) == ("SUCCEEDED", {"n0", "n1"})


# --- ends --------------------------------------------------------------------------------


def test_all_already_there_is_a_success_without_a_bake() -> None:
    w = World(nodes(3, release=NEW))
    w.rollout(spec(bake=timedelta(hours=1)))
    w.run()
    assert (w.state(), w.phases()) == ("SUCCEEDED", {})
    assert w.now - w.row().created_at < timedelta(minutes=1)


def test_failures_within_the_budget_do_not_spoil_a_success() -> None:
    w = World(nodes(4))
    w.rollout(spec(budgets={"failures": FailureBudget(Amount(count=1))}))
    w.script("n2", fail_at="LOADING", retry=Retry.NEVER)
    w.run()
    assert w.state() == "SUCCEEDED"
    assert failure_limit(w.fleet.indexes["r1"]) == 1


def test_an_unhealthy_node_is_rolled_back_as_a_second_hop_while_the_rollout_is_halted() -> None:
    w = World(nodes(3))
    w.rollout(spec())
    w.script("n0", end=Phase.AWAITING_ROLLBACK)
    w.run(until="AWAITING_ROLLBACK")
    w.settle_plans()
    w.scripts.clear()
    w.run()
    assert w.state() == "HALTED"
    assert w.member("n0").outcome is Outcome.ROLLED_BACK
    assert w.member("n0").failed
    assert w.node("n0").release == "6.19.0"
    assert set(w.phases()) == {"n0"}


def test_a_paused_rollout_rolls_nothing_back() -> None:
    w = World(nodes(3))
    w.rollout(spec())
    w.script("n0", end=Phase.AWAITING_ROLLBACK)
    w.run(until="AWAITING_ROLLBACK")
    w.set_rollout(paused="lunch")
    w.settle_plans()
    assert w.open_nodes() == []


def test_ended_rollouts_are_left_alone() -> None:
    w = World(nodes(2))
    w.rollout(spec())
    w.run()
    w.set_node("n0", healthy=False)
    assert w.plan().actions == ()
    assert w.plan().blockers == {}


def test_cancel_before_anything_leaves_all_untouched() -> None:
    w = World(nodes(3))
    w.rollout(spec(), paused="not yet")
    w.set_rollout(goal=Goal.CANCEL)
    w.run()
    assert w.state() == "CANCELLED"
    assert {m.outcome for m in w.fleet.members("r1").values()} == {Outcome.EXCLUDED}


def test_cancel_leaves_baking_nodes_updated_and_uncommitted() -> None:
    w = World(nodes(3))
    w.rollout(spec(), waves=[["n0", "n1"], ["n2"]])
    w.script("n1", stop_at="DRAINING")
    w.run(until="BAKING")
    w.settle_plans()
    w.set_rollout(goal=Goal.CANCEL)
    w.run()
    assert w.state() == "CANCELLED"
    outcomes = {n: w.member(n).outcome for n in ("n0", "n1", "n2")}
    assert outcomes == {"n0": Outcome.UNCOMMITTED, "n1": Outcome.EXCLUDED, "n2": Outcome.EXCLUDED}
    assert "uncommitted" in w.events[-1].message


def updated(count: int = 4, **how: object) -> World:
    """All committed, the last wave still baking."""
    w = World(nodes(count, zone="ab"))
    w.rollout(spec(bake=s(10), **how))  # type: ignore[arg-type]
    w.run(bound=400, until="never")
    w.set_rollout(ended_at=None, ended_as="")
    return w


def test_rollback_goes_in_the_reverse_order_of_updates_within_its_own_budgets() -> None:
    w = updated()
    order = sorted(w.fleet.members("r1").values(), key=lambda m: m.updated_order)
    w.set_rollout(goal=Goal.BACK, rollback_baseline=w.fleet.unavailable_members("r1"))
    w.settle_plans()
    assert w.open_nodes() == [order[-1].node_id]
    w.run()
    assert w.state() == "ROLLED_BACK"
    assert {n.release for n in w.fleet.nodes.values()} == {"6.19.0"}
    prepared = [
        e.node_id for e in w.events if e.kind == "attempt.prepared" and e.fields["kind"] == "ROLLBACK"
    ]
    assert prepared == [m.node_id for m in reversed(order)]


def test_a_halt_does_not_stop_a_rollback() -> None:
    w = updated(2)
    w.set_rollout(goal=Goal.BACK, halted="X")
    w.run()
    assert w.state() == "ROLLED_BACK"


def test_a_rollback_counts_above_its_baseline() -> None:
    w = updated(4)
    w.cut("n1")
    w.tick(s(300))
    w.set_rollout(goal=Goal.BACK, rollback_baseline=w.fleet.unavailable_members("r1"))
    w.settle_plans()
    assert len(w.open_nodes()) == 1
    assert "NODE_UNREACHABLE" in w.reasons()


def test_a_rollback_that_fails_ends_the_rollout_failed_and_says_who_is_left() -> None:
    w = updated(2)
    w.script("n1", fail_at="RETRIEVING")
    w.set_rollout(goal=Goal.BACK)
    w.run()
    (blocker,) = w.plan().blockers["r1"]
    assert blocker.reason == "BUDGET_UNAVAILABLE"
    assert "`liveroll maintenance n1 -m WHY`" in blocker.remedy
    w.set_rollout(rollback_baseline=1)
    w.run()
    assert w.state() == "FAILED"
    (ended,) = [e for e in w.events if e.kind == "rollout.ended" and "FAILED" in e.message]
    assert "n1" in ended.message
    assert w.member("n1").outcome is Outcome.FAILED


def test_a_rollback_that_is_undone_is_tried_again() -> None:
    w = updated(2)
    w.script("n1", fail_at="PRESERVING", times=1)
    w.set_rollout(goal=Goal.BACK)
    w.run()
    assert w.state() == "ROLLED_BACK"


def test_a_node_with_nothing_to_go_back_to_makes_the_rollback_partial() -> None:
    w = updated(2)
    w.set_member("n1", from_artifact="")
    w.set_rollout(goal=Goal.BACK)
    w.run()
    assert w.state() == "FAILED"


def test_a_quarantined_node_is_rolled_back_only_on_an_operators_word() -> None:
    w = updated(2)
    w.set_attempt("n1", phase=Phase.QUARANTINED)
    w.set_member("n1", outcome=Outcome.FAILED, reason="quarantined")
    w.set_rollout(goal=Goal.BACK)
    w.run()
    assert "NEEDS_OPERATOR" in w.reasons()
    w.set_member("n1", operator_word=True)
    w.run()
    assert w.state() == "ROLLED_BACK"


def test_a_written_off_node_need_not_come_back() -> None:
    w = updated(2)
    w.cut("n1")
    w.set_rollout(goal=Goal.BACK)
    w.run(bound=60)
    assert w.row().ended_at is None
    w.set_node("n1", written_off="burnt")
    w.run()
    assert w.state() == "ROLLED_BACK"


def test_a_node_that_cold_booted_into_its_old_release_is_back() -> None:
    w = updated(2)
    w.set_node("n1", release="6.19.0")
    w.set_attempt("n1", phase=Phase.COLD_BOOTED)
    w.set_member("n1", outcome=Outcome.FAILED, reason="cold_booted")
    w.set_rollout(goal=Goal.BACK, rollback_baseline=1)
    w.run()
    assert w.state() == "ROLLED_BACK"


def test_a_node_that_another_rollout_has_taken_on_is_not_rolled_back() -> None:
    w = updated(2)
    w.put(replace(w.attempt("n1"), generation=9, rollout_id="r9", revision=1))
    w.set_rollout(goal=Goal.BACK)
    w.run()
    assert w.state() == "FAILED"


def test_cancel_with_rollback_settles_then_goes_back() -> None:
    w = World(nodes(3))
    w.rollout(spec(), waves=[["n0", "n1"], ["n2"]])
    w.script("n1", stop_at="DRAINING")
    w.run(until="BAKING")
    w.settle_plans()
    w.set_rollout(goal=Goal.CANCEL, roll_back_after_cancel=True)
    w.run()
    assert w.state() == "ROLLED_BACK"
    assert w.node("n0").release == "6.19.0"


def test_a_domain_cap_counts_the_rollbacks_own_attempts() -> None:
    from orchestrator.core.spec import DomainBudget, RollbackPolicy

    w = updated(6, budgets={"domain": DomainBudget("zone", Amount(count=1))})
    w.set_rollout(
        spec=replace(
            w.row().spec,
            rollback=RollbackPolicy(max_unavailable=Amount(count=6), max_in_blackout=Amount(count=6)),
        ),
        goal=Goal.BACK,
    )
    w.settle_plans()
    assert len(w.open_nodes()) == 2
    w.run()
    assert w.state() == "ROLLED_BACK"
