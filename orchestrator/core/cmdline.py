"""A target's kernel command line, composed per node from the node's own.

Words are inherited, then taken away, then added; what a live update needs is added last.
"""

from __future__ import annotations

import re
from dataclasses import replace

from orchestrator.core.model import Artifact
from orchestrator.core.spec import Target

REQUIRED = ("kho=on", "liveupdate=on")
"""Without them the next kernel neither receives nor preserves anything.
Source: Documentation/admin-guide/kernel-parameters.txt, kho= and liveupdate=."""
ATTEMPT_KEY = "liveroll.attempt="
"""Tells the agent in the next kernel which attempt booted it."""

_WORD = re.compile(r'(?:[^\s"]|"[^"]*(?:"|$))+')


def ruled(target: Target, artifact: Artifact) -> Target:
    """The target with the artifact's own rules before those of the rollout."""
    return replace(
        target,
        command_line_remove=(*artifact.command_line_remove, *target.command_line_remove),
        command_line_append=(*artifact.command_line_append, *target.command_line_append),
    )


def compose(current: str, target: Target, attempt_id: str) -> str:
    """The command line for one attempt.

    current: /proc/cmdline of the node. attempt_id: <generation>-<incarnation, 8 characters>.
    A word ending in `=` in command_line_remove takes away every word of that key; any other
    takes away exactly that word. A required word replaces the node's or operator's own.
    """
    required = (*REQUIRED, f"{ATTEMPT_KEY}{attempt_id}")
    owned = tuple(f"{word.partition('=')[0]}=" for word in required)
    kept = [w for w in words(current) if not _removed(w, target.command_line_remove)]
    kept += [w for text in target.command_line_append for w in words(text) if w not in kept]
    return " ".join([*(w for w in kept if not w.startswith(owned)), *required])


def attempt_id(generation: int, incarnation: str) -> str:
    """Short and safe in session names and on command lines: `7-1f3a9c02`."""
    short = "".join(c for c in incarnation if c.isalnum())[:8]
    return f"{generation}-{short or 'none'}"


def words(line: str) -> tuple[str, ...]:
    """Words of a command line; a double-quoted part stays in one word, with its quotes.

    Source: lib/cmdline.c next_arg(): only double quotes group, there are no escapes; an
    unclosed one goes on to the end.
    """
    return tuple(_WORD.findall(line))


def _removed(word: str, patterns: tuple[str, ...]) -> bool:
    return any(word.startswith(p) if p.endswith("=") else word == p for p in patterns)
