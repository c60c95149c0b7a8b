"""Where the server of sessions made of tokens has few descriptors left: no file is lost, and one session's
files do not cost another its own."""

from __future__ import annotations

import contextlib
import errno
import os
import resource
from collections.abc import Iterator
from pathlib import Path

import pytest

from node_agent.kernel.emulated import syncclient
from node_agent.resume import fdpass, tokens
from node_agent.resume.tokens import TokenServer
from node_agent.runtime import keeper_process
from tests.unit.resume.rfc2_device import WAIT_S, Kernel
from tests.unit.resume.test_tokens import OTHER, SESSIONS, VM, answer, ask, errno_of, kernel, text

__all__ = ["kernel"]


def test_a_table_that_is_full_when_the_kernel_answers_loses_nothing(
    kernel: Kernel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One workload fills it with requests that each bring a descriptor."""
    run = TokenServer.run

    def run_with_little_room(server: TokenServer) -> None:
        hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
        resource.setrlimit(resource.RLIMIT_NOFILE, (64, hard))
        filled: list[int] = []
        with contextlib.suppress(OSError):
            while True:
                filled.append(os.dup(0))
        fdpass.close_all(filled[-8:])
        run(server)

    monkeypatch.setattr(TokenServer, "run", run_with_little_room)
    fds = tokens.start(str(tmp_path), SESSIONS)
    kernel.go.clear()
    asked = [ask(fds[VM], 0) for _ in range(12)]
    assert kernel.was_asked.acquire(timeout=WAIT_S)
    # Nor is there room for this request's: so all that were before it have been heard.
    assert errno_of(syncclient.session_name, fds[VM]) == "ESHUTDOWN"
    kernel.go.set()
    assert answer(asked[0]) == (0, b"vm's memory")
    for reply in asked:
        reply.close()
    assert text(syncclient.retrieve_fd(fds[VM], 0)) == b"vm's memory"
    assert kernel.asked == [50]
    fdpass.close_all(list(fds.values()))


@pytest.fixture
def few_fds() -> Iterator[None]:
    """Also of what is started."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (128, hard))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


MANY = range(1000, 1200)


def retrieve_many(fd: int, count: int) -> int:
    """How many there were until EMFILE."""
    for token in range(count):
        try:
            os.close(syncclient.retrieve_fd(fd, token))
        except OSError as error:
            if error.errno != errno.EMFILE:
                raise
            return token
    return count


@pytest.mark.usefixtures("few_fds")
def test_a_session_of_many_files_leaves_the_others_theirs(tmp_path: Path) -> None:
    kernel = Kernel(dict.fromkeys(MANY, b""))
    kernel.listen(tmp_path)
    told = {VM: dict(enumerate(MANY[:150])), OTHER: dict(enumerate(MANY[150:180]))}
    fds = tokens.start(str(tmp_path), told)
    had = retrieve_many(fds[VM], 150)
    assert 60 < had < 80
    assert retrieve_many(fds[OTHER], 30) == 30
    # What it was refused is the kernel's still, and what it has is given out again.
    assert len(kernel.asked) == had + 30
    assert retrieve_many(fds[VM], 150) == had
    # With the others' ends it gets more.
    syncclient.finish(fds[OTHER])
    assert retrieve_many(fds[VM], 150) > had
    fdpass.close_all(list(fds.values()))
    kernel.close()


@pytest.mark.usefixtures("few_fds")
def test_the_program_takes_all_the_room_that_there_is(tmp_path: Path) -> None:
    kernel = Kernel(dict.fromkeys(MANY, b""))
    kernel.listen(tmp_path)
    fds = keeper_process.serve_tokens(str(tmp_path), {VM: dict(enumerate(MANY))})
    assert retrieve_many(fds[VM], len(MANY)) == len(MANY)
    fdpass.close_all(list(fds.values()))
    kernel.close()
