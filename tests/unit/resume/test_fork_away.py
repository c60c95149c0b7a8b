"""The keeper and the token server where the machine has room for one process more, and not for two."""

from __future__ import annotations

import errno
import os
import posix
import signal
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from node_agent.kernel.emulated import syncclient
from node_agent.resume import fdpass, keeper, tokens
from node_agent.resume.parking import Parking
from tests.conftest import children
from tests.unit.resume.rfc2_device import Kernel, listening
from tests.unit.resume.test_tokens import SESSIONS, VM, text

ONE_ROOM = pytest.mark.parametrize("waited", [True, False], ids=["waited for", "reaped later"])


@pytest.fixture
def crowded(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Its end is ours to wait for: afterwards there is no child more than before."""
    before, mine, fork = children(), os.getpid(), posix.fork

    def one_more() -> int:
        if os.getpid() != mine:
            raise OSError(errno.EAGAIN, "fork")
        return fork()

    monkeypatch.setattr(posix, "fork", one_more)
    yield
    (left,) = children() - before
    assert os.waitpid(left, 0)[1] == 0


@pytest.fixture
def kernel(tmp_path: Path) -> Iterator[Kernel]:
    with listening(tmp_path) as kernel:
        yield kernel


@ONE_ROOM
def test_the_token_servers_sessions_are_alive(
    crowded: None, kernel: Kernel, tmp_path: Path, waited: bool
) -> None:
    """Dead ones would be handed out, and parked: the workload's memory stays where nobody asks for it."""
    forked: list[tuple[int, int]] = []
    fds = tokens.start(str(tmp_path), SESSIONS, None if waited else forked)
    keeper.reap(forked)
    assert text(syncclient.retrieve_fd(fds[VM], 0)) == b"vm's memory"
    fdpass.close_all(list(fds.values()))


@ONE_ROOM
def test_the_keeper_keeps(crowded: None, tmp_path: Path, waited: bool) -> None:
    ours, theirs = socket.socketpair()
    forked: list[tuple[int, int]] = []
    path = str(tmp_path / "keeper.sock")
    keeper.start(path, {"a": theirs.fileno()}, None if waited else forked)
    theirs.close()
    keeper.reap(forked)
    parking = Parking(path, {}, os.getpid())
    fdpass.close_all(list((found := parking.sessions()).values()))
    assert set(found) == {"a"}
    parking.drop("a")
    assert ours.recv(1) == b""
    ours.close()


def test_one_that_is_killed_between_the_forks_is_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    before, mine, fork = children(), os.getpid(), posix.fork

    def killed() -> int:
        if os.getpid() != mine:
            os.kill(os.getpid(), signal.SIGKILL)
        return fork()

    monkeypatch.setattr(posix, "fork", killed)
    keeper.fork_away(lambda: None, [])
    assert children() == before
