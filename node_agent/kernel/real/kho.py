"""KHO and LUO as the running kernel has them: scratch areas and ABI strings, for preflight.

All of it is in debugfs, which need not be mounted: then debugfs is False and the rest empty.
What this kernel is about to hand over is under out/, where Linux 7.2 leaves KHO's own tree away
once a kernel came by a kexec. Then in/fdt tells the same: a kernel takes a tree of its own ABI only.
in/sub_fdts/LUO shows memory that was freed after the boot, and is never opened.

Source: kernel/liveupdate/kexec_handover.c, kexec_handover_debugfs.c; the LUO sub-tree is struct luo_ser
(include/linux/kho/abi/luo.h) in Linux 7.2, a flat device tree in 6.19.
"""

from __future__ import annotations

import re

from node_agent.kernel.real.fdt import FdtInvalid, is_fdt, root_properties
from node_agent.ports import KhoFacts as KhoFacts

KHO = "sys/kernel/debug/kho"
BLOB_MAX = 1 << 20
"""KHO's tree is one page; more than this is something else."""

_ABI = re.compile(rb"(?:kho|luo)-v[0-9]{1,9}")


def read_kho(root: str = "/") -> KhoFacts:
    """Never raises OSError: what cannot be read is not known.

    Args:
        root: a directory that stands for /.
    """
    kho = f"{root.rstrip('/')}/{KHO}"
    scratch = _read(f"{kho}/out/scratch_len")
    if scratch is None:
        return KhoFacts()
    return KhoFacts(
        scratch_bytes=_numbers(scratch),
        kho_abi=_abi(_read(f"{kho}/out/fdt") or _read(f"{kho}/in/fdt") or b""),
        luo_abi=_abi(_read(f"{kho}/out/sub_fdts/LUO") or b""),
        debugfs=True,
    )


def _abi(blob: bytes) -> str:
    """The `compatible` of a tree, also if its name is cut off, or the text at the start of a
    struct; empty if neither is there."""
    words = [blob]
    if is_fdt(blob):
        try:
            words = [value for name, value in root_properties(blob) if name in ("compatible", "")]
        except FdtInvalid:
            return ""
    found = (_ABI.fullmatch(word.split(b"\0", 1)[0]) for word in words)
    return next((match[0].decode("ascii") for match in found if match), "")


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
