"""The rollouts that a seed asks for: specifications with short waits and tight budgets."""

from __future__ import annotations

import random
from dataclasses import replace
from datetime import timedelta

from orchestrator.core.spec import (
    Amount,
    Bake,
    BlackoutGate,
    Budgets,
    Canary,
    DomainBudget,
    Embargo,
    FailureBudget,
    Gate,
    HealthGate,
    LateNodes,
    OnFail,
    Promotion,
    RetryRule,
    RollbackPolicy,
    RolloutSpec,
    Schedule,
    Selection,
    Target,
    Timeouts,
    WaveSpec,
    Window,
)
from orchestrator.errors import Retry
from tests.sim.virtual import EPOCH


def seconds(number: float) -> timedelta:
    return timedelta(seconds=number)


def _amount(rng: random.Random, count: int) -> Amount:
    if rng.random() < 0.5:
        return Amount(count=rng.randint(1, max(1, count // 2)))
    return Amount(percent=rng.choice((10, 25, 50, 100)))


def rollout_spec(
    rng: random.Random, name: str, release: str, zones: tuple[str, ...], count: int
) -> RolloutSpec:
    waves = [WaveSpec("all")]
    if rng.random() < 0.6:
        waves = [WaveSpec("some", Amount(percent=rng.choice((25, 50)))), WaveSpec("rest")]
    if rng.random() < 0.1:
        waves = [WaveSpec("zone", selector=f"zone={zones[0]}"), WaveSpec("rest")]
    none = rng.random() < 0.1
    on_fail = (OnFail.HALT, OnFail.HOLD) if none else tuple(OnFail)
    gates: list[Gate] = []
    if rng.random() < 0.4:
        gates.append(HealthGate(rng.choice((50.0, 100.0)), rng.choice(on_fail)))
    if rng.random() < 0.4:
        gates.append(
            BlackoutGate(
                quantile=rng.choice((0.5, 0.99)),
                max=seconds(rng.choice((3, 30))),
                hard_max=rng.choice((None, seconds(60))),
                on_fail=rng.choice(on_fail),
            )
        )
    domain = DomainBudget("zone", Amount(count=1)) if rng.random() < 0.3 else None
    unavailable = _amount(rng, count)
    halt_on = frozenset(
        kind
        for kind in ("lost", "state_lost", "cold_booted", "wrong_kernel", "quarantined")
        if rng.random() < 0.3
    )
    preserved_s = rng.choice((30, 60))
    rules = {
        Retry.CALL: RetryRule(rng.randint(1, 4), seconds(2), seconds(20)),
        Retry.REPLAN: RetryRule(rng.randint(1, 3), seconds(rng.choice((5, 20))), seconds(60)),
        Retry.FIX_STATE: RetryRule(1, seconds(0), seconds(0)),
        Retry.NEVER: RetryRule(1, seconds(0), seconds(0)),
    }
    return RolloutSpec(
        name=name,
        target=Target(release),
        selection=Selection(selector=f"zone={rng.choice(zones)}" if rng.random() < 0.1 else ""),
        canary=Canary(max_nodes=rng.choice((1, 2, 4))),
        waves=tuple(waves),
        late_nodes=rng.choice((LateNodes.IGNORE, LateNodes.LAST_WAVE)),
        budgets=Budgets(
            max_unavailable=unavailable,
            max_in_blackout=_amount(rng, count),
            max_uncommitted=rng.choice((Amount(percent=100), Amount(count=2), Amount(count=1))),
            domain=domain,
            failures=FailureBudget(
                rng.choice((Amount(count=0), Amount(count=1), Amount(percent=50), Amount(percent=100))),
                halt_on,
            ),
        ),
        rollback=RollbackPolicy(none, _amount(rng, count), _amount(rng, count)),
        gates=tuple(gates),
        bake=Bake(seconds(rng.choice((0, 10, 40))), seconds(rng.choice((0, 10, 60)))),
        promotion=rng.choice((Promotion.AUTOMATIC,) * 4 + (Promotion.MANUAL, Promotion.MANUAL_CANARY)),
        retries=rules,
        timeouts=Timeouts(
            loading=seconds(20),
            draining=seconds(20),
            preserving=seconds(20),
            preserved=seconds(preserved_s),
            suspending=seconds(10),
            retrieving=seconds(20),
            resuming=seconds(20),
            verifying=seconds(40),
            finishing=seconds(40),
            unwinding=seconds(40),
        ),
        schedule=_schedule(rng),
        silence_lease=seconds(rng.choice((30, 60, 120))),
        proceed_lease=seconds(rng.choice((8, 15, 25))),
        health_hold=seconds(rng.choice((0, 3, 10))),
        acknowledge_timeout=seconds(rng.choice((15, 60))),
    )


def patient(spec: RolloutSpec) -> RolloutSpec:
    """One that goes on, however many nodes fail."""
    return replace(
        spec, budgets=replace(spec.budgets, failures=FailureBudget(Amount(percent=100), frozenset()))
    )


def _schedule(rng: random.Random) -> Schedule:
    windows: tuple[Window, ...] = ()
    embargoes: tuple[Embargo, ...] = ()
    if rng.random() < 0.15:
        # Open for a quarter of an hour, closed for a quarter, three times; then open for the day.
        minutes = ((0, 15), (30, 45), (60, 75), (90, 23 * 60))
        windows = tuple(
            Window(
                frozenset(),
                (EPOCH + timedelta(minutes=start)).time(),
                (EPOCH + timedelta(minutes=end)).time(),
            )
            for start, end in minutes
        )
    if rng.random() < 0.1:
        begins = EPOCH + seconds(rng.uniform(60, 900))
        embargoes = (Embargo(begins, begins + seconds(rng.uniform(60, 900)), "audit"),)
    return Schedule(windows, embargoes)
