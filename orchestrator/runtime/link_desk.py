"""Opens the links of this replica, gives them their commands, and ends them."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence

from orchestrator.core.messages import Hello, Welcome
from orchestrator.core.model import DesiredStage, NodeRow
from orchestrator.errors import LiverollError
from orchestrator.ports import Clock
from orchestrator.runtime.agent_link import AgentLink, Closed
from orchestrator.runtime.commits import Commits
from orchestrator.runtime.ingest import Ingest
from orchestrator.runtime.links import Command, LinkHandle, Links, replaced
from orchestrator.runtime.observer import Observer
from orchestrator.runtime.tasks import Tasks


class LinkDesk:
    """Between the transport and what is known of links.

    Args:
        plans: whether this replica does.
        catch_up: reads what other replicas have written.
        on_open: there is a new link. on_unwritten: the end of one could not be written.
    """

    def __init__(
        self,
        *,
        clock: Clock,
        commits: Commits,
        links: Links,
        ingest: Ingest,
        tasks: Tasks,
        observer: Observer,
        plans: Callable[[], bool],
        catch_up: Callable[[], Awaitable[None]],
        on_open: Callable[[], None],
        on_unwritten: Callable[[], None],
    ) -> None:
        self._clock = clock
        self._commits = commits
        self._links = links
        self._ingest = ingest
        self._tasks = tasks
        self._observer = observer
        self._plans = plans
        self._catch_up = catch_up
        self._on_open = on_open
        self._on_unwritten = on_unwritten

    async def open(self, hello: Hello, actor: str) -> AgentLink:
        """See Orchestrator.open_link."""

        def abandoned(opened: tuple[LinkHandle, Welcome]) -> None:
            self.end(opened[0], Closed("its caller is gone"), "abandoned")

        work = self._ingest.hello(hello, actor or hello.node_id)
        handle, welcome = await self._tasks.finish(work, abandoned=abandoned)
        self._observer.link_opened()
        self._on_open()
        return AgentLink(
            handle,
            welcome,
            ingest=self._ingest,
            tasks=self._tasks,
            now=self._clock.now,
            stands=self._still_stands,
            end=self.end,
        )

    def end(self, handle: LinkHandle, error: LiverollError, cause: str) -> None:
        """Idempotent; written behind, unless a newer link has taken its place."""
        was_open = handle.closed is None
        handle.close(error)
        if was_open:
            self._observer.link_closed(cause)
        if self._links.remove(handle):
            self._tasks.spawn(self._write_end(handle, cause))

    def end_replaced(self, nodes: Sequence[NodeRow]) -> None:
        """Links that other replicas have taken over, by rows that they wrote."""
        for node in nodes:
            handle = self._links.of(node.node_id)
            if handle is not None and handle.link_epoch < node.link_epoch:
                self.end(handle, replaced(node.node_id), "replaced")

    async def _write_end(self, handle: LinkHandle, cause: str) -> None:
        if not await self._ingest.link_down(handle.node_id, handle.link_epoch, cause):
            self._on_unwritten()

    async def _still_stands(self, command: Command) -> bool:
        """Whether the command is the node's newest, as the store has it now."""
        if self._plans():
            return True
        await self._catch_up()
        newest = command_of(self._commits, command.node_id)
        return newest is not None and newest.command_id == command.command_id


def command_of(commits: Commits, node_id: str) -> Command | None:
    """The node's newest desired command with the rows that fill it in. NotServing."""
    fleet = commits.fleet
    node = fleet.nodes.get(node_id)
    if node is None or node.desired is None:
        return None
    attempt = rollout = None
    if not isinstance(node.desired, DesiredStage):
        attempt = fleet.attempts.get((node_id, node.desired.generation))
        rollout = fleet.rollouts.get(attempt.rollout_id) if attempt is not None else None
    return Command(f"{fleet.incarnation}:{node.command_serial}", node_id, node.desired, attempt, rollout)
