"""A whole Liveroll on this machine: one orchestrator and some agent processes, as children.

For the demo, for tests with real processes and for trying things out. Everything is on loopback
and in one directory; leaving the context ends every child, politely first, agents before the
orchestrator.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import sys
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from orchestrator.cli.client import Connection

START_TIMEOUT_S = 60.0
"""An orchestrator on a cold machine imports and migrates within a few seconds; on one with ten times the work
that it can do, in half a minute."""
STOP_TIMEOUT_S = 15.0

FLEET = {
    "silence_s": 5,
    "min_idle_heartbeat_s": 1,
    "idle_heartbeats_per_s": 200,
    "stage_retry_s": 1,
    "clock_slack_s": 0.5,
}
"""[fleet] of the settings: patience for a fleet whose kexec takes a second, not a minute."""


class ChildFailed(RuntimeError):
    """A child did not start, or ended when it should not have."""


@dataclass(frozen=True)
class Pair:
    """PEM files of a certificate and its key."""

    certificate: Path
    key: Path


@dataclass(frozen=True)
class Tls:
    """Mutual TLS on every port: the authority, the server's files and the operator's."""

    ca: Path
    server: Pair
    operator: Pair

    def settings(self) -> str:
        """The tables of the orchestrator's settings."""
        files = f'cert = "{self.server.certificate}"\nkey = "{self.server.key}"\nca = "{self.ca}"\n'
        return "".join(f"[{port}.tls]\n{files}" for port in ("operators", "agents", "http"))


@dataclass
class Child:
    """One process of ours; what it writes is collected in a file."""

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

    async def kill(self) -> None:
        """kill -9, and wait until it is gone."""
        if self.process.returncode is None:
            self.process.kill()
        await self.process.wait()

    def last_lines(self, count: int = 15) -> str:
        return "\n".join(self.log_path.read_text(errors="replace").splitlines()[-count:])


@dataclass
class LocalFleet:
    """Children in one directory. Use `async with local_fleet(directory)`."""

    directory: Path
    heartbeat_s: float = 0.5
    grace_s: float = 5.0
    fleet_settings: Mapping[str, float] = field(default_factory=dict)
    """Goes over FLEET."""
    operators: str = "127.0.0.1:0"
    agents: str = "127.0.0.1:0"
    http: str = "127.0.0.1:0"
    tls: Tls | None = None
    orchestrator: Child | None = None
    children: list[Child] = field(default_factory=list)

    @property
    def artifacts_dir(self) -> Path:
        return self.directory / "artifacts"

    @property
    def connection(self) -> Connection:
        """For orchestrator.cli.client.Client, as the operator."""
        if self.tls is None:
            return Connection(self.operators)
        return Connection(self.operators, self.tls.ca, self.tls.operator.certificate, self.tls.operator.key)

    def liveroll(self, *arguments: str) -> list[str]:
        """The command line of a `liveroll` command on this fleet."""
        tls = self.tls
        files = (
            ()
            if tls is None
            else (
                "--ca",
                str(tls.ca),
                "--cert",
                str(tls.operator.certificate),
                "--key",
                str(tls.operator.key),
            )
        )
        return [
            sys.executable, "-m", "orchestrator.cli.entry", "--server", self.operators, *files, *arguments
        ]  # fmt: skip

    def orchestrator_command(self, *extra: str) -> list[str]:
        """Writes its settings; the command line that serves them."""
        config = self.directory / "orchestrator.toml"
        table = {
            "restart_grace_s": self.grace_s,
            "active_heartbeat_s": self.heartbeat_s,
            **FLEET,
            **self.fleet_settings,
        }
        settings = 'log_format = "json"\n[fleet]\n'
        settings += "".join(f"{name} = {value}\n" for name, value in table.items())
        config.write_text(settings + (self.tls.settings() if self.tls is not None else ""))
        return [
            sys.executable, "-m", "orchestrator.app", "run", "--config", str(config),
            "--state-dir", str(self.directory), "--operators", self.operators,
            "--agents", self.agents, "--http", self.http, *extra,
        ]  # fmt: skip

    async def start_orchestrator(self, *, extra: Sequence[str] = ()) -> None:
        """Starts it (again, on the same ports and state) and waits until it serves."""
        child = await self.spawn("orchestrator", self.orchestrator_command(*extra))
        self.orchestrator = child
        serving = await self._serving(child)
        self.operators, self.agents, self.http = serving["operators"], serving["agents"], serving["http"]

    async def start_agents(self, name: str, *arguments: str) -> Child:
        """One `liveroll-agent simulate` process linked to the orchestrator."""
        return await self.spawn(
            name,
            [sys.executable, "-m", "node_agent.cli", "simulate", "--orchestrator", self.agents,
             "--state-dir", str(self.directory / name), "--prefix", name, *arguments],
        )  # fmt: skip

    async def start_node(
        self,
        name: str,
        *arguments: str,
        workloads: int = 1,
        mib: float = 1.0,
        env: Mapping[str, str] | None = None,
    ) -> Child:
        """One real `liveroll-agent run` with an emulated kernel and example workloads, each a process
        of its own below the child that is the kernel."""
        state = self.directory / name
        example = f"{sys.executable} -m node_agent.workloads.example --socket {state}/liveupdate.sock"
        services = [f"{example} --mib {mib} --id {name}-vm-{i}" for i in range(1, workloads + 1)]
        return await self.spawn(
            name,
            [sys.executable, "-m", "node_agent.cli", "run", "--orchestrator", self.agents,
             "--state-dir", str(state), "--root", str(state / "root"), "--node-id", name,
             *(word for service in services for word in ("--service", service)), *arguments],
            env,
        )  # fmt: skip

    async def kill_orchestrator(self) -> None:
        """kill -9, and wait until it is gone."""
        assert self.orchestrator is not None
        await self.orchestrator.kill()
        self.children.remove(self.orchestrator)
        self.orchestrator = None

    async def spawn(self, name: str, command: Sequence[str], env: Mapping[str, str] | None = None) -> Child:
        """Any command as a child; env is added to ours. Its output is appended to NAME.log."""
        log_path = self.directory / f"{name}.log"
        with log_path.open("ab") as log:
            process = await asyncio.create_subprocess_exec(
                *command,
                stdin=asyncio.subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env={**os.environ, **(env or {})},
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
        """Ends all children: the agents together, then the orchestrator."""
        agents = [child for child in self.children if child is not self.orchestrator]
        await asyncio.gather(*(child.stop() for child in agents))
        if self.orchestrator is not None:
            await self.orchestrator.stop()
        self.children.clear()


@contextlib.asynccontextmanager
async def local_fleet(
    directory: Path,
    *,
    heartbeat_s: float = 0.5,
    grace_s: float = 5.0,
    tls: Tls | None = None,
    fleet_settings: Mapping[str, float] | None = None,
) -> AsyncIterator[LocalFleet]:
    """A fleet whose children do not outlive the context."""
    directory.mkdir(parents=True, exist_ok=True)
    fleet = LocalFleet(
        directory,
        heartbeat_s=heartbeat_s,
        grace_s=grace_s,
        tls=tls,
        fleet_settings=fleet_settings or {},
    )
    try:
        yield fleet
    finally:
        await fleet.stop()
