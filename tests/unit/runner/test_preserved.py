"""What workloads may preserve, as /proc tells it, and how much room there is for it."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from node_agent.kernel.real.meminfo import memory_of, read_memory
from node_agent.ports import MemoryFacts, WorkloadPeer
from node_agent.runtime.preflight_room import Preservable, memory_needed
from node_agent.runtime.preserved import read_preservable

MIB = 1 << 20
ME = os.getpid()


@pytest.fixture
def memfd() -> Iterator[int]:
    """8 MiB, of which one has pages."""
    fd = os.memfd_create("guest")
    os.ftruncate(fd, 8 * MIB)
    os.pwrite(fd, b"x" * MIB, 0)
    yield fd
    os.close(fd)


def mine(before: tuple[Preservable, ...], after: tuple[Preservable, ...]) -> tuple[int, int]:
    """What came in between: the test runner's own process may hold memfds too."""
    return after[0].size_bytes - before[0].size_bytes, after[0].allocated_bytes - before[0].allocated_bytes


def test_memfds_of_a_process_count_once() -> None:
    before = read_preservable([WorkloadPeer("vm-1", ME)])
    fd = os.memfd_create("guest")
    os.ftruncate(fd, 8 * MIB)
    os.pwrite(fd, b"x" * MIB, 0)
    again = os.dup(fd)
    after = read_preservable([WorkloadPeer("vm-1", ME)])
    os.close(fd)
    os.close(again)
    assert mine(before, after) == (8 * MIB, MIB)


def test_a_memfd_that_two_hold_is_the_first_ones(memfd: int) -> None:
    first, second = read_preservable([WorkloadPeer("vm-1", ME), WorkloadPeer("vm-2", ME)])
    assert first.size_bytes >= 8 * MIB
    assert second == Preservable("vm-2", 0, 0)


def test_who_cannot_be_looked_at_has_nothing(memfd: int) -> None:
    assert read_preservable([WorkloadPeer("gone", 0)]) == ()
    assert read_preservable([WorkloadPeer("gone", 4_000_000)]) == (Preservable("gone", 0, 0),)


def test_a_process_that_may_not_be_looked_at(monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(_: str) -> list[str]:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(os, "listdir", refused)
    assert read_preservable([WorkloadPeer("vm-1", ME)]) == (Preservable("vm-1", 0, 0, seen=False),)


def test_one_that_crossed_has_no_name_any_more(tmp_path: str) -> None:
    fds = os.path.join(tmp_path, "7", "fd")
    os.makedirs(fds)
    for name, link in (("3", "/ (deleted)"), ("4", "/dev/shm/x (deleted)"), ("5", "socket:[1]")):
        os.symlink(link, os.path.join(fds, name))
    # Links that lead nowhere: only which of them is looked at matters here.
    assert read_preservable([WorkloadPeer("vm-1", 7)], proc=str(tmp_path)) == (Preservable("vm-1", 0, 0),)


MEMINFO = "MemTotal: 500000 kB\nMemAvailable: 300000 kB\nHugePages: 0\nCmaTotal: 0 kB\nCmaFree: 100000 kB\n"


@pytest.mark.parametrize(
    ("text", "scratch", "expected"),
    [
        (MEMINFO, (98304 << 10, 0, 32768 << 10), MemoryFacts(200000 << 10, 31072 << 10)),
        (MEMINFO, (), MemoryFacts(200000 << 10, 0)),
        ("MemAvailable: 300000 kB\n", (1 << 30,), MemoryFacts(300000 << 10, 0)),
        ("MemAvailable: 10 kB\nCmaFree: 20 kB\nCmaTotal: 30 kB\n", (), MemoryFacts(0, 10 << 10)),
        ("", (), None),
        ("nonsense\n:\n", (), None),
    ],
)
def test_free_memory_outside_scratch(
    text: str, scratch: tuple[int, ...], expected: MemoryFacts | None
) -> None:
    assert memory_of(text, scratch) == expected


def test_this_machine_says_it_too(tmp_path: str) -> None:
    assert read_memory(()) is not None
    assert read_memory((), root=str(tmp_path)) is None


@pytest.mark.parametrize(
    ("held", "in_scratch", "emulated", "need"),
    [
        (Preservable("a", 100 * MIB, 100 * MIB), 0, False, 9 * MIB),
        (Preservable("a", 100 * MIB, 0), 0, False, 109 * MIB),
        (Preservable("a", 100 * MIB, 60 * MIB), 50 * MIB, False, 99 * MIB),
        (Preservable("a", 100 * MIB, 60 * MIB), 500 * MIB, True, 100 * MIB),
    ],
)
def test_what_preserving_takes(held: Preservable, in_scratch: int, emulated: bool, need: int) -> None:
    """Holes, what lies in scratch, the tables, and a reserve."""
    assert memory_needed([held], MemoryFacts(0, in_scratch), emulated=emulated) == need
