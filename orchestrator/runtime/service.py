"""The running orchestrator: owner of every task, and the one thing that rpc/, web/ and app.py talk to.

SIGNATURES FIRST: bodies follow.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from datetime import datetime
from types import TracebackType
from typing import TYPE_CHECKING, Self

from orchestrator.core.messages import Heartbeat, Hello, Report, Welcome
from orchestrator.core.model import AttemptRow, Change, Desired, Event, RolloutRow
from orchestrator.core.policy import FleetPolicy
from orchestrator.ports import ArtifactCatalogue, Clock, EventFeed, Store

if TYPE_CHECKING:
    from orchestrator.core.fleet import Fleet
    from orchestrator.core.planner import Plan


@dataclass(frozen=True, slots=True)
class Command:
    """The node's newest desired command with the rows that fill it in. Same id, same command."""

    command_id: str
    """<incarnation>:<serial>"""
    node_id: str
    desired: Desired
    attempt: AttemptRow | None
    """Of desired.generation; None for STAGE."""
    rollout: RolloutRow | None
    """The attempt's rollout (timeouts, health_hold, rollback.none); None for STAGE."""


@dataclass(frozen=True, slots=True)
class Operated:
    """What became of an operator's call."""

    response: str
    replayed: bool
    """The same key and request came before; response is the first answer."""


@dataclass(frozen=True, slots=True)
class EventsPage:
    events: tuple[Event, ...]
    cursor: str
    """incarnation:seq to go on from; the newest seq looked at, even if no event matched."""


Operation = Callable[["Fleet", datetime], tuple[Change, str]]
"""Pure. (fleet, now) → (change, response). response is stored for repetitions of the call:
a string of the caller's (for instance node ids as JSON). Called again on Conflict, so no effects."""


class AgentLink:
    """One node's live link, from Hello to close(). Made by Orchestrator.open_link only."""

    node_id: str
    welcome: Welcome

    def heartbeat(self, beat: Heartbeat) -> None:
        """Never blocks. StaleGeneration if a newer link has taken over."""
        raise NotImplementedError

    async def report(self, report: Report) -> int:
        """Committed when it returns: the seq to acknowledge (cumulative). Call it in the order
        of arrival, one at a time. StaleGeneration, StoreRegressed, StoreUnavailable, Conflict."""
        raise NotImplementedError

    def commands(self) -> AsyncIterator[Command]:
        """The newest desired command whenever it changed (and again when it stands for long).
        Ends by StaleGeneration (LINK_REPLACED, LINK_SILENT) or when closed."""
        raise NotImplementedError

    async def close(self, cause: str = "") -> None:
        """The stream ended. Idempotent; a link that was replaced writes nothing."""
        raise NotImplementedError


class Orchestrator:
    """`async with Orchestrator(...) as o:` or `await o.run()`.

    Args:
        holder: names this process for the planner lease.
    """

    def __init__(
        self,
        *,
        store: Store,
        clock: Clock,
        catalogue: ArtifactCatalogue,
        policy: FleetPolicy,
        holder: str,
    ) -> None:
        self.catalogue = catalogue

    async def __aenter__(self) -> Self:
        raise NotImplementedError

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        raise NotImplementedError

    async def run(self) -> None:
        """Until cancelled."""
        raise NotImplementedError

    @property
    def fleet(self) -> Fleet:
        """Read only. What has been committed and applied. NotLeader until loaded."""
        raise NotImplementedError

    @property
    def last_plan(self) -> Plan | None: ...

    @property
    def incarnation(self) -> str:
        raise NotImplementedError

    @property
    def head_seq(self) -> int:
        """Newest event applied."""
        raise NotImplementedError

    @property
    def feed(self) -> EventFeed:
        raise NotImplementedError

    def now(self) -> datetime:
        raise NotImplementedError

    def ready(self) -> tuple[bool, tuple[str, ...]]:
        """(ready, why not): lease, load, store, checker."""
        raise NotImplementedError

    def wake(self) -> None:
        """Plan again soon. Only a wake."""

    async def operate(
        self, *, actor: str, idempotency_key: str, method: str, request_hash: str, operation: Operation
    ) -> Operated:
        """An operator's call: Conflict is retried, the change committed together with its
        idempotency row, applied, and the planner woken. AlreadyExists (IDEMPOTENCY_KEY_REUSED)
        if the key came with another request; whatever `operation` raises. Survives the caller's
        cancellation."""
        raise NotImplementedError

    async def open_link(self, hello: Hello, *, actor: str = "") -> AgentLink:
        """Committed when it returns. Raises the Hello's refusal. The newest link wins: an older
        one of the same node is closed."""
        raise NotImplementedError

    def cursor(self, seq: int | None = None) -> str:
        """Of an event, or of the newest one applied."""
        raise NotImplementedError

    async def events_after(
        self, cursor: str, *, limit: int = 500, rollout_id: str = "", node_id: str = ""
    ) -> EventsPage:
        """cursor empty: from the first that is kept. InvalidSpec for a malformed cursor, OutOfRange
        if events after it were trimmed or it belongs to another incarnation or to the future."""
        raise NotImplementedError
