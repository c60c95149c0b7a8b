"""mount(2) for the early init. A fresh kernel has mounted nothing but root, and perhaps /dev.

_ctypes, not ctypes: the package costs the blackout path more than the call. Where it is not
installed (Debian's python3-minimal), mount(8) is run.
"""

from __future__ import annotations

import posix

NOSUID, NODEV, NOEXEC = 2, 4, 8
"""Source: include/uapi/linux/mount.h."""

WANTED = (
    ("/proc", "proc", NOSUID | NODEV | NOEXEC, ""),
    ("/sys", "sysfs", NOSUID | NODEV | NOEXEC, ""),
    ("/dev", "devtmpfs", NOSUID, "mode=0755"),
    ("/run", "tmpfs", NOSUID | NODEV, "mode=0755"),
)
"""Mount point, type, flags, data. A socket made below an unmounted /run would be hidden later."""


def mount_missing() -> None:
    """Mount each of WANTED that is not mounted. What fails is left to the real init."""
    root = posix.stat("/").st_dev
    for target, kind, flags, data in WANTED:
        try:
            if posix.stat(target).st_dev == root:
                _mount(kind, target, flags, data)
        except OSError:
            continue


def _mount(kind: str, target: str, flags: int, data: str) -> None:
    try:
        import _ctypes
    except ImportError:
        _run("/bin/mount", "-t", kind, *(("-o", data) if data else ()), kind, target)
        return
    call = _ctypes.dlsym(_ctypes.dlopen(None, 0), "mount")
    _ctypes.call_function(call, (kind.encode(), target.encode(), kind.encode(), flags, data.encode()))


def _run(*argv: str) -> None:
    posix.waitpid(posix.posix_spawn(argv[0], argv, posix.environ), 0)
