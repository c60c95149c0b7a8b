"""The form of a transcript: prose, commands, a line of dashes, and what was printed.

    # What the reader should know.

    fleet nodes=6
    create r1 waves=rest
    ----
    <output, up to the next empty line>

Blocks are separated by empty lines; lines that begin with # belong to nobody's output.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

DASHES = "----"


@dataclass(frozen=True)
class Block:
    """prose alone, or commands with their output."""

    prose: tuple[str, ...]
    commands: tuple[str, ...]
    output: tuple[str, ...] = ()


def parse(text: str) -> list[Block]:
    """Blocks in order. ValueError: a block with commands has no line of dashes."""
    blocks = []
    for part in text.strip().split("\n\n"):
        lines = part.splitlines()
        prose = tuple(line for line in lines if line.startswith("#"))
        rest = [line for line in lines if not line.startswith("#")]
        if not rest:
            blocks.append(Block(prose, ()))
            continue
        if DASHES not in rest:
            raise ValueError(f"no line of dashes after {rest[0]!r}")
        at = rest.index(DASHES)
        blocks.append(Block(prose, tuple(rest[:at]), tuple(rest[at + 1 :])))
    return blocks


def played(text: str, execute: Callable[[str], list[str]]) -> str:
    """The transcript with the output that its commands give now."""
    parts = []
    for block in parse(text):
        lines = [*block.prose, *block.commands]
        if block.commands:
            lines.append(DASHES)
            for command in block.commands:
                lines += execute(command)
        parts.append("\n".join(line.rstrip() for line in lines))
    return "\n\n".join(parts) + "\n"
