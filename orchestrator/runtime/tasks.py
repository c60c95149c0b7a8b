"""Work that is carried to its end whatever becomes of who asked for it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

from orchestrator.errors import NotLeader

T = TypeVar("T")


class Tasks:
    """Owns such work in a TaskGroup. An error goes to who asked, never to the group."""

    def __init__(self, group: asyncio.TaskGroup) -> None:
        self._group = group
        self._running: set[asyncio.Task[None]] = set()

    async def finish(
        self, work: Coroutine[Any, Any, T], *, abandoned: Callable[[T], None] | None = None
    ) -> T:
        """The result of `work`. If the caller is cancelled, work goes on, and its result is given
        to `abandoned`; an error then has nobody to go to and is dropped."""
        mailbox: asyncio.Future[T] = asyncio.get_running_loop().create_future()
        if not self.spawn(_carry(work, mailbox, abandoned)):
            work.close()
            raise shutting_down()
        return await mailbox

    def spawn(self, work: Coroutine[Any, Any, None]) -> bool:
        """Work that answers to nobody; it must not raise. False at the end of the service, when
        nothing begins any more."""
        try:
            task = self._group.create_task(work)
        except RuntimeError:  # the group is shutting down, or has
            work.close()
            return False
        self._running.add(task)
        task.add_done_callback(self._running.discard)
        return True

    async def idle(self) -> None:
        """Returns when nothing of it runs any more. Not to be called from within such work."""
        while self._running:
            await asyncio.wait(self._running)


def shutting_down() -> NotLeader:
    """What whoever still asks is told."""
    return NotLeader(
        "the orchestrator shuts down",
        reason="SHUTTING_DOWN",
        remedy="dial or call again: it is being restarted, or another one answers",
    )


async def _carry(
    work: Coroutine[Any, Any, T],
    mailbox: asyncio.Future[T],
    abandoned: Callable[[T], None] | None,
) -> None:
    try:
        result = await work
    except asyncio.CancelledError:
        mailbox.cancel()
        raise
    except Exception as error:  # noqa: BLE001  whatever it is belongs to who asked
        if not mailbox.done():
            mailbox.set_exception(error)
    else:
        if not mailbox.done():
            mailbox.set_result(result)
        elif abandoned is not None:
            abandoned(result)
