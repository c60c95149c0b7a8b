"""Which filesystems must be quiet before a kexec, read from /proc/self/mountinfo. Pure.

Rules
1. What counts is the superblock, not the mount: a service under ProtectSystem= sees its root mounted
   read-only while everybody else writes to it. So `rw` among the superblock's own options decides.
2. Block-backed is what has a real device number, or a device as its source (btrfs and some others have
   a number of their own making). tmpfs, network and overlay filesystems have no journal of ours to close.
3. One filesystem is named once, however often it is mounted, with all of its mounts: any of them will
   do, and the first may be hidden below another.
4. Order: the one mounted last comes first. A filesystem in a file of another one writes to that while it
   is being frozen, and must not find it frozen. In a namespace of its own, as a unit with ProtectSystem=
   has, mounts are listed as a tree and not in time: so those on loop devices come before all others.

Source: proc_pid_mountinfo(5); Linux fs/ioctl.c, ioctl_fsfreeze().
"""

from __future__ import annotations

import re
from dataclasses import dataclass

_ESCAPED = re.compile(r"\\([0-7]{3})")
_LOOP = "/dev/loop"


@dataclass(frozen=True, slots=True)
class Mount:
    """One mount of one filesystem. id: as in /proc/self/fdinfo's mnt_id."""

    id: int
    path: str


@dataclass(frozen=True, slots=True)
class Mounted:
    """One filesystem. device: MAJOR:MINOR; kind: ext4, xfs, …; mounts: oldest first, never empty."""

    device: str
    kind: str
    mounts: tuple[Mount, ...]


def to_quiesce(mountinfo: str) -> tuple[Mounted, ...]:
    """Every writable block-backed filesystem, in the order in which to freeze them.

    A line that cannot be read is left out: it is better to jump with one filesystem not frozen, as
    after a power cut, than never to jump.
    """
    found: dict[str, Mounted] = {}
    in_files: set[str] = set()
    for line in mountinfo.splitlines():
        head, dash, tail = line.partition(" - ")
        fields, about = head.split(" "), tail.split(" ")
        if not dash or len(fields) < 6 or len(about) < 3 or not fields[0].isdigit():
            continue
        device, (kind, source, options) = fields[2], about[:3]
        if "rw" not in options.split(",") or not _block_backed(device, source):
            continue
        mount = Mount(int(fields[0]), _unescaped(fields[4]))
        if source.startswith(_LOOP):
            in_files.add(device)
        known = found.get(device)
        found[device] = Mounted(device, kind, ((*known.mounts, mount) if known else (mount,)))
    last_first = list(reversed(found.values()))
    last_first.sort(key=lambda mounted: mounted.device not in in_files)
    return tuple(last_first)


def _block_backed(device: str, source: str) -> bool:
    return not device.startswith("0:") or source.startswith("/dev/")


def _unescaped(path: str) -> str:
    return _ESCAPED.sub(lambda match: chr(int(match[1], 8)), path)
