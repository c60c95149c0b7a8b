"""KHO and LUO as the running kernel has them: scratch areas and ABI strings, for preflight.

All of it is in debugfs, which need not be mounted: then debugfs is False and the rest empty.
Only what this kernel is about to hand over (out/) is read. in/sub_fdts/LUO shows memory that was
freed after the boot, and is never opened.

Source: kernel/liveupdate/kexec_handover_debugfs.c; the LUO sub-tree is struct luo_ser
(include/linux/kho/abi/luo.h) since Linux 7.1, a flat device tree before.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from node_agent.kernel.real.fdt import FdtInvalid, is_fdt, root_properties

OUT = "sys/kernel/debug/kho/out"
BLOB_MAX = 1 << 20
"""KHO's tree is one page; more than this is something else."""

_ABI = re.compile(rb"[a-z][a-z0-9,._-]{0,62}")


@dataclass(frozen=True, slots=True)
class KhoFacts:
    """What a target kernel must match. Empty strings: not known."""

    scratch_bytes: tuple[int, ...] = ()
    """Of each scratch area, in the kernel's order: low memory, global, one a NUMA node."""
    kho_abi: str = ""
    """Such as kho-v4."""
    luo_abi: str = ""
    """Such as luo-v5; empty also where liveupdate= is off."""
    debugfs: bool = False
    """Could KHO's directory in debugfs be read?"""


def read_kho(root: str = "/") -> KhoFacts:
    """Never raises OSError: what cannot be read is not known.

    Args:
        root: a directory that stands for /.
    """
    out = f"{root.rstrip('/')}/{OUT}"
    scratch = _read(f"{out}/scratch_len")
    if scratch is None:
        return KhoFacts()
    return KhoFacts(
        scratch_bytes=_numbers(scratch),
        kho_abi=_abi(_read(f"{out}/fdt") or b""),
        luo_abi=_abi(_read(f"{out}/sub_fdts/LUO") or b""),
        debugfs=True,
    )


def _abi(blob: bytes) -> str:
    """The `compatible` of a tree, or the text at the start of a struct; empty if neither is there."""
    if is_fdt(blob):
        try:
            blob = root_properties(blob).get("compatible", b"")
        except FdtInvalid:
            return ""
    word = blob.split(b"\0", 1)[0]
    return word.decode("ascii") if _ABI.fullmatch(word) else ""


def _numbers(text: bytes) -> tuple[int, ...]:
    try:
        return tuple(int(line, 0) for line in text.decode("ascii").split())
    except ValueError:
        return ()


def _read(path: str) -> bytes | None:
    try:
        with open(path, "rb") as file:
            return file.read(BLOB_MAX)
    except OSError:
        return None
