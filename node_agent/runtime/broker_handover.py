"""Taking over from the blackout path: its sessions, its clients' reports, its marks.

A session that was retrieved in this boot cannot be retrieved again (EINVAL) while a copy of its fd is
open, and a copy is parked until FINISH. So the full agent works on a HandoverKernel, which hands
out what it was given, or what is parked, and otherwise is the kernel it wraps.

Where sessions are made of tokens (RFC v2), a process of its own serves them (resume/tokens.py), started by
the blackout path or, where that did not follow the jump, here: a file comes back once, and must not die
with the agent.
"""

from __future__ import annotations

import asyncio
import errno
import logging
import os
from collections.abc import Callable, Mapping
from datetime import timedelta
from typing import NoReturn, TypeVar

from node_agent.core.model import Mark
from node_agent.errors import BrokerError, KernelError
from node_agent.kernel.tokens import UPDATED
from node_agent.ports import (
    BootFacts,
    Clock,
    Kernel,
    KexecImage,
    KexecTelemetry,
    Session,
    TokenDevice,
    Tokens,
    WorkloadPause,
)
from node_agent.resume.handover import ClientLeft, Handover
from node_agent.resume.handover import Mark as RawMark
from node_agent.resume.parking import Parking
from node_agent.runtime import keeper_process
from node_agent.workloads import protocol
from node_agent.workloads.device import Device

T = TypeVar("T")
log = logging.getLogger(__name__)


class HandoverKernel:
    """ports.Kernel: the sessions of a Handover first, then those that are parked, then the kernel's own.

    A session of this boot's past stays parked until it is finished, so that this process's death
    does not finish it. Retrieved in the kernel, it is parked before it is given out. One made of tokens that
    `kernel` itself serves is not: it dies with this process, and the next one must not be given what is left.

    Args:
        kernel: everything but the sessions handed over.
        handover: its session fds and token fd become this object's, then the sessions'.
        wrap: makes a ports.Session of a name and an fd, which it owns from then on.
        serve: starts a process that makes sessions of tokens; their fds by name. Raises OSError.
    """

    def __init__(
        self,
        kernel: Kernel,
        handover: Handover,
        wrap: Callable[[str, int], Session],
        serve: Callable[[Mapping[str, Mapping[int, int]]], dict[str, int]] | None = None,
    ) -> None:
        self._kernel = kernel
        self._wrap = wrap
        self._serve = serve
        self._tokens: dict[str, dict[int, int]] = {}
        """What came in with the last kexec, and is not finished."""
        self._making = asyncio.Lock()
        self._ours: dict[str, int] = {}
        """Copies of sessions that are served here, until they are finished: in place of parked ones."""
        self._parking = handover.parking
        self._fds = dict(handover.sessions.values()) | handover.parked
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
        for copies in (self._fds, self._ours):
            while copies:
                os.close(copies.popitem()[1])

    async def facts(self) -> BootFacts:
        return await self._kernel.facts()

    async def create_session(self, name: str) -> Session:
        await self._finish_left_over()
        return await self._kernel.create_session(name)

    async def retrieve_session(self, name: str) -> Session:
        parking = self._parking
        fd = self._fds.pop(name, -1)
        if fd < 0 and parking is not None:
            # Closed in this process, which may have meant to try again; parked it is all the same.
            fd = await _call(parking.copy, name, otherwise=-1)
        if fd < 0 and name in self._ours:
            fd = os.dup(self._ours[name])
        if fd < 0 and parking is not None and name in self._tokens:
            async with self._making:
                if name not in self._fds:
                    await self._make_sessions(parking)
            fd = self._fds.pop(name, -1)
        if fd >= 0:
            return self._parked(name, fd)
        session = await self._kernel.retrieve_session(name)
        if parking is None:
            return session
        if name in self._tokens:
            self._ours[name] = os.dup(session.fileno())
        else:
            await _call(parking.park, {name: session.fileno()}, keeper_process.start, otherwise=None)
        return ParkedSession(session, parking, self._finished)

    async def is_free(self, name: str) -> bool:
        return await self._kernel.is_free(name)

    async def prepare(self) -> Tokens:
        return await self._kernel.prepare()

    async def cancel(self) -> None:
        await self._kernel.cancel()

    async def finish(self) -> None:
        await self._kernel.finish()
        self._tokens = {}

    async def recall(self, tokens: Tokens) -> None:
        self._tokens = {name: dict(told) for name, told in tokens.items()}
        await self._kernel.recall(tokens)

    async def telemetry(self) -> KexecTelemetry | None:
        return await self._kernel.telemetry()

    def luo(self) -> TokenDevice | None:
        return self._kernel.luo()

    async def load(self, image: KexecImage) -> None:
        await self._kernel.load(image)

    async def unload(self) -> None:
        await self._kernel.unload()

    async def loaded(self) -> bool:
        return await self._kernel.loaded()

    async def ready_to_jump(self) -> None:
        await self._kernel.ready_to_jump()

    async def reboot_kexec(self) -> NoReturn:
        await self._kernel.reboot_kexec()

    def _parked(self, name: str, fd: int) -> Session:
        session = self._wrap(name, fd)
        return session if self._parking is None else ParkedSession(session, self._parking, self._finished)

    def _finished(self, name: str, failed: KernelError | None) -> None:
        """Where whoever served a session made of tokens is gone, its copies are, too: what is left of it is
        for the kernel's own FINISH. Raises what it failed with otherwise."""
        if failed is not None and (failed.errno != errno.ESHUTDOWN or name not in self._tokens):
            raise failed
        self._tokens.pop(name, None)
        if name in self._ours:
            os.close(self._ours.pop(name))

    async def _make_sessions(self, parking: Parking) -> None:
        """Of all tokens whose sessions are neither parked nor finished, and park them."""
        if self._serve is None or (await self._kernel.facts()).luo_state != UPDATED:
            return
        nothing: dict[str, int] = {}
        parked = await _call(parking.sessions, otherwise=nothing)
        for fd in parked.values():
            os.close(fd)
        there = parked.keys() | self._fds.keys() | self._ours.keys()
        missing = {name: told for name, told in self._tokens.items() if name not in there}
        made = await _call(self._serve, missing, otherwise=nothing)
        await _call(parking.park, made, keeper_process.start, otherwise=None)
        self._fds |= made

    async def _finish_left_over(self) -> None:
        """A new session means a new attempt: what an earlier one could not finish is finished now,
        for its files could not be preserved again."""
        if self._parking is None:
            return
        nothing: dict[str, int] = {}
        left = self._fds | await _call(self._parking.sessions, otherwise=nothing)
        for name in self._fds.keys() & left.keys():
            if left[name] != self._fds[name]:
                os.close(self._fds[name])
        self._fds = {}
        left.update((name, os.dup(fd)) for name, fd in self._ours.items() if name not in left)
        for name, fd in left.items():
            session = self._parked(name, fd)
            try:
                await session.finish()
            finally:
                await session.close()
        if left:
            # With them the whole machine's state, where it has one.
            await self.finish()


class ParkedSession:
    """ports.Session of an earlier kernel, with a copy of its fd parked (or kept here) until it is finished.

    finished: told its name then, and what finishing it failed with; raises that if it counts.
    """

    def __init__(
        self, session: Session, parking: Parking, finished: Callable[[str, KernelError | None], None]
    ) -> None:
        self._session = session
        self._parking = parking
        self._finished = finished

    @property
    def name(self) -> str:
        return self._session.name

    def fileno(self) -> int:
        return self._session.fileno()

    async def preserve_fd(self, fd: int, token: int) -> None:
        await self._session.preserve_fd(fd, token)

    async def retrieve_fd(self, token: int) -> int:
        return await self._session.retrieve_fd(token)

    async def finish(self) -> None:
        """The parked copy goes with it, so that the name is free when the others are closed."""
        failed: KernelError | None = None
        try:
            await self._session.finish()
        except KernelError as error:
            failed = error
        self._finished(self.name, failed)
        await _call(self._parking.drop, self.name, otherwise=None)

    async def close(self) -> None:
        """Idempotent. Unfinished, it stays parked."""
        await self._session.close()


async def _call(call: Callable[..., T], *arguments: object, otherwise: T) -> T:
    """One of Parking's blocking calls. A keeper that is gone has nothing parked."""
    try:
        return await asyncio.to_thread(call, *arguments)
    except OSError as error:
        log.warning("parked sessions: %s", error)
        return otherwise


async def left_by_the_dead(device: Device, kernel: Kernel, name: str) -> Session | None:
    """A session that an agent of this boot had when it died; None if it is finished, or its workload
    alone has it, which finishes it by closing it. Raises KernelError."""
    if not name:
        return None
    try:
        return await device.in_turn(lambda: kernel.retrieve_session(name))
    except KernelError as error:
        if error.reason not in ("SESSION_NOT_FOUND", "SESSION_HELD"):
            raise
        return None


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
