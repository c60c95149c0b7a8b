"""What an x86 bzImage says of itself in its boot header: release, memory, command line.

Source: Linux Documentation/arch/x86/boot.rst: magic "HdrS" at 0x202, protocol version at 0x206,
kernel_version at 0x20e (protocol ≥ 2.00), a pointer less 0x200 to a NUL-terminated string that begins
with the release; cmdline_size at 0x238 (≥ 2.06); init_size at 0x260 (≥ 2.10), what the kernel takes
from where it is loaded until it reads its memory map. arch/x86/kernel/kexec-bzimage64.c refuses
a command line that is longer than cmdline_size with its NUL.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from node_agent.errors import ArtifactError, Retry

RELEASE = re.compile(r"[!-~]{1,64}")
"""UTS release: 64 printable characters (struct new_utsname, __NEW_UTS_LEN)."""
_HEADER_BYTES = 0x10000
"""The version string lies within the setup sectors, at most 64 of 512 bytes above 0x200."""


@dataclass(frozen=True, slots=True)
class BzImage:
    """What the header says; a number is 0 if the header is too old to say it."""

    release: str
    init_bytes: int = 0
    command_line_max: int = 0
    """What kexec_file_load takes, with the NUL."""


def read_bzimage(path: Path) -> BzImage:
    """The header of a kernel.

    Raises:
        ArtifactError: NOT_A_BZIMAGE.
        OSError: the file cannot be read.
    """
    with path.open("rb") as file:
        head = file.read(_HEADER_BYTES)
    pointer, protocol = _number(head, 0x20E, 2), _number(head, 0x206, 2)
    if head[0x202:0x206] != b"HdrS" or protocol < 0x200 or not pointer:
        raise _not_bzimage(path)
    text = head[pointer + 0x200 :].split(b"\0", 1)[0]
    release = text.decode("ascii", "replace").partition(" ")[0]
    if not RELEASE.fullmatch(release):
        raise _not_bzimage(path)
    return BzImage(
        release,
        init_bytes=_number(head, 0x260, 4) if protocol >= 0x20A else 0,
        command_line_max=_number(head, 0x238, 4) if protocol >= 0x206 else 0,
    )


def _number(head: bytes, at: int, length: int) -> int:
    return int.from_bytes(head[at : at + length], "little")


def _not_bzimage(path: Path) -> ArtifactError:
    return ArtifactError(
        f"{path.name} has no x86 bzImage header with a kernel version",
        reason="NOT_A_BZIMAGE",
        retry=Retry.NEVER,
        remedy="publish a bzImage (vmlinuz), or mark the artifact emulated if it is one",
        file=path.name,
    )
