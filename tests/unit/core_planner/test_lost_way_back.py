"""A store that goes back in time in the middle of ROLLING_BACK: every node is brought back."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta

import pytest

from orchestrator.core import adoption, blocking_nodes
from orchestrator.core.fleet import Fleet
from orchestrator.core.model import AttemptRow, MemberRow, Problem
from orchestrator.core.operations import retry_nodes, roll_back
from orchestrator.core.phases import Goal, Kind, Outcome, Phase
from orchestrator.core.views import explain
from orchestrator.errors import Retry
from tests.unit.core_planner.builders import NEW, OLD, World, artifact, nodes, settled_attempt, spec
from tests.unit.core_planner.lost_future import Restored, backup, gone_back
from tests.unit.core_planner.test_lost_future import one, until


def going_back(count: int = 2) -> World:
    """All are updated, and have just been told to go back, one at a time: n0 comes last."""
    w = World(nodes(count))
    w.rollout(spec(waves=[None], bake=timedelta(seconds=1)))
    w.run()
    assert w.state() == "SUCCEEDED"
    w.commit(roll_back(w.fleet, "r1", "it is slow", "alice", w.now))
    return w


def undone(v: Restored) -> None:
    while v.agents():
        v.settle_plans()


def just(w: World, node_id: str, phase: Phase, kind: Kind) -> None:
    """Until an attempt of this kind has come to the phase, and nothing is planned of it yet."""
    while (a := w.fleet.newest_attempt(node_id)) is None or (a.phase, a.kind) != (phase, kind):
        w.settle_plans()
        if not w.agents():
            w.tick(timedelta(seconds=1))


def ends_rolled_back(v: Restored, w: World) -> None:
    v.run()
    assert v.state() == "ROLLED_BACK", v.phases()
    for node_id in w.fleet.nodes:
        assert v.node(node_id).release == OLD
        assert v.member(node_id).outcome is Outcome.ROLLED_BACK
        assert v.attempt(node_id).phase is Phase.COMMITTED, "or a cold boot would start the other kernel"


@pytest.mark.parametrize("phase", [Phase.LOADING, Phase.DRAINING, Phase.PRESERVED])
@pytest.mark.parametrize("released_first", [False, True])
def test_a_way_back_that_was_undone_is_begun_again(phase: Phase, released_first: bool) -> None:
    w = going_back()
    rows = backup(w)
    if phase is Phase.LOADING:
        w.settle_plans()
        w.agents()
    else:
        until(w, "n1", phase)
    assert (w.attempt("n1").kind, w.attempt("n1").phase) == (Kind.ROLLBACK, phase)
    v = gone_back(w, rows)
    v.hello_all(w)
    assert one(v, "n1").outlook == "UNWINDS"
    (open_,) = [b for b in v.plan().blockers["r1"] if b.reason == "OTHER_ROLLOUT"]
    assert "of a future that the store has lost" in open_.message
    if released_first:
        v.release()
    undone(v)
    assert v.attempt("n1").rollout_id in ("", "r1")
    if not released_first:
        assert "SUPERSEDED" not in v.reasons()
        v.release()
    ends_rolled_back(v, w)
    assert v.member("n1").tries == {}, "nothing is held against it"
    assert v.jumped("n1") == 2


@pytest.mark.parametrize("count", [1, 2])
@pytest.mark.parametrize(
    "phase", [Phase.JUMPING, Phase.RETRIEVING, Phase.FINISHING, Phase.BAKING, Phase.COMMITTED]
)
def test_a_way_back_that_has_jumped_counts(phase: Phase, count: int) -> None:
    w = going_back(count)
    rows, last = backup(w), f"n{count - 1}"
    until(w, last, phase)
    v = gone_back(w, rows)
    v.hello_all(w)
    undone(v)
    v.settle_plans()
    assert v.row().ended_at is None, "nothing ends before a person has looked"
    v.release()
    ends_rolled_back(v, w)
    assert v.jumped(last) == 2, "it is not brought back twice"


def test_a_second_way_back_counts_though_the_store_knows_of_the_first() -> None:
    """The first was undone; its member waits for its turn in the store that is brought back."""
    w = going_back(1)
    w.script("n0", fail_at="PRESERVING", times=1)
    until(w, "n0", Phase.ABORTED)
    w.settle_plans()
    assert (w.member("n0").outcome, w.member("n0").generation) == (Outcome.PENDING, 2)
    rows = backup(w)
    w.script("n0", fail_at="VERIFYING")
    until(w, "n0", Phase.QUARANTINED)
    assert w.attempt("n0").generation == 3
    w.set_node("n0", release=NEW)
    v = gone_back(w, rows)
    v.hello_all(w)
    assert one(v, "n0").outlook == "NEEDS_WORD"
    v.settle_plans()
    assert v.reasons() == {"FLEET_STOPPED"}, "it is not called taken elsewhere: its rollout takes it in"
    v.release()
    v.settle_plans()
    assert (v.member("n0").outcome, v.member("n0").generation) == (Outcome.FAILED, 3)


@pytest.mark.parametrize("phase", [Phase.PRESERVED, Phase.BAKING])
def test_a_crossing_that_the_store_has_forgotten_is_told_by_the_way_back(phase: Phase) -> None:
    """Its forward attempt is open in the store, told to be undone; the node had jumped, and was on its way
    back in a later attempt."""
    w = World(nodes(1))
    w.rollout(spec(waves=[None], bake=timedelta(seconds=1)))
    until(w, "n0", Phase.PRESERVING)
    mid = backup(w)
    w.run(until="BAKING")
    w.commit(roll_back(w.fleet, "r1", "it is slow", "alice", w.now))
    just(w, "n0", phase, Kind.ROLLBACK)
    v = gone_back(w, mid)
    v.set_rollout(goal=Goal.BACK)
    v.hello_all(w)
    undone(v)
    v.settle_plans()
    assert v.row().ended_at is None
    v.release()
    ends_rolled_back(v, w)
    assert v.jumped("n0") == 2


def test_a_node_that_was_found_unhealthy_is_brought_back_too() -> None:
    w = World(nodes(2))
    w.script("n1", end=Phase.AWAITING_ROLLBACK)
    w.rollout(spec(waves=[None], bake=timedelta(seconds=1)))
    just(w, "n1", Phase.AWAITING_ROLLBACK, Kind.FORWARD)
    rows = backup(w)
    just(w, "n1", Phase.PRESERVED, Kind.ROLLBACK)
    v = gone_back(w, rows)
    v.hello_all(w)
    undone(v)
    v.release()
    v.run()
    assert (v.member("n1").outcome, v.node("n1").release) == (Outcome.ROLLED_BACK, OLD)


def test_an_attempt_of_another_rollout_that_was_undone_supersedes_nothing() -> None:
    w = going_back(1)
    w.put(settled_attempt(w.node("n0"), Phase.ABORTED, generation=9, rollout_id="r2"))
    w.set_node("n0", attempt=9, highest_generation=9)
    w.run()
    assert (w.state(), w.node("n0").release) == ("ROLLED_BACK", OLD)


def test_a_way_back_of_another_rollout_to_where_this_one_left_it_supersedes_nothing() -> None:
    """There and back: the node runs what this rollout brought it to, and goes back from there."""
    for to, ends_as, release in ((NEW, "ROLLED_BACK", OLD), ("7.0.5", "FAILED", "7.0.5")):
        w = going_back(1)
        there = settled_attempt(w.node("n0"), Phase.COMMITTED, generation=8, rollout_id="r2")
        back = replace(there, generation=9, kind=Kind.ROLLBACK, to_release=to)
        w.put(there)
        w.put(back)
        w.set_node("n0", attempt=9, highest_generation=9, release=to)
        w.run()
        assert (w.state(), w.node("n0").release) == (ends_as, release)


def test_one_that_a_lost_future_has_ended_may_have_taken_the_node_elsewhere() -> None:
    w = going_back(1)
    problem = Problem("ATTEMPT_FORGOTTEN", Retry.REPLAN, "x")
    w.put(settled_attempt(w.node("n0"), Phase.ABORTED, generation=9, rollout_id="r2", problem=problem))
    w.set_node("n0", attempt=9, highest_generation=9, release="7.2.0")
    w.run()
    assert w.state() == "FAILED"


def test_a_silent_node_with_an_attempt_of_nobodys_is_waited_for_like_any_other() -> None:
    """Nobody's lease runs out on it: a person must know whom to look at."""
    w = going_back(1)
    rows = backup(w)
    until(w, "n0", Phase.PRESERVED)
    v = gone_back(w, rows)
    v.hello_all(w)
    v.release()
    v.cut("n0")
    v.tick(timedelta(minutes=5))
    v.settle_plans()
    (waits,) = [b for b in v.plan().blockers["r1"] if b.reason == "NODE_UNREACHABLE"]
    assert "liveroll write-off n0" in waits.remedy


# --- why, afterwards -----------------------------------------------------------------------


def told(w: World, node_id: str = "") -> list[tuple[str, tuple[str, ...], str, str]]:
    found = explain(w.fleet, "r1", node_id, None, w.now)
    return [(b.reason, b.nodes, b.message, b.remedy) for b in found.blockers]


def test_why_names_who_was_taken_elsewhere_and_by_hand_it_comes_back() -> None:
    for other, who in (("r2", "rollout r2"), ("", "a rollout that the store has lost")):
        w = going_back(2)
        far = settled_attempt(w.node("n1"), Phase.COMMITTED, generation=9, rollout_id=other, to_release="8.0")
        w.put(far)
        w.set_node("n1", release="8.0", attempt=9, highest_generation=9)
        assert "SUPERSEDED" in w.reasons()
        w.run()
        assert w.state() == "FAILED"
        ((reason, named, message, remedy),) = told(w)
        assert (reason, named) == ("SUPERSEDED", ("n1",))
        assert message == f"{who} has taken the node elsewhere since, to 8.0"
        assert "boot it by hand), then `liveroll rollback r1` counts it as back" in remedy
        assert f"back to {OLD}" in remedy
        assert told(w, "n1") == told(w)
        assert told(w, "n0") == []
        w.set_node("n1", release=OLD)
        w.commit(roll_back(w.fleet, "r1", "", "alice", w.now))
        w.run()
        assert (w.state(), told(w)) == ("ROLLED_BACK", [])


def test_why_says_of_a_node_on_its_way_back_what_it_waits_for() -> None:
    w = going_back(2)
    w.settle_plans()
    w.set_fleet(stopped="OPERATOR", stop_message="smoke")
    said = explain(w.fleet, "r1", "n0", w.plan(), w.now)
    assert said.summary.endswith("it is to be brought back: it is ready; its turn has not come")
    assert "FLEET_STOPPED" in [b.reason for b in said.blockers]


def test_a_difference_of_a_way_back_names_no_call_that_would_be_refused() -> None:
    w = going_back(1)
    rows = backup(w)
    just(w, "n0", Phase.COMMITTED, Kind.ROLLBACK)
    v = gone_back(w, rows)
    v.hello_all(w)
    assert (one(v, "n0").remedy, one(v, "n0").outlook) == ("", "ROLLED_BACK")
    assert one(v, "n0").message == f"attempt 2 of r1 took it back to {OLD}: it stays there"


def test_who_was_taken_elsewhere_and_came_back_can_be_brought_back_after_the_end() -> None:
    w = going_back(1)
    far = settled_attempt(w.node("n0"), Phase.COMMITTED, generation=8, rollout_id="r2", to_release="8.0")
    w.put(far)
    w.set_node("n0", release="8.0", attempt=8, highest_generation=8)
    w.run()
    assert (w.state(), told(w)[0][0]) == ("FAILED", "SUPERSEDED")
    w.put(replace(far, generation=9, kind=Kind.ROLLBACK, to_release=NEW))
    w.set_node("n0", release=NEW, attempt=9, highest_generation=9)
    ((reason, named, _, remedy),) = told(w)
    assert (reason, named) == ("NOT_BACK", ("n0",))
    assert remedy == "An operator may ask for it again: `liveroll rollback r1` goes back."
    w.commit(roll_back(w.fleet, "r1", "", "alice", w.now))
    w.run()
    assert (w.state(), w.node("n0").release, told(w)) == ("ROLLED_BACK", OLD, [])


def test_each_rollout_that_has_taken_nodes_elsewhere_is_named_with_its_own(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    w = going_back(4)
    for node_id, other in (("n1", "r2"), ("n2", "r3"), ("n3", "r2")):
        far = settled_attempt(
            w.node(node_id), Phase.COMMITTED, generation=9, rollout_id=other, to_release=f"8-{other}"
        )
        w.put(far)
        w.set_node(node_id, release=f"8-{other}", attempt=9, highest_generation=9)
    w.set_member("n2", from_release="6.18.0")
    waits = [(b.message, set(b.nodes)) for b in w.plan().blockers["r1"] if b.reason == "SUPERSEDED"]
    monkeypatch.setattr(blocking_nodes, "LOOKED_AT", 1)
    found = [(b.message, b.node_count) for b in w.plan().blockers["r1"] if b.reason == "SUPERSEDED"]
    assert found == [(waits[0][0], 1), ("another rollout has taken the node elsewhere since", 2)]
    w.run()
    ended = [(message, set(named)) for reason, named, message, _ in told(w) if reason == "SUPERSEDED"]
    assert (
        waits
        == ended
        == [
            ("rollout r2 has taken the node elsewhere since, to 8-r2", {"n1", "n3"}),
            ("rollout r3 has taken the node elsewhere since, to 8-r3", {"n2"}),
        ]
    )
    backs = [remedy.partition(" (")[0] for _, _, _, remedy in told(w)]
    assert backs == [f"Bring the node back to {OLD}", "Bring the node back to 6.18.0"]


def test_why_names_who_has_nothing_to_go_back_to() -> None:
    w = going_back(2)
    w.set_member("n1", from_artifact="")
    w.run()
    assert w.state() == "FAILED"
    ((reason, named, _, remedy),) = told(w)
    assert (reason, named) == ("NO_ROLLBACK_ARTIFACT", ("n1",))
    assert "`liveroll rollback r1` counts it as back" in remedy


def test_why_names_whose_way_back_failed() -> None:
    w = going_back(1)
    w.script("n0", fail_at="VERIFYING", times=1)
    w.run()
    assert w.state() == "FAILED"
    ((reason, named, message, remedy),) = told(w)
    assert (reason, named, message) == ("NEEDS_OPERATOR", ("n0",), "the node has failed (quarantined)")
    assert "`liveroll retry r1 n0` tries again" in remedy
    assert "liveroll story n0" in remedy


@pytest.mark.parametrize("asked", ["", "n0"])
def test_why_names_who_was_found_unhealthy_and_is_back(asked: str) -> None:
    """Nobody has failed any more, and yet the rollout has."""
    w = World(nodes(1))
    w.rollout(spec(waves=[]))
    w.script("n0", end=Phase.AWAITING_ROLLBACK, times=1)
    w.run()
    w.set_rollout(halted="", failures_forgiven=9)
    w.run()
    assert (w.state(), w.member("n0").outcome, w.row().goal) == ("FAILED", Outcome.ROLLED_BACK, Goal.FORWARD)
    ((reason, named, message, remedy),) = told(w, asked)
    assert (reason, named) == ("NODE_ROLLED_BACK", ("n0",))
    assert message == "the node was updated, and is back on the kernel that it came from"
    assert remedy == (
        "Find out why it is back (`liveroll story n0`), then `liveroll retry r1 n0` tries again."
    )
    w.scripts.clear()
    w.commit(retry_nodes(w.fleet, "r1", ["n0"], "", "alice", w.now).change)
    w.run()
    assert (w.state(), told(w, asked)) == ("SUCCEEDED", [])


def test_why_names_who_failed_on_the_way_there() -> None:
    w = World(nodes(1))
    w.rollout(spec(waves=[]))
    w.script("n0", fail_at="VERIFYING")
    w.run()
    if w.row().halted:
        w.set_rollout(halted="", failures_forgiven=9)
        w.run()
    assert (w.state(), w.node("n0").release) == ("FAILED", NEW)
    ((reason, named, _, remedy),) = told(w)
    assert (reason, named) == ("NEEDS_OPERATOR", ("n0",))
    assert "`liveroll retry r1 n0` tries again" in remedy


def test_a_node_that_a_lost_rollout_found_unhealthy_is_told_without_its_name() -> None:
    w = World(nodes(2))
    other = artifact("8.0.0", "sha-8")
    found = settled_attempt(w.node("n1"), Phase.AWAITING_ROLLBACK, rollout_id="", adopted=True, failed=True)
    w.put(replace(found, artifact=other, to_release="8.0.0"))
    w.set_node("n1", attempt=1, highest_generation=1)
    w.rollout(spec(waves=[None]))
    w.run()
    (blocker,) = [b for b in w.plan().blockers["r1"] if b.reason == "NEEDS_OPERATOR"]
    assert blocker.message.startswith("a rollout that the store has lost found the node unhealthy")
    assert blocker.remedy.startswith("Boot it into the kernel that it came from, or `liveroll exclude r1 n1")


def test_a_plan_asks_once_of_each_attempt_where_it_belongs(monkeypatch: pytest.MonkeyPatch) -> None:
    """However many rollouts there are: a fleet may have as many such attempts as it has nodes."""
    w = going_back(2)
    for other in ("r2", "r3"):
        w.rollout(replace(spec(waves=[None]), name=other))
    for node_id in w.fleet.nodes:
        w.put(settled_attempt(w.node(node_id), Phase.COMMITTED, generation=9, rollout_id="", adopted=True))
    asked: list[str] = []
    home_of = adoption.home_of

    def counted(fleet: Fleet, attempt: AttemptRow) -> adoption.Home | None:
        asked.append(attempt.node_id)
        return home_of(fleet, attempt)

    monkeypatch.setattr(adoption, "home_of", counted)
    for stopped in ("", "STORE_REGRESSED"):
        w.set_fleet(stopped=stopped)
        w.plan()
        assert sorted(asked) == ["n0", "n1"]
        asked.clear()


def test_nobody_asks_where_rollouts_that_have_ended_left_a_node(monkeypatch: pytest.MonkeyPatch) -> None:
    """A node may have many of them behind it, and as many attempts."""
    w = World(nodes(1))
    for name in ("r1", "r2", "r3"):
        w.rollout(replace(spec(waves=[]), name=name), ended_at=None if name == "r1" else w.now)
    asked: list[str] = []
    last_attempt = Fleet.last_attempt

    def counted(fleet: Fleet, member: MemberRow) -> AttemptRow | None:
        asked.append(member.rollout_id)
        return last_attempt(fleet, member)

    monkeypatch.setattr(Fleet, "last_attempt", counted)
    w.set_node("n0", healthy=False)
    assert set(asked) == {"r1"}
