"""Yesterday's store in any moment of a rollout, against nodes that have gone on to any later one.

Nobody is updated twice, and after a person's word the rollout ends as if nothing had happened.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from datetime import timedelta

from hypothesis import given, settings
from hypothesis import strategies as st

from orchestrator.core.operations import roll_back
from orchestrator.core.phases import BEFORE_JUMP, Kind, Outcome, Phase
from orchestrator.core.spec import Amount
from orchestrator.errors import Blocked, IllegalTransition
from tests.unit.core_planner.builders import NEW, OLD, World, nodes, spec
from tests.unit.core_planner.lost_future import Restored, backup, gone_back, hello_of

NODES = 5
NOT_JUMPED = {*BEFORE_JUMP, Phase.UNWINDING, Phase.ABORTED}


def one_move(w: World, draw: Callable[[int], int]) -> None:
    """Something happens: the planner commits one action, or an agent takes a step, or time passes."""
    actions = w.plan().actions
    choice = draw(3)
    if actions and choice:
        w.execute([actions[draw(len(actions))]])
    elif choice != 1 and w.step(f"n{draw(NODES)}"):
        return
    else:
        w.tick(timedelta(milliseconds=300))


@settings(max_examples=150)
@given(
    st.randoms(use_true_random=False),
    st.integers(0, 90),
    st.integers(0, 90),
    st.integers(1, 4),
    st.booleans(),
)
def test_nobody_is_updated_twice(rng: object, first: int, then: int, room: int, same: bool) -> None:
    def draw(count: int) -> int:
        return int(rng.randrange(count))  # type: ignore[attr-defined]

    w = World(nodes(NODES))
    w.rollout(spec(waves=[Amount(count=2), None], unavailable=room, blackout=room, bake=timedelta(seconds=1)))
    for _ in range(first):
        one_move(w, draw)
    rows = backup(w)
    for _ in range(then):
        one_move(w, draw)
    v = gone_back(w, rows, **({"incarnation": "inc-1", "serial": 1, "stopped": False} if same else {}))
    late = draw(NODES)
    for i in range(NODES):
        if i != late:
            said(v, w, i)
    if v.fleet.row.stopped:
        assert not [a for a in v.plan().actions if a.kind in ("prepare", "proceed", "take_in", "stage")]
        v.release()
    for _ in range(draw(20)):
        v.settle_plans()
    said(v, w, late)
    if v.fleet.row.stopped:
        v.release()
    v.run(bound=600)
    assert v.state() == "SUCCEEDED", (v.outlooks(), v.phases())
    for i in range(NODES):
        assert v.jumped(f"n{i}") == 1, f"n{i}: {v.jumps}"
        assert v.node(f"n{i}").release == NEW != OLD
        assert v.member(f"n{i}").outcome in (Outcome.UPDATED, Outcome.ALREADY)


@settings(max_examples=60)
@given(st.randoms(use_true_random=False), st.integers(0, 90), st.integers(0, 60), st.integers(0, 60))
def test_what_was_rolled_back_is_not_sent_round_again(rng: object, first: int, then: int, more: int) -> None:
    """The wish to go back is lost with the store. Nodes that are back stay so until a person asks."""

    def draw(count: int) -> int:
        return int(rng.randrange(count))  # type: ignore[attr-defined]

    w = World(nodes(NODES))
    w.rollout(spec(waves=[None], bake=timedelta(seconds=1)))
    for _ in range(first):
        one_move(w, draw)
    rows = backup(w)
    for _ in range(then):
        one_move(w, draw)
    with contextlib.suppress(Blocked, IllegalTransition):
        w.commit(roll_back(w.fleet, "r1", "it is slow", "alice", w.now))
    for _ in range(more):
        one_move(w, draw)
    v = gone_back(w, rows)
    for i in range(NODES):
        said(v, w, i)
    v.release()
    v.run(bound=600)
    for name in v.fleet.nodes:
        newest = w.fleet.newest_attempt(name)
        back = newest is not None and newest.kind is Kind.ROLLBACK and newest.phase not in NOT_JUMPED
        assert v.jumped(name) == 2 if back else v.jumped(name) <= 1, v.jumps
        if back:
            assert (v.node(name).release, v.member(name).outcome) == (OLD, Outcome.ROLLED_BACK)
    assert not v.open_nodes()
    # A canary that came back is its kind's answer: the others wait for a person.
    assert v.row().ended_as or v.plan().blockers["r1"]


def said(v: Restored, w: World, i: int) -> None:
    before = v.fleet.nodes[f"n{i}"].highest_generation
    seen = v.hello(hello_of(w, f"n{i}"))
    assert seen.refusal is None
    assert v.fleet.nodes[f"n{i}"].highest_generation >= before
    assert v.hello(hello_of(w, f"n{i}")).refusal is None, "and again"
