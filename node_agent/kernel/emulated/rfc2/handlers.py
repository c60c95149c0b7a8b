"""File handlers: what LUO knows of a kind of file, and the memfd's.

A handler turns an open file into preserved memory and an address, and an address into a new open file. All
that crosses is what it keeps (memory.Memory): no object of one kernel is seen by the next.

Source: struct liveupdate_file_ops, and mm/memfd_luo.c of the following series.
"""

from __future__ import annotations

import os
import stat
from typing import Protocol

from node_agent.kernel.emulated.files import Inode, PreservedFile, preserve, seals_of
from node_agent.kernel.emulated.files import inode_of as _inode_of
from node_agent.kernel.emulated.image import MEMFD_HANDLER
from node_agent.kernel.emulated.rfc2.memory import Memory

EVENTFD_DEVICE = -1
"""Stands for st_dev where an eventfd's id stands for st_ino; no device has it."""


class Handler(Protocol):
    """One kind of file. What a callback raises is OSError with the errno to give."""

    compatible: str
    """What is written into the tree; the next kernel looks its handler up by it."""
    kind: str
    """As `luoctl list` calls it: memfd, eventfd, kvmfd, iommufd, vfiofd."""

    def can_preserve(self, fd: int) -> bool: ...
    def depends_on(self, fd: int) -> tuple[Inode, ...]:
        """The files that this one cannot do without; all must be preserved too, and are first."""
        ...

    def prepare(self, fd: int) -> int:
        """Keep its state; the address. The file may go on changing until freeze."""
        ...

    def freeze(self, fd: int, data: int) -> int:
        """Last changes, within reboot. The address, which may be a new one."""
        ...

    def cancel(self, fd: int, data: int) -> None:
        """Give back what prepare kept; the file is as if nothing had been."""
        ...

    def retrieve(self, data: int) -> int:
        """In the next kernel: a new open file; the descriptor is the caller's."""
        ...

    def finish(self, data: int, *, reclaimed: bool) -> None:
        """In the next kernel: no longer needed. Not reclaimed: the file itself goes too."""
        ...


class MemfdHandler:
    """Memory files. The pages are kept where they are, so whoever still holds the file may write on."""

    compatible = "memfd-v1"
    kind = "memfd"

    def __init__(self, memory: Memory) -> None:
        self._memory = memory

    def can_preserve(self, fd: int) -> bool:
        try:
            seals_of(fd, (MEMFD_HANDLER,))
        except OSError:
            return False
        return True

    def depends_on(self, fd: int) -> tuple[Inode, ...]:
        return ()

    def prepare(self, fd: int) -> int:
        return self._memory.keep(preserve(fd, 0, seals_of(fd, (MEMFD_HANDLER,))))

    def freeze(self, fd: int, data: int) -> int:
        self._at(data).freeze()
        return data

    def cancel(self, fd: int, data: int) -> None:
        self._memory.free(data)

    def retrieve(self, data: int) -> int:
        return os.dup(self._at(data).fd)

    def finish(self, data: int, *, reclaimed: bool) -> None:
        self._memory.free(data)

    def _at(self, data: int) -> PreservedFile:
        kept = self._memory.at(data)
        assert isinstance(kept, PreservedFile)
        return kept


def inode_of(fd: int) -> Inode:
    """One file, however often it was duplicated. Raises OSError(EBADF).

    All anonymous files but memfds share one inode: an eventfd is told by its id.
    """
    inode = _inode_of(fd)
    number = fdinfo(fd).get("eventfd-id") if not stat.S_IFMT(os.fstat(fd).st_mode) else None
    return (EVENTFD_DEVICE, int(number)) if number is not None else inode


def fdinfo(fd: int) -> dict[str, str]:
    """/proc/self/fdinfo of a descriptor, by name. Raises OSError: there is none."""
    with open(f"/proc/self/fdinfo/{fd}", encoding="ascii") as lines:
        fields = (line.partition(":") for line in lines)
        return {name: value.strip() for name, _, value in fields}


__all__ = ["Handler", "Inode", "MemfdHandler", "fdinfo", "inode_of"]
