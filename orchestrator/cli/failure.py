"""What goes wrong for an operator: one error type, its exit code, and how it is told.

Exit codes (also in `liveroll --help`): 0 ok, 1 a fault of the orchestrator or of this program,
2 invalid, 3 blocked, 4 halted or failed, 5 cancelled, 6 unreachable, 7 denied, 130 interrupted.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    import grpc


M = TypeVar("M")


class Exit(enum.IntEnum):
    OK = 0
    FAULT = 1
    INVALID = 2
    BLOCKED = 3
    FAILED = 4
    CANCELLED = 5
    UNREACHABLE = 6
    DENIED = 7
    INTERRUPTED = 130


@dataclass(frozen=True, slots=True)
class Violation:
    """One thing wrong with a request. file and line where it came from one."""

    path: str
    problem: str
    remedy: str = ""
    file: str = ""
    line: int = 0


@dataclass(eq=False)
class Failed(Exception):
    """A call or a command failed; `str()` is one line."""

    exit: Exit
    message: str
    reason: str = ""
    remedy: str = ""
    violations: Sequence[Violation] = ()
    allowed: Sequence[str] = ()
    """Actions that the state does allow."""
    blockers: Sequence[str] = ()
    fields: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))
    nothing: str = ""
    """What did not happen, for instance "nothing was created"."""

    def __str__(self) -> str:
        return self.message

    def lines(self) -> list[str]:
        """As it is printed: violations one a line, else the error, its remedy, what is allowed."""
        told: list[str] = []
        for v in self.violations:
            place = f"{v.file}:{v.line}: " if v.file and v.line else f"{v.file}: " if v.file else ""
            told.append(f"{place}{v.path}: {v.problem}" if v.path else f"{place}{v.problem}")
            if v.remedy:
                told.append(f"    {v.remedy}")
        if self.violations:
            count = len(self.violations)
            told.append(
                f"{count} problem{'s' if count > 1 else ''}" + (f"; {self.nothing}" if self.nothing else "")
            )
            return told
        told.append(f"liveroll: {self.message}" + (f"; {self.nothing}" if self.nothing else ""))
        if self.remedy:
            told += [f"    {line}" for line in self.remedy.splitlines()]
        elif self.allowed:
            told.append(f"    allowed now: {', '.join(self.allowed)}")
        if self.blockers:
            told.append(f"    in the way: {', '.join(self.blockers)}")
        return told


def invalid(message: str, remedy: str = "") -> Failed:
    return Failed(Exit.INVALID, message, "INVALID", remedy)


_EXITS = {
    "INVALID_ARGUMENT": Exit.INVALID,
    "NOT_FOUND": Exit.INVALID,
    "ALREADY_EXISTS": Exit.INVALID,
    "OUT_OF_RANGE": Exit.INVALID,
    "UNIMPLEMENTED": Exit.INVALID,
    "FAILED_PRECONDITION": Exit.BLOCKED,
    "ABORTED": Exit.BLOCKED,
    "RESOURCE_EXHAUSTED": Exit.BLOCKED,
    "UNAVAILABLE": Exit.UNREACHABLE,
    "DEADLINE_EXCEEDED": Exit.UNREACHABLE,
    "UNAUTHENTICATED": Exit.DENIED,
    "PERMISSION_DENIED": Exit.DENIED,
    "CANCELLED": Exit.INTERRUPTED,
}


def failed_call(error: grpc.RpcError, server: str) -> Failed:
    """A gRPC status with its rich details, as told by the orchestrator, or by the network."""
    from google.rpc import error_details_pb2, status_pb2

    code = error.code().name
    exit_code = _EXITS.get(code, Exit.FAULT)
    trailers: Any = error.trailing_metadata() or ()
    packed = next((value for key, value in trailers if key == "grpc-status-details-bin"), None)
    if not isinstance(packed, bytes):
        return _without_details(exit_code, code, error.details() or "", server)
    status = status_pb2.Status.FromString(packed)
    info = error_details_pb2.ErrorInfo()
    told = Failed(exit_code, status.message)
    for detail in status.details:
        if detail.Unpack(info):
            told.reason, told.fields = info.reason, dict(info.metadata)
        elif detail.Is(error_details_pb2.Help.DESCRIPTOR):
            told.remedy = _unpack(detail, error_details_pb2.Help()).links[0].description
        elif detail.Is(error_details_pb2.BadRequest.DESCRIPTOR):
            told.violations = [
                Violation(v.field, v.description, v.localized_message.message)
                for v in _unpack(detail, error_details_pb2.BadRequest()).field_violations
            ]
        elif detail.Is(error_details_pb2.PreconditionFailure.DESCRIPTOR):
            found = _unpack(detail, error_details_pb2.PreconditionFailure()).violations
            told.allowed = [v.subject for v in found if v.type == "ALLOWED_ACTION"]
            told.blockers = [v.subject for v in found if v.type == "BLOCKER"]
    return told


def _unpack(detail: Any, into: M) -> M:
    detail.Unpack(into)
    return into


def _without_details(exit_code: Exit, code: str, details: str, server: str) -> Failed:
    """From the network or from gRPC itself: nobody of ours has said anything."""
    if code == "UNAVAILABLE":
        lowered = details.lower()
        # A server that refuses a certificate, or the lack of one, only hangs up: TLS 1.3 tells the
        # reason after the client's handshake is over, and gRPC drops it.
        hung_up = "failed to connect" in lowered and "socket closed" in lowered
        if hung_up or any(
            word in lowered for word in ("handshake", "certificate", "verification", "ssl", "tls")
        ):
            return Failed(
                Exit.DENIED,
                f"no secure connection to the orchestrator at {server}",
                "TLS_FAILED",
                "Check --ca, --cert and --key, and that the server's certificate names this address.",
            )
        return Failed(
            exit_code,
            f"cannot reach the orchestrator at {server}",
            "UNREACHABLE",
            "Is it running, and is --server (or LIVEROLL_SERVER) its operators' address?",
        )
    if code == "DEADLINE_EXCEEDED":
        return Failed(
            exit_code,
            f"the orchestrator at {server} did not answer in time",
            "TIMEOUT",
            "Try again with a longer --timeout; repeating with the same --idempotency-key is safe.",
        )
    if code == "UNIMPLEMENTED":
        return Failed(
            exit_code,
            f"{server} does not serve this call",
            "WRONG_PORT",
            "Use the operators' port, and an orchestrator of this version.",
        )
    return Failed(exit_code, details or code.lower(), code)
