"""luoctl's end: what it preserves, where it writes what it restores, and whom it hands a file."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
from asyncio import to_thread
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from node_agent.errors import CommandRefused
from node_agent.luoctl import build_parser, main
from node_agent.luoctl_completion import completion
from node_agent.luoctl_view import RENDER
from node_agent.runtime.control import ControlServer, WithFd

CONTENT = b"kept over the kexec\n" * 1000


@pytest.fixture
def directory() -> Iterator[Path]:
    found = Path(tempfile.mkdtemp(prefix="lr-"))
    yield found
    shutil.rmtree(found)


@dataclass
class Agent:
    """Answers as one would."""

    path: str = ""
    kind: str = "memfd"
    taken: list[bytes] = field(default_factory=list)
    asked: int = 0

    async def preserve(self, _request: Mapping[str, object], fd: int) -> object:
        self.taken.append(os.pread(fd, 1 << 20, 0))
        return {"token": 5}

    async def restore(self, request: Mapping[str, object]) -> object:
        self.asked += 1
        if request["token"] != 5:
            raise CommandRefused("no such token", reason="TOKEN_NOT_FOUND", remedy="look")
        if self.kind == "eventfd":
            return WithFd({"token": 5, "kind": self.kind}, os.eventfd(1))
        fd = os.memfd_create("kept")
        os.write(fd, CONTENT)  # and its offset is at the end
        return WithFd({"token": 5, "kind": self.kind}, fd)

    async def luoctl(self, *arguments: str) -> int:
        return await to_thread(main, ["--socket", self.path, *arguments])

    async def process(self, *arguments: str, **options: object) -> tuple[int, bytes, bytes]:
        """As a process of its own: (status, stdout, stderr)."""
        told = await to_thread(
            lambda: subprocess.run(  # type: ignore[call-overload]
                [sys.executable, "-m", "node_agent.luoctl", "--socket", self.path, *arguments],
                capture_output=True,
                timeout=30,
                check=False,
                **options,
            )
        )
        return told.returncode, told.stdout, told.stderr


@asynccontextmanager
async def agent(directory: Path, kind: str = "memfd") -> AsyncIterator[Agent]:
    """One, and that nothing is open after it that was not before."""
    before = len(os.listdir("/proc/self/fd"))
    found = Agent(str(directory / "c.sock"), kind)
    handlers, takers = {"restore": found.restore}, {"preserve": found.preserve}
    async with ControlServer(Path(found.path), handlers, takers).serve():
        yield found
    assert len(os.listdir("/proc/self/fd")) == before


async def test_a_memfd_of_a_file(directory: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = directory / "notes"
    source.write_bytes(CONTENT)
    async with agent(directory) as node:
        assert await node.luoctl("preserve", "--memfd", str(source)) == 0
        assert capsys.readouterr().out.splitlines()[0] == "token 5"
        assert await node.luoctl("preserve", "--memfd", str(source), "-o", "json") == 0
        assert json.loads(capsys.readouterr().out) == {"token": 5}
        status, out, _ = await node.process("preserve", "--memfd", "-", input=b"from a pipe")
        assert (status, out.splitlines()[0]) == (0, b"token 5")
        assert node.taken == [CONTENT, CONTENT, b"from a pipe"]


async def test_a_descriptor_of_the_shell(directory: Path) -> None:
    (directory / "file").write_bytes(b"the shell's")
    async with agent(directory) as node:
        line = f"{sys.executable} -m node_agent.luoctl --socket {node.path} preserve 7 7<>{directory}/file"
        told = await to_thread(subprocess.run, ["bash", "-c", line], timeout=30, check=False)
        assert told.returncode == 0
        assert node.taken == [b"the shell's"]


async def test_what_cannot_be_preserved_is_not_asked(
    directory: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    async with agent(directory) as node:
        assert await node.luoctl("preserve", "99") == 2
        assert "luoctl preserve 99 99<>FILE" in capsys.readouterr().err
        assert await node.luoctl("preserve", "--memfd", str(directory / "absent")) == 2
        assert "No such file" in capsys.readouterr().err
        assert node.taken == []


async def test_to_a_file(directory: Path, capsys: pytest.CaptureFixture[str]) -> None:
    target = directory / "out"
    target.write_text("of before")
    async with agent(directory) as node:
        assert await node.luoctl("restore", "5", "--to", str(target)) == 0
        assert target.read_bytes() == CONTENT
        assert capsys.readouterr().out == f"token 5 (memfd): {len(CONTENT)} bytes to {target}\n"
        assert await node.luoctl("-o", "json", "restore", "5", "--to", "/dev/null") == 0
        said = json.loads(capsys.readouterr().out)
        assert said == {"token": 5, "kind": "memfd", "to": "/dev/null", "bytes": len(CONTENT)}
        assert Path("/dev/null").is_char_device()


async def test_to_stdout(directory: Path) -> None:
    async with agent(directory) as node:
        status, out, err = await node.process("restore", "0x5", "--to", "-")
        assert (status, out) == (0, CONTENT), "and nothing else"
        assert b"bytes to -" in err


async def test_nothing_is_left_of_a_file_that_is_not_restored(
    directory: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    target = directory / "out"
    async with agent(directory) as node:
        assert await node.luoctl("restore", "6", "--to", str(target)) == 3
        assert "no such token [TOKEN_NOT_FOUND]" in capsys.readouterr().err
        assert await node.luoctl("-o", "json", "restore", "6", "--to", str(target)) == 3
        assert json.loads(capsys.readouterr().out)["error"]["reason"] == "TOKEN_NOT_FOUND"
        assert await node.luoctl("restore", "6", "--", "cat") == 3
        node.asked = 0
        assert await node.luoctl("restore", "5", "--to", str(directory / "absent" / "out")) == 2
        assert await node.luoctl("restore", "5", "--", "no-such-command") == 2
        assert await node.luoctl("restore", "5", "--") == 2
        assert node.asked == 0, "the kernel gives a file once: all else is looked at before"
        assert {entry.name for entry in directory.iterdir()} == {"c.sock"}


async def test_a_full_disk_keeps_the_file_of_before(
    directory: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    async with agent(directory) as node:
        assert await node.luoctl("restore", "5", "--to", "/dev/full") == 4
        assert "No space left on device; restore it again elsewhere" in capsys.readouterr().err


async def test_what_has_no_content_goes_to_a_command(
    directory: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    async with agent(directory, "eventfd") as node:
        assert await node.luoctl("restore", "5", "--to", str(directory / "out")) == 2
        assert "luoctl restore 5 -- COMMAND" in capsys.readouterr().err
        assert not (directory / "out").exists()


async def test_a_command_inherits_it(directory: Path) -> None:
    script = 'echo "$LUOCTL_TOKEN $1"; cat <&"$LUOCTL_FD"'
    async with agent(directory) as node:
        status, out, _ = await node.process("restore", "5", "--", "bash", "-c", script, "me", "--to")
        assert (status, out) == (0, b"5 --to\n" + CONTENT), "from its beginning"
        status, _, _ = await node.process("restore", "5", "--", "false")
        assert status == 1, "the command's own"


async def test_a_command_that_cannot_start(directory: Path) -> None:
    broken = directory / "broken"
    broken.write_bytes(b"\x7fELF no")
    broken.chmod(0o755)
    async with agent(directory) as node:
        status, _, err = await node.process("restore", "5", "--", str(broken))
        assert (status, b"restore it again elsewhere" in err) == (4, True)


def test_every_verb_has_its_words() -> None:
    verbs = next(a.choices for a in build_parser()._actions if isinstance(a.choices, dict))
    assert set(verbs) == {*RENDER, "restore", "completion"}


def test_completion(directory: Path) -> None:
    script = directory / "completion"
    script.write_text("\n".join(completion(build_parser())))
    words = {
        ("luoctl", "st"): ["status", "state", "story"],
        ("luoctl", "-o", "json", "restore", "--t"): ["--to"],
        ("luoctl", "preserve", "--m"): ["--memfd"],
    }
    for line, expected in words.items():
        asked = (
            f"source {script}; COMP_WORDS=({' '.join(line)}); COMP_CWORD={len(line) - 1}; "
            '_luoctl; echo "${COMPREPLY[@]}"'
        )
        told = subprocess.run(["bash", "-c", asked], capture_output=True, text=True, timeout=30, check=True)
        assert sorted(told.stdout.split()) == sorted(expected)


def test_help_teaches(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["--help"])
    assert ended.value.code == 0
    said = capsys.readouterr().out
    for verb in RENDER:
        assert f"  luoctl {verb}" in said or f"    {verb}" in said
    assert "exit codes:" in said
