"""The cancellable effect under way: one at a time, and its event in the inbox.

What an effect says that was cut short meanwhile, or that another has followed, is not heard any more.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

from node_agent.core.attempt import Attempt
from node_agent.core.model import BootStamp
from node_agent.core.steps import Effect
from node_agent.ports import Clock
from node_agent.runtime.runner_effects import Effects
from node_agent.runtime.runner_items import Happened
from node_agent.runtime.runner_step import perform_bounded


class CurrentEffect:
    """Of one node.

    Args:
        stamp: this instant of this boot.
        tell: puts what has happened into the inbox.
    """

    def __init__(
        self,
        effects: Effects,
        clock: Clock,
        stamp: Callable[[], BootStamp],
        tell: Callable[[Happened], Awaitable[None]],
    ) -> None:
        self._effects, self._clock, self._stamp, self._tell = effects, clock, stamp, tell
        self._task: asyncio.Task[None] | None = None
        self._epoch = 0

    def begin(self, group: asyncio.TaskGroup, effect: Effect, attempt: Attempt) -> None:
        """Perform it in a task of this group."""
        self._epoch += 1
        self._task = group.create_task(
            self._perform(effect, attempt, self._epoch), name=f"{attempt.ref.id} {effect}"
        )

    async def _perform(self, effect: Effect, attempt: Attempt, epoch: int) -> None:
        event = await perform_bounded(self._effects, self._clock, effect, attempt, self._stamp())
        if event is not None:
            await self._tell(Happened(epoch, event))

    def said(self, happened: Happened) -> bool:
        """Is this of the effect under way?"""
        return happened.epoch == self._epoch

    async def stop(self) -> None:
        """Cut it short and wait until it has let go."""
        self._epoch += 1
        task, self._task = self._task, None
        if task is not None and not task.done():
            task.cancel()
            await asyncio.wait([task])
