"""A STAGE that failed is tried again by what its error asks for, and otherwise by nobody."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest

from orchestrator.core import operations, staging
from orchestrator.core.blockers import Blocker
from orchestrator.core.model import DesiredStage, Problem
from orchestrator.core.policy import FleetPolicy
from orchestrator.errors import Retry
from tests.unit.core_planner.builders import World, nodes, spec

MINUTE = timedelta(minutes=1)
HELD = (Retry.FIX_STATE, Retry.NEVER)


def problem(retry: Retry, reason: str = "BAD", remedy: str = "") -> Problem:
    return Problem(reason, retry, "it does not work", remedy)


def staged_once(number: int = 1, **policy: Any) -> World:
    """Everybody has been told to stage, and nobody has answered."""
    w = World(nodes(number, staged=frozenset()), FleetPolicy(**policy))
    w.rollout(spec())
    w.settle_plans()
    return w


def fails(w: World, retry: Retry, node_id: str = "n0", **how: str) -> None:
    """The node answers the STAGE that is out."""
    node = w.node(node_id)
    assert isinstance(node.desired, DesiredStage), "nothing is wanted of it"
    w.set_node(node_id, desired=None)
    now = staging.failed(w.node(node_id), node.desired.artifact.digest, problem(retry, **how), w.now)
    w.put(now)
    w.settle_plans()


def is_wanted(w: World, node_id: str = "n0") -> bool:
    w.settle_plans()
    return isinstance(w.node(node_id).desired, DesiredStage)


def blocker(w: World) -> list[Blocker]:
    return [b for b in w.plan().blockers["r1"] if b.reason == "STAGE_FAILED"]


def waits(w: World, most: timedelta = timedelta(hours=2)) -> timedelta:
    """How long until it is tried again."""
    began = w.now
    while not is_wanted(w) and w.now - began < most:
        w.tick(timedelta(seconds=1))
    return w.now - began


def test_what_may_be_repeated_is_after_a_backoff_that_doubles_up_to_its_bound() -> None:
    w = staged_once(stage_retry=timedelta(seconds=30), stage_retry_max=4 * MINUTE)
    for base in (30, 60, 120, 240, 240):
        fails(w, Retry.CALL)
        (told,) = blocker(w)
        assert told.until is not None
        waited = waits(w).total_seconds()
        assert base <= waited <= base * 1.25 + 1
        assert told.until <= w.now


def test_nodes_that_failed_together_do_not_come_back_together() -> None:
    w = staged_once(40, max_staging=100)
    for node_id in [n for n in w.fleet.nodes if isinstance(w.node(n).desired, DesiredStage)]:
        fails(w, Retry.CALL, node_id)
    some = [w.node(n) for n in w.fleet.nodes if w.node(n).stage_failed_at]
    ends = {staging.is_held(n, w.row(), w.policy, w.now)[1] for n in some}
    assert len(some) > 1
    assert len(ends) == len(some)


def test_an_error_without_a_class_is_tried_again_like_a_call() -> None:
    w = staged_once()
    fails(w, Retry.CALL)
    w.set_node("n0", stage_problem=None)
    (told,) = blocker(w)
    assert told.until is not None
    assert "`liveroll exclude r1 n0" in told.remedy


@pytest.mark.parametrize("retry", HELD)
def test_what_must_be_mended_first_is_not_repeated_and_makes_no_event(retry: Retry) -> None:
    w = staged_once()
    fails(w, retry, remedy="Make room.")
    serial, events = w.node("n0").command_serial, len(w.events)
    for _ in range(60):
        w.tick(MINUTE)
        w.hear("n0")
        assert not is_wanted(w)
    assert (w.node("n0").command_serial, len(w.events)) == (serial, events)
    (told,) = blocker(w)
    assert told.until is None
    assert told.message == "the artifact cannot be staged: it does not work"
    assert told.remedy == (
        "Make room, then `liveroll retry r1 n0` tries again, "
        "or `liveroll exclude r1 n0 -m WHY` goes on without."
    )


@pytest.mark.parametrize("retry", [*HELD, Retry.REPLAN])
def test_a_hello_since_has_it_tried_again_at_once(retry: Retry) -> None:
    w = staged_once()
    fails(w, retry)
    assert not is_wanted(w)
    w.set_node("n0", link_epoch=w.node("n0").link_epoch + 1)
    assert is_wanted(w)


def test_a_hello_does_not_shorten_a_backoff() -> None:
    w = staged_once()
    fails(w, Retry.CALL)
    w.set_node("n0", link_epoch=w.node("n0").link_epoch + 1)
    assert not is_wanted(w)


def test_what_a_new_plan_may_mend_is_tried_again_seldom() -> None:
    w = staged_once(stage_retry=timedelta(seconds=30), stage_retry_max=5 * MINUTE)
    fails(w, Retry.REPLAN)
    assert 5 * MINUTE <= waits(w) <= 5 * MINUTE + timedelta(seconds=1)


@pytest.mark.parametrize("retry", list(Retry))
def test_an_operator_has_it_tried_again_at_once_and_as_if_for_the_first_time(retry: Retry) -> None:
    w = staged_once()
    fails(w, retry)
    done = operations.retry_nodes(w.fleet, "r1", ["n0"], "it has room", "ann", w.now)
    assert done.nodes == ("n0",)
    w.commit(done.change)
    assert w.events[-1].kind == "node.retry_wanted"
    assert (w.events[-1].actor, w.events[-1].cause) == ("ann", "it has room")
    assert is_wanted(w)
    assert w.node("n0").stage_failures == 0
    again = operations.retry_nodes(w.fleet, "r1", ["n0"], "", "ann", w.now)
    assert (again.nodes, again.change.writes) == ((), ())


def test_another_artifact_or_a_rollout_made_since_begins_afresh() -> None:
    w = staged_once()
    fails(w, Retry.NEVER)
    node, row = w.node("n0"), w.row()
    assert staging.is_held(node, row, w.policy, w.now) == (True, None)
    other = staging.begun(node, "sha-other")
    assert (other.stage_failures, other.stage_problem) == (0, node.stage_problem)
    w.set_rollout(created_at=w.now + MINUTE)
    assert staging.is_held(node, w.row(), w.policy, w.now) == (False, None)


def test_one_blocker_for_each_reason_and_for_each_way_out() -> None:
    w = World(nodes(4, staged=frozenset()))
    w.rollout(spec(), waves=[["n0", "n1", "n2", "n3"]])
    w.settle_plans()
    fails(w, Retry.CALL, "n0", reason="UNREACHABLE")
    fails(w, Retry.FIX_STATE, "n1", reason="DISK_FULL", remedy="Make room.")
    fails(w, Retry.FIX_STATE, "n2", reason="DISK_FULL", remedy="Make room.")
    fails(w, Retry.NEVER, "n3", reason="ARTIFACT_INVALID")
    told = {b.nodes: b for b in blocker(w)}
    assert set(told) == {("n0",), ("n1", "n2"), ("n3",)}
    assert told["n0",].until is not None
    assert told["n1", "n2"].until is None
    assert "`liveroll retry r1 n1 n2` tries again" in told["n1", "n2"].remedy
