"""Tiny made-up bzImages with a payload: what boots nothing and yet unpacks."""

from __future__ import annotations

import bz2
import lzma
import struct
import subprocess
import zlib

STRINGS = b"\xff\xffkho-v4\0compati\0luo-v5\0\x01memfd-v2\0\0\0"
KERNEL = b"\x7fELF" + b"\x90" * 300 + STRINGS + b"LUO state is incompatible with 'luo-v4'\0" + b"\xcc" * 100
FORMATS = ("gzip", "xz", "bzip2", "lzma", "lz4", "zstd")


def packed(kernel: bytes, how: str) -> bytes:
    """As the kernel's build packs it: the size follows, but for gzip, which ends in it."""
    size = struct.pack("<I", len(kernel))
    match how:
        case "gzip":
            packer = zlib.compressobj(9, zlib.DEFLATED, 31)
            return packer.compress(kernel) + packer.flush()
        case "xz":
            return lzma.compress(kernel, lzma.FORMAT_XZ, check=lzma.CHECK_CRC32) + size
        case "bzip2":
            return bz2.compress(kernel) + size
        case "lzma":
            return lzma.compress(kernel, lzma.FORMAT_ALONE) + size
        case "lz4":
            return _program(["lz4", "-l", "-9", "-c"], kernel) + size
        case "zstd":
            return _program(["zstd", "-q", "-c"], kernel) + size
    raise AssertionError(how)


def _program(argv: list[str], given: bytes) -> bytes:
    return subprocess.run(argv, input=given, capture_output=True, check=True, timeout=60).stdout


def bzimage(
    payload: bytes, release: str = "7.2.13-test", *, protocol: int = 0x20F, init_bytes: int = 17 << 20
) -> bytes:
    """A bzImage of that payload, which begins 64 bytes into the protected-mode code."""
    offset, setup_sects = 64, 3
    body = b"\x90" * offset + payload
    body += b"\0" * (-len(body) % 16)
    head = bytearray((setup_sects + 1) * 512)
    head[0x1F1] = setup_sects
    struct.pack_into("<I", head, 0x1F4, len(body) // 16)
    head[0x1FE:0x200] = b"\x55\xaa"
    head[0x202:0x206] = b"HdrS"
    struct.pack_into("<H", head, 0x206, protocol)
    struct.pack_into("<H", head, 0x20E, 0x300 - 0x200)
    struct.pack_into("<I", head, 0x238, 2047)
    struct.pack_into("<II", head, 0x248, offset, len(payload))
    struct.pack_into("<I", head, 0x260, init_bytes)
    version = f"{release} (builder@host) #1 SMP\0".encode()
    head[0x300 : 0x300 + len(version)] = version
    return bytes(head) + body
