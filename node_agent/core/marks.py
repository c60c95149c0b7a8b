"""The marks area: a fixed-size, checksummed block that crosses the kexec in the agent's session.

Layout, little-endian: magic `LRMARKS1` (8) · u32 version · u32 zlib.crc32 of everything after
this field · f64 TSC frequency in Hz · then one slot for each of NAMES, in that order:
u64 realtime in ns since the epoch (0: no such mark) · u64 boottime in ns · u64 TSC ·
40 bytes boot_id, NUL-padded ASCII. The rest up to AREA_BYTES is zero.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta

from node_agent.core.model import Mark

AREA_BYTES = 4096
"""One page: the memfd is preserved by whole pages anyway."""
MAGIC = b"LRMARKS1"
VERSION = 1
NAMES = (
    "preserve_done",
    "suspend",
    "pre_reboot",
    "kernel_start",
    "userspace_start",
    "retrieved",
    "resume",
    "finish",
)

_HEAD = struct.Struct("<8sII")
_HZ = struct.Struct("<d")
_SLOT = struct.Struct("<QQQ40s")
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


class MarksInvalid(ValueError):
    """The block is not a marks area, or its checksum is wrong."""


def pack(marks: Sequence[Mark], tsc_hz: float) -> bytes:
    """The block for these marks; names outside NAMES are left out, of two the newest stays."""
    by_name = {mark.name: mark for mark in marks}
    body = _HZ.pack(tsc_hz) + b"".join(_slot(by_name.get(name)) for name in NAMES)
    body = body.ljust(AREA_BYTES - _HEAD.size, b"\0")
    return _HEAD.pack(MAGIC, VERSION, zlib.crc32(body)) + body


def unpack(block: bytes) -> tuple[tuple[Mark, ...], float]:
    """The marks of a block, and the TSC frequency.

    Raises:
        MarksInvalid: it is not one.
    """
    if len(block) != AREA_BYTES:
        raise MarksInvalid(f"a marks area has {AREA_BYTES} bytes, not {len(block)}")
    magic, version, checksum = _HEAD.unpack_from(block)
    body = block[_HEAD.size :]
    if magic != MAGIC or version != VERSION:
        raise MarksInvalid("not a marks area of this version")
    if zlib.crc32(body) != checksum:
        raise MarksInvalid("the marks area's checksum is wrong")
    (tsc_hz,) = _HZ.unpack_from(body)
    marks: list[Mark] = []
    for index, name in enumerate(NAMES):
        realtime_ns, boottime_ns, tsc, boot_id = _SLOT.unpack_from(body, _HZ.size + index * _SLOT.size)
        if realtime_ns:
            realtime_at = _EPOCH + timedelta(microseconds=realtime_ns // 1000)
            text = boot_id.rstrip(b"\0").decode("ascii", "replace")
            marks.append(Mark(name, realtime_at, boottime_ns / 1e9, tsc, text))
    return tuple(marks), tsc_hz


def _slot(mark: Mark | None) -> bytes:
    if mark is None:
        return bytes(_SLOT.size)
    realtime_ns = ((mark.realtime_at - _EPOCH) // timedelta(microseconds=1)) * 1000
    boot_id = mark.boot_id.encode("ascii", "replace")[:40]
    return _SLOT.pack(realtime_ns, round(mark.boottime_s * 1e9), mark.tsc, boot_id)
