"""Whether there is room: for the next kernel in KHO's scratch, for what is preserved outside it. Pure.

The kernel finds out too late for either to be pleasant. Without room in scratch kexec_file_load answers
EADDRNOTAVAIL; without memory outside it the OOM killer ends the process that preserves, a workload, in the
middle of its ioctl.

Source: Linux 7.2 kho_locate_mem_hole: under KHO every segment of an image lies within one scratch
area. memfd_luo_preserve: holes become pages, and pages in scratch (which is CMA memory while nothing
is loaded) are moved out of it before they are pinned. Lab runs.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from node_agent.ports import BootFacts, MemoryFacts, StagedArtifact
from node_agent.runtime.preflight_findings import Finding, mib
from node_agent.runtime.preflight_kernels import Side

PAGE_BYTES = 4096
ALIGNMENT_BYTES = 2 << 20
"""Of the kernel's segment (kernel_alignment): as much may be lost before it."""
SMALL_BYTES = 1 << 20
"""Purgatory, boot parameters, command line and KHO's own list: some tens of KiB, each aligned."""
TABLES_SHARE = 0.01
"""LUO keeps 24 bytes for each page that it preserves, and KHO a few bits."""
RESERVE_BYTES = 8 << 20
"""For the agent, the broker and the kernel meanwhile; below it reclaim begins to fight."""


@dataclass(frozen=True, slots=True)
class Preservable:
    """Memory that a workload may preserve, as its process has it."""

    workload: str
    size_bytes: int
    """Of its memfds: what must fit, since holes become pages."""
    allocated_bytes: int
    """Of that, what has pages now."""
    seen: bool = True
    """False: its process may not be looked at, so it counts as nothing."""


def check_scratch(side: Side, artifact: StagedArtifact, boot: BootFacts) -> Iterator[Finding]:
    """Does the image fit into scratch? Nothing is found where scratch cannot be seen."""
    areas = sorted(filter(None, boot.kho.scratch_bytes), reverse=True) if boot.kho is not None else []
    if not areas or not artifact.init_bytes:
        return
    slack, small = (0, 0) if boot.emulated else (ALIGNMENT_BYTES, SMALL_BYTES)
    wanted = [_pages(artifact.init_bytes) + slack + small, artifact.initrd_bytes]
    if boot.emulated:
        wanted = [sum(wanted)]
    if _fits(wanted, areas):
        return
    need = sum(wanted)
    yield Finding(
        f"{side.prefix}_SCRATCH_TOO_SMALL",
        f"{side.name} needs {mib(need)} of KHO's scratch ({mib(artifact.init_bytes)} to start, "
        f"{mib(artifact.initrd_bytes)} for its initrd); the areas here are "
        f"{', '.join(mib(area) for area in areas)}",
        f"Boot the node once (cold) with more, for instance kho_scratch=16M,0M,{_round(need)}M (low memory, "
        "global, each NUMA node): live updates keep the areas of the first boot.",
    )


def _fits(wanted: Sequence[int], areas: Sequence[int]) -> bool:
    """Largest first, each into the largest room that is left: near enough to the kernel's first fit
    for two segments of which one is mostly small."""
    left = sorted(areas, reverse=True)
    for need in sorted(wanted, reverse=True):
        if left[0] < need:
            return False
        left[0] -= need
        left.sort(reverse=True)
    return True


def _pages(count: int) -> int:
    return -(-count // PAGE_BYTES) * PAGE_BYTES


def _round(count: int) -> int:
    """MiB with room for a larger kernel later, a multiple of 16."""
    return -(-count * 3 // 2 // (16 << 20)) * 16


def check_memory(
    preservable: Sequence[Preservable], memory: MemoryFacts | None, *, emulated: bool
) -> Iterator[Finding]:
    """Can what the workloads hold now be preserved? Nothing is found where memory has no known bound."""
    if memory is None or not preservable:
        return
    need = memory_needed(preservable, memory, emulated=emulated)
    if need <= memory.outside_scratch_bytes:
        return
    largest = sorted(preservable, key=lambda held: held.size_bytes, reverse=True)[:3]
    told = ", ".join(f"{held.workload} holds {mib(held.size_bytes)}" for held in largest)
    yield Finding(
        "MEMORY_TOO_SMALL",
        f"preserving may take {mib(need)} outside KHO's scratch and {mib(memory.outside_scratch_bytes)} are "
        f"free there ({told}): the OOM killer would end a workload while it preserves",
        "Move a workload away, free memory, or reboot the node (cold) with a smaller kho_scratch.",
    )


def memory_needed(preservable: Sequence[Preservable], memory: MemoryFacts, *, emulated: bool) -> int:
    """Bytes that preserving may take of what is free outside scratch."""
    size = sum(held.size_bytes for held in preservable)
    allocated = sum(held.allocated_bytes for held in preservable)
    new = max(size - allocated, 0) + min(allocated, memory.in_scratch_bytes)
    return new if emulated else new + int(size * TABLES_SHARE) + RESERVE_BYTES
