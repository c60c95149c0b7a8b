"""Composition root of `liveroll-agent run`: the only place that builds a node's adapters.

Rules:
- Outside an emulated node, `run` becomes that node's kernel (a process of its own), which starts
  it again as the node's userspace, and after every kexec anew.
- Inside, what the blackout path left (handover) is adopted before anything else is opened.
- Hello first: metrics, and all that they import, come after the first link.
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import Sequence
from contextlib import AsyncExitStack, suppress
from typing import TYPE_CHECKING, NoReturn

from node_agent.errors import ArtifactError, JournalLocked, SettingsError
from node_agent.settings import AgentSettings

if TYPE_CHECKING:
    from pathlib import Path

    from node_agent.core.model import Mark
    from node_agent.ports import JournalRecord, Kernel
    from node_agent.resume.handover import Handover
    from node_agent.runtime.artifacts import ArtifactCache
    from node_agent.runtime.broker import Broker
    from node_agent.runtime.link_transport import Connector
    from node_agent.runtime.metrics import Meter
    from node_agent.runtime.supervisor_log import Log

ROOT_ENV = "LIVEROLL_NODE_ROOT"
"""Set by the emulated node's kernel for all of its userspace."""
RESUME_ENV = "LIVEROLL_RESUME"
"""JOURNAL:SOCKET for the blackout path, so that it needs no settings."""
ACCESS_ENV = "LIVEROLL_RESUME_ACCESS"
"""MODE:GID of that socket, mode in octal, gid -1 to leave the group alone."""


def run(settings: AgentSettings, *, arguments: Sequence[str], handover: Handover | None) -> int:
    """Be the node's agent until SIGTERM or SIGINT. Raises AgentError.

    Args:
        arguments: of this command line, to start it again within an emulated node.
        handover: what the blackout path left, if it has run.
    """
    if settings.kernel == "real":
        raise SettingsError(
            "--kernel real comes with the real kernel backend; it is not in this build",
            reason="REAL_KERNEL_MISSING",
            remedy="use --kernel emulated, or install a build that has the real backend",
        )
    if ROOT_ENV not in os.environ:
        become_kernel(settings, arguments)
    return asyncio.run(serve(settings, os.environ[ROOT_ENV], handover))


def become_kernel(settings: AgentSettings, arguments: Sequence[str]) -> NoReturn:
    """Replace this process with the emulated kernel, whose userspace this command becomes."""
    emulated, root = settings.emulated, settings.root
    assert root is not None
    try:
        root.mkdir(parents=True, exist_ok=True)
        settings.state_dir.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise SettingsError(
            f"cannot make {error.filename}: {error.strerror}",
            reason="STATE_DIR",
            remedy="set state_dir to a place this user may write to",
        ) from error
    # Shares of a bare kexec as they were measured in the lab.
    shares = {"shutdown": 0.05, "purgatory": 0.25, "boot": 0.7}
    timings = [word for p, s in shares.items() for word in (f"--{p}-s", str(emulated.kexec_s * s))]
    os.environ[RESUME_ENV] = f"{settings.journal}:{settings.broker_socket}"
    os.environ[ACCESS_ENV] = f"{settings.broker_mode:o}:{settings.broker_gid}"
    os.execv(  # noqa: S606 - this very interpreter
        sys.executable,
        [
            sys.executable,
            *("-m", "node_agent.kernel.emulated.process"),
            *("--root", str(root), "--release", _default_kernel(settings), "--faults", emulated.faults),
            *("--hardware-model", emulated.model, *timings),
            *(word for service in emulated.services for word in ("--service", service)),
            *("--", sys.executable, "-m", "node_agent.cli", *arguments),
        ],
    )


def _default_kernel(settings: AgentSettings) -> str:
    """What a cold boot starts: what was committed last, or what the settings say."""
    with suppress(OSError):
        return (settings.state_dir / "default-kernel").read_text().strip() or settings.emulated.release
    return settings.emulated.release


async def serve(settings: AgentSettings, root: str, handover: Handover | None) -> int:
    """One life of the agent within an emulated node. Raises AgentError."""
    from node_agent.runtime.supervisor import first_error
    from node_agent.runtime.supervisor_log import Log

    log = Log(settings.log_format, settings.log_level)
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stop.set)
    try:
        async with AsyncExitStack() as stack, asyncio.TaskGroup() as tasks:
            living = tasks.create_task(_live(settings, root, handover, log, stack))
            await stop.wait()
            living.cancel()
    except BaseExceptionGroup as group:
        raise first_error(group) from group
    return 0


async def _live(
    settings: AgentSettings, root: str, handover: Handover | None, log: Log, stack: AsyncExitStack
) -> None:
    """Until cancelled."""
    async with asyncio.TaskGroup() as tasks:
        await _start(settings, root, handover, log, stack, tasks)


async def _start(
    settings: AgentSettings,
    root: str,
    handover: Handover | None,
    log: Log,
    stack: AsyncExitStack,
    tasks: asyncio.TaskGroup,
) -> None:
    """Build the node and start what it consists of."""
    from node_agent.app_control import serve_control
    from node_agent.app_emulated import EmulatedHooks
    from node_agent.kernel.emulated.client import ProcessKernel, ProcessSession
    from node_agent.runtime import broker_handover
    from node_agent.runtime.artifacts import ArtifactCache
    from node_agent.runtime.broker import Broker
    from node_agent.runtime.metrics import Meter
    from node_agent.runtime.runner_boot import Boot
    from node_agent.runtime.runner_effects import Ports
    from node_agent.runtime.runner_items import Identity
    from node_agent.runtime.supervisor import NodeLife, open_journal
    from node_agent.runtime.tls_context import client_context

    kernel = ProcessKernel(root)
    facts, clock = await kernel.facts(), await kernel.clock()
    meter = Meter()
    identity = Identity(
        node_id=settings.node_id,
        labels={"hardware_model": facts.hardware_model, **settings.labels},
        capabilities=tuple(c for c in ("luo", "kho", "emulated") if c != "emulated" or facts.emulated),
        agent_version=_version(),
        linked=bool(settings.orchestrator),
    )
    log = log.bind(node=settings.node_id)

    def artifacts() -> ArtifactCache:
        return ArtifactCache(
            settings.artifacts_dir,
            running_release=facts.release,
            max_bytes=settings.artifacts_max_bytes,
            tls=client_context(settings.tls),
            on_bytes=meter.fetched,
        )

    fd = handover.journal_fd if handover is not None else -1
    try:
        journal, quarantine = await asyncio.to_thread(open_journal, settings.journal, fd=fd)
    except JournalLocked as error:
        from node_agent.runtime.stuck import wait_stuck

        connect = _connector(settings, stack)
        fd = await wait_stuck(settings.journal, error, identity, facts, clock, artifacts(), connect, log)
        journal, quarantine = await asyncio.to_thread(open_journal, settings.journal, fd=fd)
    broker = Broker(
        str(settings.broker_socket), socket_mode=settings.broker_mode, socket_gid=settings.broker_gid
    )
    used: Kernel = kernel
    marks: tuple[Mark, ...] = ()
    if handover is not None:
        adopted = broker_handover.HandoverKernel(kernel, handover, ProcessSession)
        stack.callback(adopted.close)
        used = adopted
    if handover is not None and handover.attempt:
        broker.adopt(handover)
        marks = broker_handover.marks(handover, clock, facts.boot_id)
        for what, why in handover.errors.items():
            log.warning("the blackout path could not do everything", what=what, why=why)
    else:
        restore_broker(broker, journal.records, used, facts.boot_id)
    cache = artifacts()
    await capture_running(cache, settings.running_artifact, emulated=facts.emulated, log=log)
    linked = asyncio.Event()
    if not settings.orchestrator:
        linked.set()
    life = NodeLife(
        identity=identity,
        ports=Ports(
            kernel=used,
            journal=journal,
            clock=clock,
            workloads=broker,
            hooks=EmulatedHooks(settings, root, cache),
            artifacts=cache,
            bindings=broker.bindings,
        ),
        boot=Boot(facts, marks=marks, quarantine=quarantine),
        meter=meter,
        log=log,
        connect=_connector(settings, stack),
        served=lambda living: serve_control(settings.control_socket, living),
        on_view=lambda view: linked.set() if view.up or view.problem is not None else None,
    )
    tasks.create_task(life.live())
    tasks.create_task(broker.run())
    if settings.metrics_listen:
        tasks.create_task(_metrics(settings.metrics_listen, meter, linked, log))


def _connector(settings: AgentSettings, stack: AsyncExitStack) -> Connector | None:
    """What opens the link; None without an orchestrator. gRPC is imported here and not before."""
    if not settings.orchestrator:
        return None
    from node_agent.runtime.link_grpc import GrpcDialer

    dialer = GrpcDialer(settings.orchestrator, settings.tls)
    stack.push_async_callback(dialer.close)
    return dialer.connect


async def capture_running(cache: ArtifactCache, directory: Path | None, *, emulated: bool, log: Log) -> None:
    """Keep what boots the running kernel. Without it the node only takes no forward attempt: it must
    start all the same, most of all in the middle of an update."""
    try:
        if await cache.capture_running(directory, emulated=emulated):
            return
        why = "artifacts.running is not set"
    except ArtifactError as error:
        why = error.message
    log.warning(
        "no artifact boots the running kernel: this node cannot be rolled back",
        why=why,
        remedy="set artifacts.running to a directory that `liveroll artifact build` made of it",
    )


def restore_broker(broker: Broker, records: Sequence[JournalRecord], kernel: Kernel, boot_id: str) -> None:
    """Bring back who is bound to what, where an attempt is under way and nobody jumped."""
    from node_agent.core.phases import SETTLED
    from node_agent.runtime.runner_boot import read_history

    node = read_history(records).node
    attempt = node.attempt
    if attempt is None or attempt.phase in SETTLED:
        return
    if node.boot_id == boot_id:
        broker.restore(attempt.bindings, kernel=kernel, sessions=attempt.sessions)
    else:
        broker.restore(attempt.bindings)


async def _metrics(listen: str, meter: Meter, linked: asyncio.Event, log: Log) -> None:
    """Serve /metrics from the first word of the link on; a port in use is no reason to stop."""
    await linked.wait()
    from node_agent.runtime.metrics_http import serve

    try:
        async with serve(meter, listen, _version()) as address:
            log.info("metrics", url=f"http://{address}/metrics")
            await asyncio.get_running_loop().create_future()
    except SettingsError as error:
        log.warning("no metrics", why=error.message, remedy=error.remedy)


def _version() -> str:
    from node_agent.version import version

    return version()
