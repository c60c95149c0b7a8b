"""A target of the other model of LUO is told of ahead: before STAGE refuses it, node by node."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta

from orchestrator.core.dryrun import dry_run
from orchestrator.core.phases import Goal, Outcome
from orchestrator.core.spec import RolloutSpec, Selection
from orchestrator.core.views import explain
from tests.unit.core_planner.builders import NEW, World, artifact, node, spec

SESSIONS = replace(artifact(), luo="luo-v5")
RFC2 = frozenset({"luo-v5"})
"""What a node with RFC v2's LUO says."""
MERGED = frozenset({"luo-v1"})


def mixed(rfc2: int = 2, merged: int = 1) -> World:
    """p0 … with RFC v2's LUO, s0 … with sessions."""
    made = [node(f"p{i}", other_luo=RFC2, staged=frozenset()) for i in range(rfc2)]
    return World([*made, *(node(f"s{i}", other_luo=MERGED, staged=frozenset()) for i in range(merged))])


def all_nodes() -> RolloutSpec:
    return spec(selection=Selection())


def test_a_dry_run_warns_of_the_members_that_will_refuse() -> None:
    w = mixed()
    (warning,) = [x for x in dry_run(w.fleet, all_nodes(), SESSIONS, w.now).warnings if "target" in x]
    assert warning == (
        "target: 2 of 3 members will refuse it (TARGET_MODEL_DIFFERS), for its LUO (luo-v5) is of another "
        "model: leave them out, or pick a target of their model (p0 p1)"
    )
    many = mixed(rfc2=9)
    told = "\n".join(dry_run(many.fleet, all_nodes(), SESSIONS, many.now).warnings)
    assert "9 of 10 members" in told
    assert "(p0 p1 p2 p3 p4 …)" in told


def test_nothing_is_said_of_what_is_not_known_or_there_already() -> None:
    w = mixed()
    silent = artifact()
    for target in (silent, replace(silent, luo="luo-v9")):
        assert not [x for x in dry_run(w.fleet, all_nodes(), target, w.now).warnings if "target" in x]
    older_agents = World([node("n0"), node("n1", other_luo=RFC2, release=NEW)])
    plan = dry_run(older_agents.fleet, all_nodes(), SESSIONS, w.now)
    assert not [x for x in plan.warnings if "target" in x]


def test_why_names_them_until_their_own_refusal_is_told() -> None:
    w = mixed()
    w.rollout(spec(), artifact=SESSIONS)
    (blocker,) = [
        b for b in explain(w.fleet, "r1", "", None, w.now).blockers if b.reason == "TARGET_MODEL_DIFFERS"
    ]
    assert (blocker.nodes, blocker.node_count) == (("p0", "p1"), 2)
    assert blocker.remedy == (
        "Nothing that is preserved would cross: `liveroll exclude r1 p0 p1 -m WHY` goes on without."
    )
    assert told(w, "p1") == ["TARGET_MODEL_DIFFERS"]
    assert told(w, "s0") == []
    for node_id in ("p0", "p1"):
        w.set_node(node_id, stage_problem_digest=SESSIONS.digest)
    assert told(w, "p0") == [], "it is the canary, and its refusal says it"
    assert told(w, "p1") == ["TARGET_MODEL_DIFFERS"], "its turn has not come"
    assert told(w, "") == ["TARGET_MODEL_DIFFERS"]
    w.set_member("p1", outcome=Outcome.EXCLUDED)
    assert told(w, "") == []


def test_nothing_is_told_of_a_rollout_that_goes_nowhere_any_more() -> None:
    w = mixed()
    w.rollout(spec(), artifact=SESSIONS)
    w.set_rollout(goal=Goal.CANCEL)
    assert told(w, "") == []
    w.set_rollout(goal=Goal.FORWARD, ended_at=w.now + timedelta(0), ended_as="FAILED")
    assert told(w, "") == []


def told(w: World, node_id: str) -> list[str]:
    found = explain(w.fleet, "r1", node_id, None, w.now).blockers
    return [b.reason for b in found if b.reason == "TARGET_MODEL_DIFFERS"]
