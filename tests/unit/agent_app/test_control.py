"""The control socket: who is served, and what happens to nonsense."""

from __future__ import annotations

import asyncio
import ctypes
import json
import os
import platform
import shutil
import socket
import tempfile
import threading
from asyncio import to_thread
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

from node_agent.errors import CommandRefused, SettingsError
from node_agent.luoctl import main
from node_agent.luoctl_wire import Unreachable, ask
from node_agent.runtime import control
from node_agent.runtime.control import ControlServer

SYS_SETRESUID = 117
"""On x86-64; the C library's setresuid would change every thread."""


@pytest.fixture
def path() -> Iterator[Path]:
    directory = Path(tempfile.mkdtemp(prefix="lr-"))
    yield directory / "run" / "control.sock"
    shutil.rmtree(directory)


async def echo(request: Mapping[str, object]) -> object:
    return dict(request)


async def refuse(_request: Mapping[str, object]) -> object:
    raise CommandRefused("not now", reason="BUSY", remedy="wait", step="LOADING")


async def test_a_command_and_its_answer(path: Path) -> None:
    async with ControlServer(path, {"echo": echo}).serve():
        assert path.stat().st_mode & 0o777 == 0o600
        assert path.parent.stat().st_mode & 0o777 == 0o700
        assert await to_thread(ask, str(path), {"cmd": "echo", "x": 1}) == {
            "ok": True,
            "result": {"cmd": "echo", "x": 1},
        }
    assert not path.exists()


async def test_a_refusal_travels_whole(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    async with ControlServer(path, {"kexec": refuse}).serve():
        error = (await to_thread(ask, str(path), {"cmd": "kexec"}))["error"]
        assert error == {
            "reason": "BUSY",
            "retry": "NEVER",
            "message": "not now",
            "remedy": "wait",
            "fields": {"step": "LOADING"},
        }
        assert await to_thread(main, ["--socket", str(path), "kexec"]) == 3
        assert await to_thread(main, ["--socket", str(path), "-o", "json", "kexec"]) == 3
    said = capsys.readouterr()
    assert said.err == "luoctl: not now [BUSY]\nluoctl: to mend it: wait\n"
    assert json.loads(said.out)["error"]["reason"] == "BUSY"


@pytest.mark.parametrize(
    "error", [OSError(28, "No space left on device"), TimeoutError(), BrokenPipeError(), ValueError("odd")]
)
async def test_what_a_handler_fails_with_is_an_answer(
    path: Path, error: Exception, capsys: pytest.CaptureFixture[str]
) -> None:
    """Without one luoctl would say that the agent went away, and of a kexec that it jumped."""

    async def fail(_request: Mapping[str, object]) -> object:
        raise error

    async with ControlServer(path, {"kexec": fail, "status": fail}).serve():
        for verb in ("kexec", "status"):
            assert await to_thread(main, ["--socket", str(path), verb]) == 3
            said = capsys.readouterr()
            assert f"luoctl: {verb} failed with {type(error).__name__} [INTERNAL]" in said.err
            assert (said.out, "to mend it: " in said.err) == ("", True)


@pytest.mark.parametrize(
    "line", [b"\n", b"{\n", b"[]\n", b"{}\n", b'{"cmd": []}\n', b"\xff\n", b"x" * 200_000 + b"\n"]
)
async def test_nonsense_gets_an_answer(path: Path, line: bytes) -> None:
    async with ControlServer(path, {"echo": echo}).serve():
        reader, writer = await asyncio.open_unix_connection(path)
        writer.write(line)
        answer = json.loads(await reader.readline())
        writer.close()
    assert answer["error"]["reason"] == "BAD_REQUEST"
    assert answer["error"]["remedy"]


async def test_silence_is_cut_off(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(control, "REQUEST_S", 0.01)
    async with ControlServer(path, {"echo": echo}).serve():
        reader, writer = await asyncio.open_unix_connection(path)
        assert json.loads(await reader.readline())["ok"] is False
        writer.close()


@pytest.mark.skipif(
    os.geteuid() != 0 or platform.machine() != "x86_64", reason="only root can be somebody else"
)
async def test_another_user_is_denied(path: Path) -> None:
    async with ControlServer(path, {"echo": echo}, uids=frozenset({4242})).serve():
        path.chmod(0o666)
        path.parent.chmod(0o755)
        path.parent.parent.chmod(0o755)
        allowed = await to_thread(ask_as, 4242, str(path))
        denied = await to_thread(ask_as, 4343, str(path))
    assert allowed["ok"] is True
    assert denied["error"]["reason"] == "PERMISSION_DENIED"


def ask_as(uid: int, path: str) -> dict[str, object]:
    """Ask as another user, in a thread of its own: the bare system call changes that thread only,
    and SO_PEERCRED tells of whoever called connect."""
    answers: list[dict[str, object]] = []

    def asking() -> None:
        assert ctypes.CDLL(None, use_errno=True).syscall(SYS_SETRESUID, -1, uid, -1) == 0
        answers.append(ask(path, {"cmd": "echo"}))

    thread = threading.Thread(target=asking)
    thread.start()
    thread.join()
    return answers[0]


async def test_a_leftover_is_replaced_and_a_running_agent_is_not(path: Path) -> None:
    path.parent.mkdir(parents=True)
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(path))
    async with ControlServer(path, {"echo": echo}).serve():
        with pytest.raises(SettingsError) as caught:
            async with ControlServer(path, {"echo": echo}).serve():
                raise AssertionError("two agents on one socket")
        assert caught.value.reason == "ALREADY_RUNNING"
        assert (await to_thread(ask, str(path), {"cmd": "echo"}))["ok"]


async def test_an_agent_that_dies_while_asked(path: Path) -> None:
    async def hang(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.close()

    path.parent.mkdir(parents=True)
    async with await asyncio.start_unix_server(hang, path):
        with pytest.raises(Unreachable, match="went away"):
            await to_thread(ask, str(path), {"cmd": "status"})
        assert await to_thread(ask, str(path), {"cmd": "kexec"}) == {
            "ok": True,
            "result": {"outcome": "JUMPED"},
        }
