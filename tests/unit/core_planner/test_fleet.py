"""The fleet as data: reading, links, late and deleted rows, and the oracle."""

from __future__ import annotations

from datetime import timedelta

from orchestrator.core.facts import Deleted, Heard, LinkDown
from orchestrator.core.fleet import Fleet
from orchestrator.core.model import IdempotencyRow, MemberRow
from orchestrator.core.phases import Link, Outcome, Phase
from orchestrator.core.policy import FleetPolicy
from tests.unit.core_planner.builders import INCARNATION, START, World, node, nodes, settled_attempt, spec


def same(w: World) -> bool:
    other = w.rebuilt()
    return w.fleet.standings == other.standings and w.fleet.indexes == other.indexes


def test_reading() -> None:
    w = World(nodes(2))
    w.rollout(spec())
    w.settle_plans()
    fleet = w.fleet
    assert fleet.rollout_named("r1") is fleet.rollouts["r1"]
    assert fleet.rollout_named("none") is None
    assert fleet.member("r1", "n0") == w.member("n0")
    assert fleet.member("none", "n0") is None
    assert fleet.rollouts_of("n0") == ("r1",)
    assert fleet.open_attempt("n0") == w.attempt("n0")
    assert fleet.open_attempt("n1") is None
    assert fleet.available("n1", w.now)
    assert not fleet.available("n0", w.now)
    assert not fleet.available("none", w.now)
    assert fleet.unavailable_members("r1") == 1
    assert fleet.unavailable_members("none") == 0
    assert fleet.forward_attempt("n0", "r1") == w.attempt("n0")
    assert fleet.forward_attempt("n0", "r2") is None
    assert fleet.forward_attempt("n1", "r1") is None


def test_an_active_node_is_down_after_the_silence_an_idle_one_later() -> None:
    w = World(nodes(2))
    w.rollout(spec())
    w.settle_plans()
    at = w.now + timedelta(seconds=30)
    assert (w.fleet.link("n0", at), w.fleet.link("n1", at)) == (Link.DOWN, Link.UP)
    assert w.fleet.link("n1", at + timedelta(seconds=10)) is Link.DOWN
    w.now = at
    w.plan()
    assert (w.fleet.standings["n0"].link, w.fleet.unavailable) == (Link.DOWN, 1)
    assert w.fleet.indexes["r1"].silent == {"n0"}
    w.hear("n0")
    assert w.fleet.indexes["r1"].silent == set()
    assert same(w)


def test_a_link_that_ended_is_down_until_the_node_is_heard_of_again() -> None:
    w = World([node("n0")])
    w.now += timedelta(seconds=1)
    w.fleet.apply(LinkDown("n0", w.now))
    assert w.fleet.link("n0", w.now) is Link.DOWN
    w.fleet.apply(Heard("n0", START))
    assert w.fleet.link("n0", w.now) is Link.DOWN
    w.now += timedelta(seconds=1)
    w.hear("n0")
    assert w.fleet.link("n0", w.now) is Link.UP


def test_the_idle_heartbeat_grows_with_the_fleet() -> None:
    fleet = Fleet(FleetPolicy(idle_heartbeat_rate=2.0, min_idle_heartbeat=timedelta(seconds=3)), INCARNATION)
    for i in range(4):
        fleet.apply(node(f"n{i}"))
    assert fleet.idle_interval() == timedelta(seconds=3)
    for i in range(10):
        fleet.apply(node(f"m{i}"))
    assert fleet.idle_interval() == timedelta(seconds=7)


def test_hearing_of_a_silent_open_attempt_takes_the_flag_back() -> None:
    w = World([node("n0")], FleetPolicy(silence=timedelta(hours=1)))
    w.rollout(spec())
    w.settle_plans()
    w.set_attempt("n0", phase=Phase.SUSPENDING, acknowledged=True)
    w.now += timedelta(minutes=10)
    w.fleet.advance(w.now)
    w.hear("n0")
    assert w.plan().actions == ()
    assert w.attempt("n0").phase is Phase.SUSPENDING


def test_members_may_come_before_their_rollout() -> None:
    w = World(nodes(2))
    w.rollout(spec())
    rows = sorted(w.rows.values(), key=lambda row: row.table)
    facts = [*rows, *w.fleet.heard.values()]
    assert Fleet.rebuild(w.policy, INCARNATION, facts).indexes == w.fleet.indexes
    one_by_one = Fleet(w.policy, INCARNATION)
    for fact in facts:
        one_by_one.apply(fact)
    assert one_by_one.indexes == w.fleet.indexes


def test_time_never_goes_back() -> None:
    w = World(nodes(1))
    w.fleet.advance(w.now)
    w.fleet.advance(w.now - timedelta(hours=1))
    assert w.fleet.now == w.now


def test_deleted_rows_leave_every_index() -> None:
    w = World(nodes(3))
    w.rollout(spec())
    w.settle_plans()
    fleet = w.fleet
    fleet.apply(IdempotencyRow("k", "m", "a", "h", "", START))
    for table, key in (
        ("members", ("r1", "n2")),
        ("members", ("r1", "n2")),
        ("members", ("none", "n2")),
        ("attempts", ("n0", "1")),
        ("attempts", ("n0", "1")),
        ("nodes", ("n1",)),
        ("idempotency", ("a", "k")),
    ):
        fleet.apply(Deleted(table, key))
        w.rows.pop((table, key), None)
    assert set(fleet.nodes) == {"n0", "n2"}
    assert set(fleet.members("r1")) == {"n0", "n1"}
    assert fleet.newest_attempt("n0") is None
    for _ in range(2):
        fleet.apply(Deleted("rollouts", ("r1",)))
    assert fleet.rollout_named("r1") is None
    assert fleet.indexes == {}
    assert fleet.rollouts_of("n0") == ()
    assert w.plan().actions


def test_a_silent_lost_node_that_was_never_heard_of_counts_from_its_link_down() -> None:
    w = World([node("n0")], linked=False)
    w.rollout(spec())
    w.put(settled_attempt(w.node("n0"), Phase.JUMPING, rollout_id="r1", settled_at=None))
    w.set_member("n0", generation=1, outcome=Outcome.OPEN)
    w.fleet.apply(LinkDown("n0", w.now + timedelta(minutes=1)))
    assert w.fleet.lost_at("n0") == w.now + timedelta(minutes=6, seconds=2)


def test_a_member_of_a_node_that_is_not_enrolled_any_more_is_never_due() -> None:
    w = World(nodes(1))
    w.rollout(spec())
    w.put(MemberRow("r1", "ghost", 1, 9, revision=1))
    assert "ghost" not in w.fleet.standings
    assert same(w)
