"""The header of guest memory (memory.py): its layout, its checksum, and one tick on it.

From interpreter builtins only: a workload that comes back after a kexec ticks with this before it
imports anything else.
"""

from __future__ import annotations

import posix
import zlib

# _struct, not struct: see the module.
from _struct import Struct

PAGE = 4096
MAGIC = b"LRGUEST2"
PAGE_HEAD = Struct("<QQ")
"""(index of the body page, last tick that touched it)"""

MASK = 2**64 - 1
MULTIPLIER = 6364136223846793005
INCREMENT = 1442695040888963407
"""Knuth's linear congruence: its state after n ticks is computed in log n steps."""

_HEADER = Struct("<8sQQQQqqQd36sB")
_CHECKSUM = Struct("<I")
SIZE = _HEADER.size + _CHECKSUM.size

Fields = tuple[bytes, int, int, int, int, int, int, int, float, bytes, int]
"""magic, seed, body pages, ticks, running state, realtime_ns, boottime_ns, tsc, tsc_hz, boot_id,
suspended"""


def pack(fields: Fields) -> bytes:
    """The header with its checksum."""
    head = _HEADER.pack(*fields)
    return head + _CHECKSUM.pack(zlib.crc32(head))


def unpack(head: bytes) -> Fields | None:
    """None if it is too short, its checksum differs, or it is another thing."""
    if len(head) != SIZE or _CHECKSUM.unpack_from(head, _HEADER.size)[0] != zlib.crc32(head[: _HEADER.size]):
        return None
    fields: Fields = _HEADER.unpack_from(head)
    return fields if fields[0] == MAGIC and fields[2] > 0 else None


def tick(fd: int) -> bool:
    """The first tick of a workload that runs again: no longer suspended. The clocks in the header stay those
    of the last tick before, from which its pause is measured. False if the header does not hold."""
    fields = unpack(posix.pread(fd, SIZE, 0))
    if fields is None:
        return False
    magic, seed, pages, ticks, state, *stamp, _ = fields
    ticks, state = ticks + 1, (state * MULTIPLIER + INCREMENT) & MASK
    page = ticks % pages
    posix.pwrite(fd, PAGE_HEAD.pack(page, ticks), (page + 1) * PAGE)
    posix.pwrite(fd, pack((magic, seed, pages, ticks, state, *stamp, 0)), 0)  # type: ignore[arg-type]
    return True
