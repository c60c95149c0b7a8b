"""A node that says ahead that it would refuse an attempt is waited for, and holds up nobody else."""

from __future__ import annotations

import pytest

from orchestrator.core import operations
from orchestrator.core.budgets import uses
from orchestrator.core.dryrun import dry_run
from orchestrator.core.model import DesiredStage, Problem
from orchestrator.core.phases import Goal, Outcome
from orchestrator.core.spec import FailureBudget, Selection
from orchestrator.core.standing import Place
from orchestrator.core.views import explain, node_view
from orchestrator.errors import Retry
from tests.unit.core_planner.builders import OLD, World, artifact, node, nodes, spec
from tests.unit.core_planner.test_starts import begun

PREPARED = Problem(
    "LUO_NOT_NORMAL",
    Retry.FIX_STATE,
    "LUO is prepared: another live update has begun",
    "Undo it with `luoctl cancel`.",
    {"luo_state": "prepared"},
)
UPDATED = Problem("LUO_NOT_NORMAL", Retry.FIX_STATE, "LUO is updated", "End it with `luoctl finish`.")
STRICT = {"failures": FailureBudget()}


def place(w: World, node_id: str) -> Place | None:
    return w.fleet.indexes["r1"].standings[node_id].place


def test_it_is_sent_no_prepare_and_waits_at_the_end_while_the_others_go_on() -> None:
    w = begun(4, budgets=STRICT)
    w.set_node("n2", not_ready=PREPARED)
    w.run(bound=120)
    assert {n: m.outcome for n, m in w.fleet.members("r1").items()} == {
        "n0": Outcome.ALREADY,
        "n1": Outcome.UPDATED,
        "n2": Outcome.PENDING,
        "n3": Outcome.UPDATED,
    }
    assert w.fleet.newest_attempt("n2") is None
    assert (w.row().wave_names[w.row().wave], w.row().halted) == ("stragglers", "")
    assert [e.cause for e in w.events if e.kind == "member.deferred"] == ["not_ready"]
    (blocker,) = w.plan().blockers["r1"]
    assert (blocker.reason, blocker.nodes, blocker.wave) == ("NODE_NOT_READY", ("n2",), "stragglers")
    assert blocker.message == f"the node would refuse an attempt now: {PREPARED.message}"
    assert blocker.remedy == (
        "On the node: Undo it with `luoctl cancel`, or `liveroll exclude r1 n2 -m WHY` goes on without."
    )


def test_it_goes_on_at_once_when_that_is_gone() -> None:
    w = begun(2, budgets=STRICT)
    w.set_node("n1", not_ready=PREPARED)
    w.run(bound=60)
    w.set_node("n1", not_ready=None)
    w.settle_plans()
    assert w.open_nodes() == ["n1"]
    w.run()
    assert (w.state(), w.member("n1").outcome) == ("SUCCEEDED", Outcome.UPDATED)


def test_it_is_available_and_takes_no_slot() -> None:
    w = begun(4, unavailable=1)
    w.set_node("n3", not_ready=PREPARED)
    w.settle_plans()
    assert w.open_nodes() == ["n1"]
    assert w.fleet.unavailable_members("r1") == 1, "n1"
    assert {u.budget: u.used for u in uses(w.fleet, "r1")}["max_unavailable"] == 1
    assert w.member("n3").failed is False


def test_its_artifact_is_staged_meanwhile() -> None:
    w = begun(2)
    w.set_node("n1", not_ready=PREPARED, staged=frozenset())
    w.settle_plans()
    assert isinstance(w.node("n1").desired, DesiredStage)
    assert place(w, "n1") is Place.STAGING


def test_another_of_its_kind_is_the_canary_instead() -> None:
    w = World(nodes(3))
    w.rollout(spec())
    w.set_node("n0", not_ready=PREPARED)
    w.settle_plans()
    assert w.open_nodes() == ["n1"]
    assert w.attempt("n1").pair_canary
    assert w.member("n0").wave == 2


def test_a_canary_that_has_jumped_and_is_tried_again_holds_its_kind_and_says_why() -> None:
    w = World(nodes(3))
    w.rollout(spec())
    w.set_rollout(wave=1, wave_names=("canary", "w1"), pair_canaries={f"{OLD}|7.1.0|m1": "n1"})
    w.set_member("n0", outcome=Outcome.EXCLUDED)
    w.set_member("n1", jumped=True)
    w.set_node("n1", not_ready=PREPARED)
    w.settle_plans()
    blockers = {b.reason: b for b in w.plan().blockers["r1"]}
    assert blockers["CANARY_UNDER_WAY"].nodes == ("n2",)
    assert "See `liveroll node n1` for what must be done there" in blockers["CANARY_UNDER_WAY"].remedy
    w.set_node("n1", not_ready=None)
    w.settle_plans()
    assert w.open_nodes() == ["n1"]


def test_the_way_back_waits_for_it_too() -> None:
    w = World(nodes(2))
    w.rollout(spec(), waves=[["n0", "n1"]])
    w.run(until="BAKING")
    w.set_rollout(goal=Goal.BACK, rollback_baseline=0)
    w.set_node("n1", not_ready=UPDATED)
    w.run(bound=120)
    assert (w.node("n0").release, w.member("n0").outcome) == (OLD, Outcome.ROLLED_BACK)
    assert (w.row().ended_as, place(w, "n1")) == ("", Place.NOT_READY)
    told = {b.reason: b.remedy for b in w.plan().blockers["r1"]}
    assert told["NODE_NOT_READY"] == (
        "On the node: End it with `luoctl finish`, or once powered off and without a link, "
        "`liveroll write-off n1 -m WHY` gives up on what will not return."
    ), "it cannot be left out"
    w.set_node("n1", not_ready=None)
    w.run()
    assert w.state() == "ROLLED_BACK"


def test_a_persons_word_for_the_node_does_not_make_it_ready() -> None:
    """It would refuse all the same."""
    w = begun(2)
    w.set_member("n1", operator_word=True)
    w.set_node("n1", not_ready=PREPARED)
    w.settle_plans()
    assert place(w, "n1") is Place.NOT_READY


def test_one_blocker_for_each_thing_that_nodes_say() -> None:
    w = begun(6)
    w.set_rollout(wave_names=("canary", "w1", "stragglers"), wave=2)
    for node_id, said in (("n1", PREPARED), ("n2", UPDATED), ("n3", PREPARED), ("n4", UPDATED)):
        w.set_node(node_id, not_ready=said)
    w.set_node("n5", not_ready=Problem("SOMETHING_NEW", Retry.NEVER, "a newer agent's own words"))
    w.settle_plans()
    told = [b for b in w.plan().blockers["r1"] if b.reason == "NODE_NOT_READY"]
    assert [b.nodes for b in told] == [("n1", "n3"), ("n2", "n4"), ("n5",)]
    assert told[2].remedy.startswith(
        "See `liveroll node n5` for what must be done there, or `liveroll exclude"
    )


def test_why_tells_it_of_the_node_and_ahead_of_its_wave() -> None:
    w = World(nodes(3))
    w.rollout(spec())
    w.set_node("n2", not_ready=PREPARED)
    w.settle_plans()
    text = explain(w.fleet, "r1", "n2", w.last_plan, w.now).summary
    assert text == (
        "n2 has not started: its wave w1 comes after canary, the current one; "
        "and it would refuse an attempt now"
    )
    w.set_rollout(wave=1)
    text = explain(w.fleet, "r1", "n2", w.last_plan, w.now).summary
    assert text == (
        "n2 has not started (wave w1): it would refuse an attempt now, LUO_NOT_NORMAL: LUO is prepared: "
        "another live update has begun. Undo it with `luoctl cancel`."
    )
    assert node_view(w.fleet, "n2", w.now).not_ready == PREPARED


@pytest.mark.parametrize(
    ("said", "words"),
    [
        (PREPARED, "LUO is prepared: another live update has begun. Undo it with `luoctl cancel`"),
        (Problem("X", Retry.NEVER, "no remedy is known"), "no remedy is known"),
    ],
)
def test_the_dry_run_says_so_and_prefers_another_canary(said: Problem, words: str) -> None:
    w = World([node("a", not_ready=said), node("b")])
    plan = dry_run(w.fleet, spec(selection=Selection()), artifact(), w.now)
    assert [(s.node_id, s.reason, s.message, s.waits) for s in plan.skipped] == [
        ("a", "NOT_READY", f"it would refuse an attempt now: {words}", True)
    ]
    assert [pair.canary for pair in plan.pairs] == ["b"]


def test_leaving_it_out_ends_the_wait() -> None:
    w = begun(2)
    w.set_node("n1", not_ready=PREPARED)
    w.run(bound=60)
    w.commit(operations.exclude_nodes(w.fleet, "r1", ["n1"], "by hand", "ann", w.now).change)
    w.run()
    assert w.state() == "SUCCEEDED"
