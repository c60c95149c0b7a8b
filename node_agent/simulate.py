"""`liveroll-agent simulate`: many emulated nodes in one process, each with all that a node has.

Every node has its own kernel, journal, runner, workloads with real memory, and its own link;
channels are shared by link_grpc's rule. A kexec ends the node's userspace, link and runner
with it, and the next boot starts them anew. Ending this process is a power loss for its nodes;
with a state directory their journals survive it.

All timings are emulated.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import random
import signal
import tempfile
import zlib
from collections.abc import Callable
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from contextlib import AsyncExitStack, suppress
from pathlib import Path
from typing import TYPE_CHECKING, ParamSpec, TypeVar

from node_agent.core.model import Problem
from node_agent.core.rota import Rota
from node_agent.errors import JournalCorrupt, LinkError
from node_agent.kernel.emulated.clock import HostBase
from node_agent.kernel.emulated.model import Machine
from node_agent.kernel.emulated.node import Boot, EmulatedNode
from node_agent.kernel.faults import FaultKind
from node_agent.kernel.luo_models import capabilities_of, spoken_by
from node_agent.ports import BootChoice, Journal
from node_agent.runtime.artifacts import ArtifactCache
from node_agent.runtime.journal_memory import MemoryDisk, MemoryJournal
from node_agent.runtime.link import LinkView
from node_agent.runtime.link_transport import Connector
from node_agent.runtime.metrics import Meter
from node_agent.runtime.runner_boot import Boot as BootFound
from node_agent.runtime.runner_effects import Pace, Ports
from node_agent.runtime.runner_items import Identity
from node_agent.runtime.supervisor import (
    NodeLife,
    RoomAgain,
    corrupt_problem,
    end,
    first_error,
    open_journal,
)
from node_agent.runtime.supervisor_log import Log
from node_agent.runtime.tls_context import client_context
from node_agent.simulate_journal import Disk, JournalOnDisk, damaged
from node_agent.simulate_kernel_log import KernelLog, ToldJournal
from node_agent.simulate_link import FaultyLink
from node_agent.simulate_options import NodeSpec, SimulateOptions, read_options
from node_agent.version import version
from node_agent.workloads.inprocess import InProcessWorkloads

if TYPE_CHECKING:
    import ssl

_P = ParamSpec("_P")
_R = TypeVar("_R")

JOURNAL_THREADS = 4
"""Each journal's writes stay on one thread; a few of them let fsyncs of different nodes overlap."""
GARBAGE_THRESHOLD = 50_000
"""Objects made before the collector looks for cycles: with a thousand nodes in one process, Python's
700 means to look all the time."""
PACE = Pace(probe_s=0.2, watch_s=1.0)
"""Emulated nodes live faster: their kexec takes a second, not a minute."""


class LentExecutor(Executor):
    """A thread that many journals write on, one after the other; no journal's end ends it."""

    def __init__(self, executor: Executor) -> None:
        self._executor = executor

    def submit(self, fn: Callable[_P, _R], /, *args: _P.args, **kwargs: _P.kwargs) -> Future[_R]:
        """See Executor."""
        return self._executor.submit(fn, *args, **kwargs)

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """It is not the borrower's to end."""


class SimulatedHooks:
    """ports.Hooks of an emulated node: nothing to drain, and as healthy as its kernel."""

    def __init__(self, node: SimulatedNode, release: str) -> None:
        self._node = node
        self._release = release

    async def drain(self) -> None:
        """Nothing runs here that cannot be preserved; --drain-s says how long that takes to find out."""
        await asyncio.sleep(self._node.options.drain_s)

    async def undrain(self) -> None:
        """Nothing was moved off."""

    async def healthy(self) -> tuple[bool, str]:
        """Unhealthy where --image said so of the running release."""
        if self._release in self._node.options.kernels.unhealthy:
            return False, f"kernel {self._release} is emulated as unhealthy"
        return True, ""


class SimulatedFirmware:
    """ports.DefaultKernel of an emulated node."""

    def __init__(self, node: SimulatedNode) -> None:
        self._node = node

    async def choose(self, choice: BootChoice) -> None:
        """A cold boot starts its release."""
        self._node.set_default(choice.release)


class SimulatedNode:
    """One node, over all its boots.

    Args:
        directory: of this node's files.
        connector: opens its link to where its rota stands.
        durable: its journal is a file there, else it is in memory.
        tls: for artifacts over HTTPS.
    """

    def __init__(
        self,
        spec: NodeSpec,
        options: SimulateOptions,
        directory: Path,
        meter: Meter,
        log: Log,
        connector: Callable[[Rota], Connector],
        *,
        durable: bool,
        executor: Executor,
        tls: ssl.SSLContext | None = None,
        on_view: Callable[[LinkView], None],
    ) -> None:
        self.spec, self.options = spec, options
        self._tls = tls
        self._directory = directory
        self._durable = durable
        self._disk = MemoryDisk()
        self._space = Disk(spec.faults, lambda: self.emulated.model.reboots)
        self._executor = executor
        self._meter, self._log, self._on_view = meter, log, on_view
        rng = random.Random(f"{options.seed}/{spec.node_id}")  # noqa: S311 - jitter, no secret
        self._rota = Rota(options.orchestrator, rng)
        self._link = FaultyLink(connector(self._rota), spec.faults, lambda: self.emulated.model.reboots)
        self._workloads: InProcessWorkloads | None = None
        self._boots = 0
        directory.mkdir(parents=True, exist_ok=True)
        self._default_file = directory / "default-kernel"
        base, images = HostBase(), options.kernels.of(spec.luo_model)
        self.emulated = EmulatedNode(
            image=images.named(self._default_release()),
            images=images,
            faults=spec.faults,
            machine=Machine(
                spec.model, pci_devices=tuple(f"0000:{n:02x}:00.0" for n in range(1, options.devices + 1))
            ),
            phases=options.phases,
            base=base,
            seed=random.SystemRandom().getrandbits(63),
            epoch=base.epoch(),
        )
        self._kernel_log = KernelLog(directory, self.emulated.model)

    async def run(self) -> None:
        """Power on, until cancelled."""
        try:
            await self.emulated.run(self._userspace)
        finally:
            if self._workloads is not None:
                self._workloads.node_died()

    def artifacts(self, release: str) -> ArtifactCache:
        """This node's cache, in a boot of that release."""
        return ArtifactCache(
            self._directory / "artifacts",
            running_release=release,
            tls=self._tls,
            on_bytes=self._meter.fetched,
        )

    def set_default(self, release: str) -> None:
        """What a cold boot starts, also after this process was started again."""
        self.emulated.set_default(release)
        self._default_file.write_text(release)

    def _default_release(self) -> str:
        with suppress(OSError):
            return self._default_file.read_text().strip() or self.spec.release
        return self.spec.release

    async def _userspace(self, boot: Boot) -> None:
        facts = await boot.kernel.facts()
        cache = self.artifacts(facts.release)
        await cache.capture_running(None, emulated=True, speaks=spoken_by(facts))
        workloads = await self._workloads_of(boot)
        journal, quarantine = await self._journal(boot)
        life = NodeLife(
            identity=Identity(
                node_id=self.spec.node_id,
                labels={**self.spec.labels, "hardware_model": self.spec.model},
                capabilities=("luo", "kho", "emulated", *capabilities_of(facts)),
                agent_version=version(),
            ),
            ports=Ports(
                kernel=boot.kernel,
                journal=journal,
                clock=boot.clock,
                workloads=workloads,
                hooks=SimulatedHooks(self, facts.release),
                default_kernel=SimulatedFirmware(self),
                artifacts=cache,
            ),
            boot=BootFound(facts, quarantine=quarantine),
            meter=self._meter,
            log=self._log,
            connect=self._link.connect,
            pace=PACE,
            rota=self._rota,
            on_view=self._on_view,
            complain=False,
        )
        try:
            await life.live()
        except BaseExceptionGroup as group:
            if not isinstance(first_error(group), RoomAgain):
                raise
            # What a service manager does with an agent that ends so: it starts again in this boot.
            self.emulated.kill_userspace()
            await asyncio.get_running_loop().create_future()

    async def _workloads_of(self, boot: Boot) -> InProcessWorkloads:
        """The workloads outlive the agent's process, and not its boot."""
        if self._workloads is not None and boot.boots == self._boots:
            await self._workloads.agent_died()
            return self._workloads
        if self._workloads is not None:
            self._workloads.node_died()
        self._boots = boot.boots
        self._workloads = InProcessWorkloads(
            clock=boot.clock,
            count=self.options.workloads,
            size_bytes=self.options.memory_bytes,
            devices=lambda: self.emulated.model.objects,
            seed=zlib.crc32(f"{self.options.seed}/{self.spec.node_id}".encode()),
        )
        return self._workloads

    async def _journal(self, boot: Boot) -> tuple[Journal, Problem | None]:
        journal, quarantine = await self._opened(boot)
        if any(fault.kind is FaultKind.FULL_DISK for fault in self.spec.faults.faults):
            journal = JournalOnDisk(journal, self._space)
        if self._durable and self.emulated.model.rfc2 is not None:
            journal = ToldJournal(journal, self._kernel_log)
        return journal, quarantine

    async def _opened(self, boot: Boot) -> tuple[Journal, Problem | None]:
        kexecs = self.emulated.model.reboots
        if self._durable:
            path = self._directory / "journal"
            if boot.starts == 1:
                await asyncio.to_thread(self._damage, path, kexecs)
            return await asyncio.to_thread(open_journal, path, executor=self._executor)
        self._disk.process_died()
        if boot.starts == 1:
            self._disk.data = damaged(self._disk.data, self.spec.faults, kexecs)
        try:
            return MemoryJournal(self._disk), None
        except JournalCorrupt as error:
            self._disk = MemoryDisk()
            return MemoryJournal(self._disk), corrupt_problem(error, "memory")

    def _damage(self, path: Path, kexecs: int) -> None:
        with suppress(FileNotFoundError):
            before = path.read_bytes()
            after = damaged(before, self.spec.faults, kexecs)
            if after != before:
                path.write_bytes(after)


def options(args: argparse.Namespace) -> SimulateOptions:
    """See simulate_options."""
    return read_options(args)


def run(options: SimulateOptions) -> int:
    """Host the fleet until SIGINT or SIGTERM. Raises AgentError."""
    gc.freeze()  # what is imported stays
    gc.set_threshold(GARBAGE_THRESHOLD, 10, 10)
    try:
        return asyncio.run(host(options))
    except BaseExceptionGroup as group:
        raise first_error(group) from group


async def host(options: SimulateOptions, stop: asyncio.Event | None = None) -> int:
    """Host the fleet until stop is set, or a signal sets it; 0, or 6 if no link ever came up."""
    from node_agent.runtime.link_grpc import GrpcDialer

    stop = stop or asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stop.set)
    log = Log(options.log_format, options.log_level)
    meter = Meter()
    up: set[str] = set()
    told: set[str] = set()
    """Reasons why no node links: each is said once, however many nodes and dials there are."""
    fault: Problem | None = None

    def seen(node_id: str, view: LinkView) -> None:
        nonlocal fault
        if view.up:
            up.add(node_id)
            if len(up) == len(options.nodes):
                log.info("every node is linked", nodes=len(up))
        elif not up and view.problem is not None:
            # The newest counts: a first dial may fail for a reason that the second one explains.
            fault = view.problem
            if fault.reason not in told:
                told.add(fault.reason)
                log.warning("no link yet", why=fault.message, remedy=fault.remedy)

    async with AsyncExitStack() as stack:
        where = options.state_dir or Path(
            stack.enter_context(tempfile.TemporaryDirectory(prefix="liveroll-simulate-"))
        )
        dialer = GrpcDialer(options.orchestrator, options.tls)
        tls = client_context(options.tls)
        stack.push_async_callback(dialer.close)
        executors = [
            LentExecutor(stack.enter_context(ThreadPoolExecutor(1, thread_name_prefix=f"journals-{i}")))
            for i in range(JOURNAL_THREADS if options.state_dir else 1)
        ]
        if options.metrics_listen:
            from node_agent.runtime.metrics_http import serve

            address = await stack.enter_async_context(serve(meter, options.metrics_listen, version()))
            log.info("metrics", url=f"http://{address}/metrics")
        nodes = [
            SimulatedNode(
                spec,
                options,
                where / spec.node_id,
                meter,
                log,
                dialer.by,
                durable=options.state_dir is not None,
                executor=executors[i % len(executors)],
                tls=tls,
                on_view=lambda view, node_id=spec.node_id: seen(node_id, view),  # type: ignore[misc]
            )
            for i, spec in enumerate(options.nodes)
        ]
        fleet = loop.create_task(_all(nodes))
        waiting = loop.create_task(stop.wait())
        try:
            await asyncio.wait((fleet, waiting), return_when=asyncio.FIRST_COMPLETED)
        finally:
            waiting.cancel()
            await end(fleet)
    if not up and fault is not None:
        raise LinkError(
            f"no node ever reached the orchestrator at {' or '.join(options.orchestrator)}",
            reason=fault.reason,
            remedy=fault.remedy,
        )
    return 0


async def _all(nodes: list[SimulatedNode]) -> None:
    async with asyncio.TaskGroup() as tasks:
        for node in nodes:
            tasks.create_task(node.run())
