"""luoctl in LUO's own words, with real processes: a kernel of RFC v2's time, its agent, no orchestrator."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import signal
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from node_agent.kernel.emulated import syncclient
from tests.integration.test_agent_run import RunningNode, running
from tests.unit.artifacts_agent.publish import publish

pytestmark = pytest.mark.integration

ROOT = Path(__file__).resolve().parents[2]
MODELS = ("rfc-v2/notifier", "rfc-v2/luo-driven")
ABI = {"kho": "kho-v1", "luo": "luo-v1", "handlers": {"memfd": "memfd-v1"}}
CONTENT = b"\x00\xff what an operator keeps " * 40_000
"""More than a pipe or a socket takes at once."""


@pytest.fixture
def state() -> Iterator[Path]:
    # pytest's own directories are too deep for a Unix socket's path.
    directory = Path(tempfile.mkdtemp(prefix="lr-"))
    yield directory
    shutil.rmtree(directory)


async def load(node: RunningNode, directory: Path, release: str) -> str:
    """An artifact of RFC v2's model, staged: its digest."""
    publish(directory, release, kernel=b"placeholder", config=None, emulated=True, live_update=ABI)
    told = json.loads(await node.luoctl("-o", "json", "load", str(directory)))
    return str(told["digest"])


async def kexec(node: RunningNode, digest: str, *options: str) -> None:
    """By hand, until the next boot's agent is there."""
    boots = classified(node)
    assert "jumped" in await node.luoctl("kexec", digest, *options)
    async with asyncio.timeout(30), node.heard:
        await node.heard.wait_for(lambda: classified(node) > boots)
    told = await node.status()
    assert (told["verdict"], told["by_hand"]) == ("FOREIGN_KEXEC", True)


def classified(node: RunningNode) -> int:
    return sum("BootClassified" in line for line in node.lines)


async def luo_state(node: RunningNode) -> str:
    return str(json.loads(await node.luoctl("-o", "json", "state"))["state"])


async def kernel(node: RunningNode, *words: str) -> str:
    return await asyncio.to_thread(syncclient.control, str(node.state / "root"), *words)


@pytest.mark.parametrize(
    ("model", "carrier", "kept"),
    [
        ("rfc-v2/notifier", "luo", True),
        ("rfc-v2/notifier", "kho", True),
        ("rfc-v2/luo-driven", "luo", True),
        # Nobody calls a user of KHO's own where LUO alone drives it: why the thread makes it a subsystem.
        ("rfc-v2/luo-driven", "kho", False),
    ],
)
async def test_prepare_is_enough_for_reserve_mem(
    state: Path, tmp_path: Path, model: str, carrier: str, kept: bool
) -> None:
    """The thread: "luoctl prepare would work for whoever plans to use just reserve_mem"."""
    options = ("--luo-model", model, "--reserve-mem", carrier, "--release", "6.16.1")
    words = ("--command-line-append", "reserve_mem=8K:4096:notes")
    async with running(state, *options, *words, workload=False) as node:
        await node.until("BootClassified")
        digest = await load(node, tmp_path / "k", "6.16.2")
        await kernel(node, "reserve_mem_write", "notes", "100", CONTENT[:64].hex())
        said = await node.luoctl("prepare")
        assert "LUO is prepared" in said
        await kexec(node, digest)
        assert await luo_state(node) == "updated"
        assert await node.luoctl("list") == "no file has a token\n"
        found = bytes.fromhex(await kernel(node, "reserve_mem_read", "notes", "100", "64"))
        assert found == (CONTENT[:64] if kept else bytes(64))
        assert "LUO is normal" in await node.luoctl("finish")


@pytest.mark.parametrize("model", MODELS)
async def test_a_memfd_crosses_by_hand(state: Path, tmp_path: Path, model: str) -> None:
    notes, back = tmp_path / "notes", tmp_path / "back"
    notes.write_bytes(CONTENT)
    async with running(state, "--luo-model", model, "--release", "6.16.1", workload=False) as node:
        await node.until("BootClassified")
        digest = await load(node, tmp_path / "k", "6.16.2")
        assert "[NO_TELEMETRY]" in await node.luoctl("telemetry", code=3)
        token = json.loads(await node.luoctl("-o", "json", "preserve", "--memfd", str(notes)))["token"]
        open_fds = int(await kernel(node, "descriptors"))
        assert "[FILE_UNPRESERVABLE]" in await shell(node, f"preserve 3 3<>{notes}", code=3)
        assert "[TOKEN_NOT_FOUND]" in await node.luoctl("unpreserve", "77", code=3)
        assert "[LUO_NOT_UPDATED]" in await node.luoctl("restore", str(token), "--to", "-", code=3)
        assert int(await kernel(node, "descriptors")) == open_fds
        assert "[NOT_PREPARED]" in await node.luoctl("kexec", digest, code=3)
        await node.luoctl("prepare")
        assert "[LUO_NOT_NORMAL]" in await node.luoctl("unpreserve", str(token), code=3)
        await kexec(node, digest)
        listed = (await node.luoctl("list")).splitlines()
        assert [line.split() for line in listed] == [
            ["TOKEN", "KIND", "STATE", "SESSION"],
            [str(token), "memfd", "arrived", "-"],
        ]
        await node.luoctl("restore", str(token), "--to", str(back))
        assert back.read_bytes() == CONTENT
        assert f"{len(CONTENT)}" in await shell(node, f"restore {token} -- bash -c 'wc -c <&$LUOCTL_FD'")
        assert "[TOKEN_NOT_FOUND]" in await node.luoctl("restore", "77", "--to", str(back), code=3)
        assert back.read_bytes() == CONTENT
        phases = json.loads(await node.luoctl("-o", "json", "telemetry"))
        assert list(phases["phases_ms"]) == ["boot", "purgatory", "shutdown"]
        assert all(ms > 0 for ms in phases["phases_ms"].values())
        await node.luoctl("finish")
        assert await node.luoctl("list") == "no file has a token\n"
        assert "[LUO_NOT_UPDATED]" in await node.luoctl("restore", str(token), "--to", "-", code=3)
        story = await node.luoctl("story")
        assert [line.split()[3] for line in story.splitlines() if "LUO_BY_HAND" in line][:3] == [
            "ByHandPreserve",
            "ByHandPreserve",
            "ByHandPreserveFailed",
        ]


async def test_an_attempt_and_an_operators_hand(state: Path, tmp_path: Path) -> None:
    """Each is kept from the other, and both work one after the other."""
    notes = tmp_path / "notes"
    notes.write_bytes(CONTENT)
    async with running(state, "--luo-model", "rfc-v2/notifier", "--release", "6.16.1") as node:
        await node.until("fresh start")
        await node.until("BootClassified")
        digest = await load(node, tmp_path / "k", "6.16.2")
        token = json.loads(await node.luoctl("-o", "json", "preserve", "--memfd", str(notes)))["token"]
        assert "[PRESERVED_BY_HAND]" in await node.luoctl("prepare", digest, code=3)
        await node.luoctl("unpreserve", str(token))
        assert "accepted: PRESERVED" in await node.luoctl("prepare", digest)
        before = await node.luoctl("list")
        for verb in ("freeze", "finish", "prepare", "unpreserve 0", f"preserve --memfd {notes}"):
            assert "[ATTEMPT_UNDER_WAY]" in await node.luoctl(*verb.split(), code=3), verb
        assert await node.luoctl("list") == before
        assert "PRESERVED: the agent drives LUO" in await node.luoctl("state")
        assert "ABORTED" in await node.luoctl("cancel")
        assert await node.luoctl("list") == "no file has a token\n"
        assert await luo_state(node) == "normal"


async def test_a_kernel_with_sessions_says_what_to_use_instead(state: Path) -> None:
    async with running(state, workload=False) as node:
        await node.until("BootClassified")
        for verb in ("state", "prepare", "freeze", "finish", "list", "telemetry", "unpreserve 0"):
            said = await node.luoctl(*verb.split(), code=3)
            assert "[VERB_UNKNOWN_HERE]" in said, verb
            assert "to mend it: " in said, verb
        assert "`luoctl sessions`" in await node.luoctl("list", code=3)
        assert "`luoctl status`" in await node.luoctl("state", code=3)


async def test_the_page_for_operators_works_word_for_word(state: Path) -> None:
    page = (ROOT / "docs" / "operations.md").read_text()
    _, first, _, second, *_ = page.split("### LUO by hand")[1].replace("/tmp/hv-2", str(state)).split("```\n")
    tools = {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    agent = await asyncio.create_subprocess_exec(
        *("bash", "-ec", f"{first.replace('liveroll-agent run', 'exec liveroll-agent run')}"),
        env={**os.environ, **tools},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    try:
        assert agent.stdout is not None
        async with asyncio.timeout(30):
            while b"BootClassified" not in (line := await agent.stdout.readline()):
                assert line, "it has ended"
            person = await asyncio.create_subprocess_exec(
                *("bash", "-ec", second),
                env={**os.environ, **tools},
                stdout=asyncio.subprocess.PIPE,
                stderr=asyncio.subprocess.PIPE,
            )
            out, err = await person.communicate()
    finally:
        agent.send_signal(signal.SIGTERM)
        await agent.communicate()
    said = out.decode()
    assert person.returncode == 0, said + err.decode()
    for words in (
        "token 0",
        "memfd  registered",
        "LUO is prepared",
        "memfd  arrived",
        "what must not be lost\n22\n",
    ):
        assert words in said, said
    assert "LUO is normal" in said
    assert "source: telemetry" in said
    assert "ByHandKexec" in said


async def shell(node: RunningNode, line: str, code: int = 0) -> str:
    """luoctl from a shell, with what the shell opens for it."""
    command = f"{sys.executable} -m node_agent.luoctl --socket {node.state}/control.sock {line}"
    process = await asyncio.create_subprocess_exec(
        *("bash", "-c", command), stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT
    )
    said = (await process.communicate())[0].decode()
    assert process.returncode == code, said
    return said
