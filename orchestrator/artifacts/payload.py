"""The kernel proper out of a bzImage: its compressed payload, unpacked.

Rules
1. The format is told by the payload's first bytes, its length by the last four of it: what comes out
   must be exactly that long, or nothing comes out.
2. gzip, xz, bzip2 and lzma are unpacked by the standard library, lz4 and zstd by the program of
   that name, fed and read with a bound.
3. A payload that cannot be unpacked here is no fault of the kernel: NoUnpacker says what would help,
   and the caller goes on without.

Source: Linux Documentation/arch/x86/boot.rst, payload_offset and payload_length; scripts/Makefile.lib,
size_append: every format but gzip is followed by the uncompressed size, which gzip has of its own.
"""

from __future__ import annotations

import bz2
import lzma
import shutil
import struct
import subprocess
import tempfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Protocol

from orchestrator.artifacts.bzimage import BzImage
from orchestrator.errors import Blocked

MAX_KERNEL_BYTES = 1 << 30
"""An unpacked kernel is some tens of MiB; beyond a GiB the size is not a size."""
PROGRAM_S = 120.0
"""lz4 and zstd take a second; a program that takes minutes hangs."""
SIZE_BYTES = 4


class NoUnpacker(Exception):
    """This machine cannot unpack it. `remedy` says what would help."""

    def __init__(self, message: str, remedy: str) -> None:
        super().__init__(message)
        self.message, self.remedy = message, remedy


class _Decompressor(Protocol):
    @property
    def eof(self) -> bool: ...
    def decompress(self, data: bytes, max_length: int = ..., /) -> bytes: ...


def unpack(path: Path, image: BzImage) -> bytes:
    """The unpacked kernel of the bzImage at `path`. Blocking, a second or so.

    Raises NoUnpacker, and Blocked (KERNEL_PAYLOAD_DAMAGED) if it does not unpack to what it
    says it is.
    """
    if not image.payload_bytes:
        raise NoUnpacker(
            f"{path.name} does not say where its payload is (boot protocol before 2.08)",
            "give the kernel's ELF file with --vmlinux",
        )
    with path.open("rb") as file:
        file.seek(image.payload_at)
        payload = file.read(image.payload_bytes)
    if len(payload) < image.payload_bytes or len(payload) <= SIZE_BYTES:
        raise _damaged(path, "it ends before its payload does")
    unpacked = next((how for magic, how in _FORMATS if payload.startswith(magic)), None)
    if unpacked is None:
        raise NoUnpacker(
            f"{path.name} is packed in a way that is not known here ({payload[:4].hex()})",
            "give the kernel's ELF file with --vmlinux",
        )
    (size,) = struct.unpack("<I", payload[-SIZE_BYTES:])
    if not 0 < size <= MAX_KERNEL_BYTES:
        raise _damaged(path, f"{size} bytes is no size of a kernel")
    found = unpacked(path, payload, size)
    if len(found) != size:
        raise _damaged(path, f"it unpacks to {len(found)} bytes and says {size}")
    return found


def _gzip(path: Path, payload: bytes, size: int) -> bytes:
    return _bounded(path, lambda: zlib.decompressobj(31).decompress(payload, size + 1))


def _xz(path: Path, payload: bytes, size: int) -> bytes:
    return _streamed(path, lzma.LZMADecompressor(lzma.FORMAT_XZ), payload[:-SIZE_BYTES], size)


def _lzma(path: Path, payload: bytes, size: int) -> bytes:
    return _streamed(path, lzma.LZMADecompressor(lzma.FORMAT_ALONE), payload[:-SIZE_BYTES], size)


def _bzip2(path: Path, payload: bytes, size: int) -> bytes:
    return _streamed(path, bz2.BZ2Decompressor(), payload[:-SIZE_BYTES], size)


def _streamed(path: Path, unpacker: _Decompressor, payload: bytes, size: int) -> bytes:
    return _bounded(path, lambda: unpacker.decompress(payload, size + 1))


def _bounded(path: Path, unpacked: Callable[[], bytes]) -> bytes:
    try:
        return unpacked()
    except (OSError, ValueError, EOFError, zlib.error, lzma.LZMAError) as error:
        raise _damaged(path, "its payload does not unpack") from error


def _program(name: str) -> Callable[[Path, bytes, int], bytes]:
    def unpacked(path: Path, payload: bytes, size: int) -> bytes:
        program = shutil.which(name)
        if program is None:
            raise NoUnpacker(
                f"{path.name} is packed with {name}, and there is no {name} program here",
                f"install {name} and build the artifact again; or give the kernel's ELF file with --vmlinux",
            )
        with tempfile.TemporaryFile() as given, tempfile.TemporaryFile() as taken:
            given.write(payload[:-SIZE_BYTES])
            given.seek(0)
            try:
                subprocess.run(
                    [program, "-d", "-c"],
                    stdin=given,
                    stdout=taken,
                    stderr=subprocess.DEVNULL,
                    check=True,
                    timeout=PROGRAM_S,
                )
            except (subprocess.SubprocessError, OSError) as error:
                raise _damaged(path, f"{name} does not unpack its payload") from error
            taken.seek(0)
            return taken.read(size + 1)

    return unpacked


_FORMATS: tuple[tuple[bytes, Callable[[Path, bytes, int], bytes]], ...] = (
    (b"\x1f\x8b\x08", _gzip),
    (b"\xfd7zXZ\0", _xz),
    (b"BZh", _bzip2),
    (b"\x5d\0\0", _lzma),
    (b"\x02\x21\x4c\x18", _program("lz4")),
    (b"\x28\xb5\x2f\xfd", _program("zstd")),
)


def _damaged(path: Path, what: str) -> Blocked:
    return Blocked(
        f"{path.name} is damaged: {what}",
        reason="KERNEL_PAYLOAD_DAMAGED",
        remedy="copy the kernel again and compare its checksum with its source",
        path=path,
    )
