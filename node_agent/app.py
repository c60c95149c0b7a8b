"""Composition root of `liveroll-agent run`: the only place that builds a node's adapters.

Rules:
- What is different about a real and an emulated node comes as a Machine (app_real.py, app_emulated.py).
- Outside an emulated node, `run --kernel emulated` becomes that node's kernel (a process of its own),
  which starts it again as the node's userspace, and after every kexec anew.
- What the blackout path left (handover) is adopted before anything else is opened.
- Hello first: metrics, and all that they import, come after the first link.
"""

from __future__ import annotations

import asyncio
import functools
import os
import random
import signal
from collections.abc import Sequence
from contextlib import AsyncExitStack
from typing import TYPE_CHECKING

from node_agent.core.rota import Rota
from node_agent.errors import ArtifactError, JournalLocked, SettingsError
from node_agent.settings import AgentSettings

if TYPE_CHECKING:
    from pathlib import Path

    from node_agent.app_machine import Machine
    from node_agent.core.model import Mark, Problem
    from node_agent.ports import BootFacts, JournalRecord, Kernel, LiveUpdateAbi
    from node_agent.resume.handover import Handover
    from node_agent.runtime.artifacts import ArtifactCache
    from node_agent.runtime.broker import Broker
    from node_agent.runtime.broker_leaving import DrainWorkload
    from node_agent.runtime.journal import FileJournal
    from node_agent.runtime.link_transport import Connector
    from node_agent.runtime.metrics import Meter
    from node_agent.runtime.runner_items import Identity
    from node_agent.runtime.supervisor_log import Log

ROOT_ENV = "LIVEROLL_NODE_ROOT"
"""Set by the emulated node's kernel for all of its userspace."""


def run(settings: AgentSettings, *, arguments: Sequence[str], handover: Handover | None) -> int:
    """Be the node's agent until SIGTERM or SIGINT. Raises AgentError.

    Args:
        arguments: of this command line, to start it again within an emulated node.
        handover: what the blackout path left, if it has run.
    """
    if settings.kernel == "real":
        return asyncio.run(serve(settings, "", handover))
    if ROOT_ENV not in os.environ:
        if handover is not None and (handover.attempt or handover.parked):
            raise SettingsError(
                "this machine is a real node, and its agent's state is at hand",
                reason="REAL_NODE",
                remedy="say --kernel real; for an emulated node beside it say --kernel emulated as a flag",
            )
        from node_agent.app_emulated import become_kernel

        become_kernel(settings, arguments)
    return asyncio.run(serve(settings, os.environ[ROOT_ENV], handover))


async def serve(settings: AgentSettings, root: str, handover: Handover | None) -> int:
    """One life of the agent. root: of the emulated node, "" on a real one. Raises AgentError."""
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
    from node_agent.kernel.luo_models import capabilities_of, spoken_by
    from node_agent.runtime import broker_handover, keeper_process
    from node_agent.runtime.artifacts import ArtifactCache
    from node_agent.runtime.broker import Broker
    from node_agent.runtime.metrics import Meter
    from node_agent.runtime.runner_boot import Boot
    from node_agent.runtime.runner_effects import Ports
    from node_agent.runtime.runner_items import Identity
    from node_agent.runtime.supervisor import NodeLife
    from node_agent.runtime.tls_context import client_context

    log = log.bind(node=settings.node_id)
    machine = await _machine(settings, root, log)
    facts, clock = machine.facts, machine.clock
    meter = Meter()
    identity = Identity(
        node_id=settings.node_id,
        labels={"hardware_model": facts.hardware_model, "luo_model": facts.luo_model, **settings.labels},
        capabilities=(*machine.capabilities, *capabilities_of(facts)),
        agent_version=_version(),
        linked=bool(settings.orchestrator),
    )
    cache = ArtifactCache(
        settings.artifacts_dir,
        running_release=facts.release,
        max_bytes=settings.artifacts_max_bytes,
        tls=client_context(settings.tls),
        on_bytes=meter.fetched,
    )
    rota = Rota(settings.orchestrator, random.Random()) if settings.orchestrator else None  # noqa: S311
    connect = _connector(settings, rota, stack)
    journal, quarantine = await _journal(settings, machine, identity, cache, connect, rota, handover, log)
    machine.know_hz(known_hz(journal.records))
    if not facts.emulated:
        await _note_down(settings, facts, log)
    broker = Broker(
        str(settings.broker_socket),
        socket_mode=settings.broker_mode,
        socket_gid=settings.broker_gid,
        drain_workload=_drain_workload(settings),
    )
    used: Kernel = machine.kernel
    marks: tuple[Mark, ...] = ()
    if handover is not None:
        serve = functools.partial(keeper_process.serve_tokens, root)
        adopted = broker_handover.HandoverKernel(machine.kernel, handover, machine.adopt, serve)
        stack.callback(adopted.close)
        used = adopted
    if handover is not None and handover.attempt:
        broker.adopt(handover)
        marks = broker_handover.marks(handover, clock, facts.boot_id)
        for what, why in handover.errors.items():
            log.warning("the blackout path could not do everything", what=what, why=why)
    else:
        restore_broker(broker, journal.records, used, facts.boot_id)
    running = settings.running_artifact
    await capture_running(cache, running, emulated=facts.emulated, log=log, speaks=spoken_by(facts))
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
            hooks=machine.hooks,
            artifacts=cache,
            default_kernel=machine.default_kernel,
            disks=machine.disks,
            bindings=broker.bindings,
            left_behind=broker.left_behind,
        ),
        boot=Boot(facts, marks=marks, quarantine=quarantine),
        meter=meter,
        log=log,
        connect=connect,
        rota=rota,
        served=lambda living: serve_control(settings.control_socket, living),
        on_view=lambda view: linked.set() if view.up or view.problem is not None else None,
    )
    tasks.create_task(life.live())
    tasks.create_task(broker.run())
    if not facts.emulated:
        tasks.create_task(_bundle(settings, linked, log))
    if settings.metrics_listen:
        tasks.create_task(_metrics(settings.metrics_listen, meter, linked, log))


async def _machine(settings: AgentSettings, root: str, log: Log) -> Machine:
    if root:
        from node_agent import app_emulated

        return await app_emulated.open_machine(settings, root)
    from node_agent import app_real

    return await app_real.open_machine(settings, log)


async def _journal(
    settings: AgentSettings,
    machine: Machine,
    identity: Identity,
    artifacts: ArtifactCache,
    connect: Connector | None,
    rota: Rota | None,
    handover: Handover | None,
    log: Log,
) -> tuple[FileJournal, Problem | None]:
    """The journal, locked, however long another process holds it."""
    from node_agent.runtime.supervisor import open_journal

    facts, clock = machine.facts, machine.clock
    fd = handover.journal_fd if handover is not None else -1
    try:
        if not facts.emulated:
            from node_agent.app_real import thaw_left_over

            await thaw_left_over(settings, facts.boot_id)
        return await asyncio.to_thread(open_journal, settings.journal, fd=fd)
    except JournalLocked as error:
        from node_agent.runtime.stuck import wait_stuck

        fd = await wait_stuck(settings.journal, error, identity, facts, clock, artifacts, connect, rota, log)
        return await asyncio.to_thread(open_journal, settings.journal, fd=fd)


async def _note_down(settings: AgentSettings, facts: BootFacts, log: Log) -> None:
    from node_agent import app_real

    await asyncio.to_thread(app_real.note_for_resume, settings, log)
    app_real.warn_of_what_is_missing(settings, facts, log)


def _drain_workload(settings: AgentSettings) -> DrainWorkload | None:
    """By policy; None: one that cannot be preserved refuses."""
    if settings.unpreservable != "drain":
        return None
    from node_agent.runtime.broker_leaving import by_command
    from node_agent.workloads.hooks import CommandHooks

    return by_command(CommandHooks(settings.hooks, {"LIVEROLL_NODE": settings.node_id}))


def _connector(settings: AgentSettings, rota: Rota | None, stack: AsyncExitStack) -> Connector | None:
    """What opens the link; None without an orchestrator. gRPC is imported here and not before."""
    if rota is None:
        return None
    from node_agent.runtime.link_grpc import GrpcDialer

    dialer = GrpcDialer(settings.orchestrator, settings.tls)
    stack.push_async_callback(dialer.close)
    return dialer.by(rota)


async def capture_running(
    cache: ArtifactCache,
    directory: Path | None,
    *,
    emulated: bool,
    log: Log,
    speaks: LiveUpdateAbi | None = None,
) -> None:
    """Keep what boots the running kernel. Without it the node only takes no forward attempt: it must
    start all the same, most of all in the middle of an update."""
    try:
        if await cache.capture_running(directory, emulated=emulated, speaks=speaks):
            return
        why = "artifacts.running is not set"
    except ArtifactError as error:
        why = error.message
    log.warning(
        "no artifact boots the running kernel: this node cannot be rolled back",
        why=why,
        remedy="set artifacts.running to a directory that `liveroll artifact build` made of it",
    )


def known_hz(records: Sequence[JournalRecord]) -> float:
    """The TSC frequency that was measured when the last attempt preserved; 0 if there is none."""
    from node_agent.runtime.runner_boot import read_history

    attempt = read_history(records).node.attempt
    return attempt.tsc_hz if attempt is not None else 0.0


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


async def _bundle(settings: AgentSettings, linked: asyncio.Event, log: Log) -> None:
    await linked.wait()
    from node_agent import app_real

    await asyncio.to_thread(app_real.bundle_early_init, settings, log)


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
