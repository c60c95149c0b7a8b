"""Links where there are several replicas: who vouches for them, how long, and what it costs."""

from __future__ import annotations

from datetime import timedelta

import pytest

from orchestrator.core import stamps
from orchestrator.core.facts import Deleted, GraceEnds, Heard
from orchestrator.core.model import AttemptRow, Stamp
from orchestrator.core.phases import Link, Phase
from orchestrator.core.policy import FleetPolicy
from orchestrator.core.standing import Place
from tests.unit.core_planner.builders import START, World, nodes, planned, spec
from tests.unit.core_planner.test_fleet import same

S = timedelta(seconds=1)
POLICY = FleetPolicy(restart_grace=60 * S, silence=30 * S)


def two() -> World:
    """n0 is linked here, to a; n1 to b; the grace after the start is over."""
    w = World(nodes(2), POLICY)
    w.fleet.apply(GraceEnds(START - S))
    w.replicas("b")
    w.move("n0", "a")
    w.hear("n0")
    w.move("n1", "b")
    return w


def link(w: World, node_id: str = "n1") -> Link:
    return w.fleet.link(node_id, w.now)


def test_a_living_replica_is_believed_without_a_word_from_the_node() -> None:
    w = two()
    w.now += timedelta(hours=5)
    assert (link(w, "n0"), link(w)) == (Link.DOWN, Link.UP)
    w.move("n1", "b", up=False)
    assert link(w) is Link.DOWN
    w.move("n1", "b")
    assert link(w) is Link.UP
    assert same(w)


def test_once_its_lease_has_run_out_nobody_knows_and_after_the_grace_it_is_down() -> None:
    w = two()
    w.rollout(spec())
    w.now += 100 * S
    w.hear("n0")
    w.replicas()
    assert link(w) is Link.UNKNOWN
    assert w.fleet.unvouched_until("b") == w.now + 60 * S
    assert w.fleet.unavailable == 1
    assert w.fleet.indexes["r1"].silent == set()
    w.now += 59 * S
    w.hear("n0")
    assert link(w) is Link.UNKNOWN
    assert same(w)
    w.now += S
    w.fleet.advance(w.now)
    assert w.fleet.standings["n1"].link is Link.DOWN
    assert same(w)


def test_a_replica_that_beats_again_vouches_again() -> None:
    w = two()
    w.replicas()
    assert link(w) is Link.UNKNOWN
    w.replicas("b")
    assert link(w) is Link.UP
    assert same(w)


def test_links_of_replicas_that_ended_before_this_one_began_wait_for_its_own_grace() -> None:
    w = World(nodes(1), POLICY)
    w.move("n0", "before")
    w.replicas()
    assert link(w, "n0") is Link.UNKNOWN  # no grace is set
    w.fleet.apply(GraceEnds(w.now + 60 * S))
    assert link(w, "n0") is Link.UNKNOWN
    w.now += 60 * S
    assert link(w, "n0") is Link.DOWN


@pytest.mark.parametrize("grace", [None, 10.0, 90.0])
def test_the_later_of_both_graces_counts(grace: float | None) -> None:
    w = World(nodes(1), POLICY)
    if grace is not None:
        w.fleet.apply(GraceEnds(w.now + grace * S))
    w.replicas("b")
    w.move("n0", "b")
    w.replicas()
    w.now += max(60.0, grace or 0) * S - S
    assert link(w, "n0") is Link.UNKNOWN
    w.now += S
    assert link(w, "n0") is Link.DOWN


def test_what_was_heard_here_before_says_nothing_once_the_link_is_elsewhere() -> None:
    w = two()
    w.hear("n0")
    w.move("n0", "b")
    w.replicas()
    assert link(w, "n0") is Link.UNKNOWN
    w.move("n0", "a")
    assert link(w, "n0") is Link.UP
    assert same(w)


def test_what_waits_for_an_unknown_link_says_until_when() -> None:
    """A lost replica's grace, not the long past one of this process's own start."""
    w = two()
    w.rollout(spec(), waves=[["n1"], ["n0"]])
    w.now += 100 * S
    w.hear("n0")
    w.replicas()
    (blocker,) = [b for b in w.plan().blockers["r1"] if b.reason == "LINK_UNKNOWN"]
    assert (blocker.nodes, blocker.until) == (("n1",), w.now + 60 * S)
    assert w.fleet.unknown_until("n1") == w.now + 60 * S
    assert w.fleet.unknown_until("n0") is None


def test_an_attempt_whose_link_nobody_vouches_for_says_until_when() -> None:
    w = in_blackout()
    w.set_attempt("n1", phase=Phase.VERIFYING)
    w.now += 100 * S
    w.replicas()
    (blocker,) = [b for b in w.plan().blockers["r1"] if b.reason == "ATTEMPT_SILENT"]
    assert blocker.until == w.now + 60 * S


def test_an_unknown_link_is_waited_for_and_a_known_end_is_not() -> None:
    w = two()
    w.rollout(spec())
    w.replicas()
    assert w.fleet.standings["n1"].members["r1"].place is Place.UNKNOWN_LINK
    w.replicas("b")
    w.move("n1", "b", up=False)
    assert w.fleet.standings["n1"].members["r1"].place is Place.UNREACHABLE
    w.move("n1", "b")
    assert w.fleet.standings["n1"].members["r1"].place is Place.READY


def lost(w: World) -> list[str]:
    """Nodes that a plan made now calls lost."""
    return [
        event.node_id
        for action in w.plan().actions
        for event in action.change.events
        if action.kind == "lost"
    ]


def in_blackout() -> World:
    w = two()
    w.rollout(spec(), waves=[["n1"], ["n0"]])
    w.settle_plans()
    w.set_attempt("n1", phase=Phase.JUMPING, acknowledged=True, phase_at=w.now)
    return w


def test_no_silence_is_counted_while_a_living_replica_holds_the_link() -> None:
    w = in_blackout()
    w.now += timedelta(hours=1)
    w.fleet.advance(w.now)
    assert w.fleet.lost_at("n1") is None
    assert lost(w) == []


def test_it_counts_from_the_end_of_the_link() -> None:
    w = in_blackout()
    w.now += 50 * S
    w.move("n1", "b", up=False)
    lease = w.row().spec.silence_lease + POLICY.clock_slack
    assert w.fleet.lost_at("n1") == w.now + lease
    w.now += lease
    w.fleet.advance(w.now)
    assert lost(w) == ["n1"]


def test_a_lost_replica_s_nodes_are_lost_after_the_grace_and_their_lease_not_before() -> None:
    w = in_blackout()
    w.now += 10 * S
    w.replicas()
    assert w.fleet.lost_at("n1") is None
    grace_ends = w.now + POLICY.restart_grace
    w.now = grace_ends
    w.fleet.advance(w.now)
    lease = w.row().spec.silence_lease + POLICY.clock_slack
    assert w.fleet.lost_at("n1") == grace_ends + lease
    assert lost(w) == []
    w.now += lease
    w.fleet.advance(w.now)
    assert lost(w) == ["n1"]
    assert same(w)


def test_a_node_that_is_gone_has_no_link() -> None:
    w = two()
    w.fleet.apply(Deleted("nodes", ("n1",)))
    assert link(w) is Link.DOWN  # never heard of, and the grace is over
    w.replicas()


class TestStamps:
    """What the replica that hears a PRESERVED node writes for the planner."""

    def preserved(self, **changes: object) -> World:
        w = World(nodes(1))
        w.rollout(spec())
        w.settle_plans()
        w.now += 100 * S
        at = w.now - w.row().spec.proceed_lease / 2
        stamp = Stamp("n0-boot-1", at - START)
        told = {"phase": Phase.PRESERVED, "acknowledged": True, "stamp": stamp, "stamp_at": at}
        w.set_attempt("n0", **{**told, **changes})
        return w

    def newer(self, w: World, boot: str = "n0-boot-1") -> AttemptRow | None:
        change = stamps.renewal(w.fleet, "n0", Stamp(boot, w.now - START), w.now)
        if not change:
            return None
        (row,) = change.writes
        assert isinstance(row, AttemptRow)
        return row

    def test_it_is_written_when_the_stored_one_is_of_no_use_any_more(self) -> None:
        w = self.preserved()
        row = self.newer(w)
        assert row is not None
        assert row.stamp == Stamp("n0-boot-1", w.now - START)
        assert row.stamp_at == w.now
        assert self.newer(self.preserved(stamp=None, stamp_at=None)) is not None

    def test_or_when_a_proceed_has_run_out(self) -> None:
        w = self.preserved(proceed_until=START)
        assert self.newer(w) is not None

    @pytest.mark.parametrize(
        "changes",
        [
            {"phase": Phase.PRESERVING},
            {"phase": Phase.ABORTED, "settled_at": START},
            {"cancel_cause": "pause"},
            {"stamp_at": START + 99 * S},
            {"proceed_until": START + 101 * S},
            {"rollout_id": "gone"},
        ],
        ids=lambda changes: next(iter(changes)),
    )
    def test_otherwise_nothing_is(self, changes: dict[str, object]) -> None:
        assert self.newer(self.preserved(**changes)) is None

    def test_nor_a_stamp_of_another_boot_or_none(self) -> None:
        w = self.preserved()
        assert self.newer(w, "another") is None
        assert not stamps.renewal(w.fleet, "n0", None, w.now)
        assert not stamps.renewal(w.fleet, "nobody", Stamp("b", S), w.now)

    def test_a_planner_that_does_not_hear_the_node_lets_it_proceed_with_it(self) -> None:
        w = self.preserved()
        w.replicas("b")
        w.move("n0", "b")
        w.fleet.heard.pop("n0")
        assert planned(w, "proceed") == []
        w.hear("n0")
        assert planned(w, "proceed") == ["n0"]


def test_hearing_is_only_of_this_process() -> None:
    w = two()
    w.fleet.apply(Heard("n1", w.now + S))
    w.now += timedelta(hours=1)
    assert link(w) is Link.UP


def test_a_replica_that_was_away_and_vouches_again_makes_no_silence_longer() -> None:
    """Both were stopped; the planner has listened since the end of its grace only."""
    w = in_blackout()
    w.move("n1", "b", up=False)
    lease = w.row().spec.silence_lease + POLICY.clock_slack
    w.now += 10 * lease
    w.fleet.apply(GraceEnds(w.now))
    w.replicas()
    w.replicas("b")
    assert w.fleet.lost_at("n1") == w.now + lease
    w.fleet.advance(w.now)
    assert lost(w) == []
    assert same(w)
