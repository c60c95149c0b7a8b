"""Hardware: what goes on whichever kernel runs: PCI devices, and the IOMMU's tables that they write through.

Rules
1. A device writes while its engine runs and bus mastering is on: its n-th write puts n, a u64, into slot
   (n - 1) modulo the number of its slots. It is counted whether it lands or not.
2. What the table does not translate is lost, and a fault is counted. A table is memory: it translates for as
   long as somebody keeps it, and no longer.
3. Whoever resets a device stops it: its last close, a shutdown that does not preserve it, a kernel that
   boots and does not know it, a cold boot.

Nothing happens by itself: run() is called by LuoModel for each phase of a kexec, and by who plays with it.
"""

from __future__ import annotations

import errno
import os
import re
from collections.abc import Container, Iterable
from dataclasses import dataclass
from struct import Struct

from node_agent.kernel.emulated.rfc2.memory import PAGE_BYTES

SHUTDOWN_WRITES, PURGATORY_WRITES, BOOT_WRITES = 2, 1, 3
"""How many writes each running device makes in each phase of a kexec. No two sums of them are alike, so that
a count tells which phases were passed."""

REGION_BYTES = PAGE_BYTES
"""A device's own memory (its BAR), which other devices may write to."""

MAP, UNMAP = "IOMMU_IOAS_MAP_FILE", "IOMMU_IOAS_UNMAP"

SLOT = Struct("<Q")


@dataclass(frozen=True, slots=True)
class _Entry:
    """iova … iova + size_bytes is these pages. The descriptor stands for them: they are pinned."""

    iova: int
    size_bytes: int
    fd: int
    offset: int


class PageTable:
    """What an IOMMU translates by. Made with one holder; the last close() ends it.

    May be kept over a kexec (memory.Keepable): the hardware goes on walking it meanwhile.
    """

    size_bytes = PAGE_BYTES

    def __init__(self) -> None:
        self._entries: dict[int, _Entry] = {}
        self._holders = 1

    def hold(self) -> PageTable:
        """One more holder."""
        self._holders += 1
        return self

    def close(self) -> None:
        """One less; the last one's unpins everything, and nothing is translated any more."""
        self._holders -= 1
        if not self._holders:
            while self._entries:
                os.close(self._entries.popitem()[1].fd)

    def map(self, iova: int, size_bytes: int, fd: int, offset: int) -> None:
        """Raises OSError: EINVAL (no pages), EEXIST (there is a mapping there)."""
        if size_bytes <= 0 or iova < 0 or offset < 0 or (iova | size_bytes | offset) % PAGE_BYTES:
            raise OSError(errno.EINVAL, MAP)
        if any(e.iova < iova + size_bytes and iova < e.iova + e.size_bytes for e in self._entries.values()):
            raise OSError(errno.EEXIST, MAP)
        self._entries[iova] = _Entry(iova, size_bytes, os.dup(fd), offset)

    def unmap(self, iova: int) -> None:
        """Raises OSError: ENOENT (no mapping begins there)."""
        entry = self._entries.pop(iova, None)
        if entry is None:
            raise OSError(errno.ENOENT, UNMAP)
        os.close(entry.fd)

    def write(self, iova: int, data: bytes) -> bool:
        """What a device does; False if it is not translated, or to pages that are no longer the file's."""
        for entry in self._entries.values():
            at = iova - entry.iova
            if at >= 0 and at + len(data) <= entry.size_bytes:
                return _write(entry.fd, data, entry.offset + at)
        return False

    def __len__(self) -> int:
        return len(self._entries)


def _write(fd: int, data: bytes, offset: int) -> bool:
    """A write that grows no file. Pinned pages would outlive what a descriptor cannot: the file's being cut
    or sealed."""
    if offset + len(data) > os.fstat(fd).st_size:
        return False
    try:
        os.pwrite(fd, data, offset)
    except OSError:
        return False
    return True


@dataclass(slots=True)
class PciDevice:
    """One device and its DMA engine."""

    address: str
    """Domain, bus, device, function: 0000:01:00.0."""
    table: PageTable | None = None
    """What the IOMMU translates its addresses by. Only a pointer: the hardware keeps no memory."""
    bus_master: bool = False
    running: bool = False
    iova: int = 0
    slots: int = 0
    written: int = 0
    """Writes of the sequence that runs, landed or not."""
    faults: int = 0
    """Of those, how many were not translated."""
    _region: int = -1

    def start(self, iova: int, size_bytes: int) -> None:
        """A new sequence, from 1. Raises OSError: EINVAL (no slots)."""
        if size_bytes < SLOT.size or size_bytes % SLOT.size or iova % SLOT.size:
            raise OSError(errno.EINVAL, "start DMA")
        self.iova, self.slots = iova, size_bytes // SLOT.size
        self.written = self.faults = 0
        self.running = True

    def stop(self) -> None:
        """Idempotent; the count stays to be read."""
        self.running = False

    def run(self, writes: int) -> None:
        """Make so many writes, if it does any."""
        if not (self.running and self.bus_master):
            return
        for number in range(self.written + 1, self.written + writes + 1):
            at = self.iova + (number - 1) % self.slots * SLOT.size
            if self.table is None or not self.table.write(at, SLOT.pack(number)):
                self.faults += 1
        self.written += writes

    def region(self) -> int:
        """A descriptor that stands for its own memory; it stays the device's."""
        if self._region < 0:
            self._region = os.memfd_create(f"bar-{self.address}", os.MFD_CLOEXEC)
            os.ftruncate(self._region, REGION_BYTES)
        return self._region

    def reset(self) -> None:
        """As after power-on."""
        self.table = None
        self.bus_master = self.running = False
        self.iova = self.slots = self.written = self.faults = 0
        if self._region >= 0:
            os.close(self._region)
            self._region = -1


class Hardware:
    """All devices of a machine.

    Args:
        addresses: of the devices.
    """

    def __init__(self, addresses: Iterable[str] = ()) -> None:
        self.devices = {address: PciDevice(address) for address in addresses}

    def device(self, address: str, call: str) -> PciDevice:
        """Raises OSError: ENODEV."""
        found = self.devices.get(address)
        if found is None:
            raise OSError(errno.ENODEV, call)
        return found

    def run(self, writes: int = 1) -> None:
        """Time in which each device that does DMA makes so many writes."""
        for device in self.devices.values():
            device.run(writes)

    def reset(self, but: Container[str] = ()) -> None:
        """Reset all devices but those of these addresses."""
        for device in self.devices.values():
            if device.address not in but:
                device.reset()


def pci_address(text: str) -> str:
    """A PCI address in the kernel's spelling. Raises ValueError: it is none."""
    if not re.fullmatch(r"[0-9a-f]{4}:[0-9a-f]{2}:[01][0-9a-f]\.[0-7]", text):
        raise ValueError(text)
    return text


def lost(ring: bytes, written: int) -> tuple[int, ...]:
    """Which of the writes that a device counted are not where they belong.

    Args:
        ring: the memory of its slots, zero before the first write.
        written: the device's count. What was overwritten by a later round is not looked for.
    """
    found = [number for (number,) in SLOT.iter_unpack(ring)]
    slots = len(found)
    return tuple(
        number
        for number in range(max(1, written - slots + 1), written + 1)
        if found[(number - 1) % slots] != number
    )
