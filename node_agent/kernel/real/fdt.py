"""As much of a flat device tree as KHO's own node needs: the properties of its root.

A node's properties come before its sub-nodes, so nothing after them is read. Every length is
checked, as a blob may come from a kernel that is not ours; and names may be missing: Linux 7.2's
debugfs shows KHO's outgoing tree as long as it was at boot, which cuts off the names, that are
last, once sub-trees were added.

Source: Devicetree Specification v0.4, chapter 5.
"""

from __future__ import annotations

from struct import Struct

MAGIC = 0xD00DFEED
_HEADER = Struct(">4I")
"""magic, totalsize, off_dt_struct, off_dt_strings."""

_WORD, _PROPERTY = Struct(">I"), Struct(">II")
_BEGIN_NODE, _PROP, _NOP = 1, 3, 4


class FdtInvalid(ValueError):
    """Not a flat device tree, or one that ends within its root's properties."""


def is_fdt(blob: bytes) -> bool:
    """Does it begin as one?"""
    return len(blob) >= _HEADER.size and _WORD.unpack_from(blob)[0] == MAGIC


def root_properties(blob: bytes) -> tuple[tuple[str, bytes], ...]:
    """(name, value) of the root node's properties in their order; "" for a name that is cut off.

    Raises FdtInvalid.
    """
    if not is_fdt(blob):
        raise FdtInvalid("no flat device tree")
    _, _, at, strings = _HEADER.unpack_from(blob)
    found: list[tuple[str, bytes]] = []
    inside = False
    while True:
        token = _word(blob, at)
        at += _WORD.size
        if token == _BEGIN_NODE and not inside:
            inside = True
            end = blob.find(b"\0", at)
            at = _aligned((end if end >= 0 else len(blob)) + 1)
        elif token == _PROP and inside:
            length, name_at = _word(blob, at), _word(blob, at + _WORD.size)
            at += _PROPERTY.size
            if at + length > len(blob):
                raise FdtInvalid("a property that ends beyond its tree")
            found.append((_name(blob, strings + name_at), blob[at : at + length]))
            at = _aligned(at + length)
        elif token != _NOP:
            return tuple(found)


def _word(blob: bytes, at: int) -> int:
    if at + _WORD.size > len(blob):
        raise FdtInvalid("a tree that ends too early")
    return int(_WORD.unpack_from(blob, at)[0])


def _name(blob: bytes, at: int) -> str:
    end = blob.find(b"\0", at)
    return blob[at:end].decode("ascii", errors="replace") if end >= 0 else ""


def _aligned(at: int) -> int:
    return (at + 3) & ~3
