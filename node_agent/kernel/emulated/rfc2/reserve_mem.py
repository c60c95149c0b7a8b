"""reserve_mem=: named regions of memory that the command line sets aside, and what of them crosses a kexec.

Rules
1. Each boot has the regions of its own command line, `reserve_mem=nn[KMG]:align:label`, at most
   MAX_REGIONS; a word that is malformed, one too many or repeats a label is logged and left out.
2. A region begins as zeros, unless the kernel before preserved one of the same label, size and an alignment
   that does: that one is revived with its content.
3. A region is preserved where it lies: what is written after that crosses too.

Which way it is preserved is reserve_mem_ways.

Source: mm/memblock.c, reserve_mem() and reserve_mem_kho_*. There a start address that is not aligned is
refused at revival; addresses here stand for no layout, so the alignment is compared.
"""

from __future__ import annotations

import errno
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from node_agent.kernel.emulated.rfc2.memory import PAGE_BYTES, Memory

WORD = "reserve_mem="
MAX_REGIONS = 8
"""RESERVE_MEM_MAX_ENTRIES."""
LABEL_BYTES = 16
"""RESERVE_MEM_NAME_SIZE, with the NUL."""
MIN_ALIGN_BYTES = 64
"""SMP_CACHE_BYTES: smaller alignments are raised to it."""
COMPATIBLE = "reserve-mem-v1"
UNITS = {unit: 1024 ** (n + 1) for n, unit in enumerate("KMGTPE")}
MALFORMED = "reserve_mem: empty or malformed parameter"

Nodes = Mapping[str, Any]
"""Label → node of a region: compatible, start, size and align."""


@dataclass(slots=True)
class Region:
    """A region's memory (memory.Keepable). Only pages that were written take any here."""

    label: str
    size_bytes: int
    align_bytes: int
    _pages: dict[int, bytearray] = field(default_factory=dict, repr=False)

    def read(self, offset: int = 0, count: int = -1) -> bytes:
        """Raises OSError(EINVAL): beyond its end.

        Args:
            offset, count: bytes; -1 is all that follows.
        """
        count = self.size_bytes - offset if count < 0 else count
        return b"".join(
            bytes(self._pages.get(page, _ZEROS)[start:end]) for page, start, end in self._parts(offset, count)
        )

    def write(self, offset: int, content: bytes) -> None:
        """Raises OSError(EINVAL): beyond its end; nothing is written then."""
        parts = list(self._parts(offset, len(content)))
        done = 0
        for page, start, end in parts:
            self._pages.setdefault(page, bytearray(PAGE_BYTES))[start:end] = content[
                done : done + end - start
            ]
            done += end - start

    def close(self) -> None:
        """No longer preserved; it stays the kernel's that has it."""

    def _parts(self, offset: int, count: int) -> Iterator[tuple[int, int, int]]:
        """(page, from, to) of a range."""
        if offset < 0 or offset + count > self.size_bytes:
            raise OSError(errno.EINVAL, f"reserve_mem {self.label}")
        end = offset + count
        while offset < end:
            page, start = divmod(offset, PAGE_BYTES)
            length = min(PAGE_BYTES - start, end - offset)
            yield page, start, start + length
            offset += length


_ZEROS = bytes(PAGE_BYTES)


class Reserved:
    """The regions of one boot.

    Args:
        log: the kernel's.
    """

    def __init__(self, command_line: str, log: Callable[[str], None]) -> None:
        self.regions: dict[str, Region] = {}
        self._log = log
        for word in command_line.split():
            if word.startswith(WORD):
                self._reserve(word.removeprefix(WORD))

    def _reserve(self, value: str) -> None:
        if len(self.regions) >= MAX_REGIONS:
            self._log("reserve_mem: no more room for reserved memory")
            return
        try:
            region = parse(value)
        except ValueError:
            self._log(MALFORMED)
            return
        if region.label in self.regions:
            self._log(f"reserve_mem: '{region.label}' is reserved already")
            return
        self.regions[region.label] = region

    def region(self, label: str) -> Region:
        """Raises OSError(ENOENT): the command line has none of that label."""
        if label not in self.regions:
            raise OSError(errno.ENOENT, f"reserve_mem {label}")
        return self.regions[label]

    def preserve(self, memory: Memory) -> dict[str, Any]:
        """Have every region cross, each by its node. Raises OSError: ENOMEM; none crosses then."""
        nodes: dict[str, Any] = {}
        for label, region in self.regions.items():
            try:
                start = memory.keep(region)
            except OSError:
                release(nodes, memory)
                raise
            nodes[label] = {
                "compatible": COMPATIBLE,
                "start": start,
                "size": region.size_bytes,
                "align": region.align_bytes,
            }
        return nodes

    def revive(self, nodes: Nodes, memory: Memory) -> None:
        """Take what the kernel before preserved of these; the rest of it is given back."""
        for label, region in self.regions.items():
            node = nodes.get(label)
            if node is None:
                self._log(f"reserve_mem: FDT has no child '{label}'")
                continue
            complaint = _refused(node, region)
            if complaint:
                self._log(f"reserve_mem: {complaint}")
                continue
            found = memory.take(node["start"])
            assert isinstance(found, Region)
            found.align_bytes = region.align_bytes
            self.regions[label] = found
            self._log(f"reserve_mem: Revived memory reservation '{label}' from KHO")
        release(nodes, memory)


def release(nodes: Nodes, memory: Memory) -> None:
    """Nothing of these crosses; the regions stay as they are."""
    memory.discard([node["start"] for node in nodes.values()])


def _refused(node: Mapping[str, Any], region: Region) -> str:
    """Why a region is not revived; empty if it may be."""
    if node["compatible"] != COMPATIBLE:
        return f"Node '{region.label}' is incompatible with '{COMPATIBLE}'"
    if node["align"] % region.align_bytes:
        return (
            f"KHO reserve-mem '{region.label}' has wrong alignment "
            f"({node['align']:#x}, {region.align_bytes:#x})"
        )
    if node["size"] != region.size_bytes:
        return (
            f"KHO reserve-mem '{region.label}' has wrong size ({node['size']:#x} != {region.size_bytes:#x})"
        )
    return ""


def parse(value: str) -> Region:
    """What follows `reserve_mem=`. Raises ValueError."""
    size, rest = memparse(value)
    align, rest = memparse(_after_colon(rest))
    label = _after_colon(rest)
    # "compatible" would be taken for the property: a tree here has one name for one thing.
    if not size or not label or len(label.encode()) >= LABEL_BYTES or label == "compatible":
        raise ValueError(value)
    return Region(label, size, max(align, MIN_ALIGN_BYTES))


def _after_colon(text: str) -> str:
    if not text.startswith(":"):
        raise ValueError(text)
    return text[1:]


def memparse(text: str) -> tuple[int, str]:
    """(number, what follows it); 0 if there is none.

    Decimal, 0x hexadecimal or 0 octal, with a unit of 1024's powers: K, M, G, T, P or E, in either case.

    Source: lib/cmdline.c, memparse().
    """
    base = 16 if text[:2].lower() == "0x" else 8 if text.startswith("0") else 10
    digits = "0123456789abcdef"[:base]
    end = start = 2 if base == 16 else 0
    while end < len(text) and text[end].lower() in digits:
        end += 1
    number = int(text[start:end], base) if end > start else 0
    unit = UNITS.get(text[end : end + 1].upper()) if end > start else None
    return (number * unit, text[end + 1 :]) if unit else (number, text[end:])
