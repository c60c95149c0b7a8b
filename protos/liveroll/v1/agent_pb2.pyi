import datetime

from google.protobuf import duration_pb2 as _duration_pb2
from liveroll.v1 import common_pb2 as _common_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class LinkRequest(_message.Message):
    __slots__ = ("hello", "heartbeat", "report", "reports")
    HELLO_FIELD_NUMBER: _ClassVar[int]
    HEARTBEAT_FIELD_NUMBER: _ClassVar[int]
    REPORT_FIELD_NUMBER: _ClassVar[int]
    REPORTS_FIELD_NUMBER: _ClassVar[int]
    hello: Hello
    heartbeat: Heartbeat
    report: Report
    reports: ReportBatch
    def __init__(self, hello: _Optional[_Union[Hello, _Mapping]] = ..., heartbeat: _Optional[_Union[Heartbeat, _Mapping]] = ..., report: _Optional[_Union[Report, _Mapping]] = ..., reports: _Optional[_Union[ReportBatch, _Mapping]] = ...) -> None: ...

class ReportBatch(_message.Message):
    __slots__ = ("reports",)
    REPORTS_FIELD_NUMBER: _ClassVar[int]
    reports: _containers.RepeatedCompositeFieldContainer[Report]
    def __init__(self, reports: _Optional[_Iterable[_Union[Report, _Mapping]]] = ...) -> None: ...

class LinkResponse(_message.Message):
    __slots__ = ("welcome", "command", "ack")
    WELCOME_FIELD_NUMBER: _ClassVar[int]
    COMMAND_FIELD_NUMBER: _ClassVar[int]
    ACK_FIELD_NUMBER: _ClassVar[int]
    welcome: Welcome
    command: Command
    ack: Ack
    def __init__(self, welcome: _Optional[_Union[Welcome, _Mapping]] = ..., command: _Optional[_Union[Command, _Mapping]] = ..., ack: _Optional[_Union[Ack, _Mapping]] = ...) -> None: ...

class Hello(_message.Message):
    __slots__ = ("node_id", "installation_id", "boot_id", "kernel_release", "hardware_model", "capabilities", "labels", "highest_generation", "highest_incarnation", "status", "boot_verdict", "agent_version", "staged_artifacts", "rollback_artifact", "command_line", "highest_incarnation_serial", "acknowledged_seq", "attempt_memory", "other_luo")
    class LabelsEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: str
        def __init__(self, key: _Optional[str] = ..., value: _Optional[str] = ...) -> None: ...
    NODE_ID_FIELD_NUMBER: _ClassVar[int]
    INSTALLATION_ID_FIELD_NUMBER: _ClassVar[int]
    BOOT_ID_FIELD_NUMBER: _ClassVar[int]
    KERNEL_RELEASE_FIELD_NUMBER: _ClassVar[int]
    HARDWARE_MODEL_FIELD_NUMBER: _ClassVar[int]
    CAPABILITIES_FIELD_NUMBER: _ClassVar[int]
    LABELS_FIELD_NUMBER: _ClassVar[int]
    HIGHEST_GENERATION_FIELD_NUMBER: _ClassVar[int]
    HIGHEST_INCARNATION_FIELD_NUMBER: _ClassVar[int]
    STATUS_FIELD_NUMBER: _ClassVar[int]
    BOOT_VERDICT_FIELD_NUMBER: _ClassVar[int]
    AGENT_VERSION_FIELD_NUMBER: _ClassVar[int]
    STAGED_ARTIFACTS_FIELD_NUMBER: _ClassVar[int]
    ROLLBACK_ARTIFACT_FIELD_NUMBER: _ClassVar[int]
    COMMAND_LINE_FIELD_NUMBER: _ClassVar[int]
    HIGHEST_INCARNATION_SERIAL_FIELD_NUMBER: _ClassVar[int]
    ACKNOWLEDGED_SEQ_FIELD_NUMBER: _ClassVar[int]
    ATTEMPT_MEMORY_FIELD_NUMBER: _ClassVar[int]
    OTHER_LUO_FIELD_NUMBER: _ClassVar[int]
    node_id: str
    installation_id: str
    boot_id: str
    kernel_release: str
    hardware_model: str
    capabilities: _containers.RepeatedScalarFieldContainer[str]
    labels: _containers.ScalarMap[str, str]
    highest_generation: int
    highest_incarnation: str
    status: NodeStatus
    boot_verdict: _common_pb2.BootVerdict
    agent_version: str
    staged_artifacts: _containers.RepeatedScalarFieldContainer[str]
    rollback_artifact: str
    command_line: str
    highest_incarnation_serial: int
    acknowledged_seq: int
    attempt_memory: AttemptMemory
    other_luo: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, node_id: _Optional[str] = ..., installation_id: _Optional[str] = ..., boot_id: _Optional[str] = ..., kernel_release: _Optional[str] = ..., hardware_model: _Optional[str] = ..., capabilities: _Optional[_Iterable[str]] = ..., labels: _Optional[_Mapping[str, str]] = ..., highest_generation: _Optional[int] = ..., highest_incarnation: _Optional[str] = ..., status: _Optional[_Union[NodeStatus, _Mapping]] = ..., boot_verdict: _Optional[_Union[_common_pb2.BootVerdict, str]] = ..., agent_version: _Optional[str] = ..., staged_artifacts: _Optional[_Iterable[str]] = ..., rollback_artifact: _Optional[str] = ..., command_line: _Optional[str] = ..., highest_incarnation_serial: _Optional[int] = ..., acknowledged_seq: _Optional[int] = ..., attempt_memory: _Optional[_Union[AttemptMemory, _Mapping]] = ..., other_luo: _Optional[_Iterable[str]] = ...) -> None: ...

class AttemptMemory(_message.Message):
    __slots__ = ("kind", "artifact", "from_release", "from_boot_id", "boot_verdict", "emulated")
    KIND_FIELD_NUMBER: _ClassVar[int]
    ARTIFACT_FIELD_NUMBER: _ClassVar[int]
    FROM_RELEASE_FIELD_NUMBER: _ClassVar[int]
    FROM_BOOT_ID_FIELD_NUMBER: _ClassVar[int]
    BOOT_VERDICT_FIELD_NUMBER: _ClassVar[int]
    EMULATED_FIELD_NUMBER: _ClassVar[int]
    kind: Prepare.Kind
    artifact: ArtifactRef
    from_release: str
    from_boot_id: str
    boot_verdict: _common_pb2.BootVerdict
    emulated: bool
    def __init__(self, kind: _Optional[_Union[Prepare.Kind, str]] = ..., artifact: _Optional[_Union[ArtifactRef, _Mapping]] = ..., from_release: _Optional[str] = ..., from_boot_id: _Optional[str] = ..., boot_verdict: _Optional[_Union[_common_pb2.BootVerdict, str]] = ..., emulated: _Optional[bool] = ...) -> None: ...

class NodeStatus(_message.Message):
    __slots__ = ("attempt", "phase", "seq", "healthy", "problem", "not_ready")
    ATTEMPT_FIELD_NUMBER: _ClassVar[int]
    PHASE_FIELD_NUMBER: _ClassVar[int]
    SEQ_FIELD_NUMBER: _ClassVar[int]
    HEALTHY_FIELD_NUMBER: _ClassVar[int]
    PROBLEM_FIELD_NUMBER: _ClassVar[int]
    NOT_READY_FIELD_NUMBER: _ClassVar[int]
    attempt: _common_pb2.AttemptRef
    phase: _common_pb2.Phase
    seq: int
    healthy: bool
    problem: _common_pb2.Problem
    not_ready: _common_pb2.Problem
    def __init__(self, attempt: _Optional[_Union[_common_pb2.AttemptRef, _Mapping]] = ..., phase: _Optional[_Union[_common_pb2.Phase, str]] = ..., seq: _Optional[int] = ..., healthy: _Optional[bool] = ..., problem: _Optional[_Union[_common_pb2.Problem, _Mapping]] = ..., not_ready: _Optional[_Union[_common_pb2.Problem, _Mapping]] = ...) -> None: ...

class Heartbeat(_message.Message):
    __slots__ = ("status", "stamp", "unacknowledged")
    STATUS_FIELD_NUMBER: _ClassVar[int]
    STAMP_FIELD_NUMBER: _ClassVar[int]
    UNACKNOWLEDGED_FIELD_NUMBER: _ClassVar[int]
    status: NodeStatus
    stamp: _common_pb2.BootStamp
    unacknowledged: int
    def __init__(self, status: _Optional[_Union[NodeStatus, _Mapping]] = ..., stamp: _Optional[_Union[_common_pb2.BootStamp, _Mapping]] = ..., unacknowledged: _Optional[int] = ...) -> None: ...

class Report(_message.Message):
    __slots__ = ("attempt", "seq", "event", "phase", "marks", "samples", "problem", "stamp", "boot_verdict", "kernel_release", "boot_id", "healthy", "stage", "refusal", "brownout", "memory_check", "rollback_artifact", "left_behind")
    ATTEMPT_FIELD_NUMBER: _ClassVar[int]
    SEQ_FIELD_NUMBER: _ClassVar[int]
    EVENT_FIELD_NUMBER: _ClassVar[int]
    PHASE_FIELD_NUMBER: _ClassVar[int]
    MARKS_FIELD_NUMBER: _ClassVar[int]
    SAMPLES_FIELD_NUMBER: _ClassVar[int]
    PROBLEM_FIELD_NUMBER: _ClassVar[int]
    STAMP_FIELD_NUMBER: _ClassVar[int]
    BOOT_VERDICT_FIELD_NUMBER: _ClassVar[int]
    KERNEL_RELEASE_FIELD_NUMBER: _ClassVar[int]
    BOOT_ID_FIELD_NUMBER: _ClassVar[int]
    HEALTHY_FIELD_NUMBER: _ClassVar[int]
    STAGE_FIELD_NUMBER: _ClassVar[int]
    REFUSAL_FIELD_NUMBER: _ClassVar[int]
    BROWNOUT_FIELD_NUMBER: _ClassVar[int]
    MEMORY_CHECK_FIELD_NUMBER: _ClassVar[int]
    ROLLBACK_ARTIFACT_FIELD_NUMBER: _ClassVar[int]
    LEFT_BEHIND_FIELD_NUMBER: _ClassVar[int]
    attempt: _common_pb2.AttemptRef
    seq: int
    event: str
    phase: _common_pb2.Phase
    marks: _containers.RepeatedCompositeFieldContainer[_common_pb2.Mark]
    samples: _containers.RepeatedCompositeFieldContainer[_common_pb2.BlackoutSample]
    problem: _common_pb2.Problem
    stamp: _common_pb2.BootStamp
    boot_verdict: _common_pb2.BootVerdict
    kernel_release: str
    boot_id: str
    healthy: bool
    stage: StageResult
    refusal: CommandRefusal
    brownout: _duration_pb2.Duration
    memory_check: MemoryCheck
    rollback_artifact: str
    left_behind: _containers.RepeatedCompositeFieldContainer[LeftBehind]
    def __init__(self, attempt: _Optional[_Union[_common_pb2.AttemptRef, _Mapping]] = ..., seq: _Optional[int] = ..., event: _Optional[str] = ..., phase: _Optional[_Union[_common_pb2.Phase, str]] = ..., marks: _Optional[_Iterable[_Union[_common_pb2.Mark, _Mapping]]] = ..., samples: _Optional[_Iterable[_Union[_common_pb2.BlackoutSample, _Mapping]]] = ..., problem: _Optional[_Union[_common_pb2.Problem, _Mapping]] = ..., stamp: _Optional[_Union[_common_pb2.BootStamp, _Mapping]] = ..., boot_verdict: _Optional[_Union[_common_pb2.BootVerdict, str]] = ..., kernel_release: _Optional[str] = ..., boot_id: _Optional[str] = ..., healthy: _Optional[bool] = ..., stage: _Optional[_Union[StageResult, _Mapping]] = ..., refusal: _Optional[_Union[CommandRefusal, _Mapping]] = ..., brownout: _Optional[_Union[datetime.timedelta, _duration_pb2.Duration, _Mapping]] = ..., memory_check: _Optional[_Union[MemoryCheck, _Mapping]] = ..., rollback_artifact: _Optional[str] = ..., left_behind: _Optional[_Iterable[_Union[LeftBehind, _Mapping]]] = ...) -> None: ...

class LeftBehind(_message.Message):
    __slots__ = ("workload", "problem")
    WORKLOAD_FIELD_NUMBER: _ClassVar[int]
    PROBLEM_FIELD_NUMBER: _ClassVar[int]
    workload: str
    problem: _common_pb2.Problem
    def __init__(self, workload: _Optional[str] = ..., problem: _Optional[_Union[_common_pb2.Problem, _Mapping]] = ...) -> None: ...

class MemoryCheck(_message.Message):
    __slots__ = ("workloads", "intact", "bytes_checked")
    WORKLOADS_FIELD_NUMBER: _ClassVar[int]
    INTACT_FIELD_NUMBER: _ClassVar[int]
    BYTES_CHECKED_FIELD_NUMBER: _ClassVar[int]
    workloads: int
    intact: int
    bytes_checked: int
    def __init__(self, workloads: _Optional[int] = ..., intact: _Optional[int] = ..., bytes_checked: _Optional[int] = ...) -> None: ...

class StageResult(_message.Message):
    __slots__ = ("artifact_digest", "verified", "problem")
    ARTIFACT_DIGEST_FIELD_NUMBER: _ClassVar[int]
    VERIFIED_FIELD_NUMBER: _ClassVar[int]
    PROBLEM_FIELD_NUMBER: _ClassVar[int]
    artifact_digest: str
    verified: bool
    problem: _common_pb2.Problem
    def __init__(self, artifact_digest: _Optional[str] = ..., verified: _Optional[bool] = ..., problem: _Optional[_Union[_common_pb2.Problem, _Mapping]] = ...) -> None: ...

class CommandRefusal(_message.Message):
    __slots__ = ("command_id", "problem")
    COMMAND_ID_FIELD_NUMBER: _ClassVar[int]
    PROBLEM_FIELD_NUMBER: _ClassVar[int]
    command_id: str
    problem: _common_pb2.Problem
    def __init__(self, command_id: _Optional[str] = ..., problem: _Optional[_Union[_common_pb2.Problem, _Mapping]] = ...) -> None: ...

class Welcome(_message.Message):
    __slots__ = ("incarnation", "incarnation_serial", "link_epoch", "active_heartbeat", "idle_heartbeat", "acknowledged_seq")
    INCARNATION_FIELD_NUMBER: _ClassVar[int]
    INCARNATION_SERIAL_FIELD_NUMBER: _ClassVar[int]
    LINK_EPOCH_FIELD_NUMBER: _ClassVar[int]
    ACTIVE_HEARTBEAT_FIELD_NUMBER: _ClassVar[int]
    IDLE_HEARTBEAT_FIELD_NUMBER: _ClassVar[int]
    ACKNOWLEDGED_SEQ_FIELD_NUMBER: _ClassVar[int]
    incarnation: str
    incarnation_serial: int
    link_epoch: int
    active_heartbeat: _duration_pb2.Duration
    idle_heartbeat: _duration_pb2.Duration
    acknowledged_seq: int
    def __init__(self, incarnation: _Optional[str] = ..., incarnation_serial: _Optional[int] = ..., link_epoch: _Optional[int] = ..., active_heartbeat: _Optional[_Union[datetime.timedelta, _duration_pb2.Duration, _Mapping]] = ..., idle_heartbeat: _Optional[_Union[datetime.timedelta, _duration_pb2.Duration, _Mapping]] = ..., acknowledged_seq: _Optional[int] = ...) -> None: ...

class Command(_message.Message):
    __slots__ = ("command_id", "stage", "prepare", "proceed", "cancel", "commit")
    COMMAND_ID_FIELD_NUMBER: _ClassVar[int]
    STAGE_FIELD_NUMBER: _ClassVar[int]
    PREPARE_FIELD_NUMBER: _ClassVar[int]
    PROCEED_FIELD_NUMBER: _ClassVar[int]
    CANCEL_FIELD_NUMBER: _ClassVar[int]
    COMMIT_FIELD_NUMBER: _ClassVar[int]
    command_id: str
    stage: Stage
    prepare: Prepare
    proceed: Proceed
    cancel: Cancel
    commit: Commit
    def __init__(self, command_id: _Optional[str] = ..., stage: _Optional[_Union[Stage, _Mapping]] = ..., prepare: _Optional[_Union[Prepare, _Mapping]] = ..., proceed: _Optional[_Union[Proceed, _Mapping]] = ..., cancel: _Optional[_Union[Cancel, _Mapping]] = ..., commit: _Optional[_Union[Commit, _Mapping]] = ...) -> None: ...

class ArtifactRef(_message.Message):
    __slots__ = ("name", "digest", "url", "kernel_release")
    NAME_FIELD_NUMBER: _ClassVar[int]
    DIGEST_FIELD_NUMBER: _ClassVar[int]
    URL_FIELD_NUMBER: _ClassVar[int]
    KERNEL_RELEASE_FIELD_NUMBER: _ClassVar[int]
    name: str
    digest: str
    url: str
    kernel_release: str
    def __init__(self, name: _Optional[str] = ..., digest: _Optional[str] = ..., url: _Optional[str] = ..., kernel_release: _Optional[str] = ...) -> None: ...

class Stage(_message.Message):
    __slots__ = ("artifact",)
    ARTIFACT_FIELD_NUMBER: _ClassVar[int]
    artifact: ArtifactRef
    def __init__(self, artifact: _Optional[_Union[ArtifactRef, _Mapping]] = ...) -> None: ...

class Prepare(_message.Message):
    __slots__ = ("attempt", "kind", "method", "artifact", "expected_release", "expected_boot_id", "command_line", "timeouts", "health_hold", "rollback_none", "operator_word")
    class Kind(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
        __slots__ = ()
        KIND_UNSPECIFIED: _ClassVar[Prepare.Kind]
        KIND_FORWARD: _ClassVar[Prepare.Kind]
        KIND_ROLLBACK: _ClassVar[Prepare.Kind]
    KIND_UNSPECIFIED: Prepare.Kind
    KIND_FORWARD: Prepare.Kind
    KIND_ROLLBACK: Prepare.Kind
    ATTEMPT_FIELD_NUMBER: _ClassVar[int]
    KIND_FIELD_NUMBER: _ClassVar[int]
    METHOD_FIELD_NUMBER: _ClassVar[int]
    ARTIFACT_FIELD_NUMBER: _ClassVar[int]
    EXPECTED_RELEASE_FIELD_NUMBER: _ClassVar[int]
    EXPECTED_BOOT_ID_FIELD_NUMBER: _ClassVar[int]
    COMMAND_LINE_FIELD_NUMBER: _ClassVar[int]
    TIMEOUTS_FIELD_NUMBER: _ClassVar[int]
    HEALTH_HOLD_FIELD_NUMBER: _ClassVar[int]
    ROLLBACK_NONE_FIELD_NUMBER: _ClassVar[int]
    OPERATOR_WORD_FIELD_NUMBER: _ClassVar[int]
    attempt: _common_pb2.AttemptRef
    kind: Prepare.Kind
    method: _common_pb2.UpdateMethod
    artifact: ArtifactRef
    expected_release: str
    expected_boot_id: str
    command_line: str
    timeouts: _common_pb2.StepTimeouts
    health_hold: _duration_pb2.Duration
    rollback_none: bool
    operator_word: bool
    def __init__(self, attempt: _Optional[_Union[_common_pb2.AttemptRef, _Mapping]] = ..., kind: _Optional[_Union[Prepare.Kind, str]] = ..., method: _Optional[_Union[_common_pb2.UpdateMethod, str]] = ..., artifact: _Optional[_Union[ArtifactRef, _Mapping]] = ..., expected_release: _Optional[str] = ..., expected_boot_id: _Optional[str] = ..., command_line: _Optional[str] = ..., timeouts: _Optional[_Union[_common_pb2.StepTimeouts, _Mapping]] = ..., health_hold: _Optional[_Union[datetime.timedelta, _duration_pb2.Duration, _Mapping]] = ..., rollback_none: _Optional[bool] = ..., operator_word: _Optional[bool] = ...) -> None: ...

class Proceed(_message.Message):
    __slots__ = ("attempt", "stamp", "valid_for")
    ATTEMPT_FIELD_NUMBER: _ClassVar[int]
    STAMP_FIELD_NUMBER: _ClassVar[int]
    VALID_FOR_FIELD_NUMBER: _ClassVar[int]
    attempt: _common_pb2.AttemptRef
    stamp: _common_pb2.BootStamp
    valid_for: _duration_pb2.Duration
    def __init__(self, attempt: _Optional[_Union[_common_pb2.AttemptRef, _Mapping]] = ..., stamp: _Optional[_Union[_common_pb2.BootStamp, _Mapping]] = ..., valid_for: _Optional[_Union[datetime.timedelta, _duration_pb2.Duration, _Mapping]] = ...) -> None: ...

class Cancel(_message.Message):
    __slots__ = ("attempt", "reason")
    ATTEMPT_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    attempt: _common_pb2.AttemptRef
    reason: str
    def __init__(self, attempt: _Optional[_Union[_common_pb2.AttemptRef, _Mapping]] = ..., reason: _Optional[str] = ...) -> None: ...

class Commit(_message.Message):
    __slots__ = ("attempt",)
    ATTEMPT_FIELD_NUMBER: _ClassVar[int]
    attempt: _common_pb2.AttemptRef
    def __init__(self, attempt: _Optional[_Union[_common_pb2.AttemptRef, _Mapping]] = ...) -> None: ...

class Ack(_message.Message):
    __slots__ = ("seq",)
    SEQ_FIELD_NUMBER: _ClassVar[int]
    seq: int
    def __init__(self, seq: _Optional[int] = ...) -> None: ...
