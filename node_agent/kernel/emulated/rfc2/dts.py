"""A tree of KHO's as device tree source: what `dtc -I dtb -O dts` would show of it.

Source: the Devicetree Specification, DTS format, version 1. A number is a u64, two cells.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any


def dts(tree: Mapping[str, Any]) -> str:
    """The text of a whole tree: str and int are properties, mappings are nodes."""
    return "\n".join(("/dts-v1/;", "", *_node("/", tree, ""), ""))


def _node(name: str, tree: Mapping[str, Any], indent: str) -> Iterator[str]:
    yield f"{indent}{name} {{"
    inner = indent + "\t"
    for key, value in tree.items():
        if not isinstance(value, Mapping):
            yield f"{inner}{key} = {_value(value)};"
    for key, value in tree.items():
        if isinstance(value, Mapping):
            yield from _node(key, value, inner)
    yield f"{indent}}};"


def _value(value: object) -> str:
    if isinstance(value, int):
        return f"<{value >> 32:#010x} {value & 0xFFFF_FFFF:#010x}>"
    escaped = str(value).replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'
