from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest

from orchestrator.core import operations as op
from orchestrator.core.facts import LinkDown
from orchestrator.core.fleet import Fleet
from orchestrator.core.model import (
    Change,
    DesiredCommit,
    GateVerdict,
    Maintenance,
    MemberRow,
    NodeRow,
    RolloutRow,
    guarding,
)
from orchestrator.core.operations_table import ALLOWED, Operation, shown_state
from orchestrator.core.phases import Goal, Outcome, Phase, RolloutState, Verdict, WaveState
from orchestrator.core.spec import Amount, Promotion, RollbackPolicy, Selection
from orchestrator.errors import (
    AlreadyExists,
    Blocked,
    IllegalTransition,
    InvalidSpec,
    LiverollError,
    NotFound,
)
from tests.unit.core_ops.build import ARTIFACT, NOW, apply, attempt, fleet, member, node, nodes, rollout, spec

State = RolloutState

ROWS: dict[RolloutState, dict[str, Any]] = {
    State.PENDING: {},
    State.RUNNING: {},
    State.PAUSED: {"paused": "lunch"},
    State.HALTED: {"halted": "FAILURE_BUDGET"},
    State.CANCELLING: {"goal": Goal.CANCEL},
    State.CANCELLED: {"goal": Goal.CANCEL, "ended_at": NOW, "ended_as": "CANCELLED"},
    State.ROLLING_BACK: {"goal": Goal.BACK},
    State.ROLLED_BACK: {"goal": Goal.BACK, "ended_at": NOW, "ended_as": "ROLLED_BACK"},
    State.SUCCEEDED: {"ended_at": NOW, "ended_as": "SUCCEEDED"},
    State.FAILED: {"ended_at": NOW, "ended_as": "FAILED"},
}

CALLS: dict[Operation, Callable[[Fleet], Change]] = {
    Operation.PAUSE: lambda f: op.pause(f, "k", "", "alice", NOW),
    Operation.RESUME: lambda f: op.resume(f, "k", "", True, "alice", NOW),
    Operation.APPROVE: lambda f: op.approve(f, "k", "all", "", "alice", NOW),
    Operation.CANCEL: lambda f: op.cancel(f, "k", "", True, "alice", NOW),
    Operation.ROLL_BACK: lambda f: op.roll_back(f, "k", "", "alice", NOW),
    Operation.COMMIT: lambda f: op.commit_nodes(f, "k", [], "", "alice", NOW).change,
    Operation.RETRY: lambda f: op.retry_nodes(f, "k", [], "", "alice", NOW).change,
    Operation.EXCLUDE: lambda f: op.exclude_nodes(f, "k", ["n02"], "", "alice", NOW).change,
}


def campaign(state: RolloutState = State.RUNNING, **fields: Any) -> Fleet:
    """n00 bakes, n01 has failed, n02 waits."""
    begun = state is not State.PENDING
    baking = attempt("n00", Phase.BAKING, verdict=Verdict.LIVE_UPDATED, settled_at=NOW)
    first = member("n00", Outcome.BAKING, generation=1, crossed=True)
    second = member("n01", Outcome.FAILED, generation=1, failed=True, wave=1, position=1)
    rows: list[Any] = [*nodes(3), rollout(3, **{**ROWS[state], **fields})]
    if begun:
        rows += [baking, attempt("n01", Phase.ABORTED, failed=True, settled_at=NOW), first, second]
    else:
        rows += [member("n00"), member("n01", wave=1, position=1)]
    return fleet(*rows, member("n02", wave=1, position=2))


def row_of(change: Change, kind: type) -> Any:
    (found,) = [r for r in change.writes if isinstance(r, kind)]
    return found


def test_the_table_and_its_rows_are_total() -> None:
    assert set(ALLOWED) == set(RolloutState) == set(ROWS)
    assert set(CALLS) == set(Operation)
    ended = {State.CANCELLED, State.ROLLED_BACK, State.SUCCEEDED, State.FAILED}
    for state in set(RolloutState) - ended:
        assert Operation.CANCEL in ALLOWED[state]


@pytest.mark.parametrize("operation", list(Operation))
@pytest.mark.parametrize("state", list(RolloutState))
def test_every_state_and_every_operation(state: RolloutState, operation: Operation) -> None:
    made = campaign(state)
    assert shown_state(made.rollouts["k"], made.members("k").values()) is state
    if operation in ALLOWED[state]:
        change = CALLS[operation](made)
        if change.writes:
            assert all(e.actor == "alice" for e in change.events)
            apply(made, change)
        return
    with pytest.raises(IllegalTransition) as caught:
        CALLS[operation](made)
    assert caught.value.fields["state"] == state
    assert set(filter(None, caught.value.fields["allowed"].split(","))) == set(ALLOWED[state])
    assert str(state) in caught.value.message


def test_create_fixes_members_and_canaries() -> None:
    made = fleet(*nodes(5))
    created = op.create(made, spec(), ARTIFACT, "alice", NOW)
    row = row_of(created.change, RolloutRow)
    assert (row.rollout_id, row.members, row.wave_names) == ("k", 5, ("canary", "all"))
    assert row.pair_canaries == {f"6.18.9|{ARTIFACT.release}|m1": "n00"}
    placed = [m for m in created.change.writes if isinstance(m, MemberRow)]
    assert [(m.node_id, m.wave, m.position) for m in placed][:2] == [("n00", 0, 0), ("n01", 1, 1)]
    apply(made, created.change)
    assert shown_state(made.rollouts["k"], made.members("k").values()) is State.PENDING
    again = op.create(made, spec(), ARTIFACT, "bob", NOW)
    assert again.existing
    assert not again.change
    with pytest.raises(AlreadyExists) as caught:
        op.create(made, spec(method=spec().method, selection=Selection("zone=a")), ARTIFACT, "bob", NOW)
    assert caught.value.fields["differing"] == "selection"
    with pytest.raises(AlreadyExists) as caught:
        op.create(made, spec(), replace(ARTIFACT, digest="e" * 64), "bob", NOW)
    assert "digest" in caught.value.remedy


def test_create_refuses_with_every_violation() -> None:
    with pytest.raises(InvalidSpec):
        op.create(fleet(*nodes(1)), spec(""), ARTIFACT, "alice", NOW)


def test_an_unknown_rollout_gets_a_near_miss() -> None:
    made = fleet(node("n00"), rollout(1, rollout_id="kernel-6.19", spec=spec("kernel-6.19")))
    with pytest.raises(NotFound) as caught:
        op.pause(made, "kernel-6.18", "", "alice", NOW)
    assert caught.value.remedy == "Did you mean kernel-6.19?"
    with pytest.raises(NotFound) as caught:
        op.pause(made, "zzz", "", "alice", NOW)
    assert "liveroll list" in caught.value.remedy


def test_pause_and_resume() -> None:
    made = campaign()
    apply(made, op.pause(made, "k", " ", "alice", NOW))
    assert made.rollouts["k"].paused == "asked for by alice"
    apply(made, op.resume(made, "k", "", False, "alice", NOW))
    assert made.rollouts["k"].paused == ""


def test_a_halt_must_be_cleared_aloud() -> None:
    made = campaign(State.HALTED, halted="GATE_FAILED", wave_state=WaveState.GATED)
    with pytest.raises(IllegalTransition) as caught:
        op.resume(made, "k", "", False, "alice", NOW)
    assert "--clear-halt" in caught.value.remedy
    apply(made, op.resume(made, "k", "seen", True, "alice", NOW))
    row = made.rollouts["k"]
    assert (row.halted, row.failures_forgiven, row.gates_waived) == ("", 1, frozenset({0}))


def test_a_halt_by_failures_waives_no_gate() -> None:
    made = campaign(State.HALTED)
    apply(made, op.resume(made, "k", "", True, "alice", NOW))
    assert made.rollouts["k"].gates_waived == frozenset()


@pytest.mark.parametrize("wave", ["", "canary"])
@pytest.mark.parametrize(
    "fields",
    [
        {"wave_state": WaveState.GATED},
        {"gates": (GateVerdict("blackout of a|b|m", "FAIL", "slow", 0),)},
    ],
    ids=["wave", "late pair"],
)
def test_approving_a_gated_wave_waives_its_gates(fields: dict[str, Any], wave: str) -> None:
    made = campaign(**fields)
    apply(made, op.approve(made, "k", wave, "looked at it", "alice", NOW))
    row = made.rollouts["k"]
    assert (row.gates_waived, row.approved) == (frozenset({0}), frozenset())
    assert not op.approve(made, "k", wave, "", "alice", NOW).writes


def test_a_paused_halt_keeps_its_halt() -> None:
    made = campaign(State.HALTED, paused="lunch")
    assert not op.pause(made, "k", "", "alice", NOW).writes
    apply(made, op.resume(made, "k", "", False, "alice", NOW))
    assert (made.rollouts["k"].paused, made.rollouts["k"].halted) == ("", "FAILURE_BUDGET")


@pytest.mark.parametrize(
    ("fields", "wave", "approved"),
    [
        ({"wave": 1, "wave_state": WaveState.AWAITING_APPROVAL}, "", {1}),
        ({"spec": spec(promotion=Promotion.MANUAL)}, "", {1}),
        ({}, "all", {1}),
    ],
)
def test_approve(fields: dict[str, Any], wave: str, approved: set[int]) -> None:
    made = campaign(**fields)
    change = op.approve(made, "k", wave, "fine", "alice", NOW)
    apply(made, change)
    assert made.rollouts["k"].approved == approved
    assert change.events[0].cause == "fine"
    assert not op.approve(made, "k", "all", "", "alice", NOW).writes


@pytest.mark.parametrize(
    ("wave", "error", "remedy"),
    [
        ("", Blocked, "liveroll why"),
        ("al", NotFound, "Did you mean all?"),
        ("zzz", NotFound, "canary, all"),
        ("canary", InvalidSpec, "correct every field"),
    ],
)
def test_what_cannot_be_approved(wave: str, error: type[LiverollError], remedy: str) -> None:
    with pytest.raises(error) as caught:
        op.approve(campaign(), "k", wave, "", "alice", NOW)
    assert remedy in caught.value.remedy


def test_cancel_and_its_rollback() -> None:
    made = campaign(State.PAUSED)
    apply(made, op.cancel(made, "k", "wrong kernel", False, "alice", NOW))
    row = made.rollouts["k"]
    assert (row.goal, row.paused, row.roll_back_after_cancel) == (Goal.CANCEL, "", False)
    assert not op.cancel(made, "k", "", False, "alice", NOW).writes
    apply(made, op.cancel(made, "k", "", True, "alice", NOW))
    assert made.rollouts["k"].roll_back_after_cancel
    assert not op.cancel(made, "k", "", False, "alice", NOW).writes, "the rollback stays wanted"


def test_cancel_before_anything_crossed_may_ask_for_a_rollback() -> None:
    made = campaign(State.PENDING)
    apply(made, op.cancel(made, "k", "", True, "alice", NOW))
    assert made.rollouts["k"].goal is Goal.CANCEL


@pytest.mark.parametrize("state", [State.RUNNING, State.SUCCEEDED, State.FAILED, State.CANCELLED])
def test_roll_back_reopens(state: RolloutState) -> None:
    made = campaign(state)
    apply(made, op.roll_back(made, "k", "slow", "alice", NOW))
    row = made.rollouts["k"]
    assert (row.goal, row.ended_at, row.ended_as, row.rollback_baseline) == (Goal.BACK, None, "", 0)
    assert shown_state(row, []) is State.ROLLING_BACK


def test_what_cannot_be_rolled_back() -> None:
    made = campaign()
    made.apply(replace(made.members("k")["n00"], crossed=False))
    with pytest.raises(Blocked) as caught:
        op.roll_back(made, "k", "", "alice", NOW)
    assert caught.value.reason == "NOTHING_TO_ROLL_BACK"
    for operation in (Operation.ROLL_BACK, Operation.CANCEL):
        with pytest.raises(Blocked) as caught:
            CALLS[operation](campaign(spec=spec(rollback=RollbackPolicy(none=True))))
        assert caught.value.reason == "ROLLBACK_NONE"


def test_commit() -> None:
    made = campaign(State.CANCELLED)
    done = op.commit_nodes(made, "k", [], "keep", "alice", NOW)
    assert done.nodes == ("n00",)
    wanted = row_of(done.change, NodeRow)
    assert (wanted.desired, wanted.command_serial) == (DesiredCommit(1), 1)
    with pytest.raises(Blocked) as caught:
        op.commit_nodes(made, "k", ["n00", "n01"], "", "alice", NOW)
    assert caught.value.fields["nodes"] == "n01"
    made.apply(replace(made.attempts["n00", 1], phase=Phase.COMMITTED))
    assert op.commit_nodes(made, "k", ["n00"], "", "alice", NOW).nodes == ()


def test_retry_is_a_persons_word() -> None:
    made = campaign(State.FAILED, wave=1, wave_state=WaveState.BAKING, wave_settled_at=NOW)
    made.apply(replace(made.members("k")["n01"], tries={"REPLAN": 2}, not_before=NOW))
    done = op.retry_nodes(made, "k", [], "mended", "alice", NOW)
    assert done.nodes == ("n01",)
    apply(made, done.change)
    again = made.members("k")["n01"]
    assert (again.outcome, again.operator_word, again.retries) == (Outcome.PENDING, True, 1)
    assert (dict(again.tries), again.not_before, again.failed) == ({}, None, True)
    row = made.rollouts["k"]
    assert (row.ended_at, row.ended_as, row.wave_state, row.wave_settled_at) == (
        None,
        "",
        WaveState.RUNNING,
        None,
    )


def test_retry_in_a_wave_that_runs_writes_the_rollout_as_it_is() -> None:
    """So that no plan ends it at the same time."""
    made = campaign(wave=1)
    change = op.retry_nodes(made, "k", ["n01"], "", "alice", NOW).change
    assert row_of(change, RolloutRow) == made.rollouts["k"]


def test_what_may_be_tried_again() -> None:
    made = campaign()
    made.apply(member("n02", Outcome.ROLLED_BACK, wave=1, position=2))
    assert op.retry_nodes(made, "k", ["n02", "n02"], "", "alice", NOW).nodes == ("n02",)
    with pytest.raises(Blocked) as caught:
        op.retry_nodes(made, "k", ["n00"], "", "alice", NOW)
    assert caught.value.reason == "NOT_FAILED"
    made.apply(member("n02", wave=1, position=2))
    waits = op.retry_nodes(made, "k", ["n02"], "", "alice", NOW)
    assert (waits.change.writes, waits.nodes) == ((), ())
    assert guarding(made.members("k")["n02"]) in waits.change.guards


def test_exclude() -> None:
    made = campaign()
    done = op.exclude_nodes(made, "k", ["n02", "n01"], "", "alice", NOW)
    assert done.nodes == ("n02", "n01")
    apply(made, done.change)
    assert made.members("k")["n02"].reason == "asked for by alice"
    assert op.exclude_nodes(made, "k", ["n02"], "", "alice", NOW).nodes == ()
    with pytest.raises(InvalidSpec):
        op.exclude_nodes(made, "k", [], "", "alice", NOW)
    with pytest.raises(NotFound) as caught:
        op.exclude_nodes(made, "k", ["n99"], "", "alice", NOW)
    assert "n02" in caught.value.remedy or "liveroll" in caught.value.remedy


def test_who_cannot_be_excluded() -> None:
    made = campaign()
    made.apply(attempt("n02", Phase.DRAINING))
    made.apply(member("n02", Outcome.OPEN, wave=1, position=2, generation=1))
    with pytest.raises(Blocked) as caught:
        op.exclude_nodes(made, "k", ["n00", "n02"], "", "alice", NOW)
    assert "n02: its attempt 1 is DRAINING" in caught.value.message
    assert "n00: it may run the new kernel" in caught.value.message


def test_write_off() -> None:
    made = fleet(node("n00", link_up=False), node("n01"), rollout(1), member("n00"))
    for names, reason in (([], "x"), (["n00"], " ")):
        with pytest.raises(InvalidSpec):
            op.write_off(made, names, reason, "alice", NOW)
    with pytest.raises(Blocked) as caught:
        op.write_off(made, ["n01"], "gone", "alice", NOW)
    assert "linked" in caught.value.message
    with pytest.raises(Blocked) as caught:
        op.write_off(made, ["n00"], "gone", "alice", NOW)
    assert "not been heard of" in caught.value.message, "no write-off before the grace has ended"
    later = NOW + timedelta(minutes=5)
    made.apply(LinkDown("n00", NOW))
    done = op.write_off(made, ["n00"], "gone", "alice", later)
    apply(made, done.change)
    assert (made.nodes["n00"].written_off, done.nodes) == ("gone", ("n00",))
    assert not op.write_off(made, ["n00"], "gone", "alice", later).change.writes
    with pytest.raises(NotFound):
        op.write_off(made, ["n000"], "gone", "alice", NOW)


def test_fleet_stop() -> None:
    made = fleet()
    assert not op.fleet_stop(made, False, "", "alice", NOW).writes
    apply(made, op.fleet_stop(made, True, "smoke", "alice", NOW))
    assert (made.row.stopped, made.row.stop_message, made.row.stopped_by) == ("OPERATOR", "smoke", "alice")
    assert not op.fleet_stop(made, True, "again", "bob", NOW).writes
    change = op.fleet_stop(made, False, "clear", "alice", NOW)
    apply(made, change)
    assert (made.row.stopped, made.row.stopped_at) == ("", None)
    assert change.events[0].kind == "fleet.released"


def test_maintenance() -> None:
    made = fleet(
        node("n00"), node("n01"), rollout(2), member("n01", Outcome.OPEN, generation=1), attempt("n01")
    )
    wanted = Maintenance("bob", "disk", NOW + timedelta(hours=1))
    apply(made, op.set_maintenance(made, ["n00"], wanted, "alice", NOW).change)
    assert made.nodes["n00"].maintenance == wanted
    assert not op.set_maintenance(made, ["n00"], wanted, "alice", NOW).change.writes
    with pytest.raises(Blocked) as caught:
        op.set_maintenance(made, ["n01"], wanted, "alice", NOW)
    assert caught.value.reason == "ATTEMPT_OPEN"
    apply(made, op.set_maintenance(made, ["n00"], None, "alice", NOW).change)
    ended = made.nodes["n00"]
    assert ended.maintenance is None
    for bad in (Maintenance("", "x"), Maintenance("x", " "), Maintenance("x", "y", NOW)):
        with pytest.raises(InvalidSpec):
            op.set_maintenance(made, ["n00"], bad, "alice", NOW)
    with pytest.raises(InvalidSpec):
        op.set_maintenance(made, [], None, "alice", NOW)


def test_long_refusals_are_cut() -> None:
    rows = nodes(8)
    made = fleet(*rows, rollout(8), *(member(n.node_id, Outcome.UPDATED, crossed=True) for n in rows))
    with pytest.raises(Blocked) as caught:
        op.exclude_nodes(made, "k", [n.node_id for n in rows], "", "alice", NOW)
    assert caught.value.message.endswith("and 3 more")


def test_amounts_of_a_created_rollout_are_of_its_members() -> None:
    assert Amount(percent=10).of(op.resolved(fleet(*nodes(30)), spec(), ARTIFACT, NOW).members) == 3


def test_a_node_that_is_already_committed_needs_no_command() -> None:
    made = campaign(State.CANCELLED)
    made.apply(attempt("n01", Phase.BAKING, generation=2, rollout_id="other"))
    with pytest.raises(Blocked) as caught:
        op.commit_nodes(made, "k", ["n01"], "", "alice", NOW)
    assert caught.value.reason == "NOT_UNCOMMITTED"


def test_an_approval_that_lost_is_not_given_to_something_else() -> None:
    """Another has approved the wave, it has run, and its gate holds it: nobody has asked to waive that."""
    meant = op.Meant()
    waiting = {"wave": 1, "wave_state": WaveState.AWAITING_APPROVAL}
    made = campaign(spec=spec(promotion=Promotion.MANUAL), **waiting)
    assert op.approve(made, "k", "", "", "alice", NOW, meant).writes
    assert op.approve(made, "k", "", "", "alice", NOW, meant).writes, "the same again"
    gated = campaign(spec=spec(promotion=Promotion.MANUAL), wave=1, wave_state=WaveState.GATED)
    with pytest.raises(Blocked) as caught:
        op.approve(gated, "k", "", "", "alice", NOW, meant)
    assert caught.value.reason == "MOVED_ON"
    assert op.approve(gated, "k", "", "", "alice", NOW).writes


def test_a_halt_that_came_in_between_is_not_cleared() -> None:
    meant = op.Meant()
    paused = campaign(State.PAUSED)
    assert op.resume(paused, "k", "", True, "alice", NOW, meant).writes
    halted = campaign(State.HALTED)
    assert op.resume(halted, "k", "", True, "alice", NOW, meant).writes, "what it was about at first"
    other = campaign(State.HALTED, halted="GATE_FAILED")
    with pytest.raises(Blocked) as caught:
        op.resume(other, "k", "", True, "alice", NOW, meant)
    assert "FAILURE_BUDGET" in caught.value.message


def test_what_a_call_found_of_attempts_is_guarded() -> None:
    """An attempt that returns from LOST beside the call: nobody takes a node out from under it."""
    made = campaign(State.CANCELLED, wave=1)
    done = op.commit_nodes(made, "k", ["n00"], "", "alice", NOW).change
    assert guarding(made.attempts["n00", 1]) in done.guards
    made = campaign(wave=1)
    lost = attempt("n01", Phase.LOST, failed=True, settled_at=NOW)
    made.apply(lost)
    out = op.exclude_nodes(made, "k", ["n01"], "", "alice", NOW).change
    assert guarding(lost) in out.guards
    assert row_of(out, RolloutRow) == made.rollouts["k"], "so that no plan ends it beside the call"
    made.apply(member("n01", generation=1, failed=True, wave=1, position=1))
    asked = op.retry_nodes(made, "k", ["n01"], "", "alice", NOW).change
    assert guarding(lost) in asked.guards
