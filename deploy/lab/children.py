"""Child processes of the build: their output into a log, a line of progress now and then.

Every child is in the build's own process group, so that Ctrl-C ends them together, and is ended
and waited for whatever goes wrong here.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from deploy.lab.errors import LabError

PROGRESS_S = 15.0
"""Time between two lines of progress: silence for longer looks like a hang."""

_TAIL_LINES = 25
_GRACE_S = 5.0


def say(what: str) -> None:
    """One line for the reader."""
    print(f"lab: {what}", flush=True)


def output(argv: Sequence[str], *, reason: str, remedy: str = "") -> str:
    """What a short command prints. Raises LabError with `reason` if it fails."""
    try:
        done = subprocess.run(argv, capture_output=True, text=True, check=False)
    except FileNotFoundError as error:
        raise LabError(f"{argv[0]} is missing", reason=reason, remedy=remedy) from error
    if done.returncode:
        said = done.stderr.strip() or done.stdout.strip()
        raise LabError(f"{argv[0]} failed: {said[-800:]}", reason=reason, remedy=remedy)
    return done.stdout


def run(
    argv: Sequence[str],
    *,
    what: str,
    log: Path,
    reason: str,
    remedy: str = "",
    environment: Mapping[str, str] | None = None,
    cwd: Path | None = None,
) -> None:
    """Run a long command at low priority; its output goes to `log`, progress to stdout.

    what: names the work in the progress lines; the steps counted there are lines of output.
    Raises LabError with `reason`, and shows the end of the log, if it fails.
    """
    nice = ["nice", "-n", "10"] if shutil.which("nice") else []
    started = time.monotonic()
    with log.open("wb") as sink:
        child = subprocess.Popen(
            [*nice, *argv],
            stdin=subprocess.DEVNULL,
            stdout=sink,
            stderr=subprocess.STDOUT,
            env=environment,
            cwd=cwd,
        )
        try:
            status = _follow(child, lambda: _progress(what, log, started))
        finally:
            _end(child)
    if status:
        print(_tail(log), file=sys.stderr)
        raise LabError(
            f"{what}: {argv[0]} ended with status {status}, see {log}", reason=reason, remedy=remedy
        )


def _follow(child: subprocess.Popen[bytes], show: Callable[[], None]) -> int:
    while True:
        try:
            return child.wait(timeout=PROGRESS_S)
        except subprocess.TimeoutExpired:
            show()


def _progress(what: str, log: Path, started: float) -> None:
    steps = log.read_bytes().count(b"\n")
    say(f"  {what}: {time.monotonic() - started:.0f} s, {steps:,} steps")


def _tail(log: Path) -> str:
    return "\n".join(log.read_text(errors="replace").splitlines()[-_TAIL_LINES:])


def _end(child: subprocess.Popen[bytes]) -> None:
    if child.poll() is None:
        child.terminate()
        try:
            child.wait(timeout=_GRACE_S)
        except subprocess.TimeoutExpired:
            child.kill()
            child.wait()
