"""Change.shrinks against its definition: room for starts, measured in a whole fleet before and after."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from orchestrator.core import operations, transitions
from orchestrator.core.capacity import measured, seen_whole, spending
from orchestrator.core.fleet import Fleet
from orchestrator.core.messages import Heartbeat, NodeStatus
from orchestrator.core.model import (
    CAPACITY,
    AttemptRow,
    CapacityRow,
    Change,
    Maintenance,
    NodeRow,
    Row,
)
from orchestrator.core.phases import BLACKOUT_SLOT, UNAVAILABLE, Outcome, Phase
from orchestrator.core.planner import plan
from orchestrator.core.spec import Amount, Budgets, DomainBudget
from tests.unit.core_ops.build import (
    NEW,
    NOW,
    OLD,
    apply,
    attempt,
    fleet,
    hello,
    member,
    node,
    report,
    rollout,
    spec,
)

ZONES = Budgets(Amount(count=2), Amount(count=2), domain=DomainBudget("zone", Amount(percent=34)))


def made(*changed: Row) -> Fleet:
    """Three nodes in a rollout with every kind of budget; the rows in the place of some of them."""
    canaries = {f"{OLD}|{NEW}|m1": "n00"}
    rows: list[Row] = [rollout(3, spec=spec(budgets=ZONES), pair_canaries=canaries)]
    rows += [member(f"n0{i}", position=i) for i in range(3)]
    rows += [node(f"n0{i}") for i in range(3)]
    return fleet(*rows, *changed)


def room(f: Fleet) -> dict[str, int]:
    """What a start looks at, each as a number that must not grow."""
    index = f.indexes["k"]
    under_way = sum(
        a is not None and (a.phase not in SETTLED_FOR_GOOD or a.phase is Phase.BAKING)
        for a in map(f.newest_attempt, f.nodes)
    )
    return {
        "unavailable": index.unavailable,
        "fleet": f.unavailable,
        "blackout": index.blackout,
        "uncommitted": under_way,
        "uncounted": index.uncounted,
        "failed": sum(a.failed for a in f.attempts.values()),
        **{f"in {zone}": index.domain_unavailable[zone] for zone in "ab"},
        **{f"without {zone}": -index.domain_members[zone] for zone in "ab"},
    }


SETTLED_FOR_GOOD = frozenset(
    {
        *(Phase.IDLE, Phase.COMMITTED, Phase.ABORTED, Phase.AWAITING_ROLLBACK, Phase.QUARANTINED),
        *(Phase.COLD_BOOTED, Phase.LOST, Phase.BAKING),
    }
)

NODE = st.fixed_dictionaries(
    {
        "link_up": st.booleans(),
        "healthy": st.booleans(),
        "labels": st.sampled_from([{"zone": "a"}, {"zone": "b"}]),
        "maintenance": st.sampled_from(
            [
                None,
                Maintenance("bob", "disk"),
                Maintenance("bob", "disk", NOW - timedelta(hours=1)),
                Maintenance("bob", "disk", NOW + timedelta(hours=1)),
            ]
        ),
        "written_off": st.sampled_from(["", "", "gone"]),
    }
)
ATTEMPT = st.fixed_dictionaries(
    {
        "phase": st.sampled_from(list(Phase)),
        "failed": st.booleans(),
        "ever_lost": st.booleans(),
    }
)
DOMAINS = st.sampled_from([{"zone": "a"}, {"zone": "b"}, {}])
"""Of an attempt they never change."""


@given(
    before=st.tuples(NODE, st.none() | ATTEMPT),
    after=st.tuples(st.none() | NODE, st.none() | ATTEMPT),
    domains=DOMAINS,
)
@settings(max_examples=600, deadline=None)
def test_what_leaves_less_room_shrinks(
    before: tuple[dict[str, Any], dict[str, Any] | None],
    after: tuple[dict[str, Any] | None, dict[str, Any] | None],
    domains: dict[str, str],
) -> None:
    """Never less than the definition says; more only where a number stood for two nodes at once."""
    old_node = node("n01", revision=1, **before[0])
    old = attempt("n01", revision=1, domains=domains, **before[1]) if before[1] is not None else None
    f = made(old_node, *([old] if old is not None else []))
    writes: list[Row] = []
    if after[0] is not None:
        writes.append(replace(old_node, **after[0]))
    if after[1] is not None and old is not None:
        writes.append(replace(old, **after[1]))
    was = room(f)
    change = measured(f, Change(tuple(writes)), NOW)
    rebuilt = made(old_node, *([old] if old is not None else []), *writes)
    now = room(rebuilt)
    if after[1] is not None and after[1]["phase"] is Phase.LOST:
        del was["failed"]  # the planner's own word
    less = any(now[name] > was[name] for name in was)
    assert change.shrinks >= less, {name: (was[name], now[name]) for name in was if now[name] != was[name]}
    same = {name: now[name] for name in was} == was and not any(
        isinstance(w, NodeRow) and w.labels != old_node.labels for w in writes
    )
    if same and not any(isinstance(w, AttemptRow) and old and w.failed != old.failed for w in writes):
        assert not change.shrinks or _moved(old_node, old, writes)


def _moved(old_node: NodeRow, old: AttemptRow | None, writes: list[Row]) -> bool:
    """The node takes the same numbers for another reason."""
    new_node = next((w for w in writes if isinstance(w, NodeRow)), old_node)
    new = next((w for w in writes if isinstance(w, AttemptRow)), old)
    return spending(new_node, new, NOW) != spending(old_node, old, NOW)


def shrinks(f: Fleet, change: Change) -> bool:
    return measured(f, change, NOW).shrinks


def test_messages_that_take_room() -> None:
    idle = made()
    assert shrinks(idle, transitions.link_down(idle, "n01", 1, NOW).change)
    sick = Heartbeat(NodeStatus(healthy=False))
    assert shrinks(idle, transitions.heartbeat(idle, "n01", sick, 1, NOW).change)
    moved = hello("n01", labels={"zone": "b"})
    assert shrinks(idle, transitions.hello(idle, moved, "", NOW).change)
    newcomer = hello("n09", status=NodeStatus(healthy=False))
    assert shrinks(idle, transitions.hello(idle, newcomer, "", NOW).change)
    baking = made(attempt("n00", Phase.BAKING, healthy_since=NOW, revision=1))
    relapse = report("Relapsed", Phase.AWAITING_ROLLBACK, 1, release=NEW, healthy=False)
    assert shrinks(baking, transitions.report(baking, "n00", relapse, 1, NOW).change)
    under_way = made(attempt("n00", Phase.RESUMING, revision=1))
    broken = report("StepFailed", Phase.QUARANTINED, 1, healthy=False)
    assert shrinks(under_way, transitions.report(under_way, "n00", broken, 1, NOW).change), "it fails"


def test_messages_that_take_none() -> None:
    idle = made()
    assert not shrinks(idle, transitions.hello(idle, hello("n01"), "", NOW).change)
    assert not shrinks(idle, transitions.hello(idle, hello("n09"), "", NOW).change)
    under_way = made(attempt("n00", Phase.DRAINING, revision=1))
    assert not shrinks(under_way, transitions.link_down(under_way, "n00", 1, NOW).change)
    later = report("Unwinding", Phase.UNWINDING, 1)
    assert not shrinks(under_way, transitions.report(under_way, "n00", later, 1, NOW).change)
    assert not shrinks(idle, Change())


def test_words_that_take_room() -> None:
    f = made(node("n01", link_up=False))
    maintained = operations.set_maintenance(f, ["n00"], Maintenance("bob", "disk"), "alice", NOW).change
    assert shrinks(f, maintained), "percentages are of fewer nodes"
    apply(f, maintained)
    assert not shrinks(f, operations.set_maintenance(f, ["n00"], None, "alice", NOW).change)
    gone = made(node("n01", link_up=False, maintenance=Maintenance("bob", "disk")))
    back = operations.set_maintenance(gone, ["n01"], None, "alice", NOW).change
    assert shrinks(gone, back), "it is unavailable, and counts again"


def test_an_older_attempt_says_nothing_of_room() -> None:
    f = made(attempt("n00", Phase.ABORTED, revision=1), attempt("n00", Phase.COMMITTED, generation=2))
    older = f.attempts["n00", 1]
    assert not shrinks(f, Change((replace(older, phase=Phase.UNWINDING),)))


def test_a_start_is_no_loss_and_guards_against_losses() -> None:
    f = made()
    f.apply(CapacityRow(7))
    prepared = [a for a in plan(f, NOW).actions if a.kind == "prepare"]
    assert prepared
    for action in prepared:
        assert not measured(f, action.change, NOW).shrinks
        assert (CAPACITY, 7) in action.change.guards


@pytest.mark.parametrize("action", ["lost", "cancel", "proceed", "settle", "commit"])
def test_no_other_action_of_the_planner_takes_room(action: str) -> None:
    rows: dict[str, tuple[AttemptRow, dict[str, Any]]] = {
        "lost": (attempt("n00", Phase.JUMPING, revision=1, phase_at=NOW - timedelta(days=1)), {}),
        "cancel": (attempt("n00", Phase.PRESERVED, revision=1, cancel_cause="pause"), {}),
        "proceed": (attempt("n00", Phase.PRESERVED, revision=1, acknowledged=True), {}),
        "settle": (attempt("n00", Phase.ABORTED, revision=1), {"outcome": Outcome.OPEN}),
        "commit": (attempt("n00", Phase.BAKING, revision=1, healthy_since=NOW - timedelta(days=1)), {}),
    }
    row, of_member = rows[action]
    f = made(row, member("n00", generation=1, **{"outcome": Outcome.BAKING, **of_member}))
    for each in plan(f, NOW + timedelta(hours=1)).actions:
        if each.kind != "prepare":
            assert not measured(f, each.change, NOW).shrinks, each.kind


def test_a_revision_that_counts_unseen_losses_is_not_taken_in() -> None:
    assert seen_whole(CapacityRow(4), CapacityRow(5))
    assert not seen_whole(CapacityRow(4), CapacityRow(6))


def test_the_definitions_are_those_of_the_phases() -> None:
    for phase in Phase:
        spent = spending(node("n00"), attempt("n00", phase), NOW)
        assert spent.unavailable is (phase in UNAVAILABLE)
        assert spent.blackout is (phase in BLACKOUT_SLOT)
