"""The note that this boot's filesystems may be frozen, for whoever comes after an agent that died so.

It lies beside the control socket, which is on a tmpfs: a kexec or a power cut takes it away, and the boot
id in it says the same where it does not. Its lock is the dead agent's last breath: a thread inside
reboot(2) keeps it, and then nothing may be thawed below its feet.

Format: the boot id on the first line, then a line `MOUNT_ID PATH` for each filesystem in freezing order,
the path as surrogate-escaped UTF-8 with line feeds and backslashes escaped.
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path

from node_agent.runtime.freeze import Disk, open_mount
from node_agent.runtime.mounts import Mount


class Marker:
    """The note, while its author lives. Not made before write()."""

    def __init__(self, path: Path, boot_id: str) -> None:
        self._path = path
        self._boot_id = boot_id
        self._fd = -1

    def write(self, mounts: Sequence[Mount]) -> None:
        """Make it, locked. Raises OSError."""
        self.remove()
        # A new file and a rename: another's lock on an older note is not ours to wait for.
        beside = self._path.with_name(self._path.name + ".new")
        fd = os.open(beside, os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            os.write(fd, _encode(self._boot_id, mounts))
            beside.rename(self._path)
        except OSError:
            os.close(fd)
            raise
        self._fd = fd

    def remove(self) -> None:
        """All is thawed. Idempotent."""
        if self._fd >= 0:
            with suppress(OSError):
                self._path.unlink()
            os.close(self._fd)
            self._fd = -1


class LeftOver:
    """The note of an agent of this boot that died before it could take it back. Owns an fd."""

    def __init__(self, path: Path, fd: int, mounts: Sequence[Mount]) -> None:
        self._path = path
        self._fd = fd
        self._mounts = mounts

    def held(self) -> bool:
        """Somebody may still be inside reboot(2)."""
        try:
            fcntl.flock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        return False

    def thaw(self, open_by: Callable[[Mount], Disk | None] = open_mount) -> None:
        """Once its author is gone: blocks until then, then thaws and takes the note away."""
        fcntl.flock(self._fd, fcntl.LOCK_EX)
        for mount in reversed(self._mounts):
            if (disk := open_by(mount)) is not None:
                disk.thaw()
                disk.close()
        with suppress(OSError):
            self._path.unlink()
        os.close(self._fd)


def left_over(path: Path, boot_id: str) -> LeftOver | None:
    """What an earlier agent of this boot has left, if anything. Writes nothing: it may be frozen."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return None
    said, mounts = _decode(os.pread(fd, 1 << 20, 0))
    if said != boot_id:
        os.close(fd)
        return None
    return LeftOver(path, fd, mounts)


def _encode(boot_id: str, mounts: Sequence[Mount]) -> bytes:
    lines = [boot_id, *(f"{mount.id} {_escaped(mount.path)}" for mount in mounts)]
    return "".join(f"{line}\n" for line in lines).encode("utf-8", "surrogateescape")


def _decode(data: bytes) -> tuple[str, tuple[Mount, ...]]:
    boot_id, *lines = data.decode("utf-8", "surrogateescape").split("\n")
    pairs = [line.partition(" ") for line in lines]
    return boot_id, tuple(Mount(int(id), _unescaped(path)) for id, _, path in pairs if id.isdigit())


def _escaped(path: str) -> str:
    return path.replace("\\", "\\\\").replace("\n", "\\n")


def _unescaped(path: str) -> str:
    parts = path.split("\\\\")
    return "\\".join(part.replace("\\n", "\n") for part in parts)
