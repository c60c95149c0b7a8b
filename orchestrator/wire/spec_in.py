"""RolloutSpec as an operator sent it → core's RolloutSpec, or every violation at once.

What is unset takes the core's default (core/spec.py). Judged here: what only the message shows
(shape, bounds). Whether it makes sense by itself is core/validate's to say, and whether it does
for the fleet core/operations'.
"""

from __future__ import annotations

import re
import zoneinfo
from collections.abc import Iterable, Mapping
from dataclasses import fields, replace
from datetime import time, timedelta
from types import MappingProxyType

from liveroll.v1 import common_pb2, rollout_pb2

from orchestrator.core import spec as core
from orchestrator.core import validate
from orchestrator.core.phases import Method
from orchestrator.errors import InvalidSpec, Retry, Violation
from orchestrator.wire.check import MAX_NODES, Checker

MAX_WAVES = 64
MAX_GATES = 16
MAX_SCHEDULE = 64
MAX_WORDS = 64
MAX_SELECTOR = 4096
MAX_ATTEMPTS = 20
SECOND = timedelta(seconds=1)
HALT_ON_NOTHING = "none"
"""An empty halt_on cannot be told from an unset one, so that nothing has a word."""

DAYS = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")
_CLOCK = re.compile(r"([01]\d|2[0-3]):([0-5]\d)")

_LATE = {v.number: v.name for v in rollout_pb2.LateNodes.DESCRIPTOR.values}
_PROMOTION = {v.number: v.name for v in rollout_pb2.Promotion.DESCRIPTOR.values}
_METHOD = {v.number: v.name for v in common_pb2.UpdateMethod.DESCRIPTOR.values}
_ACTION = {v.number: v.name for v in rollout_pb2.Gate.Action.DESCRIPTOR.values}
_RETRY = {v.number: v.name for v in common_pb2.RetryClass.DESCRIPTOR.values}


def read_spec(proto: rollout_pb2.RolloutSpec) -> core.RolloutSpec:
    """Raises InvalidSpec if the message is malformed, then with every violation that needs no
    fleet to be seen. A well-formed one is left to core's operations, which see the fleet."""
    check = Checker()
    spec = _read(proto, check)
    if check.violations:
        raise InvalidSpec(_all(spec, check), "the rollout's specification is invalid")
    return spec


def examine(proto: rollout_pb2.RolloutSpec) -> tuple[Violation, ...]:
    """Every violation that needs no fleet to be seen; paths as in the rollout file."""
    check = Checker()
    return _all(_read(proto, check), check)


def _all(spec: core.RolloutSpec, check: Checker) -> tuple[Violation, ...]:
    known = {v.path for v in check.violations}
    return (*check.violations, *(v for v in validate.check(spec).violations if v.path not in known))


def _read(proto: rollout_pb2.RolloutSpec, check: Checker) -> core.RolloutSpec:
    default = core.RolloutSpec("", core.Target(""))
    return core.RolloutSpec(
        name=check.name(proto.name, "name", most=63),
        target=core.Target(
            artifact=check.name(proto.target.artifact, "target.artifact"),
            command_line_remove=_words(check, proto.target.command_line_remove, "target.command_line.remove"),
            command_line_append=_words(check, proto.target.command_line_append, "target.command_line.append"),
        ),
        selection=core.Selection(
            selector=_selector(check, proto.selection.selector, "selection.selector"),
            nodes=check.names(proto.selection.nodes, "selection.nodes", most=MAX_NODES),
            exclude=check.names(proto.selection.exclude, "selection.exclude", most=MAX_NODES),
        ),
        canary=core.Canary(
            max_nodes=check.count(proto.canary.max_nodes, "canary.max_nodes") or default.canary.max_nodes,
            nodes=check.names(proto.canary.nodes, "canary.nodes", most=MAX_NODES),
        ),
        waves=_waves(check, proto) or default.waves,
        late_nodes=check.member(
            core.LateNodes, proto.late_nodes, _LATE, "LATE_NODES_", "late_nodes", default.late_nodes
        ),
        budgets=_budgets(check, proto.budgets, default.budgets),
        rollback=core.RollbackPolicy(
            none=proto.rollback.none,
            max_unavailable=_amount(
                check,
                proto.rollback,
                "max_unavailable",
                "rollback.max_unavailable",
                default.rollback.max_unavailable,
            ),
            max_in_blackout=_amount(
                check,
                proto.rollback,
                "max_in_blackout",
                "rollback.max_in_blackout",
                default.rollback.max_in_blackout,
            ),
        ),
        gates=_gates(check, proto),
        bake=core.Bake(
            node=_duration(check, proto.bake, "node", "bake.node", default.bake.node),
            wave=_duration(check, proto.bake, "wave", "bake.wave", default.bake.wave),
        ),
        promotion=check.member(
            core.Promotion, proto.promotion, _PROMOTION, "PROMOTION_", "promotion", default.promotion
        ),
        retries=_retries(check, proto),
        timeouts=_timeouts(check, proto.timeouts),
        schedule=_schedule(check, proto.schedule),
        method=check.member(Method, proto.method, _METHOD, "UPDATE_METHOD_", "method", default.method),
        silence_lease=_duration(
            check, proto, "silence_lease", "silence_lease", default.silence_lease, least=SECOND
        ),
        proceed_lease=_duration(
            check, proto, "proceed_lease", "proceed_lease", default.proceed_lease, least=SECOND
        ),
        health_hold=_duration(check, proto, "health_hold", "health_hold", default.health_hold),
        acknowledge_timeout=_duration(
            check,
            proto,
            "acknowledge_timeout",
            "acknowledge_timeout",
            default.acknowledge_timeout,
            least=SECOND,
        ),
    )


def _words(check: Checker, values: Iterable[str], path: str) -> tuple[str, ...]:
    words = tuple(values)
    if len(words) > MAX_WORDS:
        check.bad(path, f"it has {len(words)} words", f"Give at most {MAX_WORDS}.")
        return ()
    return tuple(check.name(word, f"{path}[{i}]", most=1024) for i, word in enumerate(words))


def _selector(check: Checker, value: str, path: str) -> str:
    return check.name(value.strip(), path, required=False, most=MAX_SELECTOR)


def _duration(
    check: Checker,
    holder: object,
    field: str,
    path: str,
    default: timedelta,
    *,
    least: timedelta = timedelta(0),
) -> timedelta:
    if not holder.HasField(field):  # type: ignore[attr-defined]
        return default
    return check.duration(getattr(holder, field), path, least=least)


def _amount(check: Checker, holder: object, field: str, path: str, default: core.Amount) -> core.Amount:
    if not holder.HasField(field):  # type: ignore[attr-defined]
        return default
    amount: rollout_pb2.Amount = getattr(holder, field)
    match amount.WhichOneof("value"):
        case "count":
            return core.Amount(count=check.count(amount.count, path))
        case "percent":
            return core.Amount(percent=check.number(amount.percent, path, above=0, most=100))
    check.bad(path, "it says neither a count nor a percentage", "Give for instance 3 or 10%.")
    return default


def _waves(check: Checker, proto: rollout_pb2.RolloutSpec) -> tuple[core.WaveSpec, ...]:
    if len(proto.waves) > MAX_WAVES:
        check.bad("waves", f"it has {len(proto.waves)} items", f"Give at most {MAX_WAVES}.")
        return ()
    every = core.Amount(percent=100)
    return tuple(
        core.WaveSpec(
            name=check.name(wave.name, f"waves[{i}].name", most=63, required=False) or f"wave-{i + 1}",
            size=_amount(check, wave, "size", f"waves[{i}].size", every) if wave.HasField("size") else None,
            selector=_selector(check, wave.selector, f"waves[{i}].selector"),
        )
        for i, wave in enumerate(proto.waves)
    )


def _budgets(check: Checker, proto: rollout_pb2.Budgets, default: core.Budgets) -> core.Budgets:
    domain = None
    if proto.HasField("domain"):
        domain = core.DomainBudget(
            key=check.name(proto.domain.key, "budgets.domain.key", most=128),
            max_unavailable=_amount(
                check, proto.domain, "max_unavailable", "budgets.domain.max_unavailable", core.Amount(count=1)
            ),
        )
    halt_on = check.names(proto.failures.halt_on, "budgets.failures.halt_on", most=16, length=40)
    return core.Budgets(
        max_unavailable=_amount(
            check, proto, "max_unavailable", "budgets.max_unavailable", default.max_unavailable
        ),
        max_in_blackout=_amount(
            check, proto, "max_in_blackout", "budgets.max_in_blackout", default.max_in_blackout
        ),
        max_uncommitted=_amount(
            check, proto, "max_uncommitted", "budgets.max_uncommitted", default.max_uncommitted
        ),
        domain=domain,
        failures=core.FailureBudget(
            max=_amount(check, proto.failures, "max", "budgets.failures.max", default.failures.max),
            halt_on=frozenset(halt_on) - {HALT_ON_NOTHING} if halt_on else default.failures.halt_on,
        ),
    )


def _gates(check: Checker, proto: rollout_pb2.RolloutSpec) -> tuple[core.Gate, ...]:
    if len(proto.gates) > MAX_GATES:
        check.bad("gates", f"it has {len(proto.gates)} items", f"Give at most {MAX_GATES}.")
        return ()
    gates: list[core.Gate] = []
    for i, gate in enumerate(proto.gates):
        path = f"gates[{i}]"
        on_fail = check.member(
            core.OnFail, gate.on_fail, _ACTION, "ACTION_", f"{path}.on_fail", core.OnFail.HALT
        )
        match gate.WhichOneof("rule"):
            case "blackout":
                gates.append(_blackout_gate(check, gate.blackout, f"{path}.blackout", on_fail))
            case "health":
                share = check.number(
                    gate.health.min_healthy_percent,
                    f"{path}.health.min_healthy_percent",
                    above=0,
                    most=100,
                )
                gates.append(core.HealthGate(share, on_fail))
            case _:
                check.bad(path, "it has no rule", "Give it blackout or health.")
    return tuple(gates)


def _blackout_gate(
    check: Checker, proto: rollout_pb2.BlackoutGate, path: str, on_fail: core.OnFail
) -> core.BlackoutGate:
    least = timedelta(milliseconds=1)
    if not proto.HasField("max"):
        check.bad(f"{path}.max", "it is missing", "Give the longest acceptable blackout, for instance 2s.")
    longest = check.duration(proto.max, f"{path}.max", least=least) if proto.HasField("max") else least
    hard = (
        check.duration(proto.hard_max, f"{path}.hard_max", least=least)
        if proto.HasField("hard_max")
        else None
    )
    return core.BlackoutGate(
        quantile=check.number(proto.quantile, f"{path}.quantile", above=0, most=1),
        max=longest,
        hard_max=hard,
        min_samples=check.count(proto.min_samples, f"{path}.min_samples") or 1,
        on_fail=on_fail,
    )


def _retries(check: Checker, proto: rollout_pb2.RolloutSpec) -> Mapping[Retry, core.RetryRule]:
    rules = dict(core.DEFAULT_RETRIES)
    seen: set[Retry] = set()
    for i, rule in enumerate(proto.retries[:8]):
        path = f"retries[{i}]"  # until its class is known, as in the rollout file
        before = len(check.violations)
        retry = check.member(Retry, rule.retry, _RETRY, "RETRY_CLASS_", f"{path}.retry", None)
        if len(check.violations) > before:
            continue
        if retry in seen:
            check.bad(f"{path}.retry", f"{retry.lower()} has a rule already", "Give one rule a class.")
        seen.add(retry)
        path = f"retries.{retry.lower()}"
        was = rules[retry]
        rules[retry] = core.RetryRule(
            attempts=check.count(rule.attempts, f"{path}.attempts", least=1, most=MAX_ATTEMPTS),
            backoff=_duration(check, rule, "backoff", f"{path}.backoff", was.backoff),
            max_backoff=_duration(check, rule, "max_backoff", f"{path}.max_backoff", was.max_backoff),
        )
        made = rules[retry]
        if not rule.HasField("max_backoff") and made.max_backoff < made.backoff:
            rules[retry] = replace(made, max_backoff=made.backoff)
    if len(proto.retries) > 8:
        check.bad("retries", f"it has {len(proto.retries)} items", "Give one rule a class.")
    return MappingProxyType(rules)


def _timeouts(check: Checker, proto: common_pb2.StepTimeouts) -> core.Timeouts:
    default = core.Timeouts()
    return core.Timeouts(
        **{
            f.name: _duration(
                check, proto, f.name, f"timeouts.{f.name}", getattr(default, f.name), least=SECOND
            )
            for f in fields(core.Timeouts)
        }
    )


def _schedule(check: Checker, proto: rollout_pb2.Schedule) -> core.Schedule:
    for name in ("windows", "embargoes"):
        if len(getattr(proto, name)) > MAX_SCHEDULE:
            check.bad(f"schedule.{name}", "it has too many items", f"Give at most {MAX_SCHEDULE}.")
            return core.Schedule()
    return core.Schedule(
        windows=tuple(_window(check, w, f"schedule.windows[{i}]") for i, w in enumerate(proto.windows)),
        embargoes=tuple(
            _embargo(check, e, f"schedule.embargoes[{i}]") for i, e in enumerate(proto.embargoes)
        ),
    )


def _window(check: Checker, proto: rollout_pb2.Window, path: str) -> core.Window:
    days: set[int] = set()
    for i, day in enumerate(proto.days[:14]):
        if day.lower() in DAYS:
            days.add(DAYS.index(day.lower()))
        else:
            check.bad(f"{path}.days[{i}]", f"it is {day[:20]!r}", f"Use {', '.join(DAYS)}.")
    zone = proto.time_zone or "UTC"
    try:
        zoneinfo.ZoneInfo(zone)
    except (zoneinfo.ZoneInfoNotFoundError, ValueError, OSError):
        check.bad(
            f"{path}.time_zone", f"{zone[:60]!r} is no known time zone", "Use one such as Europe/Berlin."
        )
    return core.Window(
        days=frozenset(days),
        start=_clock(check, proto.start, f"{path}.start"),
        end=_clock(check, proto.end, f"{path}.end"),
        time_zone=zone,
    )


def _clock(check: Checker, value: str, path: str) -> time:
    match = _CLOCK.fullmatch(value)
    if match is None:
        check.bad(path, f"it is {value[:20]!r}", "Use HH:MM, for instance 22:30.")
        return time()
    return time(int(match[1]), int(match[2]))


def _embargo(check: Checker, proto: rollout_pb2.Embargo, path: str) -> core.Embargo:
    for name in ("start", "end"):
        if not proto.HasField(name):
            check.bad(f"{path}.{name}", "it is missing", "Give a time, for instance 2027-01-01T00:00:00Z.")
    start, end = check.instant(proto.start, f"{path}.start"), check.instant(proto.end, f"{path}.end")
    if proto.HasField("start") and proto.HasField("end") and end <= start:
        check.bad(f"{path}.end", "it is not after start", "Give a later time.")
    return core.Embargo(start, end, check.reason(proto.reason, f"{path}.reason"))
