"""Buffers of the kernel's own that live in reserve_mem's regions: ftrace's ring and pstore's dump.

Both are what the seed thread names: they cross a kexec if their region does, and the next kernel shows what
the one before it wrote. Without a region of their label there are none.

Source: trace_instance=NAME@REGION (boot mapped ring buffers show the last boot); ramoops.mem_name=REGION,
and kmsg_dump(KMSG_DUMP_SHUTDOWN) in kernel_kexec(). The thread's own doubt, "The pstore use case is only
potential, correct?": ramoops.mem_name came with reserve_mem itself, in Linux 6.11.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence

from node_agent.kernel.emulated.rfc2.reserve_mem import Region, Reserved

TRACE, PSTORE = "trace", "pstore"
"""The labels of their regions."""

HEADER = struct.Struct("<8sQ")
"""Magic, and how many bytes were ever written."""
MAGIC = b"LRLOGv1\0"


class Ring:
    """Lines of text in a region; the newest stay where there is no more room."""

    def __init__(self, region: Region) -> None:
        self._region = region
        self._room_bytes = max(region.size_bytes - HEADER.size, 0)

    def lines(self) -> list[str]:
        """What is there, oldest first; a line that was partly overwritten is left out."""
        if not self._room_bytes:
            return []
        written = self._written()
        start = written % self._room_bytes
        content = self._region.read(HEADER.size, self._room_bytes)
        if written <= self._room_bytes:
            content = content[:written]
        else:
            content = (content[start:] + content[:start]).partition(b"\n")[2]
        return content.decode(errors="replace").splitlines()

    def clear(self) -> None:
        if self._room_bytes:
            self._region.write(0, HEADER.pack(MAGIC, 0))

    def append(self, line: str) -> None:
        """A line that has no room by itself loses its beginning."""
        if not self._room_bytes:
            return
        content = (line.encode() + b"\n")[-self._room_bytes :]
        written = self._written()
        start = written % self._room_bytes
        first = content[: self._room_bytes - start]
        self._region.write(HEADER.size + start, first)
        self._region.write(HEADER.size, content[len(first) :])
        self._region.write(0, HEADER.pack(MAGIC, written + len(content)))

    def _written(self) -> int:
        magic, written = HEADER.unpack(self._region.read(0, HEADER.size))
        return int(written) if magic == MAGIC else 0


class Buffer:
    """A ring of this boot, and what the boot before left in it."""

    def __init__(self, region: Region) -> None:
        self._ring = Ring(region)
        self.last_boot = self._ring.lines()
        self._ring.clear()

    def lines(self) -> list[str]:
        """Of this boot."""
        return self._ring.lines()

    def append(self, line: str) -> None:
        self._ring.append(line)


class Ftrace:
    """Notes what LUO calls its subsystems for (subsystems.Subsystem); it keeps nothing itself."""

    name = "ftrace"
    automatic = False

    def __init__(self, reserved: Reserved) -> None:
        self._reserved = reserved
        self.buffer: Buffer | None = None
        """From boot on."""

    def prepare(self) -> int:
        self.event("prepare")
        return 0

    def freeze(self, data: int) -> int:
        self.event("freeze")
        return data

    def cancel(self, data: int) -> None:
        self.event("cancel")

    def boot(self, data: int | None) -> None:
        """After reserve_mem's, which revives the region."""
        self.buffer = Buffer(self._reserved.region(TRACE))
        self.event("boot")

    def finish(self, data: int | None) -> None:
        self.event("finish")

    def event(self, name: str) -> None:
        if self.buffer is not None:
            self.buffer.append(f"liveupdate: {name}")


class Pstore:
    """The log's tail, dumped when the kernel is left.

    Args:
        reserved: its regions are revived.
    """

    def __init__(self, reserved: Reserved) -> None:
        self.buffer = Buffer(reserved.region(PSTORE))

    def dump(self, messages: Sequence[str]) -> None:
        """As much as there is room for."""
        for message in messages:
            self.buffer.append(message)
