"""The memfd handler: which files can be preserved, and what the kernel keeps of one.

What is kept is a descriptor of its own on the same open file, so content, size, f_pos and seals
cross as they are. See the package's docstring for what cannot be emulated.
"""

from __future__ import annotations

import errno
import fcntl
import os
import resource
import stat
from collections.abc import Sequence
from dataclasses import dataclass

from node_agent.kernel.emulated.image import MEMFD_HANDLER
from node_agent.kernel.failure import PRESERVE_FD, REBOOT

KNOWN_SEALS = 0x3F
"""SEAL, SHRINK, GROW, WRITE, FUTURE_WRITE, EXEC. Source: mm/memfd_luo.c, any other seal is refused."""

MAX_PAGES = 2**32 - 1
"""A larger file is refused with EFBIG. Source: mm/memfd_luo.c counts folios in 32 bits."""

PAGE_BYTES = resource.getpagesize()

Inode = tuple[int, int]
"""(st_dev, st_ino): one file, however often it was duplicated or opened again."""


@dataclass(slots=True)
class PreservedFile:
    """One preserved file. The descriptor is the kernel's own; close() gives it back."""

    token: int
    fd: int
    inode: Inode
    size_bytes: int
    seals: int
    retrieved: bool = False
    retrieve_errno: int = 0
    """Once a retrieve has failed, every later one fails in the same way."""

    def close(self) -> None:
        os.close(self.fd)

    def freeze(self) -> None:
        """Did the file keep what preserving froze? Raises OSError: EPERM (another size), EBUSY
        (sealed against writing). A kernel would have refused the change itself."""
        if os.fstat(self.fd).st_size != self.size_bytes:
            raise OSError(errno.EPERM, REBOOT)
        if fcntl.fcntl(self.fd, fcntl.F_GET_SEALS) & ~self.seals & fcntl.F_SEAL_WRITE:
            raise OSError(errno.EBUSY, REBOOT)


def inode_of(fd: int) -> Inode:
    """Raises OSError(EBADF)."""
    try:
        status = os.fstat(fd)
    except OSError as cause:
        raise OSError(errno.EBADF, PRESERVE_FD) from cause
    return status.st_dev, status.st_ino


def seals_of(fd: int, handlers: Sequence[str]) -> int:
    """The seals of a file that a handler takes. Raises OSError(ENOENT) for any other file.

    Only unlinked shmem files are taken; a hugetlb memfd is told by its block size.
    """
    status = os.fstat(fd)
    if MEMFD_HANDLER in handlers and stat.S_ISREG(status.st_mode) and status.st_nlink == 0:
        try:
            seals = fcntl.fcntl(fd, fcntl.F_GET_SEALS)
        except OSError:
            seals = -1
        if seals >= 0 and os.fstatvfs(fd).f_bsize == PAGE_BYTES:
            return seals
    raise OSError(errno.ENOENT, PRESERVE_FD)


def preserve(fd: int, token: int, seals: int) -> PreservedFile:
    """Keep a file. Raises OSError: EOPNOTSUPP (unknown seals), EFBIG."""
    if seals & ~KNOWN_SEALS:
        raise OSError(errno.EOPNOTSUPP, PRESERVE_FD)
    status = os.fstat(fd)
    if status.st_size > MAX_PAGES * PAGE_BYTES:
        raise OSError(errno.EFBIG, PRESERVE_FD)
    return PreservedFile(token, os.dup(fd), (status.st_dev, status.st_ino), status.st_size, seals)
