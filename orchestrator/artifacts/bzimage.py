"""Reads what an x86 bzImage says of itself: its release, and how long it must be.

Only the header is interpreted; nothing is executed or decompressed.

Source: Linux Documentation/arch/x86/boot.rst, "The Real-Mode Kernel Header": setup_sects at
0x1f1 (u8, 0 means 4), syssize at 0x1f4 (u32, in 16-byte units), the signature "HdrS" at
0x202, kernel_version at 0x20e (u16: offset, less 0x200, of a NUL-terminated string); since protocol
2.08 payload_offset at 0x248, counted from the protected-mode code, and payload_length at 0x24c.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from pathlib import Path

from orchestrator.errors import Blocked

HEADER_BYTES = 0x250
PAYLOAD_PROTOCOL = 0x208
"""The boot protocol that first says where the payload is."""
MAX_VERSION_BYTES = 512
"""The version string is free text of at most a line; more means the pointer is wrong."""
SECTOR_BYTES = 512
PARAGRAPH_BYTES = 16


@dataclass(frozen=True, slots=True)
class BzImage:
    """What the header says."""

    release: str
    """First word of the version string: `uname -r`."""
    version: str
    """The whole string, with builder and date."""
    minimum_bytes: int
    """Setup and protected-mode code; a shorter file is truncated, a longer one may carry a signature."""
    payload_at: int = 0
    """Where in the file the compressed kernel begins."""
    payload_bytes: int = 0
    """How long it is; 0 if the header does not say."""


def read_bzimage(path: Path) -> BzImage:
    """The header of the kernel at `path`.

    Raises Blocked with reason KERNEL_NOT_BZIMAGE or KERNEL_TRUNCATED.
    """
    size = path.stat().st_size
    with path.open("rb") as file:
        head = file.read(HEADER_BYTES)
        if len(head) < HEADER_BYTES or head[0x202:0x206] != b"HdrS":
            raise Blocked(
                f"{path.name} is not an x86 bzImage",
                reason="KERNEL_NOT_BZIMAGE",
                remedy="give the compressed kernel (bzImage, or /boot/vmlinuz-…), not the ELF vmlinux",
                path=path,
            )
        setup_sects = head[0x1F1] or 4
        (syssize,) = struct.unpack_from("<I", head, 0x1F4)
        (pointer,) = struct.unpack_from("<H", head, 0x20E)
        minimum = (setup_sects + 1) * SECTOR_BYTES + syssize * PARAGRAPH_BYTES
        if size < minimum:
            raise Blocked(
                f"{path.name} is truncated: {size} bytes, its header asks for {minimum}",
                reason="KERNEL_TRUNCATED",
                remedy="copy the kernel again and compare its checksum with its source",
                path=path,
                size=size,
                expected=minimum,
            )
        if pointer == 0:
            raise Blocked(
                f"{path.name} carries no version string",
                reason="KERNEL_NOT_BZIMAGE",
                remedy="build the kernel with its version string, as every stock kernel is",
                path=path,
            )
        file.seek(pointer + 0x200)
        raw = file.read(MAX_VERSION_BYTES)
    version = raw.split(b"\0", 1)[0].decode("ascii", "replace")
    release = version.split(" ", 1)[0]
    if not release:
        raise Blocked(
            f"{path.name} carries an empty version string",
            reason="KERNEL_NOT_BZIMAGE",
            remedy="build the kernel with its version string, as every stock kernel is",
            path=path,
        )
    return BzImage(release, version, minimum, *_payload(head, (setup_sects + 1) * SECTOR_BYTES))


def _payload(head: bytes, protected_mode_at: int) -> tuple[int, int]:
    """(where it begins in the file, its length), zeros if the header is too old to say."""
    (protocol,) = struct.unpack_from("<H", head, 0x206)
    if protocol < PAYLOAD_PROTOCOL:
        return 0, 0
    offset, length = struct.unpack_from("<II", head, 0x248)
    return protected_mode_at + offset, length
