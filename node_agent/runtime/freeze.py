"""Freezing a filesystem and thawing it: FIFREEZE and FITHAW, blocking.

- FIFREEZE writes everything back, closes the journal, and makes every later write wait. Reading goes on.
- It does not nest for userspace: EBUSY says that somebody else has frozen it, and whose it is then.
- A filesystem without the means to (EOPNOTSUPP), or a process without the right to (EPERM), is written
  back only; the next mount then replays its journal, as after a power cut.

Source: Linux fs/ioctl.c (ioctl_fsfreeze wants CAP_SYS_ADMIN), fs/super.c (freeze_super, thaw_super: EINVAL
where nothing is frozen); fdinfo's mnt_id: proc_pid_fdinfo(5).
"""

from __future__ import annotations

import errno
import fcntl
import os
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Protocol

from node_agent.runtime.mounts import Mount, Mounted, to_quiesce

FIFREEZE = 0xC0045877
"""_IOWR('X', 119, int)."""
FITHAW = 0xC0045878
"""_IOWR('X', 120, int)."""


class Disk(Protocol):
    """One filesystem. Every call blocks, and none raises: the jump does not hang on one of them."""

    @property
    def mount(self) -> Mount: ...
    def fileno(self) -> int: ...
    def freeze(self) -> bool:
        """True: frozen, and by us. False: it was only written back, or is frozen by somebody else."""
        ...

    def thaw(self) -> None: ...
    def close(self) -> None: ...


class OpenDisk:
    """A filesystem held open by one of its mounts; owns the fd."""

    def __init__(self, mount: Mount, fd: int) -> None:
        self._mount = mount
        self._fd = fd

    @property
    def mount(self) -> Mount:
        """By which it was opened."""
        return self._mount

    def fileno(self) -> int:
        """Any file of it will do for the ioctls."""
        return self._fd

    def freeze(self) -> bool:
        """See Disk."""
        try:
            fcntl.ioctl(self._fd, FIFREEZE, 0)
        except OSError as error:
            if error.errno != errno.EBUSY:
                _write_back(self._fd)
            return False
        return True

    def thaw(self) -> None:
        """See Disk. EINVAL: it was not frozen, or not any more."""
        with suppress(OSError):
            fcntl.ioctl(self._fd, FITHAW, 0)

    def close(self) -> None:
        """Idempotent."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1


def open_disks(mountinfo: Path = Path("/proc/self/mountinfo")) -> Sequence[OpenDisk]:
    """Every filesystem to quiesce, in order, as far as it can be opened."""
    opened = [_open_any(mounted) for mounted in to_quiesce(mountinfo.read_text(errors="surrogateescape"))]
    return [disk for disk in opened if disk is not None]


def open_mount(mount: Mount) -> OpenDisk | None:
    """The filesystem by this mount; None if its path now leads to another, or nowhere."""
    try:
        # NONBLOCK: a single file may be mounted, too, and that may be a pipe.
        fd = os.open(mount.path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except OSError:
        return None
    if _mount_id(fd) != mount.id:
        os.close(fd)
        return None
    return OpenDisk(mount, fd)


def _open_any(mounted: Mounted) -> OpenDisk | None:
    for mount in mounted.mounts:
        if (disk := open_mount(mount)) is not None:
            return disk
    return None


def _mount_id(fd: int) -> int:
    try:
        for line in Path(f"/proc/self/fdinfo/{fd}").read_text().splitlines():
            name, _, value = line.partition(":")
            if name == "mnt_id":
                return int(value)
    except (OSError, ValueError):
        return -1
    return -1


def _write_back(fd: int) -> None:
    """syncfs(2), which Python does not have. An error means that the disk is failing: the jump is not
    the worse for it, and the next mount finds out."""
    import ctypes

    ctypes.CDLL(None, use_errno=True).syncfs(fd)
