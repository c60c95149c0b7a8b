"""`liveroll-agent run` as real processes: its kernel, its workload, luoctl, /metrics, kill -9."""

from __future__ import annotations

import asyncio
import json
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
import urllib.request
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from liveroll.v1 import common_pb2 as common

from tests.integration.test_agent_simulate import artifact, orchestrated, resumed
from tests.unit.agent_link.fake_orchestrator import FakeOrchestrator
from tests.unit.artifacts_agent.publish import publish

pytestmark = pytest.mark.integration

PROGRAM = ("-m", "node_agent.cli")


@dataclass
class RunningNode:
    """One emulated node: its kernel's process, and all that it starts."""

    state: Path
    process: asyncio.subprocess.Process
    lines: list[str]
    heard: asyncio.Condition

    async def until(self, text: str) -> str:
        """The first line with that text, from any boot."""
        async with asyncio.timeout(30), self.heard:
            await self.heard.wait_for(lambda: any(text in line for line in self.lines))
        return next(line for line in self.lines if text in line)

    async def luoctl(self, *arguments: str, code: int = 0) -> str:
        """What luoctl says, on stdout or stderr."""
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "node_agent.luoctl", "--socket", str(self.state / "control.sock")),
            *arguments,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
        )
        said = (await process.communicate())[0].decode()
        assert process.returncode == code, said
        return said

    async def status(self) -> dict[str, Any]:
        """luoctl -o json status."""
        found = json.loads(await self.luoctl("-o", "json", "status"))
        assert isinstance(found, dict)
        return found


@pytest.fixture
def state() -> Iterator[Path]:
    # pytest's own directories are too deep for a Unix socket's path.
    directory = Path(tempfile.mkdtemp(prefix="lr-"))
    yield directory
    shutil.rmtree(directory)


@asynccontextmanager
async def running(
    state: Path, *arguments: str, workload: bool = True, program: Sequence[str] = PROGRAM
) -> AsyncIterator[RunningNode]:
    service = [
        *(sys.executable, "-m", "node_agent.workloads.example", "--socket", str(state / "liveupdate.sock")),
        *("--id", "vm-1", "--mib", "1"),
    ]
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, *program, "run", "--state-dir", str(state), "--node-id", "n1"),
        *("--kexec-s", "0.05", *(("--service", shlex.join(service)) if workload else ()), *arguments),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    node = RunningNode(state, process, [], asyncio.Condition())

    async def listen() -> None:
        assert process.stdout is not None
        async for line in process.stdout:
            async with node.heard:
                node.lines.append(line.decode())
                node.heard.notify_all()

    listening = asyncio.create_task(listen())
    try:
        yield node
    finally:
        if process.returncode is None:
            process.send_signal(signal.SIGTERM)
        await process.wait()
        await listening
    assert not any("Traceback" in line for line in node.lines), "".join(node.lines)


async def test_by_hand_without_an_orchestrator(state: Path, tmp_path: Path) -> None:
    publish(tmp_path / "k", kernel=b"placeholder", config=None, emulated=True)
    async with running(state) as node:
        await node.until("fresh start")
        await node.until("BootClassified")
        assert (await node.luoctl("subscribers")).strip() == "vm-1"
        status = await node.status()
        assert (status["phase"], status["release"], status["verdict"]) == ("IDLE", "7.2.13", "SAME_BOOT")
        assert status["rollback_artifact"]
        assert "to mend it" in await node.luoctl("kexec", code=3), "nothing is prepared"
        assert "names 0 staged artifacts" in await node.luoctl("prepare", "abc", code=2)
        assert "no such file" in (await node.luoctl("load", "/nonexistent", code=4)).lower()
        loaded = json.loads(await node.luoctl("-o", "json", "load", str(tmp_path / "k")))
        said = await node.luoctl("prepare", loaded["digest"][:10])
        assert "accepted: PRESERVED (1-local)" in said
        assert "lr.1-local.vm-1" in await node.luoctl("sessions")
        assert "ABORTED" in await node.luoctl("cancel")
        assert "accepted: PRESERVED (2-local)" in await node.luoctl("prepare", loaded["digest"])
        assert "jumped" in await node.luoctl("kexec")
        await node.until("Finished")
        assert "1048576 bytes intact" in await node.until("resumed at tick")
        status = await node.status()
        assert (status["phase"], status["release"]) == ("BAKING", "7.3.4")
        assert status["verdict"] == "LIVE_UPDATED"
        assert "COMMITTED" in await node.luoctl("commit")
        story = await node.luoctl("story")
        assert "2-local JumpIntentRecorded → JUMPING" in story
    assert (state / "default-kernel").read_text() == "7.3.4"


async def test_with_an_orchestrator_all_the_way(state: Path, tmp_path: Path) -> None:
    async with orchestrated(FakeOrchestrator()) as orchestrator:
        metrics = ("--metrics-listen", "127.0.0.1:0")
        async with running(
            state, "--orchestrator", orchestrator.address, "--label", "zone=a", *metrics
        ) as node:
            await node.until("fresh start")  # who has not subscribed by then is not preserved
            orchestrator.artifact = artifact(tmp_path)
            await orchestrator.until(orchestrator.all_in(common.PHASE_COMMITTED, 1))
            seen = orchestrator.nodes["n1"]
            assert (await node.status())["link"] == "up"
            async with asyncio.timeout(30), node.heard:
                await node.heard.wait_for(lambda: len(served(node)) == 2)  # in each boot anew
            url = served(node)[-1].split("url=")[1].strip()
            text = await asyncio.to_thread(fetch, url)
    report = resumed(seen)
    assert (report.memory_check.intact, report.memory_check.bytes_checked) == (1, 1 << 20)
    assert seen.hello.labels["zone"] == "a"
    assert seen.hello.labels["luo_model"] == "sessions"
    assert 'liveroll_agent_nodes{phase="COMMITTED"} 1.0' in text
    assert "liveroll_agent_links_up 1.0" in text
    assert 'liveroll_agent_attempts_total{reason="",result="COMMITTED"} 1.0' in text
    promtool = shutil.which("promtool")
    if promtool is not None:
        done = subprocess.run(
            [promtool, "check", "metrics"], input=text, text=True, capture_output=True, check=False
        )
        assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


async def test_a_node_links_to_whichever_orchestrator_is_there(state: Path) -> None:
    async with orchestrated(FakeOrchestrator()) as one, orchestrated(FakeOrchestrator()) as two:
        both = {one.address: one, two.address: two}
        addresses = ("127.0.0.1:1", *both)
        async with running(state, "--orchestrator", ",".join(addresses), workload=False) as node:
            await node.until("linked")
            status = await node.status()
            assert status["link"] == "up"
            first = both.pop(status["orchestrator"])
            ((_, second),) = both.items()
            assert f"up to {first.address}" in await node.luoctl("status")
            await first.stop()
            await second.until(lambda nodes: nodes["n1"].heartbeats > 0 if nodes else False)
            assert (await node.status())["orchestrator"] == second.address


async def test_an_agent_killed_while_preserved_unwinds_in_the_same_boot(state: Path, tmp_path: Path) -> None:
    publish(tmp_path / "k", kernel=b"placeholder", config=None, emulated=True)
    async with running(state) as node:
        await node.until("fresh start")
        loaded = json.loads(await node.luoctl("-o", "json", "load", str(tmp_path / "k")))
        await node.luoctl("prepare", loaded["digest"])
        boot_id = (await node.status())["boot_id"]
        children = subprocess.run(
            ["pgrep", "-P", str(node.process.pid)], capture_output=True, text=True, check=True
        ).stdout.split()
        agent = next(p for p in children if b"node_agent.cli" in Path(f"/proc/{p}/cmdline").read_bytes())
        subprocess.run(["kill", "-9", agent], check=True)
        await node.until("Unwound")
        status = await node.status()
    assert (status["phase"], status["boot_id"]) == ("ABORTED", boot_id)


HOLD = (
    "import fcntl, sys; f = open(sys.argv[1], 'r+b'); fcntl.flock(f, fcntl.LOCK_EX); print('held'); input()"
)


async def test_while_another_process_holds_the_journal_it_says_stuck(state: Path, tmp_path: Path) -> None:
    """As an agent killed in the middle of reboot: its thread lives on, and holds the lock."""
    async with orchestrated(FakeOrchestrator(artifact(tmp_path), proceed=False)) as orchestrator:
        link = ("--orchestrator", orchestrator.address)
        async with running(state, *link) as node:
            await orchestrator.until(orchestrator.all_in(common.PHASE_PRESERVED, 1))
            known = orchestrator.nodes["n1"].hello.installation_id
        before = (state / "journal").read_bytes()
        holder = await asyncio.create_subprocess_exec(
            *(sys.executable, "-c", HOLD, str(state / "journal")),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
        )
        assert holder.stdout is not None
        await holder.stdout.readline()
        async with running(state, *link) as node:
            await node.until("linked, stuck")
            hello = orchestrator.nodes["n1"].hello
            assert (hello.installation_id, hello.status.phase) == (known, common.PHASE_PRESERVED)
            assert (hello.status.problem.reason, hello.status.healthy) == ("STUCK", False)
            assert hello.boot_verdict == common.BOOT_VERDICT_UNSPECIFIED
            assert (state / "journal").read_bytes() == before
            holder.kill()
            await holder.wait()
            await node.until("BootClassified")
            await orchestrator.until(orchestrator.all_in(common.PHASE_COLD_BOOTED, 1))
    assert orchestrator.nodes["n1"].hello.status.problem.reason != "STUCK"


async def test_a_second_agent_waits_without_a_word_and_ends_when_told(state: Path, tmp_path: Path) -> None:
    async with (
        orchestrated(FakeOrchestrator(artifact(tmp_path), commit=False)) as orchestrator,
        running(state, "--orchestrator", orchestrator.address, workload=False) as node,
    ):
        await orchestrator.until(orchestrator.all_in(common.PHASE_BAKING, 1))
        second = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "node_agent.cli", "run", "--state-dir", str(state)),
            *("--node-id", "n1", "--log-format", "json"),
            env={"LIVEROLL_NODE_ROOT": str(state / "root")},
            stderr=asyncio.subprocess.PIPE,
        )
        assert second.stderr is not None
        said = (await second.stderr.readline()).decode()
        assert (await node.status())["phase"] == "BAKING"
        second.terminate()
        rest = (await second.communicate())[1].decode()
    assert '"reason": "STUCK"' in said
    assert second.returncode == 0
    assert "Traceback" not in said + rest


def served(node: RunningNode) -> list[str]:
    """The lines that say where, so far."""
    return [line for line in node.lines if "/metrics" in line]


def fetch(url: str) -> str:
    with urllib.request.urlopen(url, timeout=10) as answer:
        return str(answer.read().decode())
