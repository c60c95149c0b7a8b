"""A guest's serial console as a file that QEMU appends to: read it, and wait for a line."""

from __future__ import annotations

import asyncio
import re
from dataclasses import dataclass
from pathlib import Path

from deploy.lab.errors import LabError

POLL_S = 0.05
"""There is no event for a file that another process appends to."""
TAIL_LINES = 25


@dataclass(frozen=True, slots=True)
class Console:
    """Of one node, over all of its boots."""

    path: Path

    @property
    def size(self) -> int:
        """Bytes so far: a place to wait from."""
        try:
            return self.path.stat().st_size
        except OSError:
            return 0

    def text(self, since: int = 0) -> str:
        """Everything from that byte on."""
        try:
            with self.path.open("rb") as file:
                file.seek(since)
                return file.read().decode("utf-8", "replace").replace("\r\n", "\n")
        except OSError:
            return ""

    def tail(self, lines: int = TAIL_LINES) -> str:
        """The last lines."""
        return "\n".join(self.text().splitlines()[-lines:])

    async def wait_for(self, pattern: str, *, timeout_s: float, since: int = 0) -> re.Match[str]:
        """The first match of a regular expression (multi-line) from that byte on.

        Raises LabError (CONSOLE_SILENT) with the tail.
        """
        wanted = re.compile(pattern, re.MULTILINE)
        try:
            async with asyncio.timeout(timeout_s):
                while (found := wanted.search(self.text(since))) is None:
                    await asyncio.sleep(POLL_S)
                return found
        except TimeoutError:
            raise LabError(
                f"no {pattern!r} on {self.path.name} within {timeout_s:g} s; it ends with\n{self.tail()}",
                reason="CONSOLE_SILENT",
            ) from None
