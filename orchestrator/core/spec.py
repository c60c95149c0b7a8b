"""What an operator asks for: the rollout's specification, resolved and immutable.

Made at the edge (rollout file or CreateRollout) after validation; nothing here reads
files or clocks. Durations are timedeltas, instants aware UTC datetimes.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime, time, timedelta
from types import MappingProxyType

from orchestrator.core.phases import Method
from orchestrator.errors import Retry


@dataclass(frozen=True, slots=True)
class Amount:
    """A count, or a percentage of the members fixed at the start. Exactly one is set."""

    count: int | None = None
    percent: float | None = None

    def of(self, members: int) -> int:
        """Absolute number; percentages are rounded down, minimum 1 (0 % stays 0 only as count)."""
        if self.count is not None:
            return self.count
        assert self.percent is not None
        return max(1, int(members * self.percent / 100 + 1e-9))


class LateNodes(enum.StrEnum):
    IGNORE = "IGNORE"
    LAST_WAVE = "LAST_WAVE"


class Promotion(enum.StrEnum):
    AUTOMATIC = "AUTOMATIC"
    MANUAL = "MANUAL"
    MANUAL_CANARY = "MANUAL_CANARY"


class OnFail(enum.StrEnum):
    HALT = "HALT"
    ROLL_BACK = "ROLL_BACK"
    HOLD = "HOLD"


@dataclass(frozen=True, slots=True)
class Target:
    artifact: str
    """Name or digest, as asked; the digest in force is on the rollout row."""
    command_line_remove: tuple[str, ...] = ()
    command_line_append: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Selection:
    selector: str = ""
    nodes: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Canary:
    max_nodes: int = 4
    nodes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class WaveSpec:
    name: str
    size: Amount | None = None
    """None: all that is left."""
    selector: str = ""


@dataclass(frozen=True, slots=True)
class DomainBudget:
    key: str
    max_unavailable: Amount


@dataclass(frozen=True, slots=True)
class FailureBudget:
    max: Amount = Amount(count=0)
    halt_on: frozenset[str] = frozenset({"lost", "state_lost"})


@dataclass(frozen=True, slots=True)
class Budgets:
    max_unavailable: Amount = Amount(count=1)
    max_in_blackout: Amount = Amount(count=1)
    max_uncommitted: Amount = Amount(percent=100)
    domain: DomainBudget | None = None
    failures: FailureBudget = FailureBudget()


@dataclass(frozen=True, slots=True)
class RollbackPolicy:
    none: bool = False
    max_unavailable: Amount = Amount(count=1)
    max_in_blackout: Amount = Amount(count=1)


@dataclass(frozen=True, slots=True)
class BlackoutGate:
    quantile: float
    max: timedelta
    hard_max: timedelta | None = None
    min_samples: int = 1
    on_fail: OnFail = OnFail.HALT


@dataclass(frozen=True, slots=True)
class HealthGate:
    min_healthy_percent: float
    on_fail: OnFail = OnFail.HALT


Gate = BlackoutGate | HealthGate


@dataclass(frozen=True, slots=True)
class Bake:
    node: timedelta = timedelta(minutes=5)
    wave: timedelta = timedelta(minutes=5)


@dataclass(frozen=True, slots=True)
class RetryRule:
    attempts: int
    """In all, the first included."""
    backoff: timedelta
    max_backoff: timedelta


@dataclass(frozen=True, slots=True)
class Timeouts:
    """Bound of each waiting state on the node, sent with PREPARE."""

    loading: timedelta = timedelta(minutes=2)
    draining: timedelta = timedelta(minutes=10)
    preserving: timedelta = timedelta(minutes=2)
    preserved: timedelta = timedelta(seconds=60)
    suspending: timedelta = timedelta(seconds=30)
    retrieving: timedelta = timedelta(seconds=60)
    resuming: timedelta = timedelta(seconds=60)
    verifying: timedelta = timedelta(minutes=5)
    finishing: timedelta = timedelta(minutes=2)
    unwinding: timedelta = timedelta(minutes=2)


@dataclass(frozen=True, slots=True)
class Window:
    """Starts are allowed from start to end on days (0 = Monday) in time_zone.

    end at or before start means the next day's. Empty days: every day.
    """

    days: frozenset[int]
    start: time
    end: time
    time_zone: str = "UTC"


@dataclass(frozen=True, slots=True)
class Embargo:
    start: datetime
    end: datetime
    reason: str = ""


@dataclass(frozen=True, slots=True)
class Schedule:
    windows: tuple[Window, ...] = ()
    embargoes: tuple[Embargo, ...] = ()


DEFAULT_RETRIES: Mapping[Retry, RetryRule] = MappingProxyType(
    {
        Retry.CALL: RetryRule(3, timedelta(seconds=5), timedelta(minutes=2)),
        Retry.REPLAN: RetryRule(2, timedelta(seconds=30), timedelta(minutes=10)),
        Retry.FIX_STATE: RetryRule(1, timedelta(0), timedelta(0)),
        Retry.NEVER: RetryRule(1, timedelta(0), timedelta(0)),
    }
)


@dataclass(frozen=True, slots=True)
class RolloutSpec:
    """One rollout, as validated. See protos/liveroll/v1/rollout.proto for each field."""

    name: str
    target: Target
    selection: Selection = Selection()
    canary: Canary = Canary()
    waves: tuple[WaveSpec, ...] = (WaveSpec("all"),)
    late_nodes: LateNodes = LateNodes.IGNORE
    budgets: Budgets = Budgets()
    rollback: RollbackPolicy = RollbackPolicy()
    gates: tuple[Gate, ...] = ()
    bake: Bake = Bake()
    promotion: Promotion = Promotion.AUTOMATIC
    retries: Mapping[Retry, RetryRule] = field(default_factory=lambda: DEFAULT_RETRIES)
    timeouts: Timeouts = Timeouts()
    schedule: Schedule = Schedule()
    method: Method = Method.LIVE
    silence_lease: timedelta = timedelta(minutes=5)
    proceed_lease: timedelta = timedelta(seconds=30)
    health_hold: timedelta = timedelta(seconds=10)
    acknowledge_timeout: timedelta = timedelta(seconds=60)
