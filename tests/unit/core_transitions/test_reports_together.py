"""Reports that are committed together leave what they would have left one by one."""

from __future__ import annotations

import itertools
from dataclasses import replace

import pytest

from orchestrator.core import transitions
from orchestrator.core.fleet import Fleet
from orchestrator.core.messages import Report
from orchestrator.core.model import AttemptRow, Change, NodeRow
from orchestrator.core.phases import Phase
from orchestrator.errors import StaleGeneration, StoreRegressed
from tests.unit.core_ops.build import LATER, NEW, apply, attempt, ref, report
from tests.unit.core_transitions.test_report import HAPPY, REFUSED, made, take

STORY = [*HAPPY, report("Committed", Phase.COMMITTED, 14, boot_id="b2", release=NEW)]
AT_REST = [
    report("Reported", Phase.IDLE, 3, attempt=None, healthy=False, problem=REFUSED),
    report("Reported", Phase.IDLE, 4, attempt=None),
    report("Reported", Phase.IDLE, 5, attempt=None, healthy=False, problem=REFUSED),
]


def content(f: Fleet) -> tuple[NodeRow, AttemptRow]:
    """The rows, but for how often they were written."""
    newest = f.newest_attempt("n00")
    assert newest is not None
    return replace(f.nodes["n00"], revision=0), replace(newest, revision=0)


def together(f: Fleet, messages: list[Report]) -> transitions.Observation:
    seen = transitions.reports(f, "n00", messages, 1, LATER)
    apply(f, seen.change)
    return seen


@pytest.mark.parametrize("cut", list(itertools.combinations(range(1, len(STORY)), 2)))
def test_however_a_story_is_cut_the_rows_and_events_are_the_same(cut: tuple[int, int]) -> None:
    single, grouped = made(attempt()), made(attempt())
    events = [event for message in STORY for event in take(single, message).change.events]
    parts = [STORY[: cut[0]], STORY[cut[0] : cut[1]], STORY[cut[1] :]]
    seen = [together(grouped, part) for part in parts]
    assert content(grouped) == content(single)
    assert [event for one in seen for event in one.change.events] == events
    assert [one.acknowledge_seq for one in seen] == [part[-1].seq for part in parts]


def test_each_row_is_written_once_at_the_revision_that_is_stored() -> None:
    f = made(attempt())
    rows = transitions.reports(f, "n00", STORY, 1, LATER).change.writes
    assert {row.key for row in rows} == {("n00",), ("n00", "1")}
    assert [row.revision for row in rows] == [f.nodes["n00"].revision, content(f)[1].revision]


def test_each_sees_what_those_before_it_said_of_a_baking_node() -> None:
    baking = attempt(phase=Phase.BAKING, seq=2, healthy_since=LATER, settled_at=LATER)
    single, grouped = made(baking), made(baking)
    for message in AT_REST:
        take(single, message)
    together(grouped, AT_REST)
    assert content(grouped) == content(single)
    assert content(grouped)[1].healthy_since is None


def test_a_node_without_attempts() -> None:
    seen = together(made(), AT_REST)
    assert seen.acknowledge_seq == 5
    assert [type(row) for row in seen.change.writes] == [NodeRow]


def test_what_was_heard_before_is_acknowledged_without_effect() -> None:
    f = made(attempt())
    together(f, HAPPY[:2])
    seen = transitions.reports(f, "n00", HAPPY[:2], 1, LATER)
    assert (seen.change, seen.acknowledge_seq) == (Change(), 2)


def test_an_older_link_is_refused_at_the_first() -> None:
    seen = transitions.reports(made(attempt()), "n00", HAPPY[:2], 0, LATER)
    assert isinstance(seen.refusal, StaleGeneration)
    assert not seen.change


def test_what_came_before_a_refused_report_is_written_with_the_refusal() -> None:
    f = made(attempt())
    unknown = report("Loaded", Phase.DRAINING, 3, attempt=ref(generation=9))
    seen = together(f, [*HAPPY[:2], unknown, *HAPPY[2:]])
    assert isinstance(seen.refusal, StoreRegressed)
    assert content(f)[1].phase is Phase.DRAINING
    assert f.nodes["n00"].acknowledged_seq == 2
    assert f.nodes["n00"].highest_generation == 9
    assert f.row.stopped == "STORE_REGRESSED"
