"""One LUO session as the kernel sees it: its files by token, and how many descriptors hold it.

Rules: an outgoing session takes files and lasts as long as somebody holds it. An incoming one
waits for whoever retrieves it; once retrieved, its last holder's close finishes it. Files are
given out as often as asked for, until finish.
"""

from __future__ import annotations

import errno
import os

from node_agent.kernel.emulated.files import Inode, PreservedFile, inode_of, preserve, seals_of
from node_agent.kernel.emulated.image import EmulatedImage
from node_agent.kernel.failure import FINISH, PRESERVE_FD, RETRIEVE_FD


class LuoSession:
    """A session's state. Every call raises OSError as the ioctl of its name would.

    Args:
        name: as given, without its NUL.
        busy: the files preserved anywhere in this kernel; the session keeps its own up to date.
        incoming: it came through a kexec.
    """

    __slots__ = ("_busy", "files", "finish_refused", "holders", "incoming", "name", "retrieved")

    def __init__(self, name: bytes, busy: set[Inode], *, incoming: bool = False) -> None:
        self.name = name
        self._busy = busy
        self.incoming = incoming
        self.retrieved = False
        self.holders = 0
        self.files: dict[int, PreservedFile] = {}
        self.finish_refused = False
        """A handler's can_finish refuses; the memfd handler never does."""

    def preserve_fd(self, fd: int, token: int, image: EmulatedImage) -> None:
        """EINVAL (incoming), EEXIST, ENOSPC, EBADF, ENOENT, EBUSY, EOPNOTSUPP, EFBIG."""
        if self.incoming:
            raise OSError(errno.EINVAL, PRESERVE_FD)
        if token in self.files:
            raise OSError(errno.EEXIST, PRESERVE_FD)
        if image.max_files and len(self.files) >= image.max_files:
            raise OSError(errno.ENOSPC, PRESERVE_FD)
        inode = inode_of(fd)
        seals = seals_of(fd, image.handlers)
        if inode in self._busy:
            raise OSError(errno.EBUSY, PRESERVE_FD)
        self.files[token] = preserve(fd, token, seals)
        self._busy.add(inode)

    def retrieve_fd(self, token: int) -> int:
        """A new descriptor on the preserved open file. EINVAL (outgoing), ENOENT, or the errno
        with which the first retrieve of this file failed."""
        if not self.incoming:
            raise OSError(errno.EINVAL, RETRIEVE_FD)
        kept = self.files.get(token)
        if kept is None:
            raise OSError(errno.ENOENT, RETRIEVE_FD)
        if kept.retrieve_errno:
            raise OSError(kept.retrieve_errno, RETRIEVE_FD)
        kept.retrieved = True
        return os.dup(kept.fd)

    def finish(self) -> None:
        """Free all files, retrieved or not. EINVAL (outgoing), EBUSY. Idempotent."""
        if not self.incoming:
            raise OSError(errno.EINVAL, FINISH)
        if self.finish_refused:
            raise OSError(errno.EBUSY, FINISH)
        self.drop_files()

    def freeze(self) -> None:
        """What reboot does to an outgoing session. EPERM, EBUSY: see PreservedFile.freeze."""
        for kept in self.files.values():
            kept.freeze()

    def cross(self, busy: set[Inode]) -> LuoSession:
        """This session as the next kernel, whose busy files these are, finds it."""
        arrived = LuoSession(self.name, busy, incoming=True)
        arrived.files, self.files = self.files, {}
        busy.update(kept.inode for kept in arrived.files.values())
        return arrived

    def drop_files(self) -> int:
        """Give every file back; how many bytes they were."""
        dropped = sum(kept.size_bytes for kept in self.files.values())
        for kept in self.files.values():
            kept.close()
            self._busy.discard(kept.inode)
        self.files.clear()
        return dropped
