"""Core's RolloutSpec → proto, with every default spelled out. The inverse of spec_in.py."""

from __future__ import annotations

from dataclasses import fields

from liveroll.v1 import common_pb2, rollout_pb2

from orchestrator.core import spec as core
from orchestrator.wire.check import duration_of, instant_of
from orchestrator.wire.spec_in import DAYS, HALT_ON_NOTHING


def spec_of(spec: core.RolloutSpec) -> rollout_pb2.RolloutSpec:
    """So that nobody has to know the defaults to read it."""
    made = rollout_pb2.RolloutSpec(
        name=spec.name,
        target=rollout_pb2.Target(
            artifact=spec.target.artifact,
            command_line_remove=spec.target.command_line_remove,
            command_line_append=spec.target.command_line_append,
        ),
        selection=rollout_pb2.Selection(
            selector=spec.selection.selector, nodes=spec.selection.nodes, exclude=spec.selection.exclude
        ),
        canary=rollout_pb2.Canary(max_nodes=spec.canary.max_nodes, nodes=spec.canary.nodes),
        waves=[
            rollout_pb2.Wave(
                name=w.name, size=None if w.size is None else amount_of(w.size), selector=w.selector
            )
            for w in spec.waves
        ],
        late_nodes=f"LATE_NODES_{spec.late_nodes}",
        budgets=_budgets_of(spec.budgets),
        rollback=rollout_pb2.RollbackPolicy(
            none=spec.rollback.none,
            max_unavailable=amount_of(spec.rollback.max_unavailable),
            max_in_blackout=amount_of(spec.rollback.max_in_blackout),
        ),
        gates=[_gate_of(g) for g in spec.gates],
        bake=rollout_pb2.Bake(node=duration_of(spec.bake.node), wave=duration_of(spec.bake.wave)),
        promotion=f"PROMOTION_{spec.promotion}",
        retries=[
            rollout_pb2.RetryRule(
                retry=f"RETRY_CLASS_{retry}",
                attempts=rule.attempts,
                backoff=duration_of(rule.backoff),
                max_backoff=duration_of(rule.max_backoff),
            )
            for retry, rule in spec.retries.items()
        ],
        timeouts=timeouts_of(spec.timeouts),
        schedule=_schedule_of(spec.schedule),
        method=f"UPDATE_METHOD_{spec.method}",
    )
    for name in ("silence_lease", "proceed_lease", "health_hold", "acknowledge_timeout"):
        getattr(made, name).FromTimedelta(getattr(spec, name))
    return made


def amount_of(amount: core.Amount) -> rollout_pb2.Amount:
    if amount.count is not None:
        return rollout_pb2.Amount(count=amount.count)
    return rollout_pb2.Amount(percent=amount.percent)


def timeouts_of(timeouts: core.Timeouts) -> common_pb2.StepTimeouts:
    return common_pb2.StepTimeouts(
        **{f.name: duration_of(getattr(timeouts, f.name)) for f in fields(core.Timeouts)}
    )


def _budgets_of(budgets: core.Budgets) -> rollout_pb2.Budgets:
    domain = None
    if budgets.domain is not None:
        domain = rollout_pb2.DomainBudget(
            key=budgets.domain.key, max_unavailable=amount_of(budgets.domain.max_unavailable)
        )
    return rollout_pb2.Budgets(
        max_unavailable=amount_of(budgets.max_unavailable),
        max_in_blackout=amount_of(budgets.max_in_blackout),
        max_uncommitted=amount_of(budgets.max_uncommitted),
        domain=domain,
        failures=rollout_pb2.FailureBudget(
            max=amount_of(budgets.failures.max),
            halt_on=sorted(budgets.failures.halt_on) or [HALT_ON_NOTHING],
        ),
    )


def _gate_of(gate: core.Gate) -> rollout_pb2.Gate:
    on_fail = f"ACTION_{gate.on_fail}"
    if isinstance(gate, core.HealthGate):
        rule = rollout_pb2.HealthGate(min_healthy_percent=gate.min_healthy_percent)
        return rollout_pb2.Gate(health=rule, on_fail=on_fail)
    return rollout_pb2.Gate(
        blackout=rollout_pb2.BlackoutGate(
            quantile=gate.quantile,
            max=duration_of(gate.max),
            hard_max=None if gate.hard_max is None else duration_of(gate.hard_max),
            min_samples=gate.min_samples,
        ),
        on_fail=on_fail,
    )


def _schedule_of(schedule: core.Schedule) -> rollout_pb2.Schedule:
    return rollout_pb2.Schedule(
        windows=[
            rollout_pb2.Window(
                days=[DAYS[d] for d in sorted(w.days)],
                start=f"{w.start:%H:%M}",
                end=f"{w.end:%H:%M}",
                time_zone=w.time_zone,
            )
            for w in schedule.windows
        ],
        embargoes=[
            rollout_pb2.Embargo(start=instant_of(e.start), end=instant_of(e.end), reason=e.reason)
            for e in schedule.embargoes
        ],
    )
