"""One node's live link, as the transport sees it."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from datetime import datetime

from orchestrator.core.messages import Heartbeat, Report, Welcome
from orchestrator.core.model import DesiredProceed
from orchestrator.errors import LiverollError, StaleGeneration
from orchestrator.runtime.ingest import Ingest
from orchestrator.runtime.links import Command, LinkHandle
from orchestrator.runtime.tasks import Tasks


class AgentLink:
    """From Hello to close(). Made by Orchestrator.open_link only."""

    def __init__(
        self,
        handle: LinkHandle,
        welcome: Welcome,
        *,
        ingest: Ingest,
        tasks: Tasks,
        now: Callable[[], datetime],
        stands: Callable[[Command], Awaitable[bool]],
        end: Callable[[LinkHandle, LiverollError, str], None],
    ) -> None:
        self._handle = handle
        self._ingest = ingest
        self._tasks = tasks
        self._now = now
        self._stands = stands
        self._end = end
        self.welcome = welcome
        self.node_id = handle.node_id

    def heartbeat(self, beat: Heartbeat) -> None:
        """Never blocks. StaleGeneration if a newer link has taken over, NotServing."""
        self._ingest.heartbeat(self._handle, beat)

    async def report(self, *reports: Report) -> int:
        """Committed when it returns, together: the seq to acknowledge (cumulative). Call it in the
        order of arrival, one call at a time. StaleGeneration, StoreRegressed, StoreUnavailable,
        Conflict, NotServing."""
        return await self._tasks.finish(self._ingest.report(self._handle, reports))

    async def commands(self) -> AsyncIterator[Command]:
        """The newest desired command whenever it changed (and again when it stands for long).
        Ends by StaleGeneration (LINK_REPLACED, LINK_SILENT), NotServing, StoreUnavailable, or when
        closed. A PROCEED is given only after a look at whether it still stands: what replaced it may
        have been committed at another replica."""
        while True:
            try:
                command = await self._handle.next_command(self._now)
            except Closed:
                return
            if not isinstance(command.desired, DesiredProceed) or await self._stands(command):
                yield command

    async def close(self, cause: str = "closed") -> None:
        """The stream ended. Idempotent; a link that was replaced writes nothing. Does not wait
        for the store."""
        self._end(self._handle, Closed("the link is closed"), cause)


class Closed(StaleGeneration):
    """close() was called."""

    reason = "LINK_CLOSED"
