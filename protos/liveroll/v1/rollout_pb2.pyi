import datetime

from google.protobuf import duration_pb2 as _duration_pb2
from google.protobuf import timestamp_pb2 as _timestamp_pb2
from liveroll.v1 import common_pb2 as _common_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class RolloutState(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    ROLLOUT_STATE_UNSPECIFIED: _ClassVar[RolloutState]
    ROLLOUT_STATE_PENDING: _ClassVar[RolloutState]
    ROLLOUT_STATE_RUNNING: _ClassVar[RolloutState]
    ROLLOUT_STATE_PAUSED: _ClassVar[RolloutState]
    ROLLOUT_STATE_HALTED: _ClassVar[RolloutState]
    ROLLOUT_STATE_CANCELLING: _ClassVar[RolloutState]
    ROLLOUT_STATE_CANCELLED: _ClassVar[RolloutState]
    ROLLOUT_STATE_ROLLING_BACK: _ClassVar[RolloutState]
    ROLLOUT_STATE_ROLLED_BACK: _ClassVar[RolloutState]
    ROLLOUT_STATE_SUCCEEDED: _ClassVar[RolloutState]
    ROLLOUT_STATE_FAILED: _ClassVar[RolloutState]

class GateResult(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    GATE_RESULT_UNSPECIFIED: _ClassVar[GateResult]
    GATE_RESULT_PASS: _ClassVar[GateResult]
    GATE_RESULT_FAIL: _ClassVar[GateResult]
    GATE_RESULT_INCONCLUSIVE: _ClassVar[GateResult]
    GATE_RESULT_ERROR: _ClassVar[GateResult]

class LateNodes(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    LATE_NODES_UNSPECIFIED: _ClassVar[LateNodes]
    LATE_NODES_IGNORE: _ClassVar[LateNodes]
    LATE_NODES_LAST_WAVE: _ClassVar[LateNodes]

class Promotion(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    PROMOTION_UNSPECIFIED: _ClassVar[Promotion]
    PROMOTION_AUTOMATIC: _ClassVar[Promotion]
    PROMOTION_MANUAL: _ClassVar[Promotion]
    PROMOTION_MANUAL_CANARY: _ClassVar[Promotion]
ROLLOUT_STATE_UNSPECIFIED: RolloutState
ROLLOUT_STATE_PENDING: RolloutState
ROLLOUT_STATE_RUNNING: RolloutState
ROLLOUT_STATE_PAUSED: RolloutState
ROLLOUT_STATE_HALTED: RolloutState
ROLLOUT_STATE_CANCELLING: RolloutState
ROLLOUT_STATE_CANCELLED: RolloutState
ROLLOUT_STATE_ROLLING_BACK: RolloutState
ROLLOUT_STATE_ROLLED_BACK: RolloutState
ROLLOUT_STATE_SUCCEEDED: RolloutState
ROLLOUT_STATE_FAILED: RolloutState
GATE_RESULT_UNSPECIFIED: GateResult
GATE_RESULT_PASS: GateResult
GATE_RESULT_FAIL: GateResult
GATE_RESULT_INCONCLUSIVE: GateResult
GATE_RESULT_ERROR: GateResult
LATE_NODES_UNSPECIFIED: LateNodes
LATE_NODES_IGNORE: LateNodes
LATE_NODES_LAST_WAVE: LateNodes
PROMOTION_UNSPECIFIED: Promotion
PROMOTION_AUTOMATIC: Promotion
PROMOTION_MANUAL: Promotion
PROMOTION_MANUAL_CANARY: Promotion

class Amount(_message.Message):
    __slots__ = ("count", "percent")
    COUNT_FIELD_NUMBER: _ClassVar[int]
    PERCENT_FIELD_NUMBER: _ClassVar[int]
    count: int
    percent: float
    def __init__(self, count: _Optional[int] = ..., percent: _Optional[float] = ...) -> None: ...

class RolloutSpec(_message.Message):
    __slots__ = ("name", "target", "selection", "canary", "waves", "late_nodes", "budgets", "rollback", "gates", "bake", "promotion", "retries", "timeouts", "schedule", "method", "silence_lease", "proceed_lease", "health_hold", "acknowledge_timeout")
    NAME_FIELD_NUMBER: _ClassVar[int]
    TARGET_FIELD_NUMBER: _ClassVar[int]
    SELECTION_FIELD_NUMBER: _ClassVar[int]
    CANARY_FIELD_NUMBER: _ClassVar[int]
    WAVES_FIELD_NUMBER: _ClassVar[int]
    LATE_NODES_FIELD_NUMBER: _ClassVar[int]
    BUDGETS_FIELD_NUMBER: _ClassVar[int]
    ROLLBACK_FIELD_NUMBER: _ClassVar[int]
    GATES_FIELD_NUMBER: _ClassVar[int]
    BAKE_FIELD_NUMBER: _ClassVar[int]
    PROMOTION_FIELD_NUMBER: _ClassVar[int]
    RETRIES_FIELD_NUMBER: _ClassVar[int]
    TIMEOUTS_FIELD_NUMBER: _ClassVar[int]
    SCHEDULE_FIELD_NUMBER: _ClassVar[int]
    METHOD_FIELD_NUMBER: _ClassVar[int]
    SILENCE_LEASE_FIELD_NUMBER: _ClassVar[int]
    PROCEED_LEASE_FIELD_NUMBER: _ClassVar[int]
    HEALTH_HOLD_FIELD_NUMBER: _ClassVar[int]
    ACKNOWLEDGE_TIMEOUT_FIELD_NUMBER: _ClassVar[int]
    name: str
    target: Target
    selection: Selection
    canary: Canary
    waves: _containers.RepeatedCompositeFieldContainer[Wave]
    late_nodes: LateNodes
    budgets: Budgets
    rollback: RollbackPolicy
    gates: _containers.RepeatedCompositeFieldContainer[Gate]
    bake: Bake
    promotion: Promotion
    retries: _containers.RepeatedCompositeFieldContainer[RetryRule]
    timeouts: _common_pb2.StepTimeouts
    schedule: Schedule
    method: _common_pb2.UpdateMethod
    silence_lease: _duration_pb2.Duration
    proceed_lease: _duration_pb2.Duration
    health_hold: _duration_pb2.Duration
    acknowledge_timeout: _duration_pb2.Duration
    def __init__(self, name: _Optional[str] = ..., target: _Optional[_Union[Target, _Mapping]] = ..., selection: _Optional[_Union[Selection, _Mapping]] = ..., canary: _Optional[_Union[Canary, _Mapping]] = ..., waves: _Optional[_Iterable[_Union[Wave, _Mapping]]] = ..., late_nodes: _Optional[_Union[LateNodes, str]] = ..., budgets: _Optional[_Union[Budgets, _Mapping]] = ..., rollback: _Optional[_Union[RollbackPolicy, _Mapping]] = ..., gates: _Optional[_Iterable[_Union[Gate, _Mapping]]] = ..., bake: _Optional[_Union[Bake, _Mapping]] = ..., promotion: _Optional[_Union[Promotion, str]] = ..., retries: _Optional[_Iterable[_Union[RetryRule, _Mapping]]] = ..., timeouts: _Optional[_Union[_common_pb2.StepTimeouts, _Mapping]] = ..., schedule: _Optional[_Union[Schedule, _Mapping]] = ..., method: _Optional[_Union[_common_pb2.UpdateMethod, str]] = ..., silence_lease: _Optional[_Union[datetime.timedelta, _duration_pb2.Duration, _Mapping]] = ..., proceed_lease: _Optional[_Union[datetime.timedelta, _duration_pb2.Duration, _Mapping]] = ..., health_hold: _Optional[_Union[datetime.timedelta, _duration_pb2.Duration, _Mapping]] = ..., acknowledge_timeout: _Optional[_Union[datetime.timedelta, _duration_pb2.Duration, _Mapping]] = ...) -> None: ...

class Target(_message.Message):
    __slots__ = ("artifact", "command_line_remove", "command_line_append")
    ARTIFACT_FIELD_NUMBER: _ClassVar[int]
    COMMAND_LINE_REMOVE_FIELD_NUMBER: _ClassVar[int]
    COMMAND_LINE_APPEND_FIELD_NUMBER: _ClassVar[int]
    artifact: str
    command_line_remove: _containers.RepeatedScalarFieldContainer[str]
    command_line_append: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, artifact: _Optional[str] = ..., command_line_remove: _Optional[_Iterable[str]] = ..., command_line_append: _Optional[_Iterable[str]] = ...) -> None: ...

class Selection(_message.Message):
    __slots__ = ("selector", "nodes", "exclude")
    SELECTOR_FIELD_NUMBER: _ClassVar[int]
    NODES_FIELD_NUMBER: _ClassVar[int]
    EXCLUDE_FIELD_NUMBER: _ClassVar[int]
    selector: str
    nodes: _containers.RepeatedScalarFieldContainer[str]
    exclude: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, selector: _Optional[str] = ..., nodes: _Optional[_Iterable[str]] = ..., exclude: _Optional[_Iterable[str]] = ...) -> None: ...

class Canary(_message.Message):
    __slots__ = ("max_nodes", "nodes")
    MAX_NODES_FIELD_NUMBER: _ClassVar[int]
    NODES_FIELD_NUMBER: _ClassVar[int]
    max_nodes: int
    nodes: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, max_nodes: _Optional[int] = ..., nodes: _Optional[_Iterable[str]] = ...) -> None: ...

class Wave(_message.Message):
    __slots__ = ("name", "size", "selector")
    NAME_FIELD_NUMBER: _ClassVar[int]
    SIZE_FIELD_NUMBER: _ClassVar[int]
    SELECTOR_FIELD_NUMBER: _ClassVar[int]
    name: str
    size: Amount
    selector: str
    def __init__(self, name: _Optional[str] = ..., size: _Optional[_Union[Amount, _Mapping]] = ..., selector: _Optional[str] = ...) -> None: ...

class Budgets(_message.Message):
    __slots__ = ("max_unavailable", "max_in_blackout", "max_uncommitted", "domain", "failures")
    MAX_UNAVAILABLE_FIELD_NUMBER: _ClassVar[int]
    MAX_IN_BLACKOUT_FIELD_NUMBER: _ClassVar[int]
    MAX_UNCOMMITTED_FIELD_NUMBER: _ClassVar[int]
    DOMAIN_FIELD_NUMBER: _ClassVar[int]
    FAILURES_FIELD_NUMBER: _ClassVar[int]
    max_unavailable: Amount
    max_in_blackout: Amount
    max_uncommitted: Amount
    domain: DomainBudget
    failures: FailureBudget
    def __init__(self, max_unavailable: _Optional[_Union[Amount, _Mapping]] = ..., max_in_blackout: _Optional[_Union[Amount, _Mapping]] = ..., max_uncommitted: _Optional[_Union[Amount, _Mapping]] = ..., domain: _Optional[_Union[DomainBudget, _Mapping]] = ..., failures: _Optional[_Union[FailureBudget, _Mapping]] = ...) -> None: ...

class DomainBudget(_message.Message):
    __slots__ = ("key", "max_unavailable")
    KEY_FIELD_NUMBER: _ClassVar[int]
    MAX_UNAVAILABLE_FIELD_NUMBER: _ClassVar[int]
    key: str
    max_unavailable: Amount
    def __init__(self, key: _Optional[str] = ..., max_unavailable: _Optional[_Union[Amount, _Mapping]] = ...) -> None: ...

class FailureBudget(_message.Message):
    __slots__ = ("max", "halt_on")
    MAX_FIELD_NUMBER: _ClassVar[int]
    HALT_ON_FIELD_NUMBER: _ClassVar[int]
    max: Amount
    halt_on: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, max: _Optional[_Union[Amount, _Mapping]] = ..., halt_on: _Optional[_Iterable[str]] = ...) -> None: ...

class RollbackPolicy(_message.Message):
    __slots__ = ("none", "max_unavailable", "max_in_blackout")
    NONE_FIELD_NUMBER: _ClassVar[int]
    MAX_UNAVAILABLE_FIELD_NUMBER: _ClassVar[int]
    MAX_IN_BLACKOUT_FIELD_NUMBER: _ClassVar[int]
    none: bool
    max_unavailable: Amount
    max_in_blackout: Amount
    def __init__(self, none: _Optional[bool] = ..., max_unavailable: _Optional[_Union[Amount, _Mapping]] = ..., max_in_blackout: _Optional[_Union[Amount, _Mapping]] = ...) -> None: ...

class Gate(_message.Message):
    __slots__ = ("blackout", "health", "on_fail")
    class Action(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
        __slots__ = ()
        ACTION_UNSPECIFIED: _ClassVar[Gate.Action]
        ACTION_HALT: _ClassVar[Gate.Action]
        ACTION_ROLL_BACK: _ClassVar[Gate.Action]
        ACTION_HOLD: _ClassVar[Gate.Action]
    ACTION_UNSPECIFIED: Gate.Action
    ACTION_HALT: Gate.Action
    ACTION_ROLL_BACK: Gate.Action
    ACTION_HOLD: Gate.Action
    BLACKOUT_FIELD_NUMBER: _ClassVar[int]
    HEALTH_FIELD_NUMBER: _ClassVar[int]
    ON_FAIL_FIELD_NUMBER: _ClassVar[int]
    blackout: BlackoutGate
    health: HealthGate
    on_fail: Gate.Action
    def __init__(self, blackout: _Optional[_Union[BlackoutGate, _Mapping]] = ..., health: _Optional[_Union[HealthGate, _Mapping]] = ..., on_fail: _Optional[_Union[Gate.Action, str]] = ...) -> None: ...

class BlackoutGate(_message.Message):
    __slots__ = ("quantile", "max", "hard_max", "min_samples")
    QUANTILE_FIELD_NUMBER: _ClassVar[int]
    MAX_FIELD_NUMBER: _ClassVar[int]
    HARD_MAX_FIELD_NUMBER: _ClassVar[int]
    MIN_SAMPLES_FIELD_NUMBER: _ClassVar[int]
    quantile: float
    max: _duration_pb2.Duration
    hard_max: _duration_pb2.Duration
    min_samples: int
    def __init__(self, quantile: _Optional[float] = ..., max: _Optional[_Union[datetime.timedelta, _duration_pb2.Duration, _Mapping]] = ..., hard_max: _Optional[_Union[datetime.timedelta, _duration_pb2.Duration, _Mapping]] = ..., min_samples: _Optional[int] = ...) -> None: ...

class HealthGate(_message.Message):
    __slots__ = ("min_healthy_percent",)
    MIN_HEALTHY_PERCENT_FIELD_NUMBER: _ClassVar[int]
    min_healthy_percent: float
    def __init__(self, min_healthy_percent: _Optional[float] = ...) -> None: ...

class Bake(_message.Message):
    __slots__ = ("node", "wave")
    NODE_FIELD_NUMBER: _ClassVar[int]
    WAVE_FIELD_NUMBER: _ClassVar[int]
    node: _duration_pb2.Duration
    wave: _duration_pb2.Duration
    def __init__(self, node: _Optional[_Union[datetime.timedelta, _duration_pb2.Duration, _Mapping]] = ..., wave: _Optional[_Union[datetime.timedelta, _duration_pb2.Duration, _Mapping]] = ...) -> None: ...

class RetryRule(_message.Message):
    __slots__ = ("retry", "attempts", "backoff", "max_backoff")
    RETRY_FIELD_NUMBER: _ClassVar[int]
    ATTEMPTS_FIELD_NUMBER: _ClassVar[int]
    BACKOFF_FIELD_NUMBER: _ClassVar[int]
    MAX_BACKOFF_FIELD_NUMBER: _ClassVar[int]
    retry: _common_pb2.RetryClass
    attempts: int
    backoff: _duration_pb2.Duration
    max_backoff: _duration_pb2.Duration
    def __init__(self, retry: _Optional[_Union[_common_pb2.RetryClass, str]] = ..., attempts: _Optional[int] = ..., backoff: _Optional[_Union[datetime.timedelta, _duration_pb2.Duration, _Mapping]] = ..., max_backoff: _Optional[_Union[datetime.timedelta, _duration_pb2.Duration, _Mapping]] = ...) -> None: ...

class Schedule(_message.Message):
    __slots__ = ("windows", "embargoes")
    WINDOWS_FIELD_NUMBER: _ClassVar[int]
    EMBARGOES_FIELD_NUMBER: _ClassVar[int]
    windows: _containers.RepeatedCompositeFieldContainer[Window]
    embargoes: _containers.RepeatedCompositeFieldContainer[Embargo]
    def __init__(self, windows: _Optional[_Iterable[_Union[Window, _Mapping]]] = ..., embargoes: _Optional[_Iterable[_Union[Embargo, _Mapping]]] = ...) -> None: ...

class Window(_message.Message):
    __slots__ = ("days", "start", "end", "time_zone")
    DAYS_FIELD_NUMBER: _ClassVar[int]
    START_FIELD_NUMBER: _ClassVar[int]
    END_FIELD_NUMBER: _ClassVar[int]
    TIME_ZONE_FIELD_NUMBER: _ClassVar[int]
    days: _containers.RepeatedScalarFieldContainer[str]
    start: str
    end: str
    time_zone: str
    def __init__(self, days: _Optional[_Iterable[str]] = ..., start: _Optional[str] = ..., end: _Optional[str] = ..., time_zone: _Optional[str] = ...) -> None: ...

class Embargo(_message.Message):
    __slots__ = ("start", "end", "reason")
    START_FIELD_NUMBER: _ClassVar[int]
    END_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    start: _timestamp_pb2.Timestamp
    end: _timestamp_pb2.Timestamp
    reason: str
    def __init__(self, start: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., end: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., reason: _Optional[str] = ...) -> None: ...

class Blocker(_message.Message):
    __slots__ = ("reason", "message", "remedy", "nodes", "node_count", "until", "wave")
    REASON_FIELD_NUMBER: _ClassVar[int]
    MESSAGE_FIELD_NUMBER: _ClassVar[int]
    REMEDY_FIELD_NUMBER: _ClassVar[int]
    NODES_FIELD_NUMBER: _ClassVar[int]
    NODE_COUNT_FIELD_NUMBER: _ClassVar[int]
    UNTIL_FIELD_NUMBER: _ClassVar[int]
    WAVE_FIELD_NUMBER: _ClassVar[int]
    reason: str
    message: str
    remedy: str
    nodes: _containers.RepeatedScalarFieldContainer[str]
    node_count: int
    until: _timestamp_pb2.Timestamp
    wave: str
    def __init__(self, reason: _Optional[str] = ..., message: _Optional[str] = ..., remedy: _Optional[str] = ..., nodes: _Optional[_Iterable[str]] = ..., node_count: _Optional[int] = ..., until: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., wave: _Optional[str] = ...) -> None: ...

class GateVerdict(_message.Message):
    __slots__ = ("gate", "result", "evidence", "wave")
    GATE_FIELD_NUMBER: _ClassVar[int]
    RESULT_FIELD_NUMBER: _ClassVar[int]
    EVIDENCE_FIELD_NUMBER: _ClassVar[int]
    WAVE_FIELD_NUMBER: _ClassVar[int]
    gate: str
    result: GateResult
    evidence: str
    wave: str
    def __init__(self, gate: _Optional[str] = ..., result: _Optional[_Union[GateResult, str]] = ..., evidence: _Optional[str] = ..., wave: _Optional[str] = ...) -> None: ...

class KernelPair(_message.Message):
    __slots__ = ("from_release", "to_release", "hardware_model", "nodes", "canary", "passed")
    FROM_RELEASE_FIELD_NUMBER: _ClassVar[int]
    TO_RELEASE_FIELD_NUMBER: _ClassVar[int]
    HARDWARE_MODEL_FIELD_NUMBER: _ClassVar[int]
    NODES_FIELD_NUMBER: _ClassVar[int]
    CANARY_FIELD_NUMBER: _ClassVar[int]
    PASSED_FIELD_NUMBER: _ClassVar[int]
    from_release: str
    to_release: str
    hardware_model: str
    nodes: int
    canary: str
    passed: bool
    def __init__(self, from_release: _Optional[str] = ..., to_release: _Optional[str] = ..., hardware_model: _Optional[str] = ..., nodes: _Optional[int] = ..., canary: _Optional[str] = ..., passed: _Optional[bool] = ...) -> None: ...

class WaveStatus(_message.Message):
    __slots__ = ("index", "name", "state", "members", "pending", "in_progress", "baking", "updated", "failed", "left_out", "rolled_back", "nodes")
    INDEX_FIELD_NUMBER: _ClassVar[int]
    NAME_FIELD_NUMBER: _ClassVar[int]
    STATE_FIELD_NUMBER: _ClassVar[int]
    MEMBERS_FIELD_NUMBER: _ClassVar[int]
    PENDING_FIELD_NUMBER: _ClassVar[int]
    IN_PROGRESS_FIELD_NUMBER: _ClassVar[int]
    BAKING_FIELD_NUMBER: _ClassVar[int]
    UPDATED_FIELD_NUMBER: _ClassVar[int]
    FAILED_FIELD_NUMBER: _ClassVar[int]
    LEFT_OUT_FIELD_NUMBER: _ClassVar[int]
    ROLLED_BACK_FIELD_NUMBER: _ClassVar[int]
    NODES_FIELD_NUMBER: _ClassVar[int]
    index: int
    name: str
    state: str
    members: int
    pending: int
    in_progress: int
    baking: int
    updated: int
    failed: int
    left_out: int
    rolled_back: int
    nodes: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, index: _Optional[int] = ..., name: _Optional[str] = ..., state: _Optional[str] = ..., members: _Optional[int] = ..., pending: _Optional[int] = ..., in_progress: _Optional[int] = ..., baking: _Optional[int] = ..., updated: _Optional[int] = ..., failed: _Optional[int] = ..., left_out: _Optional[int] = ..., rolled_back: _Optional[int] = ..., nodes: _Optional[_Iterable[str]] = ...) -> None: ...

class BudgetUse(_message.Message):
    __slots__ = ("budget", "limit", "used")
    BUDGET_FIELD_NUMBER: _ClassVar[int]
    LIMIT_FIELD_NUMBER: _ClassVar[int]
    USED_FIELD_NUMBER: _ClassVar[int]
    budget: str
    limit: int
    used: int
    def __init__(self, budget: _Optional[str] = ..., limit: _Optional[int] = ..., used: _Optional[int] = ...) -> None: ...

class VantageSummary(_message.Message):
    __slots__ = ("vantage", "samples", "rejected", "p50", "p99", "max", "uncertainty")
    VANTAGE_FIELD_NUMBER: _ClassVar[int]
    SAMPLES_FIELD_NUMBER: _ClassVar[int]
    REJECTED_FIELD_NUMBER: _ClassVar[int]
    P50_FIELD_NUMBER: _ClassVar[int]
    P99_FIELD_NUMBER: _ClassVar[int]
    MAX_FIELD_NUMBER: _ClassVar[int]
    UNCERTAINTY_FIELD_NUMBER: _ClassVar[int]
    vantage: _common_pb2.BlackoutSample.Vantage
    samples: int
    rejected: int
    p50: _duration_pb2.Duration
    p99: _duration_pb2.Duration
    max: _duration_pb2.Duration
    uncertainty: _duration_pb2.Duration
    def __init__(self, vantage: _Optional[_Union[_common_pb2.BlackoutSample.Vantage, str]] = ..., samples: _Optional[int] = ..., rejected: _Optional[int] = ..., p50: _Optional[_Union[datetime.timedelta, _duration_pb2.Duration, _Mapping]] = ..., p99: _Optional[_Union[datetime.timedelta, _duration_pb2.Duration, _Mapping]] = ..., max: _Optional[_Union[datetime.timedelta, _duration_pb2.Duration, _Mapping]] = ..., uncertainty: _Optional[_Union[datetime.timedelta, _duration_pb2.Duration, _Mapping]] = ...) -> None: ...

class BlackoutSummary(_message.Message):
    __slots__ = ("samples", "rejected", "p50", "p99", "max", "open", "emulated", "vantages")
    SAMPLES_FIELD_NUMBER: _ClassVar[int]
    REJECTED_FIELD_NUMBER: _ClassVar[int]
    P50_FIELD_NUMBER: _ClassVar[int]
    P99_FIELD_NUMBER: _ClassVar[int]
    MAX_FIELD_NUMBER: _ClassVar[int]
    OPEN_FIELD_NUMBER: _ClassVar[int]
    EMULATED_FIELD_NUMBER: _ClassVar[int]
    VANTAGES_FIELD_NUMBER: _ClassVar[int]
    samples: int
    rejected: int
    p50: _duration_pb2.Duration
    p99: _duration_pb2.Duration
    max: _duration_pb2.Duration
    open: int
    emulated: bool
    vantages: _containers.RepeatedCompositeFieldContainer[VantageSummary]
    def __init__(self, samples: _Optional[int] = ..., rejected: _Optional[int] = ..., p50: _Optional[_Union[datetime.timedelta, _duration_pb2.Duration, _Mapping]] = ..., p99: _Optional[_Union[datetime.timedelta, _duration_pb2.Duration, _Mapping]] = ..., max: _Optional[_Union[datetime.timedelta, _duration_pb2.Duration, _Mapping]] = ..., open: _Optional[int] = ..., emulated: _Optional[bool] = ..., vantages: _Optional[_Iterable[_Union[VantageSummary, _Mapping]]] = ...) -> None: ...

class Rollout(_message.Message):
    __slots__ = ("rollout_id", "spec", "state", "goal", "paused", "halted", "halt_reason", "create_time", "start_time", "end_time", "created_by", "waves", "current_wave", "budgets", "blockers", "gates", "pairs", "blackout", "retries", "memory_checks_passed", "memory_checks_failed", "uncommitted", "next_wake", "target_release", "revision", "members", "fleet_stopped", "pause_reason", "halt_message", "fleet_stop_reason")
    ROLLOUT_ID_FIELD_NUMBER: _ClassVar[int]
    SPEC_FIELD_NUMBER: _ClassVar[int]
    STATE_FIELD_NUMBER: _ClassVar[int]
    GOAL_FIELD_NUMBER: _ClassVar[int]
    PAUSED_FIELD_NUMBER: _ClassVar[int]
    HALTED_FIELD_NUMBER: _ClassVar[int]
    HALT_REASON_FIELD_NUMBER: _ClassVar[int]
    CREATE_TIME_FIELD_NUMBER: _ClassVar[int]
    START_TIME_FIELD_NUMBER: _ClassVar[int]
    END_TIME_FIELD_NUMBER: _ClassVar[int]
    CREATED_BY_FIELD_NUMBER: _ClassVar[int]
    WAVES_FIELD_NUMBER: _ClassVar[int]
    CURRENT_WAVE_FIELD_NUMBER: _ClassVar[int]
    BUDGETS_FIELD_NUMBER: _ClassVar[int]
    BLOCKERS_FIELD_NUMBER: _ClassVar[int]
    GATES_FIELD_NUMBER: _ClassVar[int]
    PAIRS_FIELD_NUMBER: _ClassVar[int]
    BLACKOUT_FIELD_NUMBER: _ClassVar[int]
    RETRIES_FIELD_NUMBER: _ClassVar[int]
    MEMORY_CHECKS_PASSED_FIELD_NUMBER: _ClassVar[int]
    MEMORY_CHECKS_FAILED_FIELD_NUMBER: _ClassVar[int]
    UNCOMMITTED_FIELD_NUMBER: _ClassVar[int]
    NEXT_WAKE_FIELD_NUMBER: _ClassVar[int]
    TARGET_RELEASE_FIELD_NUMBER: _ClassVar[int]
    REVISION_FIELD_NUMBER: _ClassVar[int]
    MEMBERS_FIELD_NUMBER: _ClassVar[int]
    FLEET_STOPPED_FIELD_NUMBER: _ClassVar[int]
    PAUSE_REASON_FIELD_NUMBER: _ClassVar[int]
    HALT_MESSAGE_FIELD_NUMBER: _ClassVar[int]
    FLEET_STOP_REASON_FIELD_NUMBER: _ClassVar[int]
    rollout_id: str
    spec: RolloutSpec
    state: RolloutState
    goal: str
    paused: bool
    halted: bool
    halt_reason: str
    create_time: _timestamp_pb2.Timestamp
    start_time: _timestamp_pb2.Timestamp
    end_time: _timestamp_pb2.Timestamp
    created_by: str
    waves: _containers.RepeatedCompositeFieldContainer[WaveStatus]
    current_wave: int
    budgets: _containers.RepeatedCompositeFieldContainer[BudgetUse]
    blockers: _containers.RepeatedCompositeFieldContainer[Blocker]
    gates: _containers.RepeatedCompositeFieldContainer[GateVerdict]
    pairs: _containers.RepeatedCompositeFieldContainer[KernelPair]
    blackout: BlackoutSummary
    retries: int
    memory_checks_passed: int
    memory_checks_failed: int
    uncommitted: _containers.RepeatedScalarFieldContainer[str]
    next_wake: _timestamp_pb2.Timestamp
    target_release: str
    revision: int
    members: int
    fleet_stopped: bool
    pause_reason: str
    halt_message: str
    fleet_stop_reason: str
    def __init__(self, rollout_id: _Optional[str] = ..., spec: _Optional[_Union[RolloutSpec, _Mapping]] = ..., state: _Optional[_Union[RolloutState, str]] = ..., goal: _Optional[str] = ..., paused: _Optional[bool] = ..., halted: _Optional[bool] = ..., halt_reason: _Optional[str] = ..., create_time: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., start_time: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., end_time: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., created_by: _Optional[str] = ..., waves: _Optional[_Iterable[_Union[WaveStatus, _Mapping]]] = ..., current_wave: _Optional[int] = ..., budgets: _Optional[_Iterable[_Union[BudgetUse, _Mapping]]] = ..., blockers: _Optional[_Iterable[_Union[Blocker, _Mapping]]] = ..., gates: _Optional[_Iterable[_Union[GateVerdict, _Mapping]]] = ..., pairs: _Optional[_Iterable[_Union[KernelPair, _Mapping]]] = ..., blackout: _Optional[_Union[BlackoutSummary, _Mapping]] = ..., retries: _Optional[int] = ..., memory_checks_passed: _Optional[int] = ..., memory_checks_failed: _Optional[int] = ..., uncommitted: _Optional[_Iterable[str]] = ..., next_wake: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., target_release: _Optional[str] = ..., revision: _Optional[int] = ..., members: _Optional[int] = ..., fleet_stopped: _Optional[bool] = ..., pause_reason: _Optional[str] = ..., halt_message: _Optional[str] = ..., fleet_stop_reason: _Optional[str] = ...) -> None: ...

class Node(_message.Message):
    __slots__ = ("node_id", "labels", "kernel_release", "hardware_model", "boot_id", "link", "link_changed_time", "phase", "attempt", "rollout", "healthy", "problem", "maintenance", "rollback_artifact", "staged_artifacts", "highest_generation", "capabilities", "agent_version", "desired", "written_off", "revision", "boot_verdict", "wave", "not_ready", "boot_by_hand")
    class LabelsEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: str
        def __init__(self, key: _Optional[str] = ..., value: _Optional[str] = ...) -> None: ...
    NODE_ID_FIELD_NUMBER: _ClassVar[int]
    LABELS_FIELD_NUMBER: _ClassVar[int]
    KERNEL_RELEASE_FIELD_NUMBER: _ClassVar[int]
    HARDWARE_MODEL_FIELD_NUMBER: _ClassVar[int]
    BOOT_ID_FIELD_NUMBER: _ClassVar[int]
    LINK_FIELD_NUMBER: _ClassVar[int]
    LINK_CHANGED_TIME_FIELD_NUMBER: _ClassVar[int]
    PHASE_FIELD_NUMBER: _ClassVar[int]
    ATTEMPT_FIELD_NUMBER: _ClassVar[int]
    ROLLOUT_FIELD_NUMBER: _ClassVar[int]
    HEALTHY_FIELD_NUMBER: _ClassVar[int]
    PROBLEM_FIELD_NUMBER: _ClassVar[int]
    MAINTENANCE_FIELD_NUMBER: _ClassVar[int]
    ROLLBACK_ARTIFACT_FIELD_NUMBER: _ClassVar[int]
    STAGED_ARTIFACTS_FIELD_NUMBER: _ClassVar[int]
    HIGHEST_GENERATION_FIELD_NUMBER: _ClassVar[int]
    CAPABILITIES_FIELD_NUMBER: _ClassVar[int]
    AGENT_VERSION_FIELD_NUMBER: _ClassVar[int]
    DESIRED_FIELD_NUMBER: _ClassVar[int]
    WRITTEN_OFF_FIELD_NUMBER: _ClassVar[int]
    REVISION_FIELD_NUMBER: _ClassVar[int]
    BOOT_VERDICT_FIELD_NUMBER: _ClassVar[int]
    WAVE_FIELD_NUMBER: _ClassVar[int]
    NOT_READY_FIELD_NUMBER: _ClassVar[int]
    BOOT_BY_HAND_FIELD_NUMBER: _ClassVar[int]
    node_id: str
    labels: _containers.ScalarMap[str, str]
    kernel_release: str
    hardware_model: str
    boot_id: str
    link: str
    link_changed_time: _timestamp_pb2.Timestamp
    phase: _common_pb2.Phase
    attempt: _common_pb2.AttemptRef
    rollout: str
    healthy: bool
    problem: _common_pb2.Problem
    maintenance: Maintenance
    rollback_artifact: str
    staged_artifacts: _containers.RepeatedScalarFieldContainer[str]
    highest_generation: int
    capabilities: _containers.RepeatedScalarFieldContainer[str]
    agent_version: str
    desired: str
    written_off: bool
    revision: int
    boot_verdict: _common_pb2.BootVerdict
    wave: str
    not_ready: _common_pb2.Problem
    boot_by_hand: bool
    def __init__(self, node_id: _Optional[str] = ..., labels: _Optional[_Mapping[str, str]] = ..., kernel_release: _Optional[str] = ..., hardware_model: _Optional[str] = ..., boot_id: _Optional[str] = ..., link: _Optional[str] = ..., link_changed_time: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., phase: _Optional[_Union[_common_pb2.Phase, str]] = ..., attempt: _Optional[_Union[_common_pb2.AttemptRef, _Mapping]] = ..., rollout: _Optional[str] = ..., healthy: _Optional[bool] = ..., problem: _Optional[_Union[_common_pb2.Problem, _Mapping]] = ..., maintenance: _Optional[_Union[Maintenance, _Mapping]] = ..., rollback_artifact: _Optional[str] = ..., staged_artifacts: _Optional[_Iterable[str]] = ..., highest_generation: _Optional[int] = ..., capabilities: _Optional[_Iterable[str]] = ..., agent_version: _Optional[str] = ..., desired: _Optional[str] = ..., written_off: _Optional[bool] = ..., revision: _Optional[int] = ..., boot_verdict: _Optional[_Union[_common_pb2.BootVerdict, str]] = ..., wave: _Optional[str] = ..., not_ready: _Optional[_Union[_common_pb2.Problem, _Mapping]] = ..., boot_by_hand: _Optional[bool] = ...) -> None: ...

class Maintenance(_message.Message):
    __slots__ = ("owner", "reason", "expire_time")
    OWNER_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    EXPIRE_TIME_FIELD_NUMBER: _ClassVar[int]
    owner: str
    reason: str
    expire_time: _timestamp_pb2.Timestamp
    def __init__(self, owner: _Optional[str] = ..., reason: _Optional[str] = ..., expire_time: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ...) -> None: ...

class Event(_message.Message):
    __slots__ = ("cursor", "seq", "time", "kind", "rollout", "node_id", "attempt", "actor", "cause", "message", "fields")
    class FieldsEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: str
        def __init__(self, key: _Optional[str] = ..., value: _Optional[str] = ...) -> None: ...
    CURSOR_FIELD_NUMBER: _ClassVar[int]
    SEQ_FIELD_NUMBER: _ClassVar[int]
    TIME_FIELD_NUMBER: _ClassVar[int]
    KIND_FIELD_NUMBER: _ClassVar[int]
    ROLLOUT_FIELD_NUMBER: _ClassVar[int]
    NODE_ID_FIELD_NUMBER: _ClassVar[int]
    ATTEMPT_FIELD_NUMBER: _ClassVar[int]
    ACTOR_FIELD_NUMBER: _ClassVar[int]
    CAUSE_FIELD_NUMBER: _ClassVar[int]
    MESSAGE_FIELD_NUMBER: _ClassVar[int]
    FIELDS_FIELD_NUMBER: _ClassVar[int]
    cursor: str
    seq: int
    time: _timestamp_pb2.Timestamp
    kind: str
    rollout: str
    node_id: str
    attempt: _common_pb2.AttemptRef
    actor: str
    cause: str
    message: str
    fields: _containers.ScalarMap[str, str]
    def __init__(self, cursor: _Optional[str] = ..., seq: _Optional[int] = ..., time: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., kind: _Optional[str] = ..., rollout: _Optional[str] = ..., node_id: _Optional[str] = ..., attempt: _Optional[_Union[_common_pb2.AttemptRef, _Mapping]] = ..., actor: _Optional[str] = ..., cause: _Optional[str] = ..., message: _Optional[str] = ..., fields: _Optional[_Mapping[str, str]] = ...) -> None: ...

class PlannedWave(_message.Message):
    __slots__ = ("name", "nodes")
    NAME_FIELD_NUMBER: _ClassVar[int]
    NODES_FIELD_NUMBER: _ClassVar[int]
    name: str
    nodes: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, name: _Optional[str] = ..., nodes: _Optional[_Iterable[str]] = ...) -> None: ...

class SkippedNode(_message.Message):
    __slots__ = ("node_id", "reason", "message", "waits")
    NODE_ID_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    MESSAGE_FIELD_NUMBER: _ClassVar[int]
    WAITS_FIELD_NUMBER: _ClassVar[int]
    node_id: str
    reason: str
    message: str
    waits: bool
    def __init__(self, node_id: _Optional[str] = ..., reason: _Optional[str] = ..., message: _Optional[str] = ..., waits: _Optional[bool] = ...) -> None: ...

class PlannedCommandLine(_message.Message):
    __slots__ = ("command_line", "nodes", "example_node")
    COMMAND_LINE_FIELD_NUMBER: _ClassVar[int]
    NODES_FIELD_NUMBER: _ClassVar[int]
    EXAMPLE_NODE_FIELD_NUMBER: _ClassVar[int]
    command_line: str
    nodes: int
    example_node: str
    def __init__(self, command_line: _Optional[str] = ..., nodes: _Optional[int] = ..., example_node: _Optional[str] = ...) -> None: ...

class RolloutPlan(_message.Message):
    __slots__ = ("waves", "pairs", "skipped", "budgets", "command_lines", "target_release", "artifact_digest", "members", "warnings")
    WAVES_FIELD_NUMBER: _ClassVar[int]
    PAIRS_FIELD_NUMBER: _ClassVar[int]
    SKIPPED_FIELD_NUMBER: _ClassVar[int]
    BUDGETS_FIELD_NUMBER: _ClassVar[int]
    COMMAND_LINES_FIELD_NUMBER: _ClassVar[int]
    TARGET_RELEASE_FIELD_NUMBER: _ClassVar[int]
    ARTIFACT_DIGEST_FIELD_NUMBER: _ClassVar[int]
    MEMBERS_FIELD_NUMBER: _ClassVar[int]
    WARNINGS_FIELD_NUMBER: _ClassVar[int]
    waves: _containers.RepeatedCompositeFieldContainer[PlannedWave]
    pairs: _containers.RepeatedCompositeFieldContainer[KernelPair]
    skipped: _containers.RepeatedCompositeFieldContainer[SkippedNode]
    budgets: _containers.RepeatedCompositeFieldContainer[BudgetUse]
    command_lines: _containers.RepeatedCompositeFieldContainer[PlannedCommandLine]
    target_release: str
    artifact_digest: str
    members: int
    warnings: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, waves: _Optional[_Iterable[_Union[PlannedWave, _Mapping]]] = ..., pairs: _Optional[_Iterable[_Union[KernelPair, _Mapping]]] = ..., skipped: _Optional[_Iterable[_Union[SkippedNode, _Mapping]]] = ..., budgets: _Optional[_Iterable[_Union[BudgetUse, _Mapping]]] = ..., command_lines: _Optional[_Iterable[_Union[PlannedCommandLine, _Mapping]]] = ..., target_release: _Optional[str] = ..., artifact_digest: _Optional[str] = ..., members: _Optional[int] = ..., warnings: _Optional[_Iterable[str]] = ...) -> None: ...

class CreateRolloutRequest(_message.Message):
    __slots__ = ("spec", "idempotency_key")
    SPEC_FIELD_NUMBER: _ClassVar[int]
    IDEMPOTENCY_KEY_FIELD_NUMBER: _ClassVar[int]
    spec: RolloutSpec
    idempotency_key: str
    def __init__(self, spec: _Optional[_Union[RolloutSpec, _Mapping]] = ..., idempotency_key: _Optional[str] = ...) -> None: ...

class CreateRolloutResponse(_message.Message):
    __slots__ = ("rollout",)
    ROLLOUT_FIELD_NUMBER: _ClassVar[int]
    rollout: Rollout
    def __init__(self, rollout: _Optional[_Union[Rollout, _Mapping]] = ...) -> None: ...

class PlanRolloutRequest(_message.Message):
    __slots__ = ("spec",)
    SPEC_FIELD_NUMBER: _ClassVar[int]
    spec: RolloutSpec
    def __init__(self, spec: _Optional[_Union[RolloutSpec, _Mapping]] = ...) -> None: ...

class PlanRolloutResponse(_message.Message):
    __slots__ = ("plan",)
    PLAN_FIELD_NUMBER: _ClassVar[int]
    plan: RolloutPlan
    def __init__(self, plan: _Optional[_Union[RolloutPlan, _Mapping]] = ...) -> None: ...

class GetRolloutRequest(_message.Message):
    __slots__ = ("rollout",)
    ROLLOUT_FIELD_NUMBER: _ClassVar[int]
    rollout: str
    def __init__(self, rollout: _Optional[str] = ...) -> None: ...

class GetRolloutResponse(_message.Message):
    __slots__ = ("rollout",)
    ROLLOUT_FIELD_NUMBER: _ClassVar[int]
    rollout: Rollout
    def __init__(self, rollout: _Optional[_Union[Rollout, _Mapping]] = ...) -> None: ...

class ListRolloutsRequest(_message.Message):
    __slots__ = ("active_only", "page_size", "page_token")
    ACTIVE_ONLY_FIELD_NUMBER: _ClassVar[int]
    PAGE_SIZE_FIELD_NUMBER: _ClassVar[int]
    PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    active_only: bool
    page_size: int
    page_token: str
    def __init__(self, active_only: _Optional[bool] = ..., page_size: _Optional[int] = ..., page_token: _Optional[str] = ...) -> None: ...

class ListRolloutsResponse(_message.Message):
    __slots__ = ("rollouts", "next_page_token")
    ROLLOUTS_FIELD_NUMBER: _ClassVar[int]
    NEXT_PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    rollouts: _containers.RepeatedCompositeFieldContainer[Rollout]
    next_page_token: str
    def __init__(self, rollouts: _Optional[_Iterable[_Union[Rollout, _Mapping]]] = ..., next_page_token: _Optional[str] = ...) -> None: ...

class WatchRolloutRequest(_message.Message):
    __slots__ = ("rollout", "cursor")
    ROLLOUT_FIELD_NUMBER: _ClassVar[int]
    CURSOR_FIELD_NUMBER: _ClassVar[int]
    rollout: str
    cursor: str
    def __init__(self, rollout: _Optional[str] = ..., cursor: _Optional[str] = ...) -> None: ...

class WatchRolloutResponse(_message.Message):
    __slots__ = ("rollout", "events", "cursor")
    ROLLOUT_FIELD_NUMBER: _ClassVar[int]
    EVENTS_FIELD_NUMBER: _ClassVar[int]
    CURSOR_FIELD_NUMBER: _ClassVar[int]
    rollout: Rollout
    events: _containers.RepeatedCompositeFieldContainer[Event]
    cursor: str
    def __init__(self, rollout: _Optional[_Union[Rollout, _Mapping]] = ..., events: _Optional[_Iterable[_Union[Event, _Mapping]]] = ..., cursor: _Optional[str] = ...) -> None: ...

class PauseRolloutRequest(_message.Message):
    __slots__ = ("rollout", "reason", "idempotency_key")
    ROLLOUT_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    IDEMPOTENCY_KEY_FIELD_NUMBER: _ClassVar[int]
    rollout: str
    reason: str
    idempotency_key: str
    def __init__(self, rollout: _Optional[str] = ..., reason: _Optional[str] = ..., idempotency_key: _Optional[str] = ...) -> None: ...

class PauseRolloutResponse(_message.Message):
    __slots__ = ("rollout",)
    ROLLOUT_FIELD_NUMBER: _ClassVar[int]
    rollout: Rollout
    def __init__(self, rollout: _Optional[_Union[Rollout, _Mapping]] = ...) -> None: ...

class ResumeRolloutRequest(_message.Message):
    __slots__ = ("rollout", "reason", "clear_halt", "idempotency_key")
    ROLLOUT_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    CLEAR_HALT_FIELD_NUMBER: _ClassVar[int]
    IDEMPOTENCY_KEY_FIELD_NUMBER: _ClassVar[int]
    rollout: str
    reason: str
    clear_halt: bool
    idempotency_key: str
    def __init__(self, rollout: _Optional[str] = ..., reason: _Optional[str] = ..., clear_halt: _Optional[bool] = ..., idempotency_key: _Optional[str] = ...) -> None: ...

class ResumeRolloutResponse(_message.Message):
    __slots__ = ("rollout",)
    ROLLOUT_FIELD_NUMBER: _ClassVar[int]
    rollout: Rollout
    def __init__(self, rollout: _Optional[_Union[Rollout, _Mapping]] = ...) -> None: ...

class ApproveRolloutRequest(_message.Message):
    __slots__ = ("rollout", "wave", "remark", "idempotency_key")
    ROLLOUT_FIELD_NUMBER: _ClassVar[int]
    WAVE_FIELD_NUMBER: _ClassVar[int]
    REMARK_FIELD_NUMBER: _ClassVar[int]
    IDEMPOTENCY_KEY_FIELD_NUMBER: _ClassVar[int]
    rollout: str
    wave: str
    remark: str
    idempotency_key: str
    def __init__(self, rollout: _Optional[str] = ..., wave: _Optional[str] = ..., remark: _Optional[str] = ..., idempotency_key: _Optional[str] = ...) -> None: ...

class ApproveRolloutResponse(_message.Message):
    __slots__ = ("rollout",)
    ROLLOUT_FIELD_NUMBER: _ClassVar[int]
    rollout: Rollout
    def __init__(self, rollout: _Optional[_Union[Rollout, _Mapping]] = ...) -> None: ...

class CancelRolloutRequest(_message.Message):
    __slots__ = ("rollout", "reason", "roll_back", "idempotency_key")
    ROLLOUT_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    ROLL_BACK_FIELD_NUMBER: _ClassVar[int]
    IDEMPOTENCY_KEY_FIELD_NUMBER: _ClassVar[int]
    rollout: str
    reason: str
    roll_back: bool
    idempotency_key: str
    def __init__(self, rollout: _Optional[str] = ..., reason: _Optional[str] = ..., roll_back: _Optional[bool] = ..., idempotency_key: _Optional[str] = ...) -> None: ...

class CancelRolloutResponse(_message.Message):
    __slots__ = ("rollout",)
    ROLLOUT_FIELD_NUMBER: _ClassVar[int]
    rollout: Rollout
    def __init__(self, rollout: _Optional[_Union[Rollout, _Mapping]] = ...) -> None: ...

class RollBackRolloutRequest(_message.Message):
    __slots__ = ("rollout", "reason", "idempotency_key")
    ROLLOUT_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    IDEMPOTENCY_KEY_FIELD_NUMBER: _ClassVar[int]
    rollout: str
    reason: str
    idempotency_key: str
    def __init__(self, rollout: _Optional[str] = ..., reason: _Optional[str] = ..., idempotency_key: _Optional[str] = ...) -> None: ...

class RollBackRolloutResponse(_message.Message):
    __slots__ = ("rollout",)
    ROLLOUT_FIELD_NUMBER: _ClassVar[int]
    rollout: Rollout
    def __init__(self, rollout: _Optional[_Union[Rollout, _Mapping]] = ...) -> None: ...

class CommitNodesRequest(_message.Message):
    __slots__ = ("rollout", "nodes", "reason", "idempotency_key")
    ROLLOUT_FIELD_NUMBER: _ClassVar[int]
    NODES_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    IDEMPOTENCY_KEY_FIELD_NUMBER: _ClassVar[int]
    rollout: str
    nodes: _containers.RepeatedScalarFieldContainer[str]
    reason: str
    idempotency_key: str
    def __init__(self, rollout: _Optional[str] = ..., nodes: _Optional[_Iterable[str]] = ..., reason: _Optional[str] = ..., idempotency_key: _Optional[str] = ...) -> None: ...

class CommitNodesResponse(_message.Message):
    __slots__ = ("nodes",)
    NODES_FIELD_NUMBER: _ClassVar[int]
    nodes: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, nodes: _Optional[_Iterable[str]] = ...) -> None: ...

class RetryNodesRequest(_message.Message):
    __slots__ = ("rollout", "nodes", "reason", "idempotency_key")
    ROLLOUT_FIELD_NUMBER: _ClassVar[int]
    NODES_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    IDEMPOTENCY_KEY_FIELD_NUMBER: _ClassVar[int]
    rollout: str
    nodes: _containers.RepeatedScalarFieldContainer[str]
    reason: str
    idempotency_key: str
    def __init__(self, rollout: _Optional[str] = ..., nodes: _Optional[_Iterable[str]] = ..., reason: _Optional[str] = ..., idempotency_key: _Optional[str] = ...) -> None: ...

class RetryNodesResponse(_message.Message):
    __slots__ = ("nodes",)
    NODES_FIELD_NUMBER: _ClassVar[int]
    nodes: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, nodes: _Optional[_Iterable[str]] = ...) -> None: ...

class ExcludeNodesRequest(_message.Message):
    __slots__ = ("rollout", "nodes", "reason", "idempotency_key")
    ROLLOUT_FIELD_NUMBER: _ClassVar[int]
    NODES_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    IDEMPOTENCY_KEY_FIELD_NUMBER: _ClassVar[int]
    rollout: str
    nodes: _containers.RepeatedScalarFieldContainer[str]
    reason: str
    idempotency_key: str
    def __init__(self, rollout: _Optional[str] = ..., nodes: _Optional[_Iterable[str]] = ..., reason: _Optional[str] = ..., idempotency_key: _Optional[str] = ...) -> None: ...

class ExcludeNodesResponse(_message.Message):
    __slots__ = ("rollout",)
    ROLLOUT_FIELD_NUMBER: _ClassVar[int]
    rollout: Rollout
    def __init__(self, rollout: _Optional[_Union[Rollout, _Mapping]] = ...) -> None: ...

class WriteOffRequest(_message.Message):
    __slots__ = ("nodes", "reason", "idempotency_key")
    NODES_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    IDEMPOTENCY_KEY_FIELD_NUMBER: _ClassVar[int]
    nodes: _containers.RepeatedScalarFieldContainer[str]
    reason: str
    idempotency_key: str
    def __init__(self, nodes: _Optional[_Iterable[str]] = ..., reason: _Optional[str] = ..., idempotency_key: _Optional[str] = ...) -> None: ...

class WriteOffResponse(_message.Message):
    __slots__ = ("nodes",)
    NODES_FIELD_NUMBER: _ClassVar[int]
    nodes: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, nodes: _Optional[_Iterable[str]] = ...) -> None: ...

class FleetStopRequest(_message.Message):
    __slots__ = ("stop", "reason", "idempotency_key", "accept_differences")
    STOP_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    IDEMPOTENCY_KEY_FIELD_NUMBER: _ClassVar[int]
    ACCEPT_DIFFERENCES_FIELD_NUMBER: _ClassVar[int]
    stop: bool
    reason: str
    idempotency_key: str
    accept_differences: bool
    def __init__(self, stop: _Optional[bool] = ..., reason: _Optional[str] = ..., idempotency_key: _Optional[str] = ..., accept_differences: _Optional[bool] = ...) -> None: ...

class FleetStopResponse(_message.Message):
    __slots__ = ("stopped", "reason")
    STOPPED_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    stopped: bool
    reason: str
    def __init__(self, stopped: _Optional[bool] = ..., reason: _Optional[str] = ...) -> None: ...

class Difference(_message.Message):
    __slots__ = ("node_id", "notice_time", "evidence", "store", "node", "phase", "outlook", "message", "remedy", "rollout")
    NODE_ID_FIELD_NUMBER: _ClassVar[int]
    NOTICE_TIME_FIELD_NUMBER: _ClassVar[int]
    EVIDENCE_FIELD_NUMBER: _ClassVar[int]
    STORE_FIELD_NUMBER: _ClassVar[int]
    NODE_FIELD_NUMBER: _ClassVar[int]
    PHASE_FIELD_NUMBER: _ClassVar[int]
    OUTLOOK_FIELD_NUMBER: _ClassVar[int]
    MESSAGE_FIELD_NUMBER: _ClassVar[int]
    REMEDY_FIELD_NUMBER: _ClassVar[int]
    ROLLOUT_FIELD_NUMBER: _ClassVar[int]
    node_id: str
    notice_time: _timestamp_pb2.Timestamp
    evidence: str
    store: NodeMemory
    node: NodeMemory
    phase: _common_pb2.Phase
    outlook: str
    message: str
    remedy: str
    rollout: str
    def __init__(self, node_id: _Optional[str] = ..., notice_time: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., evidence: _Optional[str] = ..., store: _Optional[_Union[NodeMemory, _Mapping]] = ..., node: _Optional[_Union[NodeMemory, _Mapping]] = ..., phase: _Optional[_Union[_common_pb2.Phase, str]] = ..., outlook: _Optional[str] = ..., message: _Optional[str] = ..., remedy: _Optional[str] = ..., rollout: _Optional[str] = ...) -> None: ...

class NodeMemory(_message.Message):
    __slots__ = ("incarnation", "highest_generation", "attempt", "phase", "kernel_release")
    INCARNATION_FIELD_NUMBER: _ClassVar[int]
    HIGHEST_GENERATION_FIELD_NUMBER: _ClassVar[int]
    ATTEMPT_FIELD_NUMBER: _ClassVar[int]
    PHASE_FIELD_NUMBER: _ClassVar[int]
    KERNEL_RELEASE_FIELD_NUMBER: _ClassVar[int]
    incarnation: str
    highest_generation: int
    attempt: int
    phase: _common_pb2.Phase
    kernel_release: str
    def __init__(self, incarnation: _Optional[str] = ..., highest_generation: _Optional[int] = ..., attempt: _Optional[int] = ..., phase: _Optional[_Union[_common_pb2.Phase, str]] = ..., kernel_release: _Optional[str] = ...) -> None: ...

class ListDifferencesRequest(_message.Message):
    __slots__ = ("page_size", "page_token")
    PAGE_SIZE_FIELD_NUMBER: _ClassVar[int]
    PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    page_size: int
    page_token: str
    def __init__(self, page_size: _Optional[int] = ..., page_token: _Optional[str] = ...) -> None: ...

class ListDifferencesResponse(_message.Message):
    __slots__ = ("differences", "next_page_token", "unheard", "unheard_count", "difference_count", "node_count", "stopped", "stop_reason")
    DIFFERENCES_FIELD_NUMBER: _ClassVar[int]
    NEXT_PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    UNHEARD_FIELD_NUMBER: _ClassVar[int]
    UNHEARD_COUNT_FIELD_NUMBER: _ClassVar[int]
    DIFFERENCE_COUNT_FIELD_NUMBER: _ClassVar[int]
    NODE_COUNT_FIELD_NUMBER: _ClassVar[int]
    STOPPED_FIELD_NUMBER: _ClassVar[int]
    STOP_REASON_FIELD_NUMBER: _ClassVar[int]
    differences: _containers.RepeatedCompositeFieldContainer[Difference]
    next_page_token: str
    unheard: _containers.RepeatedScalarFieldContainer[str]
    unheard_count: int
    difference_count: int
    node_count: int
    stopped: bool
    stop_reason: str
    def __init__(self, differences: _Optional[_Iterable[_Union[Difference, _Mapping]]] = ..., next_page_token: _Optional[str] = ..., unheard: _Optional[_Iterable[str]] = ..., unheard_count: _Optional[int] = ..., difference_count: _Optional[int] = ..., node_count: _Optional[int] = ..., stopped: _Optional[bool] = ..., stop_reason: _Optional[str] = ...) -> None: ...

class ListNodesRequest(_message.Message):
    __slots__ = ("selector", "rollout", "page_size", "page_token")
    SELECTOR_FIELD_NUMBER: _ClassVar[int]
    ROLLOUT_FIELD_NUMBER: _ClassVar[int]
    PAGE_SIZE_FIELD_NUMBER: _ClassVar[int]
    PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    selector: str
    rollout: str
    page_size: int
    page_token: str
    def __init__(self, selector: _Optional[str] = ..., rollout: _Optional[str] = ..., page_size: _Optional[int] = ..., page_token: _Optional[str] = ...) -> None: ...

class ListNodesResponse(_message.Message):
    __slots__ = ("nodes", "next_page_token")
    NODES_FIELD_NUMBER: _ClassVar[int]
    NEXT_PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    nodes: _containers.RepeatedCompositeFieldContainer[Node]
    next_page_token: str
    def __init__(self, nodes: _Optional[_Iterable[_Union[Node, _Mapping]]] = ..., next_page_token: _Optional[str] = ...) -> None: ...

class GetNodeRequest(_message.Message):
    __slots__ = ("node_id",)
    NODE_ID_FIELD_NUMBER: _ClassVar[int]
    node_id: str
    def __init__(self, node_id: _Optional[str] = ...) -> None: ...

class GetNodeResponse(_message.Message):
    __slots__ = ("node",)
    NODE_FIELD_NUMBER: _ClassVar[int]
    node: Node
    def __init__(self, node: _Optional[_Union[Node, _Mapping]] = ...) -> None: ...

class WatchNodesRequest(_message.Message):
    __slots__ = ("selector", "rollout")
    SELECTOR_FIELD_NUMBER: _ClassVar[int]
    ROLLOUT_FIELD_NUMBER: _ClassVar[int]
    selector: str
    rollout: str
    def __init__(self, selector: _Optional[str] = ..., rollout: _Optional[str] = ...) -> None: ...

class WatchNodesResponse(_message.Message):
    __slots__ = ("nodes",)
    NODES_FIELD_NUMBER: _ClassVar[int]
    nodes: _containers.RepeatedCompositeFieldContainer[Node]
    def __init__(self, nodes: _Optional[_Iterable[_Union[Node, _Mapping]]] = ...) -> None: ...

class SetMaintenanceRequest(_message.Message):
    __slots__ = ("nodes", "maintenance", "idempotency_key")
    NODES_FIELD_NUMBER: _ClassVar[int]
    MAINTENANCE_FIELD_NUMBER: _ClassVar[int]
    IDEMPOTENCY_KEY_FIELD_NUMBER: _ClassVar[int]
    nodes: _containers.RepeatedScalarFieldContainer[str]
    maintenance: Maintenance
    idempotency_key: str
    def __init__(self, nodes: _Optional[_Iterable[str]] = ..., maintenance: _Optional[_Union[Maintenance, _Mapping]] = ..., idempotency_key: _Optional[str] = ...) -> None: ...

class SetMaintenanceResponse(_message.Message):
    __slots__ = ("nodes",)
    NODES_FIELD_NUMBER: _ClassVar[int]
    nodes: _containers.RepeatedCompositeFieldContainer[Node]
    def __init__(self, nodes: _Optional[_Iterable[_Union[Node, _Mapping]]] = ...) -> None: ...

class ListEventsRequest(_message.Message):
    __slots__ = ("cursor", "rollout", "node_id", "follow", "limit", "kinds", "actor", "since_time", "until_cursor", "until_time", "progress")
    CURSOR_FIELD_NUMBER: _ClassVar[int]
    ROLLOUT_FIELD_NUMBER: _ClassVar[int]
    NODE_ID_FIELD_NUMBER: _ClassVar[int]
    FOLLOW_FIELD_NUMBER: _ClassVar[int]
    LIMIT_FIELD_NUMBER: _ClassVar[int]
    KINDS_FIELD_NUMBER: _ClassVar[int]
    ACTOR_FIELD_NUMBER: _ClassVar[int]
    SINCE_TIME_FIELD_NUMBER: _ClassVar[int]
    UNTIL_CURSOR_FIELD_NUMBER: _ClassVar[int]
    UNTIL_TIME_FIELD_NUMBER: _ClassVar[int]
    PROGRESS_FIELD_NUMBER: _ClassVar[int]
    cursor: str
    rollout: str
    node_id: str
    follow: bool
    limit: int
    kinds: _containers.RepeatedScalarFieldContainer[str]
    actor: str
    since_time: _timestamp_pb2.Timestamp
    until_cursor: str
    until_time: _timestamp_pb2.Timestamp
    progress: bool
    def __init__(self, cursor: _Optional[str] = ..., rollout: _Optional[str] = ..., node_id: _Optional[str] = ..., follow: _Optional[bool] = ..., limit: _Optional[int] = ..., kinds: _Optional[_Iterable[str]] = ..., actor: _Optional[str] = ..., since_time: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., until_cursor: _Optional[str] = ..., until_time: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., progress: _Optional[bool] = ...) -> None: ...

class ListEventsResponse(_message.Message):
    __slots__ = ("events", "cursor")
    EVENTS_FIELD_NUMBER: _ClassVar[int]
    CURSOR_FIELD_NUMBER: _ClassVar[int]
    events: _containers.RepeatedCompositeFieldContainer[Event]
    cursor: str
    def __init__(self, events: _Optional[_Iterable[_Union[Event, _Mapping]]] = ..., cursor: _Optional[str] = ...) -> None: ...

class ExplainRequest(_message.Message):
    __slots__ = ("rollout", "node_id")
    ROLLOUT_FIELD_NUMBER: _ClassVar[int]
    NODE_ID_FIELD_NUMBER: _ClassVar[int]
    rollout: str
    node_id: str
    def __init__(self, rollout: _Optional[str] = ..., node_id: _Optional[str] = ...) -> None: ...

class ExplainResponse(_message.Message):
    __slots__ = ("summary", "blockers", "gates", "next_wake")
    SUMMARY_FIELD_NUMBER: _ClassVar[int]
    BLOCKERS_FIELD_NUMBER: _ClassVar[int]
    GATES_FIELD_NUMBER: _ClassVar[int]
    NEXT_WAKE_FIELD_NUMBER: _ClassVar[int]
    summary: str
    blockers: _containers.RepeatedCompositeFieldContainer[Blocker]
    gates: _containers.RepeatedCompositeFieldContainer[GateVerdict]
    next_wake: _timestamp_pb2.Timestamp
    def __init__(self, summary: _Optional[str] = ..., blockers: _Optional[_Iterable[_Union[Blocker, _Mapping]]] = ..., gates: _Optional[_Iterable[_Union[GateVerdict, _Mapping]]] = ..., next_wake: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ...) -> None: ...
