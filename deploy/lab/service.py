"""The lab's orchestrator: its settings, its certificates, and its process on the host's loopback."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from deploy.lab.errors import LabError
from deploy.lab.machine import HOST_ADDRESS
from deploy.lab.ports import free_ports
from deploy.lab.processes import end, is_alive, mark, read_mark, tied, write_mark
from deploy.lab.wanted import Link
from orchestrator.rpc.pki import make_pki

OPERATOR = "lab"
START_S = 60.0
"""Imports and a migrated store take seconds; guests may be booting beside them."""
STOP_S = 15.0
POLL_S = 0.05

FLEET = {
    "restart_grace_s": 30,
    "silence_s": 30,
    "active_heartbeat_s": 2,
    "min_idle_heartbeat_s": 2,
    "stage_retry_s": 2,
}
"""[fleet] of the settings. A guest under TCG on a busy machine may well say nothing for 10 s."""


_spawned: list[subprocess.Popen[bytes]] = []
"""What outlives the call that started it: an object that is collected before its process ends complains."""


@dataclass(frozen=True, slots=True)
class Service:
    """An orchestrator in a directory. create() once, then start() and stop() as often as wanted."""

    directory: Path

    @classmethod
    def create(
        cls, directory: Path, nodes: Sequence[str], fleet: Mapping[str, float] | None = None
    ) -> Service:
        """Certificates for these nodes, free ports, settings. Raises LabError (NO_PORT)."""
        directory.mkdir(parents=True)
        made = cls(directory)
        make_pki(made.pki, list(nodes), [OPERATOR], hosts=["localhost", "127.0.0.1", HOST_ADDRESS])
        ports = dict(zip(("operators", "agents", "http"), free_ports(3), strict=True))
        made._ports.write_text(json.dumps(ports) + "\n")
        made.config.write_text(made.settings({**FLEET, **(fleet or {})}))
        return made

    @property
    def pki(self) -> Path:
        return self.directory / "pki"

    @property
    def config(self) -> Path:
        return self.directory / "orchestrator.toml"

    @property
    def log(self) -> Path:
        return self.directory / "orchestrator.log"

    @property
    def artifacts(self) -> Path:
        return self.directory / "artifacts"

    @property
    def _ports(self) -> Path:
        return self.directory / "ports.json"

    @property
    def _mark(self) -> Path:
        return self.directory / "orchestrator.pid"

    @property
    def is_running(self) -> bool:
        return is_alive(read_mark(self._mark))

    def port(self, name: str) -> int:
        """operators, agents or http. Raises LabError (STATE_UNREADABLE)."""
        try:
            return int(json.loads(self._ports.read_text())[name])
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise LabError(
                f"cannot read {self._ports}",
                reason="STATE_UNREADABLE",
                remedy="`liveroll lab down` removes what is left of the lab.",
            ) from error

    def address(self, name: str) -> str:
        """Where the host reaches it."""
        return f"127.0.0.1:{self.port(name)}"

    def operator(self, file: str) -> Path:
        """The operator's pem or key."""
        return self.pki / "operators" / f"{OPERATOR}.{file}"

    def environment(self) -> dict[str, str]:
        """What makes the ordinary CLI talk to it."""
        return {
            "LIVEROLL_SERVER": self.address("operators"),
            "LIVEROLL_CA": str(self.pki / "ca.pem"),
            "LIVEROLL_CERT": str(self.operator("pem")),
            "LIVEROLL_KEY": str(self.operator("key")),
            "LIVEROLL_LAB_HTTP": f"https://{self.address('http')}",
        }

    def link(self, node: str) -> Link:
        """How a guest reaches it: the host's loopback has another address there."""
        agents = self.pki / "agents"
        return Link(
            f"{HOST_ADDRESS}:{self.port('agents')}",
            (self.pki / "ca.pem").read_bytes(),
            (agents / f"{node}.pem").read_bytes(),
            (agents / f"{node}.key").read_bytes(),
        )

    def settings(self, fleet: Mapping[str, float]) -> str:
        """orchestrator.toml: mutual TLS on every port."""
        quoted = {name: json.dumps(str(self.pki / name)) for name in ("server.pem", "server.key", "ca.pem")}
        tls = f"cert = {quoted['server.pem']}, key = {quoted['server.key']}, ca = {quoted['ca.pem']}"
        lines = [
            f"state_dir = {json.dumps(str(self.directory))}",
            f'artifacts_url = "https://{HOST_ADDRESS}:{self.port("http")}/artifacts"',
            'log_format = "json"',
            "[fleet]",
            *(f"{name} = {value}" for name, value in fleet.items()),
        ]
        for name in ("operators", "agents", "http"):
            lines += [f"[{name}]", f'address = "{self.address(name)}"', f"tls = {{{tls}}}"]
        return "\n".join(lines) + "\n"

    async def start(self, *, bound: bool = False) -> None:
        """Until it serves. Raises LabError (ORCHESTRATOR_FAILED) with the end of its log.

        Args:
            bound: it ends with this process, however that ends.
        """
        since = self.log.stat().st_size if self.log.exists() else 0
        process = spawn(
            [sys.executable, "-m", "orchestrator.app", "run", "--config", str(self.config)],
            self.log,
            bound=bound,
        )
        write_mark(self._mark, mark(process.pid))
        try:
            async with asyncio.timeout(START_S):
                while process.poll() is None:
                    if self._serves(process.pid, since):
                        return
                    await asyncio.sleep(POLL_S)  # a log is all that tells
        except TimeoutError:
            pass
        await self.stop()
        told = "\n".join(self.log.read_text(errors="replace").splitlines()[-15:])
        raise LabError(f"the orchestrator did not start:\n{told}", reason="ORCHESTRATOR_FAILED")

    def _serves(self, pid: int, since: int) -> bool:
        with self.log.open("rb") as log:
            log.seek(since)
            for line in log:
                with contextlib.suppress(ValueError, AttributeError):
                    entry = json.loads(line)
                    if entry.get("event") == "serving" and entry.get("pid") == pid:
                        return True
        return False

    async def stop(self, timeout_s: float = STOP_S) -> bool:
        """End it, with SIGKILL if need be: at once with timeout_s 0. False if it did not run."""
        return await asyncio.to_thread(end, read_mark(self._mark), timeout_s)

    async def kill(self) -> None:
        """kill -9, and wait until it is gone."""
        marked = read_mark(self._mark)
        if marked is not None and is_alive(marked):
            os.kill(marked.pid, signal.SIGKILL)
        await asyncio.to_thread(end, marked, STOP_S)


def spawn(line: Sequence[str], log: Path, *, bound: bool) -> subprocess.Popen[bytes]:
    """A detached process in a session of its own; its output is appended to the log.

    LIVEROLL_* of this process is not for it. Bound, it gets SIGTERM when this thread ends.
    """
    environment = {k: v for k, v in os.environ.items() if not k.startswith("LIVEROLL_")}
    _spawned[:] = [process for process in _spawned if process.poll() is None]
    with log.open("ab") as output:
        process = subprocess.Popen(
            tied(line, signal.SIGTERM) if bound else line,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            start_new_session=True,
            env={**environment, "PYTHONPATH": _checkout()},
        )
    _spawned.append(process)
    return process


def _checkout() -> str:
    """`deploy` is only in a checkout; a child finds it wherever it is started from."""
    here = Path(__file__).resolve().parents[2]
    return os.pathsep.join([str(here), str(here / "protos")])
