"""The checker and what other replicas wrote: taken in as it stands, asked what holds in between."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta

import pytest

from orchestrator.core.invariants import Checker
from orchestrator.core.model import Event, NewEvent, Row
from orchestrator.core.phases import Phase
from orchestrator.core.policy import FleetPolicy
from tests.unit.core_ops.build import NOW, attempt, node, rollout

S = timedelta(seconds=1)


def checker(*rows: Row) -> Checker:
    return Checker(rows, policy=FleetPolicy(), incarnation="i", head_seq=3)


def found(made: Checker, *rows: Row) -> list[str]:
    return [broken.invariant for broken in made.followed(rows, NOW)]


def event(seq: int) -> Event:
    return Event("i", seq, NOW, NewEvent("x", "y"))


def test_many_commits_at_once_are_no_alarm() -> None:
    made = checker(node("n00"), attempt(phase=Phase.PRESERVED), rollout(1))
    later = attempt(phase=Phase.VERIFYING)
    assert found(made, node("n00", link_epoch=7, command_serial=9), later, rollout(1, paused="lunch")) == []


def test_an_attempt_that_another_planner_began_is_its_own_affair() -> None:
    """Whatever the gates say: it was judged there, at that moment."""
    made = checker(node("n00"), rollout(1, paused="lunch"))
    assert found(made, attempt(phase=Phase.LOADING)) == []


@pytest.mark.parametrize(
    ("before", "after", "invariant"),
    [
        (node("n00", link_epoch=4), node("n00", link_epoch=3), "I3"),
        (attempt(phase=Phase.VERIFYING), attempt(phase=Phase.JUMPING), "I3"),
        (attempt(phase=Phase.VERIFYING), attempt(phase=Phase.BAKING, workloads=2, memory_intact=1), "I11"),
    ],
)
def test_what_never_holds_between_two_moments_is_found(before: Row, after: Row, invariant: str) -> None:
    assert invariant in found(checker(node("n00"), before, rollout(1)), after)


def test_two_open_attempts_are_two_whoever_began_them() -> None:
    made = checker(node("n00"), attempt(phase=Phase.LOADING), rollout(1))
    assert found(made, attempt(phase=Phase.LOADING, generation=2)) == ["I14"]


def test_what_was_followed_is_known_to_what_is_judged_next() -> None:
    made = checker(node("n00", revision=1), rollout(1))
    assert found(made, rollout(1, paused="lunch")) == []
    begun = attempt(phase=Phase.LOADING, opened_at=NOW)
    broken = made.committed([begun, replace(node("n00"), highest_generation=1)], [], NOW)
    assert "I6" in {b.invariant for b in broken}


def test_others_events_leave_no_gap() -> None:
    made = checker()
    made.skip_to(7)
    assert made.committed([], [event(8)], NOW) == []
    made.skip_to(5)  # read before, told later
    assert made.committed([], [event(9)], NOW) == []
    assert [b.invariant for b in made.committed([], [event(11)], NOW)] == ["I12"]
