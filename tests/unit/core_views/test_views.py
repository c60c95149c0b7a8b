from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from types import MappingProxyType
from typing import Any

import pytest

from orchestrator.core.actions import Plan
from orchestrator.core.blockers import Blocker
from orchestrator.core.fleet import Fleet
from orchestrator.core.model import (
    AttemptRow,
    DesiredCancel,
    DesiredCommit,
    DesiredPrepare,
    DesiredProceed,
    DesiredStage,
    FleetRow,
    Problem,
    Row,
    Sample,
    Stamp,
)
from orchestrator.core.phases import Goal, Kind, Link, Outcome, Phase, RolloutState, Verdict, WaveState
from orchestrator.core.views import explain, node_view, rollout_view, shown_state, state_of
from orchestrator.core.views_numbers import judged, quantile, totals
from orchestrator.errors import NotFound, Retry
from tests.unit.core_ops.build import (
    ARTIFACT,
    LATER,
    NEW,
    NOW,
    OLD,
    attempt,
    fleet,
    member,
    node,
    rollout,
    spec,
)

MS = timedelta(milliseconds=1)
PROBLEM = Problem("FREEZE_REFUSED", Retry.REPLAN, "a file refuses to freeze", "Close it.")


def sample(ms: int, vantage: str = "workload", **fields: Any) -> Sample:
    return Sample(vantage, ms * MS, MS, "emulated", f"w{ms}", **fields)


def halfway(**fields: Any) -> Fleet:
    """n00 updated, n01 in its blackout, n02 failed, n03 waits in the last wave, n04 does not belong."""
    done = attempt(
        "n00",
        Phase.COMMITTED,
        verdict=Verdict.LIVE_UPDATED,
        samples=(
            sample(80, emulated=True),
            sample(120),
            sample(5, rejected="went backwards"),
            sample(9, "host"),
        ),
        workloads=2,
        memory_intact=2,
        settled_at=NOW,
    )
    blind = attempt("n01", Phase.JUMPING, blackout_open_at=NOW, opened_at=LATER)
    failed = attempt(
        "n02", Phase.ABORTED, failed=True, problem=PROBLEM, settled_at=NOW, workloads=2, memory_intact=1
    )
    return fleet(
        *(node(f"n0{i}", release=NEW if i == 0 else OLD) for i in range(5)),
        rollout(
            4,
            wave_names=("canary", "first", "rest"),
            wave=1,
            pairs_passed=frozenset({(OLD, NEW, "m1")}),
            pair_canaries={f"{OLD}|{NEW}|m1": "n00"},
            **fields,
        ),
        done,
        blind,
        failed,
        member("n00", Outcome.UPDATED, generation=1, from_release=OLD),
        member("n01", Outcome.OPEN, generation=1, wave=1, position=1, from_release=OLD),
        member("n02", Outcome.FAILED, generation=1, wave=1, position=2, retries=2, reason="freeze_refused"),
        member("n03", wave=2, position=3),
    )


def test_a_rollout_halfway() -> None:
    blocker = Blocker("BUDGET_UNAVAILABLE", "2 of 2 are unavailable", nodes=("n03",), node_count=1)
    plan = Plan(blockers=MappingProxyType({"k": (blocker,)}), next_wake=LATER)
    view = rollout_view(halfway(), "k", plan, NOW)
    assert view.state is RolloutState.RUNNING
    assert [(w.name, w.state, w.members, w.nodes) for w in view.waves] == [
        ("canary", "passed", 1, ("n00",)),
        ("first", "running", 2, ("n01", "n02")),
        ("rest", "pending", 1, ("n03",)),
    ]
    assert [(w.pending, w.in_progress, w.updated, w.failed) for w in view.waves] == [
        (0, 0, 1, 0),
        (0, 1, 0, 1),
        (1, 0, 0, 0),
    ]
    (pair,) = view.pairs
    assert (pair.nodes, pair.canary, pair.passed) == (4, "n00", True)
    assert (view.blackout.samples, view.blackout.rejected, view.blackout.open) == (2, 1, 1)
    assert (view.blackout.p50, view.blackout.p99, view.blackout.max) == (80 * MS, 120 * MS, 120 * MS)
    assert view.blackout.emulated
    assert (view.memory_checks_passed, view.memory_checks_failed, view.retries) == (3, 1, 2)
    assert (view.blockers, view.next_wake, view.started_at) == ((blocker,), LATER, NOW)
    assert {b.budget for b in view.budgets} >= {"max_unavailable", "max_in_blackout", "failures"}
    assert rollout_view(halfway(), "k", None, NOW).blockers == ()


def test_samples_are_counted_over_all_attempts_of_the_rollout_only() -> None:
    made = halfway()
    made.apply(attempt("n00", Phase.BAKING, generation=2, kind=Kind.ROLLBACK, samples=(sample(300),)))
    made.apply(attempt("n00", Phase.BAKING, generation=3, rollout_id="other", samples=(sample(999),)))
    assert rollout_view(made, "k", None, NOW).blackout.max == 300 * MS


def test_each_vantage_is_summed_up_by_itself() -> None:
    view = rollout_view(halfway(), "k", None, NOW).blackout
    assert [(v.vantage, v.samples, v.rejected, v.max) for v in view.vantages] == [
        ("workload", 2, 1, 120 * MS),
        ("host", 1, 0, 9 * MS),
    ]
    late = attempt("n00", samples=(sample(3000, "link", rejected="the orchestrator began to listen"),))
    (link,) = totals([late]).blackout.vantages
    assert (link.vantage, link.samples, link.rejected, link.p50, link.uncertainty) == (
        "link",
        0,
        1,
        None,
        None,
    )
    seen = attempt("n00", samples=(replace(sample(3000, "link"), uncertainty=500 * MS), sample(9, "link")))
    assert totals([seen]).blackout.vantages[0].uncertainty == 500 * MS


@pytest.mark.parametrize(
    ("q", "expected"), [(0.01, 10), (0.1, 10), (0.5, 50), (0.51, 60), (0.9, 90), (0.99, 100), (1.0, 100)]
)
def test_nearest_rank(q: float, expected: int) -> None:
    assert quantile([i * MS for i in range(10, 101, 10)], q) == expected * MS


def test_no_samples() -> None:
    assert quantile([], 0.5) is None
    empty = totals([])
    assert (empty.blackout.samples, empty.blackout.max, empty.started_at) == (0, None, None)
    assert judged((sample(1, "link"),)) == ()
    assert judged((sample(1, "HOST"), sample(2, "link"))) == (sample(1, "HOST"),)


@pytest.mark.parametrize(
    ("fields", "touched", "state"),
    [
        ({}, False, RolloutState.PENDING),
        ({}, True, RolloutState.RUNNING),
        ({"paused": "x"}, False, RolloutState.PAUSED),
        ({"paused": "x", "halted": "Y"}, True, RolloutState.HALTED),
        ({"goal": Goal.CANCEL, "paused": "x"}, True, RolloutState.CANCELLING),
        ({"goal": Goal.BACK, "halted": "Y"}, True, RolloutState.ROLLING_BACK),
        ({"goal": Goal.BACK, "paused": "x"}, True, RolloutState.PAUSED),
        ({"ended_at": NOW, "ended_as": "ROLLED_BACK"}, True, RolloutState.ROLLED_BACK),
    ],
)
def test_the_shown_state(fields: dict[str, Any], touched: bool, state: RolloutState) -> None:
    members = [member("n01", Outcome.EXCLUDED), member("n00", generation=1 if touched else 0)]
    assert shown_state(rollout(2, **fields), members) is state


def test_nodes() -> None:
    made = halfway()
    view = node_view(made, "n01", NOW)
    assert (view.link, view.phase, view.generation, view.rollout_id, view.wave) == (
        Link.UP,
        Phase.JUMPING,
        1,
        "k",
        "first",
    )
    assert node_view(made, "n02", NOW).problem == PROBLEM
    idle = node_view(made, "n04", NOW)
    assert (idle.phase, idle.rollout_id, idle.wave, idle.incarnation) == (Phase.IDLE, "", "", "")
    assert node_view(made, "n03", NOW).rollout_id == "k", "it is a member of an active rollout"
    made.apply(attempt("n03", Phase.ABORTED, rollout_id="gone", settled_at=NOW))
    assert node_view(made, "n03", NOW).rollout_id == "k"
    made.apply(replace(made.rollouts["k"], ended_at=NOW, ended_as="FAILED"))
    assert (node_view(made, "n03", NOW).rollout_id, node_view(made, "n03", NOW).wave) == ("gone", "")
    with pytest.raises(NotFound):
        node_view(made, "n99", NOW)


def test_a_node_as_a_member_of_the_rollout_that_is_asked_about() -> None:
    made = halfway()
    later = rollout(2, rollout_id="b", spec=replace(spec(), name="b"), wave_names=("canary", "all"))
    made.apply(later)
    made.apply(replace(member("n00", Outcome.OPEN, generation=2, wave=1), rollout_id="b"))
    made.apply(replace(member("n03", wave=1), rollout_id="b"))
    made.apply(attempt("n00", Phase.LOADING, generation=2, rollout_id="b"))
    busy = node_view(made, "n00", NOW)
    assert (busy.rollout_id, busy.wave, busy.phase, busy.generation) == ("b", "all", Phase.LOADING, 2)
    assert node_view(made, "n00", NOW, "b") == busy
    asked = node_view(made, "n00", NOW, "k")
    assert (asked.rollout_id, asked.wave, asked.phase, asked.generation) == (
        "k",
        "canary",
        Phase.COMMITTED,
        1,
    )
    waits = node_view(made, "n03", NOW, "b")
    assert (waits.rollout_id, waits.wave, waits.phase) == ("b", "all", Phase.IDLE)
    assert node_view(made, "n00", NOW, "nobody's") == busy


@pytest.mark.parametrize(
    ("fields", "states"),
    [
        ({}, ["passed", "running", "pending"]),
        ({"goal": Goal.CANCEL}, ["passed", "ended", "ended"]),
        ({"goal": Goal.CANCEL, "ended_at": NOW, "ended_as": "CANCELLED"}, ["passed", "ended", "ended"]),
        ({"goal": Goal.BACK}, ["undone", "undone", "ended"]),
        ({"goal": Goal.BACK, "ended_at": NOW, "ended_as": "ROLLED_BACK"}, ["undone", "undone", "ended"]),
        ({"goal": Goal.BACK, "ended_at": NOW, "ended_as": "FAILED"}, ["ended", "ended", "ended"]),
        (
            {"wave": 2, "wave_state": WaveState.PASSED, "ended_at": NOW, "ended_as": "SUCCEEDED"},
            ["passed", "passed", "passed"],
        ),
    ],
)
def test_no_wave_runs_in_a_rollout_that_goes_forward_no_more(
    fields: dict[str, Any], states: list[str]
) -> None:
    made = halfway()
    made.apply(replace(made.rollouts["k"], **fields))
    assert [w.state for w in rollout_view(made, "k", None, NOW).waves] == states
    told = explain(made, "k", "", None, NOW).summary
    assert ("wave first is running" in told) is (not fields)


def test_why_a_cancelled_rollout_names_who_is_uncommitted_and_what_to_do() -> None:
    made = fleet(
        *(node(f"n0{i}", release=NEW) for i in range(2)),
        rollout(2, goal=Goal.CANCEL, ended_at=NOW, ended_as="CANCELLED"),
        attempt("n00", Phase.BAKING, settled_at=NOW),
        attempt("n01", Phase.BAKING, settled_at=NOW),
        member("n00", Outcome.UNCOMMITTED, generation=1),
        member("n01", Outcome.UNCOMMITTED, generation=1, position=1),
    )
    (left,) = explain(made, "k", "", None, NOW).blockers
    assert (left.reason, left.nodes, left.node_count) == ("NODE_UNCOMMITTED", ("n00", "n01"), 2)
    assert left.remedy == (
        "An operator must decide: `liveroll commit k` keeps the new kernel, "
        "or `liveroll rollback k` goes back."
    )
    (mine,) = explain(made, "k", "n01", None, NOW).blockers
    assert mine.nodes == ("n01",)
    assert "`liveroll commit k n01`" in mine.remedy
    made.apply(replace(made.members("k")["n00"], outcome=Outcome.UPDATED))
    assert explain(made, "k", "n00", None, NOW).blockers == ()


@pytest.mark.parametrize(
    ("desired", "words"),
    [
        (None, ""),
        (DesiredStage(ARTIFACT), "stage kernel-6.19.4"),
        (DesiredPrepare(3, ARTIFACT, ""), "prepare attempt 3 to 6.19.4"),
        (DesiredProceed(3, Stamp("b", MS), MS), "jump in attempt 3"),
        (DesiredCancel(3, "pause"), "cancel attempt 3: pause"),
        (DesiredCommit(3), "commit attempt 3"),
    ],
)
def test_what_is_wanted_in_words(desired: Any, words: str) -> None:
    assert node_view(fleet(node("n00", desired=desired)), "n00", NOW).desired == words


def test_why_a_rollout_stands() -> None:
    made = halfway(halted="FAILURE_BUDGET", halt_message="1 failed, 0 allowed", paused="lunch")
    made.apply(FleetRow(stopped="OPERATOR", stop_message="smoke"))
    found = explain(made, "k", "", Plan(next_wake=LATER), NOW)
    assert found.summary == (
        "k is HALTED: 1 of 4 nodes run 6.19.4, 1 in progress, 1 failed; wave first is running; "
        "halted by FAILURE_BUDGET (1 failed, 0 allowed); paused: lunch; the fleet is stopped: OPERATOR, smoke"
    )
    assert found.next_wake == LATER
    made.apply(replace(made.rollouts["k"], ended_at=NOW, ended_as="FAILED"))
    ended = explain(made, "k", "", Plan(next_wake=LATER), NOW)
    assert ended.summary == "k is FAILED: 1 of 4 nodes run 6.19.4, 1 in progress, 1 failed"
    assert ended.next_wake is None
    assert state_of(made, "k") is RolloutState.FAILED


WHY = {
    "n00": "n00: it is updated and committed; attempt 1 is COMMITTED",
    "n01": "n01 is JUMPING in attempt 1: it is on its way into the new kernel",
    "n02": "n02: it has failed (freeze_refused); attempt 1 is ABORTED: a file refuses to freeze. Close it.",
    "n03": "n03 has not started: its wave rest comes after first, the current one",
    "n04": "n04 is no member of k: it was not selected, or was left out, when the rollout was created",
}


@pytest.mark.parametrize("node_id", list(WHY))
def test_why_a_node_stands(node_id: str) -> None:
    assert explain(halfway(), "k", node_id, None, NOW).summary == WHY[node_id]


def waits(**fields: Any) -> str:
    row = {"generation": 0, **fields.pop("member", {})}
    made = fleet(node("n00", **fields.pop("node", {})), rollout(1, **fields), member("n00", **row))
    return explain(made, "k", "n00", None, NOW).summary


def test_what_a_node_waits_for() -> None:
    assert waits() == "n00 has not started (wave canary): it is ready; its turn has not come"
    assert waits(node={"link_up": False}).endswith("linked to ended")
    assert waits(node={"healthy": False}).endswith("it is not healthy")
    assert waits(node={"rollback_artifact": ""}).endswith("it has no rollback artifact")
    assert waits(node={"staged": frozenset()}).endswith("not on the node yet")
    assert waits(member={"not_before": LATER}).endswith("a retry waits until 2026-03-02 12:00:10 UTC")
    assert waits(goal=Goal.CANCEL) == "n00 has not started: the rollout's goal is CANCEL"
    assert "and it is not healthy" in waits(
        node={"healthy": False}, member={"wave": 1}, wave_state=WaveState.RUNNING
    )


def test_a_retry_names_what_went_wrong() -> None:
    made = fleet(
        node("n00"),
        rollout(1),
        attempt("n00", Phase.ABORTED, problem=PROBLEM, settled_at=NOW),
        member("n00", generation=1, not_before=LATER),
    )
    text = explain(made, "k", "n00", None, NOW).summary
    assert text.endswith("; its last attempt 1 ended ABORTED: a file refuses to freeze")


def test_a_silent_node_in_an_attempt_says_so() -> None:
    made = fleet(
        node("n00"), rollout(1), attempt("n00"), member("n00", Outcome.OPEN, generation=1), heard=False
    )
    assert explain(made, "k", "n00", None, NOW).summary.endswith("being loaded; its link is UNKNOWN")


STUCK = Problem("STUCK", Retry.FIX_STATE, "another process holds the journal", "Wait for it.")


def test_a_node_that_says_it_is_stuck_is_told_as_such() -> None:
    sick = {"healthy": False, "problem": STUCK}
    said = "STUCK: another process holds the journal. Wait for it."
    assert waits(node=sick) == f"n00 has not started (wave canary): it is not healthy, {said}"
    made = fleet(
        node("n00", **sick),
        rollout(1),
        attempt("n00", Phase.JUMPING),
        member("n00", Outcome.OPEN, generation=1),
    )
    assert explain(made, "k", "n00", None, NOW).summary.endswith(f"into the new kernel; {said}")
    assert node_view(made, "n00", NOW).problem == STUCK


def test_who_is_no_member_and_why() -> None:
    made = fleet(node("n00"), node("n01", enrolled_at=LATER), rollout(1), member("n00"))
    assert "enrolled after" in explain(made, "k", "n01", None, NOW).summary
    row = made.rollouts["k"]
    made.apply(replace(row, spec=replace(row.spec, selection=replace(row.spec.selection, exclude=("n01",)))))
    assert "excludes it" in explain(made, "k", "n01", None, NOW).summary


def test_a_node_gets_the_blockers_that_hold_it() -> None:
    mine = Blocker("A", "mine", nodes=("n03",), node_count=1)
    others = Blocker("B", "others", nodes=("n00",), node_count=1)
    many = Blocker("C", "many", nodes=("n00",), node_count=9)
    all_ = Blocker("D", "everybody")
    elsewhere = Blocker("E", "another wave", wave="first")
    plan = Plan(blockers=MappingProxyType({"k": (mine, others, many, all_, elsewhere)}))
    assert explain(halfway(), "k", "n03", plan, NOW).blockers == (mine, many, all_)
    assert explain(halfway(), "k", "n00", plan, NOW).blockers == (others, many)


def test_a_pair_that_nobody_is_of_any_more() -> None:
    gone = rollout(1, pairs_passed=frozenset({("6.1", NEW, "m9")}))
    made = fleet(node("n00", release=NEW), gone, member("n00", Outcome.ALREADY))
    (pair,) = rollout_view(made, "k", None, NOW).pairs
    assert (pair.from_release, pair.nodes, pair.passed) == ("6.1", 0, True)


def test_large_rollouts_are_seen_in_one_pass() -> None:
    """Attempts are asked for once a member, not once a member and wave."""
    asked: list[str] = []

    class Counting(Fleet):
        def attempts_at(self, node_id: str) -> tuple[AttemptRow, ...]:
            asked.append(node_id)
            return super().attempts_at(node_id)

    plain = halfway()
    made = Counting(plain.policy, plain.incarnation)
    rows: list[Row] = [*plain.nodes.values(), *plain.rollouts.values(), *plain.attempts.values()]
    for row in [*rows, *plain.members("k").values()]:
        made.apply(row)
    rollout_view(made, "k", None, NOW)
    assert asked == ["n00", "n01", "n02"]


def test_whoever_runs_the_target_is_of_no_pair() -> None:
    made = fleet(node("n00", release=NEW), node("n01"), rollout(2), member("n00"), member("n01", position=1))
    (pair,) = rollout_view(made, "k", None, NOW).pairs
    assert (pair.from_release, pair.nodes) == (OLD, 1)


def test_of_a_rollout_that_nothing_stops_only_its_wave_is_told() -> None:
    made = fleet(node("n00"), rollout(1), member("n00"))
    assert explain(made, "k", "", None, NOW).summary == (
        f"k is PENDING: 0 of 1 nodes run {NEW}; wave canary is running"
    )
    made.apply(replace(made.rollouts["k"], revision=1, wave=9))
    assert explain(made, "k", "", None, NOW).summary == f"k is PENDING: 0 of 1 nodes run {NEW}"


def test_a_problem_without_a_remedy_is_told_without_one() -> None:
    bare = Problem("FREEZE_REFUSED", Retry.REPLAN, "a file refuses to freeze")
    made = fleet(
        node("n00"),
        rollout(1),
        attempt("n00", Phase.ABORTED, problem=bare, settled_at=NOW),
        member("n00", Outcome.FAILED, generation=1),
    )
    assert explain(made, "k", "n00", None, NOW).summary.endswith("is ABORTED: a file refuses to freeze")


def test_who_was_left_out_without_an_attempt_is_told_why() -> None:
    made = fleet(node("n00"), rollout(1), member("n00", Outcome.EXCLUDED, reason="broken fan"))
    assert explain(made, "k", "n00", None, NOW).summary == "n00: it takes no part (broken fan)"
