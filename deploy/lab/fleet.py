"""A fleet of real kernels in QEMU, linked to an orchestrator on the host, in one state directory.

    async with Fleet(directory, Wanted(nodes=3)) as fleet:
        await fleet.wait_linked()
        told = await fleet.liveroll("create", "rollout.yaml")
        boot = await fleet["node-01"].wait_boot(after=boot)

The same calls are behind `liveroll lab`: up() leaves everything running and detached, attach()
finds it again, down() ends it. Ended is only what the marks in the directory name.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import ssl
import sys
import urllib.request
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from deploy.lab import accel, artifacts, description, disk, machine, paths
from deploy.lab.description import Description, NodeFiles
from deploy.lab.errors import LabError
from deploy.lab.handle import BOOT_S, POLL_S, Node, parse_json
from deploy.lab.paths import Lab
from deploy.lab.ports import free_ports
from deploy.lab.processes import end, read_mark
from deploy.lab.service import Service, spawn
from deploy.lab.wanted import Link, Wanted, node_files
from orchestrator.cli.client import Client, Connection
from orchestrator.cli.failure import Failed

STATE_ENV = "LIVEROLL_LAB_STATE"
LINK_S, LINK_PER_NODE_S = 120.0, 60.0
"""How long agents may take to link: under TCG on two cores, a boot and the import of gRPC take 15 s
alone, and nodes that boot together share the machine."""
NODE_STOP_S = 20.0
START_S = 30.0
_PARTS = ("orchestrator", "nodes", "artifacts")
_SET_DEFAULT = Path(__file__).with_name("guest") / "set-default"


def state_dir(environment: Mapping[str, str] | None = None) -> Path:
    """$LIVEROLL_LAB_STATE, or ./lab-state."""
    chosen = (os.environ if environment is None else environment).get(STATE_ENV, "")
    return Path(chosen or "lab-state").absolute()


def is_lab(directory: Path) -> bool:
    """Whether up() made it, at least in part."""
    return any((directory / name).is_dir() for name in _PARTS)


def remove(directory: Path) -> None:
    """What a lab made there, and the directory if nothing else is in it. Blocking."""
    for name in _PARTS:
        if (directory / name).is_dir():
            shutil.rmtree(directory / name)
    with contextlib.suppress(OSError):
        directory.rmdir()


@dataclass(frozen=True, slots=True)
class Told:
    """What a `liveroll` command said."""

    rc: int
    stdout: str
    stderr: str

    @property
    def json(self) -> Any:
        """stdout as JSON. Raises LabError (NOT_JSON)."""
        return parse_json(self.stdout)


class Fleet:
    """One lab. Constructed it is a plan; see the module for how it comes to life.

    Args:
        directory: of the state; made by up(), removed by down().
        fleet_settings: over service.FLEET.
        chosen_accel: kvm or tcg; "" looks which works.
        say: told of progress, a line each.
        keep: the context leaves the directory behind.
    """

    def __init__(
        self,
        directory: Path,
        wanted: Wanted | None = None,
        *,
        lab: Lab | None = None,
        fleet_settings: Mapping[str, float] | None = None,
        chosen_accel: str = "",
        say: Callable[[str], None] = lambda _line: None,
        keep: bool = False,
    ) -> None:
        self.directory = directory.absolute()
        self.wanted = (wanted or Wanted()).checked()
        self.service = Service(self.directory / "orchestrator")
        self.artifacts: Mapping[str, Path] = {}
        """Kernel's name, or initdies → artifact directory, once up."""
        self._lab, self._fleet_settings = lab, fleet_settings
        self._accel, self._say, self._keep = chosen_accel, say, keep

    # -- coming to life, and its end

    async def __aenter__(self) -> Self:
        await self.up(bound=True)
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.down(keep=self._keep)

    @classmethod
    def attach(cls, directory: Path) -> Fleet:
        """The one that up() left there. Raises LabError (LAB_DOWN)."""
        found = cls(directory)
        if not found.nodes:
            raise LabError(
                f"there is no lab in {directory}",
                reason="LAB_DOWN",
                remedy=f"Start one with `liveroll lab up`, or name its directory in {STATE_ENV}.",
            )
        return found

    async def up(self, *, bound: bool = False) -> None:
        """Build and start everything, or leave nothing; agents link in their own time, see wait_linked().

        Args:
            bound: everything ends with this process, however that ends.

        Raises:
            LabError: NOT_BUILT, LAB_UP, KERNEL_UNKNOWN, or what failed.
        """
        lab = self._lab or paths.load()
        if self.directory.exists() and any(self.directory.iterdir()):
            raise LabError(
                f"{self.directory} holds a lab, running or not",
                reason="LAB_UP",
                remedy="End and remove it with `liveroll lab down`.",
            )
        kernel = kernel_of(lab, self.wanted.kernel)
        try:
            await self._build(lab, kernel, bound=bound)
        except BaseException:
            await self.down(keep=self._keep)
            raise

    async def _build(self, lab: Lab, kernel: paths.LabKernel, *, bound: bool) -> None:
        names = self.wanted.names()
        self.directory.mkdir(parents=True, exist_ok=True)
        self._say("orchestrator: certificates, artifacts, start")
        self.service = await asyncio.to_thread(
            Service.create, self.service.directory, names, self._fleet_settings
        )
        self.artifacts = await asyncio.to_thread(artifacts.build_all, lab, self.service.artifacts)
        await self.service.start(bound=bound)
        running = await asyncio.to_thread(artifacts.content, self.artifacts[self.wanted.kernel])
        used = self._accel or await accel.choose(lab.kernels["a"].image, lab.cache)
        self._say(f"{len(names)} nodes: disks, boot with {kernel.release} ({used})")
        ports = free_ports(2 * len(names))
        for index, name in enumerate(names):
            files = NodeFiles(self.directory / "nodes" / name)
            link, taken = self.service.link(name), (ports[2 * index], ports[2 * index + 1])
            await make_node(files, lab, self.wanted, index, used, link, running, taken)
            await start_node(files, bound=bound)

    async def down(self, *, keep: bool = False) -> int:
        """End all that runs and remove the directory; returns how many processes were ended."""
        nodes = [node.files.mark for node in self.nodes.values()]
        ended = await asyncio.gather(
            *(asyncio.to_thread(end, read_mark(path), NODE_STOP_S) for path in nodes), self.service.stop()
        )
        if not keep:
            await asyncio.to_thread(remove, self.directory)
        return sum(ended)

    # -- its nodes

    @property
    def nodes(self) -> Mapping[str, Node]:
        """By name, in order."""
        try:
            found = sorted((self.directory / "nodes").iterdir())
        except FileNotFoundError:
            return {}
        return {path.name: Node(NodeFiles(path)) for path in found if (path / "node.json").exists()}

    def __getitem__(self, name: str) -> Node:
        nodes = self.nodes
        if name not in nodes:
            raise LabError(
                f"there is no node {name!r} in the lab",
                reason="NODE_UNKNOWN",
                remedy=f"There are {', '.join(nodes)}." if nodes else "Start a lab with `liveroll lab up`.",
            )
        return nodes[name]

    async def linked(self) -> set[str]:
        """Names of the nodes whose link is up. Raises LabError (ORCHESTRATOR_UNREACHABLE)."""
        connection = Connection(
            self.service.address("operators"),
            self.service.pki / "ca.pem",
            self.service.operator("pem"),
            self.service.operator("key"),
        )

        def ask() -> set[str]:
            with Client(connection) as client:
                return {node.node_id for node in client.nodes() if node.link == "up"}

        try:
            return await asyncio.to_thread(ask)
        except Failed as error:
            raise LabError(str(error), reason="ORCHESTRATOR_UNREACHABLE", remedy=error.remedy) from error

    async def wait_linked(self, timeout_s: float = 0.0) -> None:
        """Until every node's agent has linked.

        Args:
            timeout_s: 0 takes LINK_S and LINK_PER_NODE_S for each node.

        Raises:
            LabError: NOT_LINKED with what the first missing node says of itself.
        """
        wanted, seen = set(self.nodes), set[str]()
        try:
            async with asyncio.timeout(timeout_s or LINK_S + LINK_PER_NODE_S * len(wanted)):
                while True:
                    for name in sorted((found := await self.linked()) - seen):
                        self._say(f"{name}: linked")
                    seen |= found
                    if wanted <= found:
                        return
                    for name in sorted(wanted - found):
                        await self._demand_power(name)
                    await asyncio.sleep(POLL_S)
        except TimeoutError:
            missing = sorted(wanted - seen)
            raise LabError(
                f"{', '.join(missing)} did not link; {await why_silent(self[missing[0]])}",
                reason="NOT_LINKED",
                remedy="The lab still runs: look with `liveroll lab exec` and `console`, end it with `down`.",
            ) from None

    async def _demand_power(self, name: str) -> None:
        """Raises LabError (NOT_LINKED) for a node that is off: it will not link."""
        node = self[name]
        status = await node.status()
        if status["power"] == "off":
            raise LabError(
                f"{name} is off: {status['why']}; its console ends with\n{node.console.tail()}",
                reason="NOT_LINKED",
                remedy="The lab still runs; `liveroll lab down` ends it.",
            )

    # -- its orchestrator

    async def liveroll(self, *words: str, timeout_s: float = 120.0) -> Told:
        """The ordinary CLI against this lab. Raises LabError (CLI_TIMEOUT)."""
        environment = {k: v for k, v in os.environ.items() if not k.startswith("LIVEROLL_")}
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            *("-m", "orchestrator.cli.entry", *words),
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            env={**environment, **self.service.environment()},
        )
        try:
            async with asyncio.timeout(timeout_s):
                out, err = await process.communicate()
        except TimeoutError:
            raise LabError(
                f"`liveroll {' '.join(words)}` took longer than {timeout_s:g} s", reason="CLI_TIMEOUT"
            ) from None
        finally:
            if process.returncode is None:
                process.kill()
                await process.wait()
        return Told(process.returncode or 0, out.decode(), err.decode())

    async def http(self, path: str) -> str:
        """GET of the orchestrator's HTTP port, /metrics for instance, with the operator's certificate."""

        def get() -> str:
            context = ssl.create_default_context(cafile=str(self.service.pki / "ca.pem"))
            context.load_cert_chain(self.service.operator("pem"), self.service.operator("key"))
            url = f"https://{self.service.address('http')}{path}"
            with urllib.request.urlopen(url, context=context, timeout=30.0) as answer:
                return str(answer.read().decode())

        return await asyncio.to_thread(get)


def kernel_of(lab: Lab, name: str) -> paths.LabKernel:
    """Raises LabError (KERNEL_UNKNOWN)."""
    if name not in lab.kernels:
        raise LabError(
            f"the lab has no kernel {name!r}",
            reason="KERNEL_UNKNOWN",
            remedy=f"It has {', '.join(lab.kernels)}.",
        )
    return lab.kernels[name]


async def make_node(
    files: NodeFiles,
    lab: Lab,
    wanted: Wanted,
    index: int,
    used_accel: str,
    link: Link | None,
    running: Mapping[str, bytes],
    ports: tuple[int, int],
) -> None:
    """A node's directory: disk and description.

    Args:
        running: files of its kernel's artifact.
        ports: on 127.0.0.1, of its exec server and of its agent's metrics.
    """
    files.directory.mkdir(parents=True)
    content = node_files(wanted, index, link, running, _SET_DEFAULT.read_bytes())
    await asyncio.to_thread(disk.copy_image, lab.root_image, files.disk)
    await asyncio.to_thread(disk.put_files, files.disk, content)
    described = Description(
        name=files.directory.name,
        kernel=kernel_of(lab, wanted.kernel).release,
        kernels={kernel.release: kernel.image for kernel in lab.kernels.values()},
        command_line=machine.command_line(wanted.words),
        accel=used_accel,
        memory_mib=wanted.memory_mib,
        model=wanted.models[index % len(wanted.models)],
        exec_port=ports[0],
        metrics_port=ports[1],
    )
    description.save(files.description, described)


async def start_node(files: NodeFiles, *, bound: bool = False) -> None:
    """Its supervisor, until it answers. Raises LabError (NODE_FAILED) with the end of its log."""
    process = spawn([sys.executable, "-m", "deploy.lab.node", str(files.directory)], files.log, bound=bound)
    node = Node(files)
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(START_S):
            while process.poll() is None:
                if node.is_supervised:
                    return
                await asyncio.sleep(POLL_S)
    process.kill()
    process.wait()
    told = "\n".join(files.log.read_text(errors="replace").splitlines()[-10:])
    raise LabError(f"{node.name} did not start:\n{told}", reason="NODE_FAILED")


async def why_silent(node: Node) -> str:
    """What can be learnt of a node that should have linked."""
    with contextlib.suppress(LabError, TimeoutError):
        async with asyncio.timeout(BOOT_S / 4):
            log = await node.exec("tail", "-n", "10", "/var/log/agent.log")
            return f"{node.name}'s agent log ends with\n{log.stdout or log.stderr}"
    return f"{node.name} does not answer; its console ends with\n{node.console.tail()}"
