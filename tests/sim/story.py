"""What happened in one simulated world: a digest of all of it, its newest lines, and counts.

The digest is over every line ever told, with its virtual time; two runs of a seed are the same
run if and only if their digests are equal. `seen` counts faults and phases by name, so that a
test can say what a range of seeds has reached ("sometimes" assertions).
"""

from __future__ import annotations

import asyncio
import hashlib
from collections import Counter, deque

KEPT = 6000
"""Lines kept for a failure's story; a world tells some thousands."""


class Story:
    """Told by everybody in the world."""

    def __init__(self, *, verbose: bool = False) -> None:
        self.seen: Counter[str] = Counter()
        self._verbose = verbose
        self._hash = hashlib.blake2b(digest_size=16)
        self._lines: deque[tuple[float, str, str]] = deque(maxlen=KEPT)

    def tell(self, who: str, text: str) -> None:
        """who: a node, a rollout, `orchestrator`, `operator` or `world`."""
        now_s = asyncio.get_running_loop().time()
        self._hash.update(f"{now_s:.6f} {who} {text}\n".encode())
        self._lines.append((now_s, who, text))
        if self._verbose:
            print(f"{now_s:10.3f} {who:<12} {text}")

    def count(self, name: str) -> None:
        """Something was reached."""
        self.seen[name] += 1

    @property
    def digest(self) -> str:
        return self._hash.hexdigest()

    def last(self, names: tuple[str, ...], lines: int = 40) -> list[str]:
        """The newest lines about any of these; all lines if there are no names."""
        chosen = [
            f"{now_s:10.3f} {who:<12} {text}"
            for now_s, who, text in self._lines
            if not names or who in names or any(name in text for name in names)
        ]
        return chosen[-lines:]


class Violation(Exception):
    """A promise was broken. invariant: I1 … I14, or another name; nodes: whose story to print."""

    def __init__(self, invariant: str, message: str, *nodes: str) -> None:
        super().__init__(f"{invariant}: {message}")
        self.invariant = invariant
        self.message = message
        self.nodes = tuple(node for node in nodes if node)
