"""The rollout file's shape: YAML with friendly durations and percentages → proto RolloutSpec.

Names are those of the proto, so that a violation found by the orchestrator has the same path.
Scalars arrive as the text that stands in the file (rollout_file.py), never as YAML's guesses.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Annotated, Any, Literal

from liveroll.v1 import rollout_pb2
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, model_validator
from pydantic_core import PydanticCustomError

from orchestrator.cli import friendly


def _parsed(parse: Callable[[str], Any], remedy: str) -> BeforeValidator:
    def read(value: object) -> object:
        if not isinstance(value, str):
            raise PydanticCustomError("friendly", "it is not a single value", {"remedy": remedy})
        try:
            return parse(value)
        except ValueError as error:
            problem = f"{value!r} {error}"
            raise PydanticCustomError(
                "friendly", "{problem}", {"problem": problem, "remedy": remedy}
            ) from error

    return BeforeValidator(read)


def _amount(text: str) -> rollout_pb2.Amount:
    count, percent = friendly.parse_amount(text)
    if count is not None:
        return rollout_pb2.Amount(count=count)
    return rollout_pb2.Amount(percent=percent)


def _percent(text: str) -> float:
    try:
        return float(text.strip().removesuffix("%"))
    except ValueError as error:
        raise ValueError("is not a percentage") from error


def _word(choices: tuple[str, ...]) -> BeforeValidator:
    def read(text: str) -> str:
        word = text.strip().lower().replace("-", "_").replace("+", "_")
        if word not in choices:
            raise ValueError("is unknown")
        return word

    return _parsed(read, f"Use {' or '.join(choices)}.")


Duration = Annotated[timedelta, _parsed(friendly.parse_duration, "Write for instance 30s, 5m or 1h30m.")]
Amount = Annotated[rollout_pb2.Amount, _parsed(_amount, "Write for instance 3 or 10%.")]
Percent = Annotated[float, _parsed(_percent, "Write for instance 95%.")]
Instant = Annotated[datetime, _parsed(friendly.parse_instant, "Write for instance 2027-01-01T00:00:00Z.")]


class _Model(BaseModel):
    model_config = ConfigDict(extra="forbid", arbitrary_types_allowed=True, coerce_numbers_to_str=True)


class CommandLine(_Model):
    remove: list[str] = []
    append: list[str] = []


class Target(_Model):
    artifact: str
    command_line: CommandLine = CommandLine()


class Selection(_Model):
    selector: str = ""
    nodes: list[str] = []
    exclude: list[str] = []


class Canary(_Model):
    max_nodes: int | None = Field(None, ge=1, le=1_000_000)
    nodes: list[str] = []


class Wave(_Model):
    name: str = ""
    size: Amount | None = None
    selector: str = ""


class Domain(_Model):
    key: str
    max_unavailable: Amount | None = None


class Failures(_Model):
    max: Amount | None = None
    halt_on: list[str] | None = None


class Budgets(_Model):
    max_unavailable: Amount | None = None
    max_in_blackout: Amount | None = None
    max_uncommitted: Amount | None = None
    domain: Domain | None = None
    failures: Failures = Failures()


class Rollback(_Model):
    none: bool = False
    max_unavailable: Amount | None = None
    max_in_blackout: Amount | None = None


class BlackoutGate(_Model):
    quantile: float
    max: Duration
    hard_max: Duration | None = None
    min_samples: int | None = Field(None, ge=1, le=1_000_000)


class HealthGate(_Model):
    min_healthy_percent: Percent


OnFail = Annotated[str, _word(("halt", "roll_back", "hold"))]


class Gate(_Model):
    blackout: BlackoutGate | None = None
    health: HealthGate | None = None
    on_fail: OnFail = "halt"

    @model_validator(mode="after")
    def _one_rule(self) -> Gate:
        if self.blackout is not None and self.health is not None:
            raise PydanticCustomError("friendly", "it has two rules", {"remedy": "Make two gates of it."})
        return self


class Bake(_Model):
    node: Duration | None = None
    wave: Duration | None = None


class Retry(_Model):
    attempts: int = Field(ge=1, le=1000)
    backoff: Duration | None = None
    max_backoff: Duration | None = None


class Timeouts(_Model):
    loading: Duration | None = None
    draining: Duration | None = None
    preserving: Duration | None = None
    preserved: Duration | None = None
    suspending: Duration | None = None
    retrieving: Duration | None = None
    resuming: Duration | None = None
    verifying: Duration | None = None
    finishing: Duration | None = None
    unwinding: Duration | None = None


class Window(_Model):
    days: list[str] = []
    start: str
    end: str
    time_zone: str = ""


class Embargo(_Model):
    start: Instant
    end: Instant
    reason: str = ""


class Schedule(_Model):
    windows: list[Window] = []
    embargoes: list[Embargo] = []


RetryClass = Literal["call", "replan", "fix_state", "never"]


class RolloutFile(_Model):
    """One rollout. What is left out takes the orchestrator's default."""

    name: str
    target: Target
    selection: Selection = Selection()
    canary: Canary = Canary()
    waves: list[Wave] = []
    late_nodes: Annotated[str, _word(("ignore", "last_wave"))] | None = None
    budgets: Budgets = Budgets()
    rollback: Rollback = Rollback()
    gates: list[Gate] = []
    bake: Bake = Bake()
    promotion: Annotated[str, _word(("automatic", "manual", "manual_canary"))] | None = None
    retries: dict[RetryClass, Retry] = {}
    timeouts: Timeouts = Timeouts()
    schedule: Schedule = Schedule()
    method: Annotated[str, _word(("live", "drain_reboot"))] | None = None
    silence_lease: Duration | None = None
    proceed_lease: Duration | None = None
    health_hold: Duration | None = None
    acknowledge_timeout: Duration | None = None

    def proto(self) -> rollout_pb2.RolloutSpec:
        """What is sent to the orchestrator."""
        made = rollout_pb2.RolloutSpec(
            name=self.name,
            target=rollout_pb2.Target(
                artifact=self.target.artifact,
                command_line_remove=self.target.command_line.remove,
                command_line_append=self.target.command_line.append,
            ),
            selection=rollout_pb2.Selection(**self.selection.model_dump()),
            canary=rollout_pb2.Canary(max_nodes=self.canary.max_nodes or 0, nodes=self.canary.nodes),
            waves=[rollout_pb2.Wave(name=w.name, size=w.size, selector=w.selector) for w in self.waves],
            budgets=self._budgets(),
            rollback=rollout_pb2.RollbackPolicy(
                none=self.rollback.none,
                max_unavailable=self.rollback.max_unavailable,
                max_in_blackout=self.rollback.max_in_blackout,
            ),
            gates=[_gate(g) for g in self.gates],
            schedule=_schedule(self.schedule),
            late_nodes=f"LATE_NODES_{self.late_nodes.upper()}" if self.late_nodes else None,
            promotion=f"PROMOTION_{self.promotion.upper()}" if self.promotion else None,
            method=f"UPDATE_METHOD_{self.method.upper()}" if self.method else None,
        )
        for retry, rule in self.retries.items():
            row = made.retries.add(retry=f"RETRY_CLASS_{retry.upper()}", attempts=rule.attempts)
            _set(row, rule, "backoff", "max_backoff")
        _set(made.bake, self.bake, "node", "wave")
        _set(made.timeouts, self.timeouts, *Timeouts.model_fields)
        _set(made, self, "silence_lease", "proceed_lease", "health_hold", "acknowledge_timeout")
        return made

    def _budgets(self) -> rollout_pb2.Budgets:
        said = self.budgets
        made = rollout_pb2.Budgets(
            max_unavailable=said.max_unavailable,
            max_in_blackout=said.max_in_blackout,
            max_uncommitted=said.max_uncommitted,
        )
        if said.domain is not None:
            made.domain.CopyFrom(
                rollout_pb2.DomainBudget(key=said.domain.key, max_unavailable=said.domain.max_unavailable)
            )
        halt_on = said.failures.halt_on
        made.failures.CopyFrom(
            rollout_pb2.FailureBudget(
                max=said.failures.max,
                # An empty list in the file means nothing; on the wire it would mean the default.
                halt_on=["none"] if halt_on == [] else halt_on,
            )
        )
        return made


def _set(message: Any, model: BaseModel, *names: str) -> None:
    for name in names:
        value = getattr(model, name)
        if value is not None:
            getattr(message, name).FromTimedelta(value)


def _gate(gate: Gate) -> rollout_pb2.Gate:
    made = rollout_pb2.Gate(on_fail=f"ACTION_{gate.on_fail.upper()}")
    if gate.blackout is not None:
        made.blackout.quantile = gate.blackout.quantile
        made.blackout.min_samples = gate.blackout.min_samples or 0
        _set(made.blackout, gate.blackout, "max", "hard_max")
    elif gate.health is not None:
        made.health.min_healthy_percent = gate.health.min_healthy_percent
    return made


def _schedule(schedule: Schedule) -> rollout_pb2.Schedule:
    made = rollout_pb2.Schedule(windows=[rollout_pb2.Window(**w.model_dump()) for w in schedule.windows])
    for embargo in schedule.embargoes:
        row = made.embargoes.add(reason=embargo.reason)
        row.start.FromDatetime(embargo.start)
        row.end.FromDatetime(embargo.end)
    return made
