"""What /metrics shows of a small fleet, and that no alert waits for a metric that is never shown."""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

import pytest
import yaml
from prometheus_client import CollectorRegistry
from prometheus_client.exposition import generate_latest

from orchestrator.core.fleet import Fleet
from orchestrator.core.model import FleetRow, Maintenance, Problem
from orchestrator.core.phases import Link, Outcome, Phase, RolloutState
from orchestrator.core.planner import plan
from orchestrator.core.spec import Amount, Budgets
from orchestrator.errors import Retry
from orchestrator.web.gauges import FleetGauges, Here
from orchestrator.web.metrics import Metrics
from tests.unit.core_ops.build import NEW, NOW, attempt, fleet, member, node, rollout, spec

ALERTS = Path(__file__).parents[3] / "deploy" / "prometheus" / "alerts.yml"
PROMTOOL = pytest.mark.skipif(
    shutil.which("promtool") is None, reason="promtool (Debian package prometheus) is not installed"
)


BY_HAND = Problem("LUO_NOT_NORMAL", Retry.FIX_STATE, "LUO is prepared")


def halfway() -> Fleet:
    """n00 updated, n01 in its blackout, n02 lost, n03 in maintenance and by hand, n04 without a link."""
    return fleet(
        node("n00", release=NEW),
        node("n01"),
        node("n02"),
        node("n03", maintenance=Maintenance("ops", "fans"), not_ready=BY_HAND, not_ready_epoch=1),
        node("n04", link_up=False),
        rollout(
            5,
            wave_names=("canary", "all"),
            wave=1,
            halted="HALT_ON_LOST",
            spec=spec(budgets=Budgets(Amount(count=3), Amount(count=1))),
        ),
        rollout(0, rollout_id="old", spec=spec("old"), ended_at=NOW, ended_as="SUCCEEDED"),
        attempt("n00", Phase.COMMITTED, settled_at=NOW),
        attempt("n01", Phase.JUMPING, blackout_open_at=NOW - timedelta(seconds=7)),
        attempt("n02", Phase.LOST, settled_at=NOW, failed=True, failure="lost"),
        member("n00", Outcome.UPDATED, generation=1),
        member("n01", Outcome.OPEN, generation=1, wave=1, position=1),
        member("n02", Outcome.FAILED, generation=1, wave=1, position=2, failed=True),
        member("n03", wave=1, position=3),
        member("n04", wave=1, position=4),
    )


def shown(made: Fleet | None) -> CollectorRegistry:
    registry = CollectorRegistry()
    registry.register(
        FleetGauges(
            lambda: (made, plan(made, NOW) if made is not None else None, NOW),
            "1.2.3",
            lambda: Here(plans=True, links=7, replicas=3),
        )
    )
    return registry


@pytest.fixture
def value() -> Callable[..., float | None]:
    registry = shown(halfway())
    return lambda name, **labels: registry.get_sample_value(name, labels)


def test_nodes_are_counted_by_phase_and_link(value: Callable[..., float | None]) -> None:
    phases = {phase: value("liveroll_nodes", phase=phase.value) for phase in Phase}
    assert {phase: count for phase, count in phases.items() if count} == {
        Phase.COMMITTED: 1,
        Phase.JUMPING: 1,
        Phase.LOST: 1,
        Phase.IDLE: 2,
    }
    assert None not in phases.values(), "a phase that nobody is in is shown as zero"
    links = {link: value("liveroll_links", state=link.value.lower()) for link in Link}
    assert links == {Link.UP: 4, Link.DOWN: 0, Link.UNKNOWN: 1}
    assert value("liveroll_nodes_in_maintenance") == 1
    assert value("liveroll_nodes_not_ready") == 1


def test_what_is_the_replica_s_own(value: Callable[..., float | None]) -> None:
    assert value("liveroll_planner") == 1
    assert value("liveroll_replica_links") == 7
    assert value("liveroll_replicas") == 3


def test_open_blackouts_have_an_age(value: Callable[..., float | None]) -> None:
    assert value("liveroll_open_blackouts") == 1
    assert value("liveroll_oldest_open_blackout_seconds") == 7


def test_rollouts_are_counted_by_state_and_by_what_blocks_them(value: Callable[..., float | None]) -> None:
    assert value("liveroll_rollouts", state="HALTED") == 1
    assert value("liveroll_rollouts", state="SUCCEEDED") == 1
    assert all(value("liveroll_rollouts", state=state.value) is not None for state in RolloutState)
    assert value("liveroll_blocked_rollouts", reason="HALTED") == 1
    assert value("liveroll_blocked_rollouts", reason="EMBARGO") is None


def test_budgets_are_those_of_the_rollout_with_least_room(value: Callable[..., float | None]) -> None:
    assert value("liveroll_budget_used", budget="max_in_blackout") == 1
    assert value("liveroll_budget_limit", budget="max_in_blackout") == 1
    assert value("liveroll_budget_limit", budget="max_unavailable") == 3
    assert value("liveroll_budget_used", budget="max_unavailable") == 3


def test_the_tighter_of_two_rollouts_is_shown() -> None:
    made = halfway()
    tight = spec("tight", budgets=Budgets(Amount(count=9), Amount(count=9)))
    made.apply(rollout(0, rollout_id="tight", spec=tight))
    registry = shown(made)
    assert registry.get_sample_value("liveroll_budget_limit", {"budget": "max_unavailable"}) == 3


def test_a_stopped_fleet_is_one() -> None:
    made = halfway()
    assert shown(made).get_sample_value("liveroll_fleet_stopped") == 0
    made.apply(FleetRow(stopped="OPERATOR", stop_message="smoke"))
    assert shown(made).get_sample_value("liveroll_fleet_stopped") == 1


def test_before_the_fleet_is_loaded_only_that_is_said() -> None:
    registry = shown(None)
    assert registry.get_sample_value("liveroll_fleet_loaded") == 0
    assert registry.get_sample_value("liveroll_build_info", {"version": "1.2.3"}) == 1
    assert registry.get_sample_value("liveroll_fleet_stopped") is None


def everything() -> set[str]:
    """Names of all series that the orchestrator can show; a label makes no name of its own."""
    names: set[str] = set()
    for registry in (Metrics().registry, shown(halfway())):
        for family in registry.collect():
            suffixes = {
                "counter": ("_total",),
                "histogram": ("_bucket", "_sum", "_count"),
                "gauge": ("",),
            }[family.type]
            names |= {family.name + suffix for suffix in suffixes}
    return names


def test_every_alert_waits_for_a_metric_that_exists() -> None:
    groups = yaml.safe_load(ALERTS.read_text())["groups"]
    expressions = {rule["alert"]: rule["expr"] for group in groups for rule in group["rules"]}
    known = everything() | {"up"}
    used = {alert: re.findall(r"\b(?:liveroll_\w+|up)\b(?=[{\[ )]|$)", e) for alert, e in expressions.items()}
    assert all(used.values()), "an expression without a metric of ours"
    missing = {alert: sorted(set(names) - known) for alert, names in used.items() if set(names) - known}
    assert not missing


def test_every_label_value_that_an_alert_asks_for_is_shown() -> None:
    told = (generate_latest(Metrics().registry) + generate_latest(shown(halfway()))).decode()
    asked_for = re.findall(r'(liveroll_\w+)\{[^}]*?\b(?!job)(\w+)="(\w+)"', ALERTS.read_text())
    assert ("liveroll_nodes", "phase", "LOST") in asked_for
    for name, label, asked in asked_for:
        assert re.search(rf'^{name}\{{[^}}]*{label}="{asked}"', told, re.MULTILINE), (name, label, asked)


@PROMTOOL
def test_promtool_has_nothing_to_say_of_the_gauges() -> None:
    checked = subprocess.run(
        ["promtool", "check", "metrics"],
        input=generate_latest(shown(halfway())),
        capture_output=True,
        check=False,
    )
    assert (checked.returncode, checked.stdout, checked.stderr) == (0, b"", b"")
