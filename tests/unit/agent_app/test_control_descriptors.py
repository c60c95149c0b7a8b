"""Descriptors over the control socket: one at most, only where one is wanted, and none is left behind."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import socket
import tempfile
from asyncio import to_thread
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from node_agent.errors import CommandRefused
from node_agent.luoctl_wire import Unreachable, ask, ask_with_fd
from node_agent.runtime import control
from node_agent.runtime.control import ControlServer, WithFd


def descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))


@pytest.fixture
def path() -> Iterator[Path]:
    directory = Path(tempfile.mkdtemp(prefix="lr-"))
    yield directory / "control.sock"
    shutil.rmtree(directory)


async def plain(_request: Mapping[str, object]) -> object:
    return "plain"


async def read(_request: Mapping[str, object], fd: int) -> object:
    return os.pread(fd, 100, 0).decode()


async def refuse(_request: Mapping[str, object], _fd: int) -> object:
    raise CommandRefused("not this one")


async def fail(_request: Mapping[str, object], fd: int) -> object:
    raise OSError(9, f"{fd} is of no use")


async def give(_request: Mapping[str, object]) -> object:
    return WithFd({"given": True}, memory(b"given"))


def memory(content: bytes) -> int:
    fd = os.memfd_create("test")
    os.write(fd, content)
    return fd


@asynccontextmanager
async def serving(path: Path) -> AsyncIterator[ControlServer]:
    """The server, and that nothing is open after it that was not before."""
    before = descriptors()
    handlers, takers = {"plain": plain, "give": give}, {"read": read, "refuse": refuse, "fail": fail}
    server = ControlServer(path, handlers, takers)
    async with server.serve():
        yield server
    assert descriptors() == before


async def at_rest(server: ControlServer) -> int:
    """Descriptors, once nobody is being served."""
    while server._served:
        await asyncio.sleep(0)
    return descriptors()


async def raw(path: Path, *parts: tuple[bytes, list[int]], close: bool = False) -> Any:
    """Say these parts, each with its descriptors; the answer."""
    loop = asyncio.get_running_loop()
    with socket.socket(socket.AF_UNIX) as sock:
        sock.setblocking(False)
        await loop.sock_connect(sock, str(path))
        for data, fds in parts:
            socket.send_fds(sock, [data], fds)
            await asyncio.sleep(0)
        if close:
            return None
        answer = b""
        while chunk := await loop.sock_recv(sock, 4096):
            answer += chunk
    return json.loads(answer)


async def test_one_goes_with_a_request_that_takes_it(path: Path) -> None:
    async with serving(path):
        fd = memory(b"hello")
        answer, came = await to_thread(ask_with_fd, str(path), {"cmd": "read"}, fd)
        os.close(fd)
        assert (answer, came) == ({"ok": True, "result": "hello"}, -1)


async def test_one_comes_with_an_answer_that_has_it(path: Path) -> None:
    async with serving(path):
        answer, fd = await to_thread(ask_with_fd, str(path), {"cmd": "give"})
        assert answer == {"ok": True, "result": {"given": True}}
        assert os.pread(fd, 100, 0) == b"given"
        assert not os.get_inheritable(fd)
        os.close(fd)
        assert (await to_thread(ask, str(path), {"cmd": "give"}))["ok"], "whoever wants none leaks none"


@pytest.mark.parametrize(
    ("command", "count"),
    [("plain", 1), ("read", 0), ("read", 2), ("read", 3), ("plain", 200), ("no such", 1), ("refuse", 1)],
)
async def test_any_other_number_is_refused_and_closed(path: Path, command: str, count: int) -> None:
    async with serving(path) as server:
        before = descriptors()
        fd = memory(b"x")
        answer = await raw(path, (json.dumps({"cmd": command}).encode() + b"\n", [fd] * count))
        os.close(fd)
        assert answer["ok"] is False
        assert answer["error"]["reason"] == ("BAD_REQUEST" if command != "refuse" else "COMMAND_REFUSED")
        assert answer["error"]["remedy"] or command == "refuse"
        assert (await to_thread(ask, str(path), {"cmd": "plain"}))["ok"], "it serves on"
        assert await at_rest(server) == before


async def test_whoever_fails_over_it_answers_and_leaves_nothing(path: Path) -> None:
    async with serving(path) as server:
        before = descriptors()
        fd = memory(b"x")
        answer = await raw(path, (b'{"cmd": "fail"}\n', [fd]))
        os.close(fd)
        assert answer["error"]["reason"] == "INTERNAL"
        assert await at_rest(server) == before


async def test_it_may_come_with_any_part_of_the_line_but_once(path: Path) -> None:
    async with serving(path):
        fd = memory(b"late")
        told = await raw(path, (b'{"cmd": ', []), (b'"read"}', [fd]), (b"\n", []))
        assert told == {"ok": True, "result": "late"}
        told = await raw(path, (b'{"cmd": ', [fd]), (b'"read"}', [fd]), (b"\n", []))
        assert told["error"]["reason"] == "BAD_REQUEST"
        os.close(fd)


async def test_what_comes_after_the_line_is_nobodys(path: Path) -> None:
    async with serving(path):
        fd = memory(b"x")
        # Read with the line, they are too many for it; read after it, they are not looked at.
        await raw(path, (b'{"cmd": "plain"}\n', []), (b"more", [fd] * 5))
        os.close(fd)


async def test_who_is_denied_leaves_nothing(path: Path) -> None:
    before = descriptors()
    server = ControlServer(path, {}, {"read": read})
    server._uids = frozenset({4242})
    async with server.serve():
        fd = memory(b"x")
        assert (await raw(path, (b'{"cmd": "read"}\n', [fd])))["error"]["reason"] == "PERMISSION_DENIED"
        os.close(fd)
    assert descriptors() == before


async def test_who_goes_away_leaves_nothing(path: Path) -> None:
    async with serving(path) as server:
        before = descriptors()
        fd = memory(b"x")
        await raw(path, (b'{"cmd": "re', [fd]), close=True)
        await raw(path, (b'{"cmd": "give"}\n', []), close=True)
        await raw(path, (b'{"cmd": "read"}\n', [fd]), close=True)
        os.close(fd)
        assert (await to_thread(ask, str(path), {"cmd": "plain"}))["ok"]
        assert await at_rest(server) == before


async def test_silence_with_one_is_cut_off(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(control, "REQUEST_S", 0.01)
    async with serving(path):
        fd = memory(b"x")
        assert (await raw(path, (b'{"cmd"', [fd])))["ok"] is False
        os.close(fd)


async def test_the_servers_end_ends_whoever_waits(path: Path) -> None:
    entered = asyncio.Event()

    async def wait(_request: Mapping[str, object], _fd: int) -> object:
        entered.set()
        await asyncio.get_running_loop().create_future()

    before = descriptors()
    fd = memory(b"x")
    async with ControlServer(path, {}, {"wait": wait}).serve():
        asking = asyncio.create_task(to_thread(ask_with_fd, str(path), {"cmd": "wait"}, fd))
        await entered.wait()
    with pytest.raises(Unreachable):
        await asking
    os.close(fd)
    assert descriptors() == before


async def test_deep_nonsense_gets_an_answer(path: Path) -> None:
    async with serving(path):
        told = await raw(path, (b"[" * 60_000 + b"\n", []))
        assert told["error"]["reason"] == "BAD_REQUEST"
