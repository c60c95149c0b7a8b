"""A whole Liveroll on this machine: one orchestrator and some agent processes, as children.

For the demo, for tests with real processes and for trying things out. Everything is on loopback
and in one directory; leaving the context ends every child, politely first.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import signal
import sys
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

START_TIMEOUT_S = 30.0
"""An orchestrator on a cold machine imports and migrates within a few seconds."""
STOP_TIMEOUT_S = 15.0

SETTINGS = """\
log_format = "json"
[fleet]
restart_grace_s = {grace}
silence_s = 5
active_heartbeat_s = {heartbeat}
min_idle_heartbeat_s = 1
idle_heartbeats_per_s = 200
stage_retry_s = 1
clock_slack_s = 0.5
"""
"""Patience for a fleet whose kexec takes a second, not a minute."""


class ChildFailed(RuntimeError):
    """A child did not start, or ended when it should not have."""


@dataclass
class Child:
    """One process of ours; its stderr is collected in a file."""

    name: str
    process: asyncio.subprocess.Process
    log_path: Path

    async def stop(self, number: int = signal.SIGTERM) -> int:
        """Ends it, with SIGKILL if it does not follow. Returns its status."""
        if self.process.returncode is None:
            self.process.send_signal(number)
            try:
                async with asyncio.timeout(STOP_TIMEOUT_S):
                    await self.process.wait()
            except TimeoutError:
                self.process.kill()
        return await self.process.wait()

    def last_lines(self, count: int = 15) -> str:
        return "\n".join(self.log_path.read_text(errors="replace").splitlines()[-count:])


@dataclass
class LocalFleet:
    """Children in one directory. Use `async with local_fleet(directory)`."""

    directory: Path
    heartbeat_s: float = 0.5
    grace_s: float = 5.0
    operators: str = "127.0.0.1:0"
    agents: str = "127.0.0.1:0"
    http: str = "127.0.0.1:0"
    orchestrator: Child | None = None
    children: list[Child] = field(default_factory=list)

    @property
    def artifacts_dir(self) -> Path:
        return self.directory / "artifacts"

    async def start_orchestrator(self, *, extra: Sequence[str] = ()) -> None:
        """Starts it (again, on the same ports and state) and waits until it serves."""
        config = self.directory / "orchestrator.toml"
        config.write_text(SETTINGS.format(heartbeat=self.heartbeat_s, grace=self.grace_s))
        child = await self._spawn(
            "orchestrator",
            [sys.executable, "-m", "orchestrator.app", "run", "--config", str(config),
             "--state-dir", str(self.directory), "--operators", self.operators,
             "--agents", self.agents, "--http", self.http, *extra],
        )  # fmt: skip
        self.orchestrator = child
        serving = await self._serving(child)
        self.operators, self.agents, self.http = serving["operators"], serving["agents"], serving["http"]

    async def start_agents(self, name: str, *arguments: str) -> Child:
        """One `liveroll-agent simulate` process linked to the orchestrator."""
        return await self._spawn(
            name,
            [sys.executable, "-m", "node_agent.cli", "simulate", "--orchestrator", self.agents,
             "--state-dir", str(self.directory / name), "--prefix", name, *arguments],
        )  # fmt: skip

    async def kill_orchestrator(self) -> None:
        """kill -9, and wait until it is gone."""
        assert self.orchestrator is not None
        self.orchestrator.process.kill()
        await self.orchestrator.process.wait()
        self.children.remove(self.orchestrator)
        self.orchestrator = None

    async def _spawn(self, name: str, command: list[str], env: Mapping[str, str] | None = None) -> Child:
        log_path = self.directory / f"{name}.log"
        with log_path.open("ab") as log:
            process = await asyncio.create_subprocess_exec(
                *command, stdin=asyncio.subprocess.DEVNULL, stdout=log, stderr=log, env=env
            )
        child = Child(name, process, log_path)
        self.children.append(child)
        return child

    async def _serving(self, child: Child) -> Mapping[str, str]:
        """The addresses from the log line that says it serves."""
        try:
            async with asyncio.timeout(START_TIMEOUT_S):
                while child.process.returncode is None:
                    for line in reversed(child.log_path.read_text(errors="replace").splitlines()):
                        with contextlib.suppress(ValueError):
                            entry = json.loads(line)
                            if (
                                isinstance(entry, dict)
                                and entry.get("event") == "serving"
                                and entry.get("pid") == child.process.pid
                            ):
                                return {k: str(entry[k]) for k in ("operators", "agents", "http")}
                    # A child tells nothing but its log; there is no event to wait for.
                    await asyncio.sleep(0.02)
        except TimeoutError:
            pass
        raise ChildFailed(f"the orchestrator did not start:\n{child.last_lines()}")

    async def stop(self) -> None:
        """Ends all children, agents before the orchestrator."""
        for child in reversed(self.children):
            await child.stop()
        self.children.clear()


@contextlib.asynccontextmanager
async def local_fleet(
    directory: Path, *, heartbeat_s: float = 0.5, grace_s: float = 5.0
) -> AsyncIterator[LocalFleet]:
    """A fleet whose children do not outlive the context."""
    directory.mkdir(parents=True, exist_ok=True)
    fleet = LocalFleet(directory, heartbeat_s=heartbeat_s, grace_s=grace_s)
    try:
        yield fleet
    finally:
        await fleet.stop()
