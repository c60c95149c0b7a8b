"""The edge of every call: who calls, what errors become, and where they are logged (once)."""

from __future__ import annotations

from typing import Any, NoReturn

import grpc
import structlog

from orchestrator.errors import LiverollError
from orchestrator.rpc.auth import Peer, Role, peer_of
from orchestrator.rpc.status import code_of, details_of

Context = grpc.aio.ServicerContext[Any, Any]

_LOUD = frozenset({grpc.StatusCode.INTERNAL, grpc.StatusCode.DATA_LOSS, grpc.StatusCode.UNKNOWN})
"""The orchestrator's own failures; all other codes tell the caller something and are told to him."""

log = structlog.get_logger("liveroll.rpc")


def caller(role: Role, context: Context, *, verified: bool) -> Peer:
    """Raises Unauthenticated, PermissionDenied."""
    metadata = context.invocation_metadata() or ()
    return peer_of(role, context.auth_context(), metadata, verified=verified)


async def refuse(context: Context, error: Exception, *, method: str, peer: str = "") -> NoReturn:
    """End the call with the error's status; log those that are ours."""
    code, message, trailers = details_of(error)
    if not isinstance(error, LiverollError):
        log.exception("a call failed inside", method=method, peer=peer, exc_info=error)
    elif code_of(error) in _LOUD:
        log.error("a call failed", method=method, peer=peer, reason=error.reason, error=error.message)
    else:
        # Each of 10,000 links ends so at a shutdown; RpcServer.stop says it once.
        tell = log.debug if error.reason == "SHUTTING_DOWN" else log.info
        tell("a call was refused", method=method, peer=peer, reason=error.reason, error=error.message)
    await context.abort(code, message, trailers)


def unwrap(error: BaseException) -> BaseException:
    """The first error inside task groups' groups, a LiverollError rather than any other."""
    found: list[BaseException] = []
    pending = [error]
    while pending:
        one = pending.pop(0)
        if isinstance(one, BaseExceptionGroup):
            pending.extend(one.exceptions)
        else:
            found.append(one)
    return next((e for e in found if isinstance(e, LiverollError)), found[0])
