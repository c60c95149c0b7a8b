"""What workloads may preserve, read from /proc: the memfds that their processes hold open.

An estimate: which of them a workload will preserve only it knows, and a child of the connected process may
hold more. A memfd that came through a live update has lost its name. One that several processes hold
counts once. Another user's process takes CAP_SYS_PTRACE to look at; without it the entry says so.

Source: Linux 7.2 fs/proc and mm/memfd.c: the link of a memfd is "/memfd:NAME (deleted)"; of one that LUO
gave back, "/ (deleted)". lab runs.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Sequence

from node_agent.ports import WorkloadPeer
from node_agent.runtime.preflight_room import Preservable

BLOCK_BYTES = 512
"""Of st_blocks, whatever the filesystem's own block is."""


def read_preservable(peers: Sequence[WorkloadPeer], proc: str = "/proc") -> tuple[Preservable, ...]:
    """One entry for each workload whose process is known. Blocking, a few ms."""
    seen: set[tuple[int, int]] = set()
    return tuple(_of_process(peer.workload, f"{proc}/{peer.pid}/fd", seen) for peer in peers if peer.pid > 0)


def _of_process(workload: str, directory: str, seen: set[tuple[int, int]]) -> Preservable:
    size = allocated = 0
    try:
        found = _memfds(directory)
    except PermissionError:
        return Preservable(workload, 0, 0, seen=False)
    except OSError:
        return Preservable(workload, 0, 0)
    for stat in found:
        inode = stat.st_dev, stat.st_ino
        if inode not in seen:
            seen.add(inode)
            size += stat.st_size
            allocated += min(stat.st_blocks * BLOCK_BYTES, stat.st_size)
    return Preservable(workload, size, allocated)


def _memfds(directory: str) -> list[os.stat_result]:
    """Raises OSError: the process is gone, or may not be looked at."""
    found = []
    for name in os.listdir(directory):
        path = f"{directory}/{name}"
        with contextlib.suppress(FileNotFoundError):  # closed meanwhile
            if _is_memfd(os.readlink(path)):
                found.append(os.stat(path))
    return found


def _is_memfd(link: str) -> bool:
    return link.startswith("/memfd:") or link == "/ (deleted)"
