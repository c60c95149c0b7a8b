"""How every error of the orchestrator becomes a gRPC status with rich details, in one table.

Rules
1. Every subclass of LiverollError stands in CODES by itself; a test walks the tree.
2. Details: ErrorInfo always (reason, the fields, the retry class); BadRequest for violations;
   PreconditionFailure for what stands in the way and for what is allowed instead; Help for the
   remedy; RetryInfo where the same call may simply be repeated.
3. Trailers have a hard bound in every gRPC peer (8 KiB by default), so the details are cut to
   MAX_DETAILS_BYTES and say how many violations are left out.
4. Anything that is not a LiverollError becomes INTERNAL, without its text.
"""

from __future__ import annotations

from collections.abc import Mapping

import grpc
from google.protobuf import any_pb2, duration_pb2
from google.protobuf.message import Message
from google.rpc import error_details_pb2, status_pb2

from orchestrator import errors
from orchestrator.errors import LiverollError, Retry

DOMAIN = "liveroll"
DETAILS_KEY = "grpc-status-details-bin"
MAX_DETAILS_BYTES = 5000
"""Base64 in a header makes 6.7 KB of it; peers refuse trailers beyond 8 KiB and lose the status."""
MAX_FIELD_CHARS = 300
RETRY_DELAY_S = 1
"""Repeat no sooner: long enough for a lease to change hands, short enough for a person."""

CODES: Mapping[type[LiverollError], grpc.StatusCode] = {
    errors.LiverollError: grpc.StatusCode.INTERNAL,
    errors.InvalidSpec: grpc.StatusCode.INVALID_ARGUMENT,
    errors.NotFound: grpc.StatusCode.NOT_FOUND,
    errors.OutOfRange: grpc.StatusCode.OUT_OF_RANGE,
    errors.AlreadyExists: grpc.StatusCode.ALREADY_EXISTS,
    errors.IllegalTransition: grpc.StatusCode.FAILED_PRECONDITION,
    errors.Blocked: grpc.StatusCode.FAILED_PRECONDITION,
    errors.Conflict: grpc.StatusCode.ABORTED,
    errors.StaleGeneration: grpc.StatusCode.ABORTED,
    errors.Capacity: grpc.StatusCode.RESOURCE_EXHAUSTED,
    errors.NotLeader: grpc.StatusCode.UNAVAILABLE,
    errors.NotServing: grpc.StatusCode.UNAVAILABLE,
    errors.StoreUnavailable: grpc.StatusCode.UNAVAILABLE,
    errors.Unsupported: grpc.StatusCode.UNIMPLEMENTED,
    errors.Unauthenticated: grpc.StatusCode.UNAUTHENTICATED,
    errors.PermissionDenied: grpc.StatusCode.PERMISSION_DENIED,
    errors.NodeIdConflict: grpc.StatusCode.PERMISSION_DENIED,
    errors.CorruptState: grpc.StatusCode.DATA_LOSS,
    errors.StoreRegressed: grpc.StatusCode.DATA_LOSS,
    errors.SettingsError: grpc.StatusCode.FAILED_PRECONDITION,
    errors.InvariantViolated: grpc.StatusCode.INTERNAL,
}


def code_of(error: BaseException) -> grpc.StatusCode:
    """The code of an error; a class from elsewhere takes its nearest ancestor's, or INTERNAL."""
    for ancestor in type(error).__mro__:
        code = CODES.get(ancestor)
        if code is not None:
            return code
    return grpc.StatusCode.INTERNAL


def status_of(error: BaseException) -> status_pb2.Status:
    """The error as a google.rpc.Status, never over MAX_DETAILS_BYTES."""
    if not isinstance(error, LiverollError):
        error = LiverollError(
            "the orchestrator failed inside", remedy="look into its log for the cause and report it"
        )
    status = status_pb2.Status(code=code_of(error).value[0], message=_cut(error.message, 1000))
    _add(status, _error_info(error))
    if error.remedy:
        _add(status, error_details_pb2.Help(links=[error_details_pb2.Help.Link(description=error.remedy)]))
    if error.retry is Retry.CALL:
        _add(status, error_details_pb2.RetryInfo(retry_delay=duration_pb2.Duration(seconds=RETRY_DELAY_S)))
    if isinstance(error, errors.IllegalTransition | errors.Blocked):
        _add(status, _precondition(error))
    if isinstance(error, errors.InvalidSpec):
        _add(status, _bad_request(error, MAX_DETAILS_BYTES - status.ByteSize()))
    return status


def details_of(error: BaseException) -> tuple[grpc.StatusCode, str, tuple[tuple[str, bytes], ...]]:
    """Code, message and trailers, as ServicerContext.abort takes them."""
    status = status_of(error)
    return code_of(error), status.message, ((DETAILS_KEY, status.SerializeToString()),)


def _add(status: status_pb2.Status, detail: Message) -> None:
    packed = any_pb2.Any()
    packed.Pack(detail)
    if status.ByteSize() + packed.ByteSize() + 8 <= MAX_DETAILS_BYTES:
        status.details.append(packed)


def _error_info(error: LiverollError) -> error_details_pb2.ErrorInfo:
    info = error_details_pb2.ErrorInfo(reason=error.reason, domain=DOMAIN)
    for key, value in list(error.fields.items())[:8]:
        info.metadata[_cut(key, 60)] = _cut(value, MAX_FIELD_CHARS)
    info.metadata["retry"] = error.retry.value
    return info


def _precondition(error: LiverollError) -> error_details_pb2.PreconditionFailure:
    failure = error_details_pb2.PreconditionFailure()
    subject = error.fields.get("state", "") or error.fields.get("node_id", "")
    failure.violations.add(
        type=error.reason, subject=_cut(subject, 100), description=_cut(error.message, 500)
    )
    for action in filter(None, (a.strip() for a in error.fields.get("allowed", "").split(","))):
        failure.violations.add(type="ALLOWED_ACTION", subject=_cut(action, 60), description="allowed here")
    for reason in filter(None, (b.strip() for b in error.fields.get("blockers", "").split(","))):
        failure.violations.add(type="BLOCKER", subject=_cut(reason, 60), description="stands in the way")
    return failure


def _bad_request(error: errors.InvalidSpec, room: int) -> error_details_pb2.BadRequest:
    request = error_details_pb2.BadRequest()
    for done, violation in enumerate(error.violations):
        one = error_details_pb2.BadRequest.FieldViolation(
            field=_cut(violation.path, 200),
            description=_cut(violation.problem, MAX_FIELD_CHARS),
            reason="INVALID",
        )
        if violation.remedy:
            one.localized_message.locale = "en"
            one.localized_message.message = _cut(violation.remedy, MAX_FIELD_CHARS)
        if request.ByteSize() + one.ByteSize() > room - 300:
            left = len(error.violations) - done
            request.field_violations.add(
                field="", description=f"{left} further violations are not shown", reason="CUT"
            )
            break
        request.field_violations.append(one)
    return request


def _cut(text: str, most: int) -> str:
    return text if len(text) <= most else text[: most - 1] + "…"
