"""Yesterday's store in any moment of a rollout, against nodes that have gone on to any later one.

Nobody is updated twice, and after a person's word the rollout ends as if nothing had happened.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta

from hypothesis import given, settings
from hypothesis import strategies as st

from orchestrator.core.phases import Outcome
from orchestrator.core.spec import Amount
from tests.unit.core_planner.builders import NEW, OLD, World, nodes, spec
from tests.unit.core_planner.lost_future import Restored, backup, gone_back, hello_of

NODES = 5


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


def said(v: Restored, w: World, i: int) -> None:
    before = v.fleet.nodes[f"n{i}"].highest_generation
    seen = v.hello(hello_of(w, f"n{i}"))
    assert seen.refusal is None
    assert v.fleet.nodes[f"n{i}"].highest_generation >= before
    assert v.hello(hello_of(w, f"n{i}")).refusal is None, "and again"
