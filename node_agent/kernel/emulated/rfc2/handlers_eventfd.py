"""The eventfd handler: a real eventfd, whose count and flags cross.

Source: Documentation/filesystems/proc.rst (fdinfo of eventfd files), fs/eventfd.c.
"""

from __future__ import annotations

import os
from dataclasses import dataclass

from node_agent.kernel.emulated.files import Inode
from node_agent.kernel.emulated.rfc2.handlers import fdinfo
from node_agent.kernel.emulated.rfc2.memory import Blob, Memory
from node_agent.kernel.emulated.rfc2.objects import at


@dataclass(frozen=True, slots=True)
class EventfdState:
    """All that an eventfd is."""

    count: int
    semaphore: bool
    nonblocking: bool


def eventfd_state(fd: int) -> EventfdState | None:
    """None: the descriptor is none of an eventfd. Reading it changes nothing.

    A kernel that does not tell of a semaphore (before 6.5) has none for us.
    """
    told = fdinfo(fd)
    if "eventfd-count" not in told:
        return None
    return EventfdState(
        count=int(told["eventfd-count"], 16),
        semaphore=told.get("eventfd-semaphore") == "1",
        nonblocking=bool(int(told["flags"], 8) & os.O_NONBLOCK),
    )


class EventfdHandler:
    """Counts go on until freeze: what was signalled before the kexec is there after it."""

    compatible = "eventfd-v1"
    kind = "eventfd"

    def __init__(self, memory: Memory) -> None:
        self._memory = memory

    def can_preserve(self, fd: int) -> bool:
        return eventfd_state(fd) is not None

    def depends_on(self, fd: int) -> tuple[Inode, ...]:
        return ()

    def prepare(self, fd: int) -> int:
        return self._memory.keep(Blob(self._state(fd)))

    def freeze(self, fd: int, data: int) -> int:
        at(self._memory, data, Blob).value = self._state(fd)
        return data

    def cancel(self, fd: int, data: int) -> None:
        self._memory.free(data)

    def retrieve(self, data: int) -> int:
        told = self._memory.blob(data)
        flags = os.EFD_CLOEXEC
        flags |= os.EFD_SEMAPHORE if told["semaphore"] else 0
        flags |= os.EFD_NONBLOCK if told["nonblocking"] else 0
        fd = os.eventfd(0, flags)
        if told["count"]:
            os.eventfd_write(fd, told["count"])  # eventfd(2) itself takes 32 bits only
        return fd

    def finish(self, data: int, *, reclaimed: bool) -> None:
        self._memory.free(data)

    @staticmethod
    def _state(fd: int) -> dict[str, int]:
        state = eventfd_state(fd)
        assert state is not None  # can_preserve has seen it
        return {"count": state.count, "semaphore": state.semaphore, "nonblocking": state.nonblocking}
