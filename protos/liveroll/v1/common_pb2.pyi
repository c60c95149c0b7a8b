import datetime

from google.protobuf import duration_pb2 as _duration_pb2
from google.protobuf import timestamp_pb2 as _timestamp_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class Phase(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    PHASE_UNSPECIFIED: _ClassVar[Phase]
    PHASE_IDLE: _ClassVar[Phase]
    PHASE_LOADING: _ClassVar[Phase]
    PHASE_DRAINING: _ClassVar[Phase]
    PHASE_PRESERVING: _ClassVar[Phase]
    PHASE_PRESERVED: _ClassVar[Phase]
    PHASE_SUSPENDING: _ClassVar[Phase]
    PHASE_JUMPING: _ClassVar[Phase]
    PHASE_RETRIEVING: _ClassVar[Phase]
    PHASE_RESUMING: _ClassVar[Phase]
    PHASE_VERIFYING: _ClassVar[Phase]
    PHASE_FINISHING: _ClassVar[Phase]
    PHASE_BAKING: _ClassVar[Phase]
    PHASE_COMMITTED: _ClassVar[Phase]
    PHASE_UNWINDING: _ClassVar[Phase]
    PHASE_ABORTED: _ClassVar[Phase]
    PHASE_AWAITING_ROLLBACK: _ClassVar[Phase]
    PHASE_QUARANTINED: _ClassVar[Phase]
    PHASE_COLD_BOOTED: _ClassVar[Phase]
    PHASE_LOST: _ClassVar[Phase]

class BootVerdict(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    BOOT_VERDICT_UNSPECIFIED: _ClassVar[BootVerdict]
    BOOT_VERDICT_LIVE_UPDATED: _ClassVar[BootVerdict]
    BOOT_VERDICT_STATE_LOST: _ClassVar[BootVerdict]
    BOOT_VERDICT_COLD_BOOT: _ClassVar[BootVerdict]
    BOOT_VERDICT_SAME_BOOT: _ClassVar[BootVerdict]
    BOOT_VERDICT_WRONG_KERNEL: _ClassVar[BootVerdict]
    BOOT_VERDICT_POISONED: _ClassVar[BootVerdict]
    BOOT_VERDICT_FOREIGN_KEXEC: _ClassVar[BootVerdict]

class RetryClass(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    RETRY_CLASS_UNSPECIFIED: _ClassVar[RetryClass]
    RETRY_CLASS_CALL: _ClassVar[RetryClass]
    RETRY_CLASS_REPLAN: _ClassVar[RetryClass]
    RETRY_CLASS_FIX_STATE: _ClassVar[RetryClass]
    RETRY_CLASS_NEVER: _ClassVar[RetryClass]

class UpdateMethod(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    UPDATE_METHOD_UNSPECIFIED: _ClassVar[UpdateMethod]
    UPDATE_METHOD_LIVE: _ClassVar[UpdateMethod]
    UPDATE_METHOD_DRAIN_REBOOT: _ClassVar[UpdateMethod]
PHASE_UNSPECIFIED: Phase
PHASE_IDLE: Phase
PHASE_LOADING: Phase
PHASE_DRAINING: Phase
PHASE_PRESERVING: Phase
PHASE_PRESERVED: Phase
PHASE_SUSPENDING: Phase
PHASE_JUMPING: Phase
PHASE_RETRIEVING: Phase
PHASE_RESUMING: Phase
PHASE_VERIFYING: Phase
PHASE_FINISHING: Phase
PHASE_BAKING: Phase
PHASE_COMMITTED: Phase
PHASE_UNWINDING: Phase
PHASE_ABORTED: Phase
PHASE_AWAITING_ROLLBACK: Phase
PHASE_QUARANTINED: Phase
PHASE_COLD_BOOTED: Phase
PHASE_LOST: Phase
BOOT_VERDICT_UNSPECIFIED: BootVerdict
BOOT_VERDICT_LIVE_UPDATED: BootVerdict
BOOT_VERDICT_STATE_LOST: BootVerdict
BOOT_VERDICT_COLD_BOOT: BootVerdict
BOOT_VERDICT_SAME_BOOT: BootVerdict
BOOT_VERDICT_WRONG_KERNEL: BootVerdict
BOOT_VERDICT_POISONED: BootVerdict
BOOT_VERDICT_FOREIGN_KEXEC: BootVerdict
RETRY_CLASS_UNSPECIFIED: RetryClass
RETRY_CLASS_CALL: RetryClass
RETRY_CLASS_REPLAN: RetryClass
RETRY_CLASS_FIX_STATE: RetryClass
RETRY_CLASS_NEVER: RetryClass
UPDATE_METHOD_UNSPECIFIED: UpdateMethod
UPDATE_METHOD_LIVE: UpdateMethod
UPDATE_METHOD_DRAIN_REBOOT: UpdateMethod

class AttemptRef(_message.Message):
    __slots__ = ("node_id", "generation", "incarnation")
    NODE_ID_FIELD_NUMBER: _ClassVar[int]
    GENERATION_FIELD_NUMBER: _ClassVar[int]
    INCARNATION_FIELD_NUMBER: _ClassVar[int]
    node_id: str
    generation: int
    incarnation: str
    def __init__(self, node_id: _Optional[str] = ..., generation: _Optional[int] = ..., incarnation: _Optional[str] = ...) -> None: ...

class Problem(_message.Message):
    __slots__ = ("reason", "retry", "message", "remedy", "fields")
    class FieldsEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: str
        def __init__(self, key: _Optional[str] = ..., value: _Optional[str] = ...) -> None: ...
    REASON_FIELD_NUMBER: _ClassVar[int]
    RETRY_FIELD_NUMBER: _ClassVar[int]
    MESSAGE_FIELD_NUMBER: _ClassVar[int]
    REMEDY_FIELD_NUMBER: _ClassVar[int]
    FIELDS_FIELD_NUMBER: _ClassVar[int]
    reason: str
    retry: RetryClass
    message: str
    remedy: str
    fields: _containers.ScalarMap[str, str]
    def __init__(self, reason: _Optional[str] = ..., retry: _Optional[_Union[RetryClass, str]] = ..., message: _Optional[str] = ..., remedy: _Optional[str] = ..., fields: _Optional[_Mapping[str, str]] = ...) -> None: ...

class BootStamp(_message.Message):
    __slots__ = ("boot_id", "boottime")
    BOOT_ID_FIELD_NUMBER: _ClassVar[int]
    BOOTTIME_FIELD_NUMBER: _ClassVar[int]
    boot_id: str
    boottime: _duration_pb2.Duration
    def __init__(self, boot_id: _Optional[str] = ..., boottime: _Optional[_Union[datetime.timedelta, _duration_pb2.Duration, _Mapping]] = ...) -> None: ...

class Mark(_message.Message):
    __slots__ = ("name", "realtime", "boottime", "tsc", "boot_id")
    NAME_FIELD_NUMBER: _ClassVar[int]
    REALTIME_FIELD_NUMBER: _ClassVar[int]
    BOOTTIME_FIELD_NUMBER: _ClassVar[int]
    TSC_FIELD_NUMBER: _ClassVar[int]
    BOOT_ID_FIELD_NUMBER: _ClassVar[int]
    name: str
    realtime: _timestamp_pb2.Timestamp
    boottime: _duration_pb2.Duration
    tsc: int
    boot_id: str
    def __init__(self, name: _Optional[str] = ..., realtime: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., boottime: _Optional[_Union[datetime.timedelta, _duration_pb2.Duration, _Mapping]] = ..., tsc: _Optional[int] = ..., boot_id: _Optional[str] = ...) -> None: ...

class BlackoutSample(_message.Message):
    __slots__ = ("vantage", "workload", "duration", "uncertainty", "clock", "rejected", "emulated")
    class Vantage(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
        __slots__ = ()
        VANTAGE_UNSPECIFIED: _ClassVar[BlackoutSample.Vantage]
        VANTAGE_WORKLOAD: _ClassVar[BlackoutSample.Vantage]
        VANTAGE_HOST: _ClassVar[BlackoutSample.Vantage]
        VANTAGE_LINK: _ClassVar[BlackoutSample.Vantage]
    VANTAGE_UNSPECIFIED: BlackoutSample.Vantage
    VANTAGE_WORKLOAD: BlackoutSample.Vantage
    VANTAGE_HOST: BlackoutSample.Vantage
    VANTAGE_LINK: BlackoutSample.Vantage
    VANTAGE_FIELD_NUMBER: _ClassVar[int]
    WORKLOAD_FIELD_NUMBER: _ClassVar[int]
    DURATION_FIELD_NUMBER: _ClassVar[int]
    UNCERTAINTY_FIELD_NUMBER: _ClassVar[int]
    CLOCK_FIELD_NUMBER: _ClassVar[int]
    REJECTED_FIELD_NUMBER: _ClassVar[int]
    EMULATED_FIELD_NUMBER: _ClassVar[int]
    vantage: BlackoutSample.Vantage
    workload: str
    duration: _duration_pb2.Duration
    uncertainty: _duration_pb2.Duration
    clock: str
    rejected: str
    emulated: bool
    def __init__(self, vantage: _Optional[_Union[BlackoutSample.Vantage, str]] = ..., workload: _Optional[str] = ..., duration: _Optional[_Union[datetime.timedelta, _duration_pb2.Duration, _Mapping]] = ..., uncertainty: _Optional[_Union[datetime.timedelta, _duration_pb2.Duration, _Mapping]] = ..., clock: _Optional[str] = ..., rejected: _Optional[str] = ..., emulated: _Optional[bool] = ...) -> None: ...

class StepTimeouts(_message.Message):
    __slots__ = ("loading", "draining", "preserving", "preserved", "suspending", "retrieving", "resuming", "verifying", "finishing", "unwinding")
    LOADING_FIELD_NUMBER: _ClassVar[int]
    DRAINING_FIELD_NUMBER: _ClassVar[int]
    PRESERVING_FIELD_NUMBER: _ClassVar[int]
    PRESERVED_FIELD_NUMBER: _ClassVar[int]
    SUSPENDING_FIELD_NUMBER: _ClassVar[int]
    RETRIEVING_FIELD_NUMBER: _ClassVar[int]
    RESUMING_FIELD_NUMBER: _ClassVar[int]
    VERIFYING_FIELD_NUMBER: _ClassVar[int]
    FINISHING_FIELD_NUMBER: _ClassVar[int]
    UNWINDING_FIELD_NUMBER: _ClassVar[int]
    loading: _duration_pb2.Duration
    draining: _duration_pb2.Duration
    preserving: _duration_pb2.Duration
    preserved: _duration_pb2.Duration
    suspending: _duration_pb2.Duration
    retrieving: _duration_pb2.Duration
    resuming: _duration_pb2.Duration
    verifying: _duration_pb2.Duration
    finishing: _duration_pb2.Duration
    unwinding: _duration_pb2.Duration
    def __init__(self, loading: _Optional[_Union[datetime.timedelta, _duration_pb2.Duration, _Mapping]] = ..., draining: _Optional[_Union[datetime.timedelta, _duration_pb2.Duration, _Mapping]] = ..., preserving: _Optional[_Union[datetime.timedelta, _duration_pb2.Duration, _Mapping]] = ..., preserved: _Optional[_Union[datetime.timedelta, _duration_pb2.Duration, _Mapping]] = ..., suspending: _Optional[_Union[datetime.timedelta, _duration_pb2.Duration, _Mapping]] = ..., retrieving: _Optional[_Union[datetime.timedelta, _duration_pb2.Duration, _Mapping]] = ..., resuming: _Optional[_Union[datetime.timedelta, _duration_pb2.Duration, _Mapping]] = ..., verifying: _Optional[_Union[datetime.timedelta, _duration_pb2.Duration, _Mapping]] = ..., finishing: _Optional[_Union[datetime.timedelta, _duration_pb2.Duration, _Mapping]] = ..., unwinding: _Optional[_Union[datetime.timedelta, _duration_pb2.Duration, _Mapping]] = ...) -> None: ...
