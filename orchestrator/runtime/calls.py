"""Operators' calls: a pure operation, made durable once, whatever is repeated or races.

Rules
1. The idempotency row is committed in the same change as the effect, so a repetition either
   finds both or neither.
2. An operation that loses to another commit is asked again, on the fleet as it then is.
3. An operation that raises has written nothing, and its key stays free. Before it is believed, the
   fleet catches up with the other replicas: a pipeline behind a load balancer reads its own writes.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace
from datetime import datetime

from orchestrator.core.fleet import Fleet
from orchestrator.core.model import Change, IdempotencyRow
from orchestrator.errors import AlreadyExists, Conflict, LiverollError
from orchestrator.ports import Clock, Store
from orchestrator.runtime.commits import Commits

TRIES = 8
"""Each loss means that another commit about the same rows succeeded."""


@dataclass(frozen=True, slots=True)
class Operated:
    """What became of an operator's call."""

    response: str
    replayed: bool
    """The same key and request came before; response is the first answer."""


Operation = Callable[[Fleet, datetime], tuple[Change, str]]
"""Pure. (fleet, now) → (change, response). response is stored for repetitions of the call:
a string of the caller's (for instance node ids as JSON). Called again on Conflict, so no effects."""


async def operate(
    call: IdempotencyRow,
    operation: Operation,
    store: Store,
    commits: Commits,
    clock: Clock,
    refresh: Callable[[], Awaitable[None]],
) -> Operated:
    """call carries who, which key, method and hash; no key: nothing is remembered. AlreadyExists
    (IDEMPOTENCY_KEY_REUSED), Conflict after TRIES, and what the operation raises."""
    tries, refreshed = 0, False
    while True:
        if call.idempotency_key:
            first = await store.recall(call.actor, call.idempotency_key)
            if first is not None:
                return _repeated(first, call)
        fleet, now = commits.fleet, clock.now()
        try:
            change, response = operation(fleet, now)
        except LiverollError:
            if refreshed:
                raise
            refreshed = True
            await refresh()
            continue
        if call.idempotency_key:
            answer = replace(call, response=response, at=now)
            change = replace(change, writes=(*change.writes, answer))
        try:
            await commits.commit(change)
        except Conflict:
            tries += 1
            if tries >= TRIES:
                raise
            continue
        return Operated(response, replayed=False)


def _repeated(first: IdempotencyRow, call: IdempotencyRow) -> Operated:
    if (first.method, first.request_hash) != (call.method, call.request_hash):
        raise AlreadyExists(
            "this idempotency key came before with another request",
            reason="IDEMPOTENCY_KEY_REUSED",
            remedy="use a new key for a new request, and the same key only to repeat one",
            method=first.method,
            at=first.at.isoformat(),
        )
    return Operated(first.response, replayed=True)
