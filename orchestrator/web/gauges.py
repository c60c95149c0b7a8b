"""Gauges of /metrics, read from the fleet when Prometheus asks.

Every replica shows the whole fleet, as it stands in the store; what is its own says so. A sum over
replicas counts everything once for each of them.

Budgets are shown for the tightest rollout (least headroom), since a label that names rollouts
would be unbounded; `liveroll get` shows each rollout's own.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import datetime

from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from orchestrator.core.differences import told_of
from orchestrator.core.fleet import Fleet
from orchestrator.core.phases import Link, Phase, RolloutState
from orchestrator.core.planner import Plan
from orchestrator.core.report import BudgetUse
from orchestrator.core.views import rollout_view


@dataclass(frozen=True, slots=True)
class Here:
    """What is this replica's own."""

    plans: bool
    links: int
    replicas: int
    """Known to live, this one too."""


FleetNow = Callable[[], tuple[Fleet | None, Plan | None, datetime]]
"""The fleet (None before it is loaded), the newest plan, and the time."""


class FleetGauges(Collector):
    """Reads the fleet at each scrape. Costs one pass over the nodes."""

    def __init__(self, fleet_now: FleetNow, version: str, here: Callable[[], Here]) -> None:
        self._fleet_now = fleet_now
        self._here = here
        self._version = version

    def describe(self) -> Iterator[Metric]:
        """Nothing: the names are only known to collect()."""
        return iter(())

    def collect(self) -> Iterator[Metric]:
        yield _gauge("liveroll_build_info", "Constant 1, with the version", {self._version: 1}, "version")
        fleet, plan, now = self._fleet_now()
        yield _gauge(
            "liveroll_fleet_loaded",
            "1 while this replica has the fleet loaded and serves",
            int(fleet is not None),
        )
        here = self._here()
        yield _gauge("liveroll_planner", "1 in the replica that plans, 0 in the others", int(here.plans))
        yield _gauge("liveroll_replica_links", "Nodes that are linked to this replica", here.links)
        yield _gauge("liveroll_replicas", "Replicas that this one knows to live, itself too", here.replicas)
        if fleet is None:
            return
        yield _gauge("liveroll_fleet_stopped", "1 while the fleet is stopped", int(bool(fleet.row.stopped)))
        yield from _nodes(fleet, now)
        yield from _rollouts(fleet, plan, now)


def _nodes(fleet: Fleet, now: datetime) -> Iterator[Metric]:
    phases: Counter[str] = Counter({phase.value: 0 for phase in Phase})
    links: Counter[str] = Counter({link.value.lower(): 0 for link in Link})
    open_since: list[datetime] = []
    maintenance = not_ready = differing = 0
    for node_id, node in fleet.nodes.items():
        attempt = fleet.newest_attempt(node_id)
        phases[attempt.phase.value if attempt is not None else Phase.IDLE.value] += 1
        links[fleet.link(node_id, now).value.lower()] += 1
        maintenance += node.maintenance is not None
        not_ready += node.refuses is not None
        differing += told_of(fleet, node) is not None
        if attempt is not None and attempt.blackout_open_at is not None:
            open_since.append(attempt.blackout_open_at)
    yield _gauge("liveroll_nodes", "Nodes by the phase of their newest attempt", phases, "phase")
    yield _gauge("liveroll_links", "Nodes by what is known of their link", links, "state")
    yield _gauge("liveroll_nodes_in_maintenance", "Nodes that a person took out of the count", maintenance)
    yield _gauge("liveroll_nodes_not_ready", "Nodes that would refuse an attempt, as they say", not_ready)
    yield _gauge(
        "liveroll_differing_nodes",
        "Nodes that have done more than the store knew when it last went back, until their next attempt",
        differing,
    )
    yield _gauge("liveroll_open_blackouts", "Nodes whose workloads stand still now", len(open_since))
    oldest = max(((now - since).total_seconds() for since in open_since), default=0.0)
    yield _gauge(
        "liveroll_oldest_open_blackout_seconds", "Age of the oldest open blackout, 0 if none", oldest
    )


def _rollouts(fleet: Fleet, plan: Plan | None, now: datetime) -> Iterator[Metric]:
    states: Counter[str] = Counter({state.value: 0 for state in RolloutState})
    blocked: Counter[str] = Counter()
    tightest: dict[str, BudgetUse] = {}
    for rollout_id, row in fleet.rollouts.items():
        if row.ended_at is not None:
            states[row.ended_as] += 1
            continue
        view = rollout_view(fleet, rollout_id, plan, now)
        states[view.state.value] += 1
        blocked.update({blocker.reason for blocker in view.blockers})
        for use in view.budgets:
            name = use.budget.partition(":")[0]
            known = tightest.get(name)
            if known is None or use.limit - use.used < known.limit - known.used:
                tightest[name] = use
    yield _gauge("liveroll_rollouts", "Rollouts by state", states, "state")
    yield _gauge(
        "liveroll_blocked_rollouts", "Rollouts that wait, by the reason of a blocker", blocked, "reason"
    )
    limits = {name: use.limit for name, use in tightest.items()}
    used = {name: use.used for name, use in tightest.items()}
    yield _gauge(
        "liveroll_budget_limit", "Limit of the budget in the rollout with least headroom", limits, "budget"
    )
    yield _gauge(
        "liveroll_budget_used", "Use of the budget in the rollout with least headroom", used, "budget"
    )


def _gauge(name: str, text: str, values: dict[str, int] | Counter[str] | float, label: str = "") -> Metric:
    family = GaugeMetricFamily(name, text, labels=[label] if label else [])
    if isinstance(values, dict):
        for word, value in sorted(values.items()):
            family.add_metric([word], value)
    else:
        family.add_metric([], values)
    return family
