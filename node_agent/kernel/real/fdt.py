"""As much of a flat device tree as KHO's own node needs: the properties of its root.

Sub-nodes are skipped; nothing is followed beyond the blob. Every length is checked, as a blob
may come from a kernel that is not ours.

Source: Devicetree Specification v0.4, chapter 5.
"""

from __future__ import annotations

from collections.abc import Mapping
from struct import Struct

MAGIC = 0xD00DFEED
_HEADER = Struct(">7I")
"""magic, totalsize, off_dt_struct, off_dt_strings, off_mem_rsvmap, version, last_comp_version."""

_WORD, _PROPERTY = Struct(">I"), Struct(">II")
_BEGIN_NODE, _END_NODE, _PROP, _NOP = 1, 2, 3, 4


class FdtInvalid(ValueError):
    """Not a flat device tree, or one that ends too early."""


def is_fdt(blob: bytes) -> bool:
    return len(blob) >= _WORD.size and _WORD.unpack_from(blob)[0] == MAGIC


def root_properties(blob: bytes) -> Mapping[str, bytes]:
    """Name → value of the root node's properties. Raises FdtInvalid."""
    if not is_fdt(blob):
        raise FdtInvalid("no flat device tree")
    try:
        return _walk(blob)
    except (ValueError, IndexError) as cause:
        raise FdtInvalid("a flat device tree that ends too early") from cause
    except Exception as cause:  # struct.error has no other base
        if type(cause).__name__ != "error":
            raise
        raise FdtInvalid("a flat device tree that ends too early") from cause


def _walk(blob: bytes) -> Mapping[str, bytes]:
    _, size, at, strings, *_ = _HEADER.unpack_from(blob)
    blob = blob[:size]
    found: dict[str, bytes] = {}
    depth = 0
    while True:
        (token,) = _WORD.unpack_from(blob, at)
        at += _WORD.size
        if token == _BEGIN_NODE:
            depth += 1
            at = _aligned(blob.index(b"\0", at) + 1)
        elif token == _PROP:
            length, name = _PROPERTY.unpack_from(blob, at)
            at += _PROPERTY.size
            value = blob[at : at + length]
            if len(value) != length:
                raise IndexError(at)
            at = _aligned(at + length)
            if depth == 1:
                start = strings + name
                found[blob[start : blob.index(b"\0", start)].decode("ascii")] = value
        elif token == _END_NODE:
            depth -= 1
            if depth == 0:
                return found
        elif token != _NOP:
            raise ValueError(token)


def _aligned(at: int) -> int:
    return (at + 3) & ~3
