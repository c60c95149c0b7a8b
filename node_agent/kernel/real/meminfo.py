"""How much can be preserved on this machine: /proc/meminfo, read with KHO's scratch in mind.

Scratch is CMA memory while no image is loaded: it is in MemAvailable, yet nothing that is preserved may
stay in it.

Source: Linux 7.2 fs/proc/meminfo.c: MemAvailable counts free CMA pages, CmaFree is NR_FREE_CMA_PAGES,
scratch included, CmaTotal is without it; kho_init hands scratch to the allocator as MIGRATE_CMA.
"""

from __future__ import annotations

from collections.abc import Sequence

from node_agent.ports import MemoryFacts

KIB = 1024


def read_memory(scratch_bytes: Sequence[int], root: str = "") -> MemoryFacts | None:
    """None if /proc/meminfo cannot be read.

    Args:
        scratch_bytes: KHO's areas, as far as they can be seen.
        root: a directory that stands for /.
    """
    try:
        with open(f"{root}/proc/meminfo", encoding="ascii", errors="replace") as file:
            return memory_of(file.read(), scratch_bytes)
    except OSError:
        return None


def memory_of(meminfo: str, scratch_bytes: Sequence[int]) -> MemoryFacts | None:
    """From the text of /proc/meminfo; None if it does not say what is available. Without CMA in the
    kernel there is none of it, and pages of scratch are never lent."""
    told = dict(_numbers(meminfo))
    if "MemAvailable" not in told:
        return None
    free = told.get("CmaFree", 0)
    lent = sum(scratch_bytes) + told.get("CmaTotal", 0) - free if "CmaFree" in told else 0
    return MemoryFacts(max(told["MemAvailable"] - free, 0), max(lent, 0))


def _numbers(meminfo: str) -> list[tuple[str, int]]:
    pairs = (line.split() for line in meminfo.splitlines())
    return [
        (words[0].rstrip(":"), int(words[1]) * KIB)
        for words in pairs
        if len(words) >= 2 and words[1].isdigit()
    ]
