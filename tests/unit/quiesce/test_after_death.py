"""An agent that died between freeze and reboot: its guard, and the note that its successor finds."""

from __future__ import annotations

import fcntl
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from node_agent.runtime import freeze, quiesce_guard
from node_agent.runtime.freeze import OpenDisk, open_disks, open_mount
from node_agent.runtime.mounts import Mount
from node_agent.runtime.quiesce import Guard
from node_agent.runtime.quiesce_marker import Marker, left_over
from tests.unit.quiesce.fakes import FakeDisk, FakeNode

GUARD = f"""
import fcntl, sys
fcntl.ioctl = lambda fd, number, _: print("thaw", fd, hex(number), file=sys.stderr)
sys.path.insert(0, {str(Path(quiesce_guard.__file__).parent)!r})
import quiesce_guard
quiesce_guard.main([7, 8, 9])
"""


@pytest.fixture
def guard() -> Iterator[subprocess.Popen[bytes]]:
    """A guard that says what it would thaw."""
    pipes = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.PIPE)
    with subprocess.Popen([sys.executable, "-I", "-S", "-B", "-c", GUARD], **pipes) as process:  # type: ignore[call-overload]
        try:
            assert process.stdout.read(1) == quiesce_guard.READY
            yield process
        finally:
            process.kill()


def said(process: subprocess.Popen[bytes], words: bytes) -> str:
    _, told = process.communicate(words, timeout=20)
    return told.decode()


def test_the_guard_thaws_what_is_marked_the_last_first(guard: subprocess.Popen[bytes]) -> None:
    assert said(guard, b"+0\n+1\n+2\n-1\n") == "thaw 9 0xc0045878\nthaw 7 0xc0045878\n"
    assert guard.returncode == 0


def test_the_guard_touches_nothing_that_it_was_not_told_of(guard: subprocess.Popen[bytes]) -> None:
    """Somebody else may have frozen a filesystem for a snapshot."""
    assert said(guard, b"+0\n-0\n+1") == ""


def test_the_guard_outlives_the_end_of_its_service(guard: subprocess.Popen[bytes]) -> None:
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        guard.send_signal(number)
    assert said(guard, b"+0\n") == "thaw 7 0xc0045878\n"


def test_the_real_guard_starts_listens_and_ends(tmp_path: Path) -> None:
    disk = OpenDisk(Mount(1, str(tmp_path)), os.open(tmp_path, os.O_RDONLY))
    started = Guard([disk])
    assert started.alive()
    started.tell(0, frozen=True)
    started.tell(0, frozen=False)
    started.end()
    assert not started.alive()
    started.end()
    disk.close()
    disk.close()


def test_a_note_of_this_boot_says_what_to_thaw(tmp_path: Path) -> None:
    path = tmp_path / "frozen"
    node = FakeNode()
    disks = {1: FakeDisk(node, 1, "root"), 2: FakeDisk(node, 2, "a\nb\\n")}
    node.frozen = [disk.name for disk in disks.values()]
    marker = Marker(path, "boot-1")
    marker.write([disks[2].mount, disks[1].mount])
    found = left_over(path, "boot-1")
    assert found is not None
    assert found.held()
    os.close(marker._fd)  # its author is dead, to the last thread
    assert not found.held()
    found.thaw(lambda mount: disks[mount.id])
    assert node.told == ["thaw root", "thaw a\nb\\n"]
    assert not path.exists()
    assert left_over(path, "boot-1") is None


def test_a_note_of_another_boot_is_none(tmp_path: Path) -> None:
    marker = Marker(tmp_path / "frozen", "boot-1")
    marker.write([])
    assert left_over(tmp_path / "frozen", "boot-2") is None
    marker.write([Mount(1, "/")])  # again, and no other process's lock is in the way
    marker.remove()
    marker.remove()
    assert list(tmp_path.iterdir()) == []


def test_what_is_thawed_waits_for_the_last_thread_of_its_author(tmp_path: Path) -> None:
    """A thread inside reboot(2) keeps its process's files open, whatever has killed the process."""
    path = tmp_path / "frozen"
    code = (
        f"import sys; sys.path.insert(0, {str(Path(freeze.__file__).parents[2])!r})\n"
        "from pathlib import Path; from node_agent.runtime.quiesce_marker import Marker\n"
        "from node_agent.runtime.mounts import Mount\n"
        f"m = Marker(Path({str(path)!r}), 'boot-1'); m.write([Mount(1, '/nowhere')]); print(flush=True)\n"
        "sys.stdin.read()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as author:
        assert author.stdout is not None
        author.stdout.readline()
        found = left_over(path, "boot-1")
        assert found is not None
        assert found.held()
        asked: list[Mount] = []
        thawing = threading.Thread(target=found.thaw, args=(asked.append,))
        thawing.start()
        assert asked == []
        author.kill()
    thawing.join(20)
    assert asked == [Mount(1, "/nowhere")]
    assert not path.exists()


def test_a_mount_is_only_taken_for_what_it_is(tmp_path: Path) -> None:
    assert open_mount(Mount(1, str(tmp_path / "nowhere"))) is None
    assert open_mount(Mount(2**31, str(tmp_path))) is None
    fd = os.open(tmp_path, os.O_RDONLY)
    disk = open_mount(Mount(freeze._mount_id(fd), str(tmp_path)))
    os.close(fd)
    assert disk is not None
    assert disk.fileno() >= 0
    disk.close()
    assert freeze._mount_id(disk.fileno()) == -1


def test_a_mountinfo_is_opened_in_order(tmp_path: Path) -> None:
    here = os.open(tmp_path, os.O_RDONLY)
    mine = freeze._mount_id(here)
    os.close(here)
    table = tmp_path / "mountinfo"
    table.write_text(
        f"999999 1 8:1 / {tmp_path} rw - ext4 /dev/sda1 rw\n"
        f"{mine} 1 8:1 / {tmp_path} rw - ext4 /dev/sda1 rw\n"
        f"999998 1 8:2 / {tmp_path} rw - ext4 /dev/sda2 rw\n"
    )
    (disk,) = open_disks(table)
    assert disk.mount == Mount(mine, str(tmp_path))
    disk.close()


class Ioctls:
    """What the kernel answers to FIFREEZE, and what was asked of it."""

    def __init__(self, answer: int = 0) -> None:
        self.answer = answer
        self.asked: list[int] = []

    def __call__(self, _fd: int, number: int, _argument: int) -> int:
        self.asked.append(number)
        if self.answer:
            raise OSError(self.answer, os.strerror(self.answer))
        return 0


@pytest.mark.parametrize(
    ("answer", "ours", "written"), [(0, True, False), (16, False, False), (95, False, True), (1, False, True)]
)
def test_what_a_freeze_answers(
    answer: int, ours: bool, written: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """0, EBUSY, EOPNOTSUPP, EPERM."""
    ioctls, synced = Ioctls(answer), []
    monkeypatch.setattr(fcntl, "ioctl", ioctls)
    monkeypatch.setattr(freeze, "_write_back", synced.append)
    disk = OpenDisk(Mount(1, "/"), 7)
    assert disk.freeze() is ours
    assert synced == ([7] if written else [])
    disk.thaw()
    assert ioctls.asked == [freeze.FIFREEZE, freeze.FITHAW]


def test_writing_back_one_filesystem(tmp_path: Path) -> None:
    fd = os.open(tmp_path, os.O_RDONLY)
    freeze._write_back(fd)
    os.close(fd)
