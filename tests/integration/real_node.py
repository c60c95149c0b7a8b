"""What an outsider sees of one `liveroll-agent run` node: its processes, its kernel, its journal, luoctl."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from deploy.local import Child
from node_agent.kernel.emulated import syncclient
from node_agent.resume import keeper, tokens
from tests.integration import journal_reader
from tests.integration.conftest import WAIT_S, descendants, module, run

FORKED = {keeper.COMM, tokens.COMM}


@dataclass
class RealNode:
    """kernel: the child that is the node's kernel; everything else of the node is below it."""

    kernel: Child
    state: Path

    @property
    def name(self) -> str:
        return self.kernel.name

    @property
    def agent(self) -> int:
        """The agent's pid; 0 while there is none. What it forked has its command line, but its session until
        it has a name of its own."""
        for pid, command in descendants(self.kernel.process.pid).items():
            if (
                command.split()[1:3] == ["-m", "node_agent.cli"]
                and _leads(pid)
                and name_of(pid) not in FORKED
            ):
                return pid
        return 0

    @property
    def forked(self) -> set[bytes]:
        """Names of the processes that keep something for the agent."""
        return {name_of(pid) for pid in descendants(self.kernel.process.pid)} & FORKED

    @property
    def workloads(self) -> set[int]:
        return {
            pid
            for pid, command in descendants(self.kernel.process.pid).items()
            if command.split()[1:3] == ["-m", "node_agent.workloads.example"]
        }

    def journal(self) -> list[journal_reader.Record]:
        path = self.state / "journal"
        return journal_reader.read(path, torn_tail=True) if path.exists() else []

    @property
    def log(self) -> str:
        return self.kernel.log_path.read_text(errors="replace")

    def calls(self, name: str) -> int:
        """How often that call was made of this node's kernel; 0 while it is between two boots."""
        try:
            return int(syncclient.control(str(self.state / "root"), "calls", name))
        except OSError:
            return 0

    def facts(self) -> dict[str, str]:
        """What the node's kernel says of itself."""
        return syncclient.facts(str(self.state / "root"))

    async def until_subscribed(self, count: int) -> None:
        """Until so many workloads take part."""
        await self.until(lambda: self.log.count("fresh start") == count, "fresh")
        while len(await self.luoctl("subscribers")) < count:
            await asyncio.sleep(0.05)

    async def until(self, true: Callable[[], bool], what: str) -> None:
        """A node has no event that it would tell an outsider: its files are looked at."""
        give_up = time.monotonic() + WAIT_S
        while not true():
            assert time.monotonic() < give_up, f"{self.name}: never {what}\n{self.kernel.last_lines(25)}"
            await asyncio.sleep(0.02)

    async def kill_agent(self) -> int:
        """kill -9, at once; the pid that it had."""
        pid = self.agent
        assert pid, f"{self.name}: no agent to kill"
        os.kill(pid, signal.SIGKILL)
        await self.until(lambda: self.agent not in (0, pid), "a new agent")
        return pid

    async def luoctl(self, *arguments: str) -> Any:
        """The answer as JSON."""
        command = module(
            "node_agent.luoctl", "--socket", str(self.state / "control.sock"), "-o", "json", *arguments
        )
        done = await asyncio.to_thread(run, command)
        assert done.status == 0, done.err
        return json.loads(done.out)


def name_of(pid: int) -> bytes:
    """Of a process; empty once it is gone."""
    try:
        return Path(f"/proc/{pid}/comm").read_bytes().strip()
    except (FileNotFoundError, ProcessLookupError):
        return b""


def _leads(pid: int) -> bool:
    """A session, as every service of the node does."""
    try:
        return os.getsid(pid) == pid
    except ProcessLookupError:
        return False
