"""Several orchestrators on one PostgreSQL, agents that know all of them, and a wire between any two.

    agents ══ a wire to each replica ══ replica ══ a wire ══ PostgreSQL

Wires can be cut, frozen and slowed (wire.py); replicas, agents' processes and the server be killed.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import http.server
import sys
import threading
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit, urlunsplit

from deploy.local import Child, ChildFailed, LocalFleet
from orchestrator.artifacts.build import build_emulated
from orchestrator.cli.client import Client, Connection
from tests.integration.mortal_fleet import free_address, until
from tests.integration.wire import Wire
from tests.postgres import Postgres

FAST = {"min_idle_heartbeat_s": 0.5, "stage_retry_s": 0.5, "silence_s": 5.0}


STARTS = 60
UNREACHABLE = 6
"""Exit status: no database."""


class Replica(LocalFleet):
    """One orchestrator; its directory holds nothing that another needs."""

    store_url: str = ""
    artifacts_url: str = ""

    def orchestrator_command(self, *extra: str) -> list[str]:
        command = super().orchestrator_command(*extra)
        config = self.directory / "orchestrator.toml"
        config.write_text(
            f'store = "{self.store_url}"\nartifacts_url = "{self.artifacts_url}"\n{config.read_text()}'
        )
        return command

    @property
    def pid(self) -> int:
        assert self.orchestrator is not None
        return self.orchestrator.process.pid


@dataclass
class Agents:
    """One `simulate` process and its wires, one to each replica."""

    name: str
    count: int
    arguments: tuple[str, ...]
    wires: list[Wire]
    child: Child | None = None

    @property
    def nodes(self) -> list[str]:
        return [f"{self.name}-{i:02d}" for i in range(1, self.count + 1)]


@dataclass
class ReplicaFleet:
    """Use `async with replica_fleet(...)`."""

    directory: Path
    replicas: list[Replica]
    store_wires: list[Wire]
    stack: contextlib.AsyncExitStack
    agents: dict[str, Agents] = field(default_factory=dict)

    @property
    def connection(self) -> Connection:
        return Connection(",".join(replica.operators for replica in self.replicas), timeout_s=10)

    @property
    def artifacts_dir(self) -> Path:
        return self.directory / "artifacts"

    async def start_agents(self, name: str, count: int, *arguments: str) -> Agents:
        wires = [await self.stack.enter_async_context(Wire(replica.agents)) for replica in self.replicas]
        made = self.agents[name] = Agents(name, count, arguments, wires)
        await self.start_again(made)
        return made

    async def start_again(self, agents: Agents) -> None:
        """As after a power cut: its nodes' journals are there still."""
        agents.child = await self.replicas[0].spawn(
            agents.name,
            [sys.executable, "-m", "node_agent.cli", "simulate",
             "--orchestrator", ",".join(wire.address for wire in agents.wires),
             "--state-dir", str(self.directory / agents.name), "--prefix", agents.name,
             "--nodes", str(agents.count), "--label", "pool=test", *agents.arguments],
        )  # fmt: skip

    async def kill_agents(self, agents: Agents) -> None:
        assert agents.child is not None
        await agents.child.kill()
        self.replicas[0].children.remove(agents.child)
        agents.child = None

    async def until_linked(self) -> None:
        wanted = {node for agents in self.agents.values() for node in agents.nodes}

        def linked(client: Client) -> bool:
            return wanted <= {n.node_id for n in client.nodes() if n.link == "up" and n.rollback_artifact}

        await asyncio.to_thread(until, self.connection, linked, "all linked")


@contextlib.asynccontextmanager
async def replica_fleet(
    directory: Path,
    postgres_url: str,
    releases: Sequence[str],
    *,
    count: int = 3,
    settings: Mapping[str, float] | None = None,
    grace_s: float = 15.0,
) -> AsyncIterator[ReplicaFleet]:
    """Running replicas; no agents yet."""
    artifacts = directory / "artifacts"
    artifacts.mkdir(parents=True)
    for release in releases:
        build_emulated(artifacts, release=release)
    async with contextlib.AsyncExitStack() as stack:
        artifacts_url = stack.enter_context(files(artifacts))
        replicas, wires = [], []
        for i in range(count):
            wire = await stack.enter_async_context(Wire(_host(postgres_url)))
            replica = Replica(
                directory / f"r{i + 1}",
                heartbeat_s=0.5,
                grace_s=grace_s,
                fleet_settings={**FAST, **(settings or {})},
                operators=free_address(),
                agents=free_address(),
                http=free_address(),
            )
            replica.directory.mkdir()
            replica.store_url, replica.artifacts_url = _through(postgres_url, wire), artifacts_url
            stack.push_async_callback(replica.stop)
            replicas.append(replica)
            wires.append(wire)
        shared = ("--artifacts-dir", str(artifacts))
        await replicas[0].start_orchestrator(extra=shared)  # it makes the schema, and plans
        await asyncio.gather(*(replica.start_orchestrator(extra=shared) for replica in replicas[1:]))
        yield ReplicaFleet(directory, replicas, wires, stack)


async def start_replica(fleet: ReplicaFleet, replica: Replica) -> None:
    """As a service manager does: again, while the database is not there and it ends for that."""
    for left in reversed(range(STARTS)):
        try:
            await replica.start_orchestrator(extra=("--artifacts-dir", str(fleet.artifacts_dir)))
        except ChildFailed:
            child = replica.orchestrator
            assert child is not None
            if child.process.returncode != UNREACHABLE or not left:
                raise
            replica.children.remove(child)
            await asyncio.sleep(0.5)
        else:
            return


@contextlib.contextmanager
def own_database(server: Postgres) -> Iterator[str]:
    """URL of a new database; dropped at the end."""
    name = server.create()
    try:
        yield server.url(name)
    finally:
        server.drop(name)


def _host(url: str) -> str:
    return urlsplit(url).netloc.rpartition("@")[2]


def _through(url: str, wire: Wire) -> str:
    parts = urlsplit(url)
    user = parts.netloc.rpartition("@")[0]
    return urlunsplit(parts._replace(netloc=f"{user}@{wire.address}"))


@contextlib.contextmanager
def files(directory: Path) -> Iterator[str]:
    """What all replicas name as the place of the artifacts; it outlives each of them."""

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *_: object) -> None:
            """Nobody asks."""

        def copyfile(self, source: object, outputfile: object) -> None:
            """Whoever fetches may die meanwhile."""
            with contextlib.suppress(ConnectionError):
                super().copyfile(source, outputfile)  # type: ignore[arg-type, type-var]

    handler = functools.partial(Quiet, directory=str(directory))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        server.daemon_threads = True
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
            thread.join()
