"""How long a PREPARE may stay unacknowledged: counted from when the node could hear it."""

from __future__ import annotations

from datetime import timedelta

from tests.unit.core_planner.builders import World, nodes, planned, spec

TIMEOUT, LEASE = timedelta(seconds=30), timedelta(minutes=10)


def cut_off() -> World:
    """PREPARE was committed as the link broke; it comes back when the timeout has passed."""
    w = World(nodes(1))
    w.rollout(spec(acknowledge_timeout=TIMEOUT, silence_lease=LEASE))
    w.settle_plans()
    w.cut("n0")
    w.tick(timedelta(seconds=90))
    return w


def linked(w: World) -> None:
    w.set_node("n0", link_up=True, link_changed_at=w.now)
    w.mend("n0")


def test_a_link_that_comes_back_gives_the_node_its_time() -> None:
    w = cut_off()
    linked(w)
    assert planned(w, "cancel") == []
    w.tick(TIMEOUT)
    assert planned(w, "cancel") == ["n0"]


def test_an_agent_that_dials_again_and_again_does_not_put_it_off_for_ever() -> None:
    w = cut_off()
    for _ in range(60):
        linked(w)
        if planned(w, "cancel"):
            break
        w.tick(timedelta(seconds=15))
    assert planned(w, "cancel") == ["n0"]
    assert w.now <= w.attempt("n0").opened_at + LEASE + TIMEOUT + timedelta(seconds=30)
