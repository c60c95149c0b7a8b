"""Processes are named by pid and start time, and only those are ended."""

from __future__ import annotations

import os
import select
import subprocess
import sys
from pathlib import Path

from deploy.lab.processes import Mark, end, is_alive, mark, read_mark, start_time, tied, write_mark

SLEEPER = [sys.executable, "-c", "import time; print('up', flush=True); time.sleep(600)"]
DEAF = [
    sys.executable,
    "-c",
    "import signal, time; signal.signal(15, signal.SIG_IGN); print('up', flush=True); time.sleep(600)",
]


def started(command: list[str]) -> subprocess.Popen[bytes]:
    process = subprocess.Popen(command, stdout=subprocess.PIPE)
    assert process.stdout is not None
    assert process.stdout.readline() == b"up\n"
    process.stdout.close()
    return process


def test_a_process_is_ended_once() -> None:
    process = started(SLEEPER)
    marked = mark(process.pid)
    assert is_alive(marked)
    assert end(marked, 10.0)
    assert not is_alive(marked)
    assert not end(marked, 10.0)
    process.poll()


def test_one_that_ignores_sigterm_is_killed() -> None:
    process = started(DEAF)
    assert end(mark(process.pid), 0.1)
    assert start_time(process.pid) == 0
    process.poll()


def test_another_process_under_the_same_pid_is_left_alone() -> None:
    process = started(SLEEPER)
    marked = mark(process.pid)
    assert not end(Mark(marked.pid, marked.started - 1), 0.1)
    assert not end(Mark(marked.pid, 0), 0.1)
    assert not end(None, 0.1)
    assert process.poll() is None
    assert end(marked, 10.0)
    process.poll()


def test_marks_are_files(tmp_path: Path) -> None:
    path = tmp_path / "x.pid"
    assert read_mark(path) is None
    write_mark(path, mark(os.getpid()))
    assert is_alive(read_mark(path))
    path.write_text("rubbish")
    assert read_mark(path) is None


def test_a_child_does_not_outlive_its_parent(tmp_path: Path) -> None:
    """The parent is killed without a word; its child goes with it."""
    child_pid = tmp_path / "child"
    script = (
        "import subprocess, sys, time\n"
        f"child = subprocess.Popen({tied(SLEEPER)!r}, stdout=subprocess.PIPE)\n"
        "child.stdout.readline()\n"
        f"open({str(child_pid)!r}, 'w').write(str(child.pid))\n"
        "print('up', flush=True)\n"
        "time.sleep(600)\n"
    )
    parent = started([sys.executable, "-c", script])
    pid = int(child_pid.read_text())
    fd = os.pidfd_open(pid)
    try:
        parent.kill()
        parent.wait()
        assert select.select([fd], [], [], 10.0)[0]
    finally:
        os.close(fd)
