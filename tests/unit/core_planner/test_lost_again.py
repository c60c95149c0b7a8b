"""A store that goes back in time a second time: what a person accepted the first time is told no more."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from orchestrator.core.differences import told_of, unheard
from orchestrator.core.messages import Hello
from orchestrator.core.model import NodeRow, Row
from orchestrator.core.phases import Phase
from orchestrator.core.transitions_regression import stop_regressed
from tests.unit.core_planner.builders import World, nodes, spec
from tests.unit.core_planner.lost_future import ANEW, Restored, backup, gone_back, hello_of
from tests.unit.core_planner.test_lost_future import one, until


def once() -> Restored:
    """Two nodes: of n0 the store lost that it was updated; a person has accepted that."""
    w = World(nodes(2))
    w.rollout(spec(waves=[None]))
    rows = backup(w)
    until(w, "n0", Phase.COMMITTED)
    v = gone_back(w, rows)
    v.hello_all(w)
    assert list(v.differ()) == ["n0"]
    v.release()
    v.settle_plans()
    assert list(v.differ()) == ["n0"], "it is told until the store is lost again"
    assert one(v, "n0").outlook == "COUNTS_AS_UPDATED"
    return v


def kept(v: Restored) -> list[Row]:
    """A backup of the store that has begun anew."""
    return [replace(row, incarnation=ANEW) if isinstance(row, NodeRow) else row for row in backup(v)]


def said(v: Restored, node_id: str, **changes: Any) -> Hello:
    return hello_of(v, node_id, highest_incarnation=ANEW, highest_incarnation_serial=2, **changes)


def again(v: Restored, rows: list[Row], *, by_a_node: bool) -> Restored:
    """The store goes back to rows. by_a_node: it is a Hello that proves it, not the store itself."""
    incarnation, serial = (ANEW, 2) if by_a_node else ("inc-3", 3)
    x = gone_back(v, rows, stopped=False, incarnation=incarnation, serial=serial)
    if not by_a_node:
        x.commit(stop_regressed(x.fleet.row, "restored", x.now))
    return x


@pytest.mark.parametrize("by_a_node", [False, True])
def test_only_what_the_second_loss_has_made_differ_is_told(by_a_node: bool) -> None:
    v = once()
    rows = kept(v)
    until(v, "n1", Phase.PRESERVED)
    x = again(v, rows, by_a_node=by_a_node)
    for node_id in ("n0", "n1"):
        assert x.hello(said(v, node_id)).refusal is None
    assert x.fleet.row.stopped
    assert list(x.differ()) == ["n1"]
    assert told_of(x.fleet, x.node("n0")) is None
    assert "n1" in one(x, "n1").beyond.evidence
    x.release()
    assert "accepted: 1 nodes differ" in x.events[-1].message


def test_a_node_that_differs_once_more_is_told_with_what_differs_now() -> None:
    v = once()
    before = one(v, "n0").beyond
    x = again(v, kept(v), by_a_node=True)
    x.hello(said(v, "n0", highest_generation=7))
    assert one(x, "n0").beyond.node.generation == 7 != before.node.generation
    assert one(x, "n0").beyond.loss == 1 > before.loss


def test_what_nobody_has_accepted_stays_told() -> None:
    """The backup is of a fleet that stood still, and nobody had looked yet."""
    w = World(nodes(2))
    w.rollout(spec(waves=[None]))
    rows = backup(w)
    until(w, "n0", Phase.COMMITTED)
    v = gone_back(w, rows)
    v.hello(hello_of(w, "n0"))
    x = again(v, kept(v), by_a_node=False)
    assert list(x.differ()) == ["n0"]


def test_a_stranger_that_was_accepted_and_never_came_is_unheard_again() -> None:
    w = World(nodes(2))
    w.rollout(spec(waves=[None]))
    until(w, "n0", Phase.BAKING)
    v = gone_back(w, backup(w))
    newer = hello_of(w, "n0", highest_incarnation="inc-9", highest_incarnation_serial=9)
    assert v.hello(newer).refusal is not None
    assert (one(v, "n0").outlook, list(unheard(v.fleet, v.now))) == ("REFUSED", ["n1"])
    v.release()
    x = again(v, kept(v), by_a_node=False)
    for node_id in ("n0", "n1"):
        x.cut(node_id)
    assert (x.outlooks(), list(unheard(x.fleet, x.now))) == ({}, ["n0", "n1"])
