"""Changes to a kernel's source for the lab's bad kernels, made for one build and then undone.

An edit replaces an exact text that must occur exactly once: a source that moved is an error before
anything is built, never a kernel that is silently as good as the others. While an edit is in
place the original lies beside it, so that a build that was killed is mended by the next.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from deploy.lab.errors import LabError

_ORIGINAL = ".liveroll-original"


@dataclass(frozen=True, slots=True)
class Edit:
    """In `file` (relative to the source), `old` becomes `new`."""

    file: str
    old: str
    new: str

    def apply(self, text: str) -> str:
        """Raises LabError (SOURCE_MOVED)."""
        if text.count(self.old) != 1:
            raise LabError(
                f"{self.file} does not hold exactly once: {self.old.strip().splitlines()[0]!r}",
                reason="SOURCE_MOVED",
                remedy="This kernel source is not the one that deploy/lab/recipes.py knows; adapt the edit.",
            )
        return text.replace(self.old, self.new)


def check(tree: Path, edits: Sequence[Edit]) -> None:
    """Raise LabError (SOURCE_MOVED) unless all edits fit the source."""
    _edited(tree, edits)


@contextmanager
def applied(tree: Path, edits: Sequence[Edit]) -> Iterator[None]:
    """The source with `edits`; afterwards it is as before, but for newer times of the files."""
    texts = _edited(tree, edits)
    try:
        for file, text in texts.items():
            path = tree / file
            path.with_name(path.name + _ORIGINAL).write_bytes(path.read_bytes())
            path.write_text(text)
        yield
    finally:
        restore(tree, edits)


def restore(tree: Path, edits: Sequence[Edit]) -> None:
    """Undo what a build left behind; nothing to do is fine."""
    for file in {edit.file for edit in edits}:
        path = tree / file
        original = path.with_name(path.name + _ORIGINAL)
        if original.exists():
            # Of now, so that make sees that objects of the edited text are out of date.
            os.utime(original)
            original.replace(path)


def _edited(tree: Path, edits: Sequence[Edit]) -> dict[str, str]:
    texts: dict[str, str] = {}
    for edit in edits:
        try:
            text = texts.get(edit.file) or (tree / edit.file).read_text()
        except FileNotFoundError:
            text = ""
        texts[edit.file] = edit.apply(text)
    return texts
