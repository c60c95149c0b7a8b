"""Every error of the orchestrator has its own row in the table of statuses."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TypeVar

import grpc
import pytest
from google.protobuf.message import Message
from google.rpc import error_details_pb2 as details
from google.rpc import status_pb2

from orchestrator import errors
from orchestrator.errors import LiverollError, Violation
from orchestrator.rpc import status

M = TypeVar("M", bound=Message)


def tree(root: type[LiverollError]) -> Iterator[type[LiverollError]]:
    yield root
    for child in root.__subclasses__():
        if child.__module__ == errors.__name__:
            yield from tree(child)


def detail(of: status_pb2.Status, kind: type[M]) -> M | None:
    for packed in of.details:
        if packed.Is(kind.DESCRIPTOR):
            found = kind()
            packed.Unpack(found)
            return found
    return None


@pytest.mark.parametrize("error", sorted(set(tree(LiverollError)), key=lambda e: e.__name__))
def test_no_error_is_unmapped(error: type[LiverollError]) -> None:
    assert error in status.CODES


def test_the_table_names_no_error_twice_or_from_elsewhere() -> None:
    assert set(status.CODES) == set(tree(LiverollError))


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (errors.NotFound("x"), grpc.StatusCode.NOT_FOUND),
        (errors.OutOfRange("x"), grpc.StatusCode.OUT_OF_RANGE),
        (errors.AlreadyExists("x"), grpc.StatusCode.ALREADY_EXISTS),
        (errors.Blocked("x"), grpc.StatusCode.FAILED_PRECONDITION),
        (errors.Conflict("x"), grpc.StatusCode.ABORTED),
        (errors.StaleGeneration("x"), grpc.StatusCode.ABORTED),
        (errors.Capacity("x"), grpc.StatusCode.RESOURCE_EXHAUSTED),
        (errors.NotLeader("x"), grpc.StatusCode.UNAVAILABLE),
        (errors.StoreUnavailable("x"), grpc.StatusCode.UNAVAILABLE),
        (errors.Unsupported("x"), grpc.StatusCode.UNIMPLEMENTED),
        (errors.Unauthenticated("x"), grpc.StatusCode.UNAUTHENTICATED),
        (errors.NodeIdConflict("x"), grpc.StatusCode.PERMISSION_DENIED),
        (errors.StoreRegressed("x"), grpc.StatusCode.DATA_LOSS),
        (errors.InvariantViolated("x"), grpc.StatusCode.INTERNAL),
        (ValueError("secret"), grpc.StatusCode.INTERNAL),
    ],
    ids=lambda v: type(v).__name__ if isinstance(v, Exception) else v.name,
)
def test_codes(error: Exception, code: grpc.StatusCode) -> None:
    assert status.code_of(error) is code
    assert status.status_of(error).code == code.value[0]


def test_a_class_of_another_module_takes_its_ancestors_code() -> None:
    class Later(errors.Conflict):
        pass

    assert status.code_of(Later("x")) is grpc.StatusCode.ABORTED


def test_reason_fields_retry_and_remedy_travel() -> None:
    made = status.status_of(errors.StoreUnavailable("the disk is full", remedy="Free space.", path="/var"))
    info = detail(made, details.ErrorInfo)
    assert info is not None
    assert (info.reason, info.domain) == ("STORE_UNAVAILABLE", "liveroll")
    assert dict(info.metadata) == {"path": "/var", "retry": "CALL"}
    told = detail(made, details.Help)
    assert told is not None
    assert told.links[0].description == "Free space."
    again = detail(made, details.RetryInfo)
    assert again is not None
    assert again.retry_delay.seconds == 1


def test_never_retried_says_nothing_of_when() -> None:
    assert detail(status.status_of(errors.NotFound("x")), details.RetryInfo) is None


def test_an_illegal_transition_says_what_is_allowed() -> None:
    made = status.status_of(
        errors.IllegalTransition("the rollout has ended", state="SUCCEEDED", allowed="rollback,commit")
    )
    failure = detail(made, details.PreconditionFailure)
    assert failure is not None
    assert [(v.type, v.subject) for v in failure.violations] == [
        ("ILLEGAL_TRANSITION", "SUCCEEDED"),
        ("ALLOWED_ACTION", "rollback"),
        ("ALLOWED_ACTION", "commit"),
    ]


def test_blockers_are_named() -> None:
    made = status.status_of(errors.Blocked("not now", blockers="EMBARGO, WINDOW"))
    failure = detail(made, details.PreconditionFailure)
    assert failure is not None
    assert [v.subject for v in failure.violations if v.type == "BLOCKER"] == ["EMBARGO", "WINDOW"]


def test_every_violation_is_a_field_violation() -> None:
    found = [Violation("a.b", "it is bad", "Mend it."), Violation("c", "d")]
    made = status.status_of(errors.InvalidSpec(found))
    bad = detail(made, details.BadRequest)
    assert bad is not None
    assert [(v.field, v.description, v.localized_message.message) for v in bad.field_violations] == [
        ("a.b", "it is bad", "Mend it."),
        ("c", "d", ""),
    ]


def test_details_stay_within_what_every_peer_accepts() -> None:
    many = [Violation(f"waves[{i}].name", "x" * 1000, "y" * 1000) for i in range(500)]
    made = status.status_of(errors.InvalidSpec(many))
    assert made.ByteSize() <= status.MAX_DETAILS_BYTES
    bad = detail(made, details.BadRequest)
    assert bad is not None
    shown = len(bad.field_violations) - 1
    assert shown >= 5
    assert bad.field_violations[-1].description == f"{500 - shown} further violations are not shown"


def test_a_foreign_error_keeps_its_text_to_itself() -> None:
    _, message, trailers = status.details_of(ValueError("password=1"))
    assert "password" not in message
    assert b"password" not in trailers[0][1]


def test_long_fields_are_cut() -> None:
    made = status.status_of(errors.NotFound("m" * 5000, remedy="r" * 20_000, **{"k" * 100: "v" * 5000}))
    assert made.ByteSize() <= status.MAX_DETAILS_BYTES
    assert len(made.message) == 1000
