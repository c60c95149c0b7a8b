"""Taking over from the blackout path: its sessions, its clients' reports, its marks.

A session that the blackout path retrieved cannot be retrieved again (EINVAL), so the full agent
works on a HandoverKernel, which hands it out once and otherwise is the kernel it wraps.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from datetime import timedelta
from typing import NoReturn

from node_agent.core.model import Mark
from node_agent.errors import BrokerError
from node_agent.ports import BootFacts, Clock, Kernel, KexecImage, Session, WorkloadPause
from node_agent.resume.handover import ClientLeft, Handover
from node_agent.resume.handover import Mark as RawMark
from node_agent.workloads import protocol


class HandoverKernel:
    """ports.Kernel: the sessions of a Handover first, then the kernel's own.

    Args:
        kernel: everything but the sessions handed over.
        handover: its session fds and token fd become this object's, then the sessions'.
        wrap: makes a ports.Session of a name and an fd, which it owns from then on.
    """

    def __init__(self, kernel: Kernel, handover: Handover, wrap: Callable[[str, int], Session]) -> None:
        self._kernel = kernel
        self._wrap = wrap
        self._fds = dict(handover.sessions.values())
        if handover.agent_session_fd >= 0:
            self._fds[handover.agent_session] = handover.agent_session_fd
        if handover.token_fd >= 0:
            os.close(handover.token_fd)

    @property
    def untaken(self) -> tuple[str, ...]:
        """Sessions that were handed over and not asked for yet."""
        return tuple(self._fds)

    def close(self) -> None:
        """Close what nobody asked for: a session whose last copy this is, is finished by it."""
        while self._fds:
            os.close(self._fds.popitem()[1])

    async def facts(self) -> BootFacts:
        return await self._kernel.facts()

    async def create_session(self, name: str) -> Session:
        return await self._kernel.create_session(name)

    async def retrieve_session(self, name: str) -> Session:
        fd = self._fds.pop(name, -1)
        return self._wrap(name, fd) if fd >= 0 else await self._kernel.retrieve_session(name)

    async def load(self, image: KexecImage) -> None:
        await self._kernel.load(image)

    async def unload(self) -> None:
        await self._kernel.unload()

    async def loaded(self) -> bool:
        return await self._kernel.loaded()

    async def reboot_kexec(self) -> NoReturn:
        await self._kernel.reboot_kexec()


def paused(client: ClientLeft) -> WorkloadPause | None:
    """What a client of the blackout path reported; None if it has not resumed yet."""
    if not client.workload or (client.suspends and not client.resumed):
        return None
    if not client.suspends:
        return protocol.Resumed().pause(client.workload)
    try:
        said = protocol.parse_command(client.resumed)
    except BrokerError as error:
        said = protocol.Resumed(rejected=f"its report is malformed: {error.message}")
    if not isinstance(said, protocol.Resumed):
        said = protocol.Resumed(rejected="it reported something else than a pause")
    return said.pause(client.workload)


def marks(handover: Handover, clock: Clock, boot_id: str) -> tuple[Mark, ...]:
    """The handover's marks on the node's clocks.

    The blackout path had no time to read the TSC: this takes one pair of readings now and goes
    back from it, on the host's CLOCK_BOOTTIME, which is good to the drift of that short time.
    """
    host_now_ns = RawMark.now().boottime_ns
    realtime_at, boottime_s, tsc = clock.realtime(), clock.boottime_s(), clock.tsc()
    found: list[Mark] = []
    for name, raw in handover.marks.items():
        # The kernel's start is 0 on its own boottime, whatever the host's clock said.
        ago_s = boottime_s if name == "kernel_start" else (host_now_ns - raw.boottime_ns) / 1e9
        found.append(
            Mark(
                name,
                realtime_at - timedelta(seconds=ago_s),
                max(0.0, boottime_s - ago_s),
                max(0, tsc - int(ago_s * clock.tsc_hz)) if tsc else 0,
                boot_id,
            )
        )
    return tuple(found)
