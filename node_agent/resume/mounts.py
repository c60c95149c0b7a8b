"""mount(2) for the early init: a fresh kernel has mounted nothing but root, and perhaps /dev.

A socket made below a directory that the real init mounts over would be hidden. So what the sockets
lie below is mounted first, if it was a mount point in the kernel before (wanted(), which the agent
writes to resume.conf); an init that finds it mounted leaves it alone. Nothing else is mounted:
_ctypes alone costs the blackout path as much as all other imports together.

_ctypes, not ctypes: the package costs more again. Where it is not installed (Debian's
python3-minimal), mount(8) is run.
"""

from __future__ import annotations

import posix

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

NOSUID, NODEV, NOEXEC = 2, 4, 8
"""Source: include/uapi/linux/mount.h."""

KNOWN = {
    "/proc": ("proc", NOSUID | NODEV | NOEXEC, ""),
    "/run": ("tmpfs", NOSUID | NODEV, "mode=0755"),
}
"""Mount point → type, flags, data. Others cannot be mounted without knowing the node's fstab."""


def wanted(*sockets: str) -> list[str]:
    """Which of KNOWN these sockets lie below and are mount points now. /var/run, a link, is /run."""
    import os.path  # the blackout path does not come here

    sockets = tuple(os.path.realpath(socket) for socket in sockets)
    return [
        place
        for place in KNOWN
        if any(socket.startswith(place + "/") for socket in sockets) and _is_mounted(place)
    ]


def mount_missing(places: Iterable[str]) -> None:
    """Mount each that is not mounted. What fails is left to the real init."""
    for place in places:
        try:
            if place in KNOWN and not _is_mounted(place):
                _mount(place, *KNOWN[place])
        except OSError:
            continue


def _is_mounted(place: str) -> bool:
    try:
        return posix.stat(place).st_dev != posix.stat("/").st_dev
    except OSError:
        return False


def _mount(place: str, kind: str, flags: int, data: str) -> None:
    try:
        import _ctypes
    except ImportError:
        argv = ("/bin/mount", "-t", kind, *(("-o", data) if data else ()), kind, place)
        posix.waitpid(posix.posix_spawn(argv[0], argv, posix.environ), 0)
        return
    call = _ctypes.dlsym(_ctypes.dlopen("libc.so.6", 0), "mount")
    _ctypes.call_function(call, (kind.encode(), place.encode(), kind.encode(), flags, data.encode()))
