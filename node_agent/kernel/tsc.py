"""The x86 time stamp counter, read from Python: the one clock that a kexec does not stop.

A page with `rdtsc; shl rdx, 32; or rax, rdx; ret` is mapped executable and called. Importing this
costs some 57 ms (ctypes), so whoever is in a hurry imports it afterwards and goes back from a
later pair of readings. Where there is no such counter, or a hardened kernel refuses the page,
open_tsc() gives None and the caller says which other clock it used.

Which counter is trusted: one that the processor calls constant or nonstop, or that the kernel itself
keeps time by. The second matters in a guest whose hypervisor does not pass the flags on (QEMU's TCG does
not, and its counter goes on through a kexec all the same): a kernel drops a counter that it finds unstable.

Source: Intel SDM, RDTSC; the flags nonstop_tsc and constant_tsc of /proc/cpuinfo say that it
counts at one rate and in every idle state; Linux Documentation/ABI/testing/sysfs-devices-system-clocksource.
"""

from __future__ import annotations

import ctypes
import mmap
import platform
from collections.abc import Callable

CLOCKSOURCE = "/sys/devices/system/clocksource/clocksource0/current_clocksource"
CODE = bytes.fromhex("0f31 48c1e220 4809d0 c3")


def open_tsc(*, trust: bool = False) -> Callable[[], int] | None:
    """A function that reads raw cycles, or None if this machine has none to trust.

    Args:
        trust: take its word that the counter is good, whatever the processor's flags say.
    """
    if platform.machine() != "x86_64" or not (trust or _invariant() or _keeps_time()):
        return None
    try:
        page = mmap.mmap(
            -1,
            mmap.PAGESIZE,
            mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS,
            mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC,
        )
    except OSError:
        return None
    page.write(CODE)
    code = ctypes.c_char.from_buffer(page)
    call = ctypes.CFUNCTYPE(ctypes.c_uint64)(ctypes.addressof(code))

    def read(_keep: object = (page, code)) -> int:
        return int(call())

    return read


def _keeps_time(path: str = CLOCKSOURCE) -> bool:
    try:
        with open(path, encoding="ascii") as file:
            return file.read().strip() in ("tsc", "tsc-early")
    except OSError:
        return False


def _invariant() -> bool:
    try:
        with open("/proc/cpuinfo", encoding="utf-8", errors="replace") as cpuinfo:
            flags = next((line for line in cpuinfo if line.startswith("flags")), "").split()
    except OSError:
        return False
    return "constant_tsc" in flags or "nonstop_tsc" in flags
