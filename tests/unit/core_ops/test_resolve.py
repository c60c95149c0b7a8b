from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest

from orchestrator.core import dryrun, operations, resolve
from orchestrator.core.cmdline import compose, ruled, words
from orchestrator.core.model import FleetRow, Maintenance, NodeRow
from orchestrator.core.phases import Phase
from orchestrator.core.spec import (
    Amount,
    BlackoutGate,
    Budgets,
    Canary,
    DomainBudget,
    Selection,
    Target,
    WaveSpec,
)
from orchestrator.errors import InvalidSpec
from tests.unit.core_ops.build import ARTIFACT, NEW, NOW, attempt, fleet, node, nodes, spec

ZONES = Budgets(domain=DomainBudget("zone", Amount(count=1)))
THIRDS = (WaveSpec("a", Amount(percent=25)), WaveSpec("b", Amount(count=3)), WaveSpec("rest"))


def members(
    rows: list[NodeRow], startable: frozenset[str] | None = None, **fields: Any
) -> resolve.Membership:
    by_id = {n.node_id: n for n in rows}
    ready = frozenset(by_id) if startable is None else startable
    return resolve.membership(by_id, spec(**fields), ARTIFACT, ready, NOW)


def test_canary_and_waves() -> None:
    found = members(nodes(12), waves=THIRDS)
    assert found.wave_names == ("canary", "a", "b", "rest")
    assert found.waves == (
        ("n00",),
        ("n01", "n02", "n03"),
        ("n04", "n05", "n06"),
        ("n07", "n08", "n09", "n10", "n11"),
    )
    assert found.members == 12


def test_domains_take_turns() -> None:
    rows = [node(f"{zone}{i}", labels={"zone": zone}) for zone in "abc" for i in range(4)]
    found = members(rows, waves=(WaveSpec("first", Amount(count=5)), WaveSpec("rest")), budgets=ZONES)
    assert found.waves[0] == ("a0",)
    assert found.waves[1] == ("a1", "b0", "c0", "a2", "b1")
    assert found.waves[2] == ("a3", "b2", "c1", "b3", "c2", "c3")


def test_a_canary_for_each_kernel_pair() -> None:
    rows = [
        node("a1"),
        node("a2"),
        node("b1", hardware_model="m2"),
        node("c1", release="6.18.8"),
        node("d1", release=NEW),
    ]
    found = members(rows)
    assert found.waves == (("a1", "b1", "c1"), ("a2", "d1"))
    assert found.canaries == {
        ("6.18.8", NEW, "m1"): "c1",
        ("6.18.9", NEW, "m1"): "a1",
        ("6.18.9", NEW, "m2"): "b1",
    }
    assert found.pairs[("6.18.9", NEW, "m1")] == 2


def test_more_pairs_than_canaries() -> None:
    rows = [node(f"n{i}", hardware_model=f"m{i}") for i in range(4)]
    found = members(rows, canary=Canary(2))
    assert found.waves == (("n0", "n1"), ("n2", "n3"))
    preferred = members(rows, canary=Canary(2, ("n3",)))
    assert preferred.waves == (("n0", "n3"), ("n1", "n2"))


def test_a_canary_that_can_start_is_preferred() -> None:
    rows = [node("n0"), node("n1", rollback_artifact=""), node("n2"), node("n3")]
    assert members(rows, frozenset({"n1", "n2", "n3"})).waves[0] == ("n2",)
    assert members(rows, frozenset(), canary=Canary(1, ("n3",))).waves[0] == ("n3",)


def test_nothing_to_do_is_a_rollout_without_canaries() -> None:
    assert members([node("n0", release=NEW)]).waves == ((), ("n0",))


def test_waves_by_selector_leave_the_rest_out() -> None:
    found = members(nodes(6), waves=(WaveSpec("a", selector="zone=a"), WaveSpec("b", selector="zone=b")))
    assert found.waves == (("n00",), ("n03",), ("n01", "n04"))
    assert [(s.node_id, s.reason, s.waits) for s in found.skipped] == [
        ("n02", "NO_WAVE", False),
        ("n05", "NO_WAVE", False),
    ]


def test_who_is_left_out() -> None:
    rows = [
        node("n0"),
        node("n1", maintenance=Maintenance("bob", "disk")),
        node("n2", written_off="burnt"),
        node("n3", capabilities=frozenset({"kho"})),
        node("n4"),
        node("n5", maintenance=Maintenance("bob", "over", NOW - timedelta(seconds=1))),
    ]
    found = members(rows, selection=Selection(exclude=("n4",)))
    assert [(s.node_id, s.reason) for s in found.skipped] == [
        ("n1", "MAINTENANCE"),
        ("n2", "WRITTEN_OFF"),
        ("n3", "NO_LIVE_UPDATE"),
        ("n4", "EXCLUDED"),
    ]
    assert found.waves == (("n0",), ("n5",))
    assert "disk" in found.skipped[0].message


def test_selector_and_names_must_both_hold() -> None:
    found = members(nodes(6), selection=Selection("zone=a", ("n00", "n01")))
    assert found.members == 1


@pytest.mark.parametrize(
    ("fields", "path", "problem"),
    [
        ({"selection": Selection("zone=a,zone=b")}, "selection", "selects no node"),
        ({"selection": Selection("zone=q")}, "selection.selector", "no node has zone=q"),
        ({"selection": Selection(nodes=("n99",))}, "selection.nodes", "no node is called n99"),
        ({"selection": Selection(nodes=("weird",))}, "selection.nodes", "no node is called weird"),
        ({"selection": Selection(exclude=("n99",))}, "selection.exclude", "no node is called n99"),
        ({"canary": Canary(nodes=("n99",))}, "canary.nodes", "no node is called n99"),
        (
            {"selection": Selection("zone=a"), "canary": Canary(nodes=("n01",))},
            "canary.nodes",
            "not selected",
        ),
        ({"waves": (WaveSpec("a", selector="rack"),)}, "waves[0].selector", "no node has a label rack"),
        (
            {"budgets": Budgets(domain=DomainBudget("zome", Amount(count=1)))},
            "budgets.domain.key",
            "no node has a label zome",
        ),
        (
            {"budgets": Budgets(domain=DomainBudget("rack", Amount(count=1)))},
            "budgets.domain.key",
            "no node has a label rack",
        ),
    ],
)
def test_what_the_fleet_does_not_have(fields: dict[str, Any], path: str, problem: str) -> None:
    with pytest.raises(InvalidSpec) as caught:
        members(nodes(6), **fields)
    (violation,) = caught.value.violations
    assert violation.path == path
    assert problem in violation.problem
    assert violation.remedy


def test_an_empty_selection_says_why() -> None:
    with pytest.raises(InvalidSpec) as caught:
        members([])
    assert caught.value.violations[0].problem == "no node is enrolled"
    with pytest.raises(InvalidSpec) as caught:
        members([node("n0", written_off="x")])
    assert "all are left out (WRITTEN_OFF)" in caught.value.violations[0].problem


def test_every_violation_of_spec_and_fleet_at_once() -> None:
    bad = spec("", selection=Selection("zone=q"), canary=Canary(0))
    with pytest.raises(InvalidSpec) as caught:
        operations.resolved(fleet(*nodes(3)), bad, ARTIFACT, NOW)
    assert {v.path for v in caught.value.violations} == {"name", "canary.max_nodes", "selection.selector"}


def test_a_malformed_selector_is_told_once() -> None:
    with pytest.raises(InvalidSpec) as caught:
        operations.resolved(fleet(*nodes(3)), spec(selection=Selection("a=")), ARTIFACT, NOW)
    assert len(caught.value.violations) == 1


@pytest.mark.parametrize(
    ("current", "target", "line"),
    [
        ("root=/dev/vda1 quiet", Target("x"), "root=/dev/vda1 quiet"),
        ("a quiet b", Target("x", ("quiet",)), "a b"),
        ("a loglevel=7 loglevel=3", Target("x", ("loglevel=",)), "a"),
        ("a", Target("x", (), ("b c", "a")), "a b c"),
        ("a kho=off liveupdate=off liveroll.attempt=1-x", Target("x"), "a"),
        ('a dyndbg="file x +p" b', Target("x", ("a",)), 'dyndbg="file x +p" b'),
    ],
)
def test_command_lines(current: str, target: Target, line: str) -> None:
    assert compose(current, target, "7-abc") == f"{line} kho=on liveupdate=on liveroll.attempt=7-abc"


def test_an_artifacts_rules_come_before_those_of_the_rollout() -> None:
    artifact = replace(ARTIFACT, command_line_remove=("init=",), command_line_append=("init=/bin/false",))
    rules = ruled(Target("x", ("quiet",), ("debug",)), artifact)
    line = compose("quiet init=/sbin/init root=/dev/vda", rules, "7-abc")
    assert line.startswith("root=/dev/vda init=/bin/false debug kho=on")
    planned = dryrun.dry_run(fleet(*nodes(1)), spec(), artifact, NOW).command_lines[0].command_line
    assert "init=/bin/false kho=on" in planned


def test_an_unclosed_quote_goes_on_to_the_end() -> None:
    assert words('a b="c d') == ("a", 'b="c d')


def test_dry_run() -> None:
    rows = [
        *nodes(6),
        node("down", link_up=False),
        node("done", release=NEW),
        node("sick", healthy=False),
        node("busy"),
        node("stuck"),
        node("bare", rollback_artifact="", command_line="root=/dev/sda"),
        node("left", release=NEW),
        node("nbaked"),
        node("gone", written_off="x"),
    ]
    made = fleet(
        *rows,
        attempt("busy", Phase.DRAINING, rollout_id="other"),
        attempt("stuck", Phase.QUARANTINED, settled_at=NOW),
        attempt("left", Phase.BAKING, rollout_id="pruned", settled_at=NOW),
        attempt("nbaked", Phase.BAKING, rollout_id="pruned", settled_at=NOW),
    )
    plan = dryrun.dry_run(
        made, spec(budgets=ZONES, gates=(BlackoutGate(0.99, timedelta(seconds=1)),)), ARTIFACT, NOW
    )
    assert [w.name for w in plan.waves] == ["canary", "all"]
    assert [(s.node_id, s.reason) for s in plan.skipped if s.waits] == [
        ("bare", "NO_ROLLBACK"),
        ("busy", "OTHER_ROLLOUT"),
        ("down", "UNREACHABLE"),
        ("left", "NODE_UNCOMMITTED"),
        ("sick", "UNHEALTHY"),
        ("stuck", "NEEDS_WORD"),
    ]
    assert [(s.node_id, s.reason) for s in plan.skipped if not s.waits] == [
        ("done", "ALREADY"),
        ("gone", "WRITTEN_OFF"),
    ]
    assert {(b.budget, b.limit) for b in plan.budgets} == {
        ("max_unavailable", 1),
        ("max_in_blackout", 1),
        ("max_uncommitted", 14),
        ("failures", 0),
        ("domain:zone=a", 1),
        ("domain:zone=b", 1),
        ("domain:zone=c", 1),
    }
    assert [(c.nodes, c.example_node) for c in plan.command_lines] == [(11, "n00"), (1, "bare")]
    assert plan.command_lines[0].command_line.endswith("kho=on liveupdate=on liveroll.attempt=<attempt>")
    assert (plan.members, plan.target_release, plan.artifact_digest) == (14, NEW, ARTIFACT.digest)
    assert [p.canary for p in plan.pairs] == ["n00"]
    assert plan.warnings == ()


def test_dry_run_warns() -> None:
    rows = [node(f"n{i}", hardware_model=f"m{i}", labels={"zone": "a"} if i else {}) for i in range(3)]
    made = fleet(*rows, node("n9", labels={"zone": "a"}))
    operations_row = operations.create(made, spec(), ARTIFACT, "alice", NOW).change.writes[0]
    made.apply(operations_row)
    plan = dryrun.dry_run(
        made,
        spec(
            budgets=Budgets(
                max_unavailable=Amount(count=1),
                max_in_blackout=Amount(percent=100),
                domain=DomainBudget("zone", Amount(count=1)),
            ),
            canary=Canary(2, ("n0", "n1")),
            waves=(WaveSpec("a", Amount(count=4)), WaveSpec("b")),
            gates=(BlackoutGate(0.99, timedelta(seconds=1)), BlackoutGate(0.99, timedelta(seconds=2))),
        ),
        ARTIFACT,
        NOW,
    )
    told = "\n".join(plan.warnings)
    for piece in (
        "a rollout k exists",
        "never matters",
        "have no label zone",
        "have no canary",
        "b is empty",
        "same quantile",
    ):
        assert piece in told


def test_more_warnings() -> None:
    made = fleet(*[node(f"n{i}", hardware_model="m1") for i in range(3)])
    made.apply(FleetRow(stopped="OPERATOR"))
    both = Budgets(max_in_blackout=Amount(count=3), domain=DomainBudget("zone", Amount(count=1)))
    plan = dryrun.dry_run(made, spec(budgets=both, canary=Canary(2, ("n0", "n1"))), ARTIFACT, NOW)
    told = "\n".join(plan.warnings)
    assert told.count("never matters") == 1
    assert "n1 would be nobody's canary" in told
    assert "all members have the same zone" in told
    assert "the fleet is stopped" in told


def test_a_dry_run_without_failure_domains() -> None:
    plan = dryrun.dry_run(fleet(*nodes(2)), spec(), ARTIFACT, NOW)
    assert [b.budget for b in plan.budgets] == [
        "max_unavailable",
        "max_in_blackout",
        "max_uncommitted",
        "failures",
    ]
    assert not any("domain" in warning for warning in plan.warnings)
