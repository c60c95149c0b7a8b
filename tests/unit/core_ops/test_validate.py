from __future__ import annotations

from datetime import UTC, datetime, time, timedelta
from typing import Any

import pytest

from orchestrator.core.phases import Method
from orchestrator.core.spec import (
    DEFAULT_RETRIES,
    Amount,
    Bake,
    BlackoutGate,
    Budgets,
    Canary,
    DomainBudget,
    Embargo,
    FailureBudget,
    HealthGate,
    OnFail,
    RetryRule,
    RollbackPolicy,
    Schedule,
    Selection,
    Target,
    Timeouts,
    WaveSpec,
    Window,
)
from orchestrator.core.validate import check
from orchestrator.errors import Retry
from tests.unit.core_ops.build import spec

S = timedelta(seconds=1)
C = Amount(count=1)
ZERO = Amount(count=0)
START = datetime(2026, 12, 24, tzinfo=UTC)
GATE = BlackoutGate(0.99, S)


def waves(*made: WaveSpec) -> dict[str, Any]:
    return {"waves": made}


def rule(
    attempts: int = 2, backoff: timedelta = S, most: timedelta = S, retry: Retry = Retry.CALL
) -> dict[str, Any]:
    return {"retries": {**DEFAULT_RETRIES, retry: RetryRule(attempts, backoff, most)}}


VIOLATIONS: list[tuple[dict[str, Any], str, str]] = [
    ({"name": ""}, "name", "it is missing"),
    ({"name": "Kernel"}, "name", "'Kernel' is not a name"),
    ({"name": "k" * 64}, "name", "is not a name"),
    ({"name": "-k"}, "name", "is not a name"),
    ({"target": Target(" ")}, "target.artifact", "it is missing"),
    ({"target": Target("a", ("a b",))}, "target.command_line.remove[0]", "is not one word"),
    ({"target": Target("a", ("kho=",))}, "target.command_line.remove[0]", "needed for a live update"),
    (
        {"target": Target("a", (), ("q", "liveupdate=off"))},
        "target.command_line.append[1]",
        "set by the system",
    ),
    ({"target": Target("a", (), ("debug=",))}, "target.command_line.append[0]", "has no value"),
    ({"selection": Selection("a=")}, "selection.selector", "column 3"),
    ({"selection": Selection(nodes=("a", "a"))}, "selection.nodes", "stands there 2 times"),
    ({"selection": Selection(nodes=("",))}, "selection.nodes", "a name is empty"),
    ({"selection": Selection(nodes=("a",), exclude=("a",))}, "selection.exclude", "selected and excluded"),
    (
        {"selection": Selection(exclude=("a",)), "canary": Canary(nodes=("a",))},
        "canary.nodes",
        "a is excluded",
    ),
    ({"canary": Canary(max_nodes=0)}, "canary.max_nodes", "less than 1"),
    ({"canary": Canary(1, ("a", "b"))}, "canary.nodes", "2 nodes are named, max_nodes is 1"),
    (waves(), "waves", "there is none"),
    (waves(WaveSpec("A")), "waves[0].name", "is not a name"),
    (waves(WaveSpec("canary")), "waves[0].name", "the system's own wave"),
    (waves(WaveSpec("a", C), WaveSpec("a")), "waves[1].name", "a is taken"),
    (waves(WaveSpec("a", selector="in (")), "waves[0].selector", "column"),
    (waves(WaveSpec("a"), WaveSpec("b")), "waves[0].size", "takes all that is left"),
    (waves(WaveSpec("a", ZERO)), "waves[0].size", "0 is less than 1"),
    (waves(WaveSpec("a", Amount())), "waves[0].size", "a count or a percentage"),
    (waves(WaveSpec("a", Amount(percent=60)), WaveSpec("b", Amount(percent=50))), "waves", "add up to 110 %"),
    ({"budgets": Budgets(max_unavailable=ZERO)}, "budgets.max_unavailable", "0 is less than 1"),
    ({"budgets": Budgets(max_unavailable=Amount(percent=101))}, "budgets.max_unavailable", "101 %"),
    ({"budgets": Budgets(max_unavailable=Amount(percent=0))}, "budgets.max_unavailable", "0 %"),
    (
        {"budgets": Budgets(max_unavailable=Amount(1, 1))},
        "budgets.max_unavailable",
        "a count or a percentage",
    ),
    ({"budgets": Budgets(max_in_blackout=ZERO)}, "budgets.max_in_blackout", "0 is less than 1"),
    ({"budgets": Budgets(max_uncommitted=ZERO)}, "budgets.max_uncommitted", "0 is less than 1"),
    ({"budgets": Budgets(domain=DomainBudget("", C))}, "budgets.domain.key", "it is missing"),
    (
        {"budgets": Budgets(domain=DomainBudget("zone", ZERO))},
        "budgets.domain.max_unavailable",
        "0 is less than 1",
    ),
    (
        {"budgets": Budgets(domain=DomainBudget("zone", Amount(2)))},
        "budgets.domain.max_unavailable",
        "the whole rollout only 1",
    ),
    (
        {"budgets": Budgets(failures=FailureBudget(Amount(count=-1)))},
        "budgets.failures.max",
        "-1 is less than 0",
    ),
    (
        {"budgets": Budgets(failures=FailureBudget(C, frozenset({"losst"})))},
        "budgets.failures.halt_on",
        "'losst'",
    ),
    ({"budgets": Budgets(failures=FailureBudget(C, frozenset({"x"})))}, "budgets.failures.halt_on", "'x'"),
    ({"rollback": RollbackPolicy(max_unavailable=ZERO)}, "rollback.max_unavailable", "less than 1"),
    ({"rollback": RollbackPolicy(max_in_blackout=ZERO)}, "rollback.max_in_blackout", "less than 1"),
    (
        {"rollback": RollbackPolicy(none=True), "gates": (HealthGate(99, OnFail.ROLL_BACK),)},
        "rollback.none",
        "a gate asks for a rollback",
    ),
    ({"gates": (BlackoutGate(0, S),)}, "gates[0].blackout.quantile", "0 is not between"),
    ({"gates": (BlackoutGate(1.5, S),)}, "gates[0].blackout.quantile", "1.5 is not between"),
    ({"gates": (BlackoutGate(0.5, 0 * S),)}, "gates[0].blackout.max", "not above zero"),
    ({"gates": (GATE, BlackoutGate(0.5, 2 * S, S))}, "gates[1].blackout.hard_max", "smaller than max"),
    ({"gates": (BlackoutGate(0.5, S, min_samples=0),)}, "gates[0].blackout.min_samples", "less than 1"),
    ({"gates": (HealthGate(0),)}, "gates[0].health.min_healthy_percent", "not between"),
    ({"gates": (HealthGate(99), HealthGate(98))}, "gates", "2 health gates"),
    ({"bake": Bake(node=-S)}, "bake.node", "negative"),
    ({"bake": Bake(wave=timedelta(days=91))}, "bake.wave", "longer than 90 days"),
    ({"health_hold": -S}, "health_hold", "negative"),
    ({"health_hold": timedelta(minutes=5)}, "health_hold", "not shorter than timeouts.verifying"),
    ({"silence_lease": 0 * S}, "silence_lease", "not above zero"),
    ({"acknowledge_timeout": -S}, "acknowledge_timeout", "not above zero"),
    ({"proceed_lease": timedelta(minutes=2)}, "proceed_lease", "longer than timeouts.preserved"),
    ({"timeouts": Timeouts(loading=0 * S)}, "timeouts.loading", "not above zero"),
    ({"timeouts": Timeouts(draining=timedelta(days=8))}, "timeouts.draining", "longer than 7 days"),
    (rule(attempts=0), "retries.call.attempts", "0 is not between 1 and 20"),
    (rule(attempts=21), "retries.call.attempts", "21 is not between"),
    (rule(retry=Retry.NEVER), "retries.never.attempts", "do not go away"),
    (rule(retry=Retry.FIX_STATE), "retries.fix_state.attempts", "do not go away"),
    (rule(backoff=2 * S), "retries.call.max_backoff", "smaller than backoff"),
    (rule(backoff=-S), "retries.call.backoff", "negative"),
    (rule(most=timedelta(days=8)), "retries.call.max_backoff", "longer than 7 days"),
    (
        {"schedule": Schedule((Window(frozenset({7}), time(9), time(17)),))},
        "schedule.windows[0].days",
        "7 is no day",
    ),
    (
        {"schedule": Schedule((Window(frozenset(), time(9), time(17), "Europe/Berlni"),))},
        "schedule.windows[0].time_zone",
        "'Europe/Berlni' is not known",
    ),
    (
        {"schedule": Schedule((Window(frozenset(), time(9), time(17), "../etc"),))},
        "schedule.windows[0].time_zone",
        "is not known",
    ),
    (
        {"schedule": Schedule((Window(frozenset(), time(9, tzinfo=UTC), time(17)),))},
        "schedule.windows[0]",
        "a time zone of their own",
    ),
    (
        {"schedule": Schedule(embargoes=(Embargo(START, START),))},
        "schedule.embargoes[0].end",
        "not after start",
    ),
    (
        {"schedule": Schedule(embargoes=(Embargo(START.replace(tzinfo=None), START),))},
        "schedule.embargoes[0].start",
        "no time zone",
    ),
    ({"method": Method.DRAIN_REBOOT}, "method", "not offered"),
]


@pytest.mark.parametrize(
    ("fields", "path", "problem"), VIOLATIONS, ids=[f"{v[1]}: {v[2]}" for v in VIOLATIONS]
)
def test_each_violation_names_path_problem_and_remedy(
    fields: dict[str, Any], path: str, problem: str
) -> None:
    violations = check(spec(**{"name": "k", **fields})).violations
    assert [(v.path, problem in v.problem) for v in violations] == [(path, True)]
    assert violations[0].remedy


def test_a_good_specification_has_none() -> None:
    good = spec(
        gates=(GATE, HealthGate(99)),
        waves=(WaveSpec("a", Amount(percent=10)), WaveSpec("b", selector="zone=a"), WaveSpec("rest")),
        budgets=Budgets(
            Amount(percent=10), Amount(percent=5), domain=DomainBudget("zone", C), failures=FailureBudget(C)
        ),
        schedule=Schedule(
            (Window(frozenset({0}), time(22), time(4), "Europe/Berlin"),), (Embargo(START, START + S),)
        ),
        target=Target("a", ("quiet", "debug="), ("loglevel=7", 'dyndbg="file a.c +p"')),
    )
    assert check(good).violations == ()
    assert check(good).warnings == ()


def test_all_at_once() -> None:
    bad = spec("", waves=(), target=Target(""), canary=Canary(0))
    assert {v.path for v in check(bad).violations} == {"name", "waves", "target.artifact", "canary.max_nodes"}


@pytest.mark.parametrize(
    ("fields", "warning"),
    [
        ({"budgets": Budgets(max_in_blackout=Amount(count=3))}, "max_in_blackout (3) never matters"),
        ({"rollback": RollbackPolicy(none=True)}, "no node can be rolled back"),
        ({"gates": ()}, "judged by failures alone"),
        ({"bake": Bake(0 * S, 0 * S)}, "nothing is watched"),
        ({"budgets": Budgets(failures=FailureBudget(C, frozenset()))}, "does not halt the rollout at once"),
        ({"gates": (BlackoutGate(0.5, S, min_samples=50),)}, "cannot reach min_samples 50"),
    ],
)
def test_warnings(fields: dict[str, Any], warning: str) -> None:
    found = check(spec(**{"gates": (GATE,), **fields}))
    assert found.violations == ()
    (told,) = found.warnings
    assert warning in told
