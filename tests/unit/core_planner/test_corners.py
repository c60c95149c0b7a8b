"""Cases that hardly ever happen, each of them once."""

from __future__ import annotations

from datetime import timedelta

import pytest

from orchestrator.core import blocking_silent, canaries
from orchestrator.core.draft import Draft
from orchestrator.core.facts import Heard
from orchestrator.core.fleet import Fleet
from orchestrator.core.model import MemberRow
from orchestrator.core.phases import Goal, Outcome, Phase
from orchestrator.core.policy import FleetPolicy
from orchestrator.core.spec import Amount, BlackoutGate, FailureBudget, HealthGate, OnFail
from tests.unit.core_planner.builders import NEW, START, World, node, nodes, settled_attempt, spec
from tests.unit.core_planner.test_starts import begun


def two_rollouts(world: World, order: str = "r1 r2") -> World:
    """Over the same nodes, each with its canary."""
    for name in order.split():
        world.rollout(spec(name=name))
    return world


def first_plan_with(w: World, kind: str) -> list[str]:
    """The rollouts of the actions of this kind, in the first plan that has any."""
    for _ in range(5):
        made = w.plan()
        found = [action.rollout_id for action in made.actions if action.kind == kind]
        if found:
            return found
        w.execute(made.actions)
    raise AssertionError(f"no plan has {kind}")


def test_two_rollouts_never_start_one_node_in_one_plan() -> None:
    w = two_rollouts(World(nodes(1)))
    assert first_plan_with(w, "prepare") == ["r1"]
    w.settle_plans()
    assert w.attempt("n0").rollout_id == "r1"
    assert w.plan().blockers["r2"][0].reason == "OTHER_ROLLOUT"


def test_two_rollouts_stage_one_node_once() -> None:
    w = two_rollouts(World([node("n0", staged=frozenset())]))
    assert first_plan_with(w, "stage") == ["r1"]


def test_a_limit_of_nothing_says_that_it_must_be_raised() -> None:
    w = World(nodes(2), policy=FleetPolicy(max_unavailable=Amount(count=0)))
    w.rollout(spec())
    w.settle_plans()
    (blocker,) = w.plan().blockers["r1"]
    assert blocker.reason == "FLEET_BUDGET_UNAVAILABLE"
    assert "raise fleet_max_unavailable" in blocker.remedy


def test_what_another_rollout_spends_of_the_fleet_comes_back_by_itself() -> None:
    w = World(nodes(2), policy=FleetPolicy(max_in_blackout=Amount(count=1)))
    w.rollout(spec(name="r1"), waves=[["n0"], []])
    w.rollout(spec(name="r2"), waves=[["n1"], []])
    w.settle_plans()
    (blocker,) = w.plan().blockers["r2"]
    assert (blocker.reason, blocker.remedy) == ("FLEET_BUDGET_BLACKOUT", "")


def test_of_many_silent_nodes_all_are_counted_and_few_are_looked_at(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(blocking_silent, "_LOOKED_AT", 1)
    w = World(nodes(4))
    w.rollout(spec(), waves=[[f"n{i}" for i in range(4)], []], pair_canaries={})
    for i in range(4):
        w.script(f"n{i}", stop_at="LOADING")
    w.settle_plans()
    w.agents()
    opened = w.open_nodes()
    for node_id in opened:
        w.cut(node_id)
    (silent,) = [b for b in w.plan().blockers["r1"] if b.reason == "ATTEMPT_SILENT"]
    assert (silent.node_count, list(silent.nodes)) == (len(opened), opened)
    assert len(opened) > 1


def test_whoever_is_in_its_blackout_is_told_apart_and_wants_nobody() -> None:
    w = begun(5, bake=timedelta(minutes=5))
    for node_id in ("n1", "n2"):
        w.script(node_id, stop_at="JUMPING")
    w.script("n3", stop_at="LOADING")
    w.run(bound=8)
    for node_id in ("n1", "n3"):
        w.cut(node_id)
    said = {b.reason: b for b in w.plan().blockers["r1"]}
    dark, silent = said["IN_BLACKOUT"], said["ATTEMPT_SILENT"]
    assert (dark.nodes, dark.remedy, dark.until) == (("n1",), "", w.fleet.lost_at("n1"))
    opened = w.attempt("n1").blackout_open_at
    assert opened is not None
    assert dark.until is not None
    assert dark.message == (
        f"in its blackout since {opened:%H:%M:%S} UTC; lost at {dark.until:%H:%M:%S} UTC if it stays silent"
    )
    assert (silent.nodes, bool(silent.remedy)) == (("n3",), True)
    w.cut("n2")
    dark = {b.reason: b for b in w.plan().blockers["r1"]}["IN_BLACKOUT"]
    assert dark.nodes == ("n1", "n2")
    assert dark.message.startswith("in their blackout; the first is lost at ")


def test_a_node_that_may_have_jumped_is_taken_to_be_in_its_blackout() -> None:
    w = begun(2)
    w.run(until="PRESERVED")
    assert w.attempt("n1").proceed_until is not None
    w.cut("n1")
    assert "IN_BLACKOUT" in w.reasons()
    w.set_attempt("n1", proceed_until=None)
    assert "ATTEMPT_SILENT" in w.reasons(), "its PROCEED is not out"


def test_while_nobodys_silence_counts_no_end_is_told() -> None:
    w = begun(2)
    w.run(until="SUSPENDING")
    w.fleet = Fleet.rebuild(w.policy, w.fleet.incarnation, list(w.rows.values()))
    w.fleet.advance(w.now)
    (said,) = [b for b in w.plan().blockers["r1"] if b.reason == "ATTEMPT_SILENT"]
    assert (said.nodes, said.until) == (("n1",), None)


def test_a_canary_that_is_nowhere_does_not_stand() -> None:
    w = World(nodes(1))
    w.rollout(spec())
    assert not canaries.stands(w.fleet.indexes["r1"], "a|b|c", "nobody")


def test_an_action_that_relies_on_what_another_one_writes_waits_for_the_next_plan() -> None:
    w = World(nodes(2))
    draft = Draft(w.fleet, w.now)
    first, second = w.node("n0"), w.node("n1")
    assert draft.add("clear", "", [first])
    assert not draft.add("clear", "", [second], guards=[first])
    assert draft.add("clear", "", [second])


def test_an_old_word_does_not_replace_a_newer_one() -> None:
    w = World(nodes(1))
    w.fleet.apply(Heard("n0", START - timedelta(seconds=9)))
    assert w.fleet.heard["n0"].at == START


def test_an_attempt_that_goes_on_after_its_rollout_has_ended_is_undone() -> None:
    w = World(nodes(1))
    w.rollout(spec())
    w.run(until="LOADING")
    w.agents()
    w.set_rollout(ended_at=w.now, ended_as="CANCELLED")
    w.settle_plans()
    assert w.attempt("n0").cancel_cause == "cancel"
    w.agents()
    w.agents()
    assert w.attempt("n0").phase is Phase.ABORTED


def test_a_rollout_does_not_succeed_while_a_node_waits_to_be_rolled_back() -> None:
    w = World(nodes(2))
    w.rollout(spec(budgets={"failures": FailureBudget(Amount(count=1))}))
    w.script("n1", stop_at="FINISHING")
    w.run(bound=60)
    w.script("n1", end=Phase.AWAITING_ROLLBACK)
    w.step("n1")
    w.cut("n1")
    w.run(bound=60)
    assert (w.member("n1").outcome, w.row().ended_as) == (Outcome.FAILED, "")
    assert "NODE_UNREACHABLE" in w.reasons()
    w.mend("n1")
    w.run()
    assert (w.member("n1").outcome, w.row().ended_as) == (Outcome.ROLLED_BACK, "SUCCEEDED")


def test_a_bake_that_is_over_stands_in_nobodys_way() -> None:
    w = World(nodes(2))
    w.rollout(spec())
    w.run(until="COMMITTED")
    w.tick(timedelta(seconds=30))
    w.set_fleet(stopped="OPERATOR", stop_message="smoke")
    assert all(b.until is None or b.until > w.now for b in w.plan().blockers["r1"])
    assert "WAVE_BAKING" not in w.reasons()


def test_only_gates_that_do_not_pass_are_told() -> None:
    w = World(nodes(2))
    slow = BlackoutGate(0.99, timedelta(seconds=1), on_fail=OnFail.HOLD)
    w.rollout(spec(gates=(HealthGate(50.0), slow)))
    w.script("n0", blackout=timedelta(seconds=9))
    w.run()
    told = [b.message for b in w.plan().blockers["r1"] if b.reason == "GATE_FAIL"]
    assert len(told) == 1
    assert "blackout" in told[0]


def test_a_late_pairs_gate_may_only_hold() -> None:
    w = World([node("n0"), node("n1", hardware_model="m2"), node("n2", hardware_model="m2")])
    w.rollout(spec(gates=(BlackoutGate(0.99, timedelta(seconds=1), on_fail=OnFail.HOLD),)))
    w.script("n1", blackout=timedelta(seconds=4))
    w.run()
    assert (w.row().halted, w.row().goal) == ("", Goal.FORWARD)
    assert "CANARY_GATED" in w.reasons()
    assert w.member("n2").outcome is Outcome.PENDING


def test_a_canary_that_was_updated_from_another_kernel_is_no_answer_for_its_pair() -> None:
    w = World([node("n0"), node("n1"), node("n2", hardware_model="m2")])
    w.rollout(spec(), waves=[["n0"], ["n1"], ["n2"]], wave_names=("canary", "w1", "w2"))
    w.script("n2", stop_at="LOADING")
    w.run(bound=60)
    assert w.member("n1").outcome is Outcome.UPDATED
    key = f"6.12.0|{NEW}|m1"
    w.set_rollout(pair_canaries={**w.row().pair_canaries, key: "n1"})
    w.settle_plans()
    assert key not in {"|".join(pair) for pair in w.row().pairs_passed}


def test_a_node_that_another_rollout_is_at_work_on_is_waited_for_on_the_way_back() -> None:
    w = World(nodes(2))
    w.rollout(spec())
    w.run()
    w.put(settled_attempt(w.node("n1"), Phase.DRAINING, generation=9, settled_at=None))
    w.set_rollout(goal=Goal.BACK, ended_at=None, ended_as="")
    w.run(bound=30)
    assert "OTHER_ROLLOUT" in w.reasons()
    assert w.member("n1").outcome is Outcome.UPDATED


def test_an_attempt_of_a_rollout_that_is_not_here_has_no_silence_lease() -> None:
    w = World(nodes(1))
    w.rollout(spec())
    w.put(settled_attempt(w.node("n0"), Phase.JUMPING, settled_at=None))
    w.cut("n0")
    assert w.fleet.lost_at("n0") is None


def test_a_node_written_off_before_its_turn_is_settled_first() -> None:
    w = World(nodes(3))
    w.rollout(spec(), wave=1, pairs_passed=frozenset({("6.19.0", NEW, "m1")}))
    w.cut("n1")
    w.set_node("n1", written_off="gone for good")
    made = w.plan()
    w.execute(made.actions)
    written = [row.node_id for a in made.actions for row in a.change.writes if isinstance(row, MemberRow)]
    assert written.count("n1") == 1
    assert w.member("n1").outcome is Outcome.WRITTEN_OFF
