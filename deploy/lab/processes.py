"""Processes that the lab owns: named by pid and start time, ended by exactly that, never orphaned.

Rules:
- A pid alone is not a name: it is used again. A mark holds the start time beside it, and a signal
  goes through a pidfd that was opened before the start time was compared.
- What must not outlive its parent gets its death signal from the kernel, not from good manners.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

_START_FIELD = 22 - 3
"""Of /proc/PID/stat, counted behind the command's closing bracket. Source: proc(5), starttime."""


@dataclass(frozen=True, slots=True)
class Mark:
    """One process for as long as it lives. started: clock ticks since the machine's boot."""

    pid: int
    started: int


def start_time(pid: int) -> int:
    """Ticks since boot at which it began; 0 if there is no such process or it is a zombie."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return 0
    fields = text.rpartition(")")[2].split()
    return 0 if fields[0] in ("Z", "X") else int(fields[_START_FIELD])


def mark(pid: int) -> Mark:
    """The mark of a process that lives."""
    return Mark(pid, start_time(pid))


def is_alive(marked: Mark | None) -> bool:
    """Whether just this process still runs."""
    return marked is not None and marked.started != 0 and start_time(marked.pid) == marked.started


def write_mark(path: Path, marked: Mark) -> None:
    """Replace the file as a whole."""
    fresh = path.with_name(path.name + ".new")
    fresh.write_text(json.dumps(asdict(marked)) + "\n")
    fresh.replace(path)


def read_mark(path: Path) -> Mark | None:
    """None if there is no file, or none of ours."""
    try:
        words = json.loads(path.read_text())
        return Mark(int(words["pid"]), int(words["started"]))
    except (OSError, ValueError, KeyError, TypeError):
        return None


def end(marked: Mark | None, timeout_s: float) -> bool:
    """SIGTERM, after timeout_s SIGKILL, and wait until it is gone. False if it was gone before. Blocking."""
    if marked is None:
        return False
    try:
        fd = os.pidfd_open(marked.pid)
    except ProcessLookupError:
        return False
    try:
        if not is_alive(marked):
            return False
        for number, patience_s in ((signal.SIGTERM, timeout_s), (signal.SIGKILL, timeout_s)):
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(fd, number)
            if select.select([fd], [], [], patience_s)[0]:
                break
        # Only if it was a child of ours; init, or the one who started it, does it otherwise.
        with contextlib.suppress(ChildProcessError):
            os.waitpid(marked.pid, os.WNOHANG)
        return True
    finally:
        os.close(fd)


def tied(line: Sequence[str], number: signal.Signals = signal.SIGKILL) -> list[str]:
    """The command line of a process that the kernel sends `number` to when the thread that starts it ends.

    setpriv(1) asks for it and becomes the command. To ask between fork and exec instead would run Python
    in the child of a process that has threads.
    """
    return ["setpriv", "--pdeathsig", number.name.removeprefix("SIG"), "--", *line]
