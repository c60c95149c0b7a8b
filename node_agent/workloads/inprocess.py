"""Workloads of an emulated node within the agent's process: real memory, no task each.

Each workload is a memfd of provable content (memory.py). Ticks are derived from the node's
clock when somebody looks and then written into the memory, so a thousand nodes cost nothing
while they run. All of a workload's state is in its memfd: after the emulated kexec a new
object gets everything from the sessions.

Life cycle, as the simulator drives it: agent_died() when only the agent's process is gone
(session fds close, workloads run on); node_died() when the emulated kernel jumps or fails
(everything closes). Faults are counted down, so a retry may succeed.
"""

from __future__ import annotations

import os
import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from node_agent.errors import BrokerError, KernelError, Retry
from node_agent.kernel.emulated.rfc2.objects import Objects
from node_agent.ports import Clock, Kernel, Session, WorkloadPause, WorkloadPeer
from node_agent.workloads.device import Device
from node_agent.workloads.inprocess_device import WorkloadDevice
from node_agent.workloads.memory import MEMORY_TOKEN, GuestMemory
from node_agent.workloads.pause import Stamp, measure
from node_agent.workloads.protocol import session_name
from node_agent.workloads.together import all_or_cancel, all_to_the_end

DEFAULT_SIZE_BYTES = 256 * 1024


@dataclass(slots=True)
class WorkloadFaults:
    """How often each thing goes wrong before it goes well; 0 never, -1 always."""

    refuse_ready: int = 0
    hang_suspend: int = 0
    hang_resume: int = 0
    keep_session: int = 0


@dataclass(slots=True)
class _Workload:
    id: str
    memory: GuestMemory
    session: Session | None = None
    pause: WorkloadPause | None = None
    crossed: bool = False
    """Its memory came out of a session in this boot."""
    device: WorkloadDevice | None = None
    restored: list[int] = field(default_factory=list)
    """Of a device that is not all there yet."""
    waits_for_device: bool = False
    """It may have one that is not all there."""

    def close(self) -> None:
        self.memory.close()
        if self.device is not None:
            self.device.close()
        while self.restored:
            os.close(self.restored.pop())


@dataclass(slots=True)
class InProcessWorkloads:
    """ports.Workloads over in-process workloads.

    count: how many a fresh boot starts. tick_s: seconds between ticks. seed: of the patterns,
    with the workload's id. timeout_s: how long a hanging workload is waited for.
    faults: by workload id; shared with the caller, who may script it.
    devices: the running boot's kernel objects, `lambda: node.model.objects`; by default no workload has
    a device. Else the n-th workload drives the n-th of Machine.pci_devices, if there are so many: it
    starts it when it first preserves on a kernel that takes devices (RFC v2; None: this one does not),
    preserves it with its memory, and memory_intact is false if the device did not go on through a kexec
    or anything that it wrote did not land.
    """

    clock: Clock
    count: int = 1
    size_bytes: int = DEFAULT_SIZE_BYTES
    tick_s: float = 0.01
    seed: int = 0
    timeout_s: float = 5.0
    faults: dict[str, WorkloadFaults] = field(default_factory=dict)
    devices: Callable[[], Objects | None] | None = None
    _boot_id: str = ""
    _workloads: dict[str, _Workload] = field(default_factory=dict)
    _started: bool = False
    _device: Device = field(init=False)

    def __post_init__(self) -> None:
        self._device = Device(self.clock.sleep)

    async def subscribers(self) -> Sequence[str]:
        return tuple(self._running())

    async def peers(self) -> Sequence[WorkloadPeer]:
        # Starts nobody: this is also asked before a boot has retrieved what crossed.
        return tuple(
            WorkloadPeer(w.id, session=w.session.name if w.session is not None else "")
            for w in self._workloads.values()
        )

    async def preserve(self, kernel: Kernel, attempt: str) -> Mapping[str, str]:
        self._boot_id = (await kernel.facts()).boot_id
        workloads = self._running()
        return await all_or_cancel(workloads, lambda id: self._preserve(kernel, attempt, workloads[id]))

    async def suspend(self) -> None:
        workloads = self._running()
        await all_or_cancel(workloads, lambda id: self._suspend(workloads[id]))

    async def retrieve(self, kernel: Kernel, sessions: Mapping[str, str]) -> None:
        self._boot_id = (await kernel.facts()).boot_id
        self._started = True
        await all_to_the_end(sessions, lambda id: self._retrieve(kernel, id, sessions[id]))

    async def resume(self) -> Sequence[WorkloadPause]:
        stopped = [w.id for w in self._workloads.values() if w.memory.suspended or w.pause is not None]
        pauses = await all_or_cancel(stopped, lambda id: self._resume(self._workloads[id]))
        return tuple(pauses.values())

    async def finish(self) -> None:
        await all_to_the_end(self._workloads, lambda id: self._finish(self._workloads[id]))

    async def release(self) -> None:
        await all_to_the_end(self._workloads, lambda id: self._release(self._workloads[id]))

    async def agent_died(self) -> None:
        """The agent's process is gone: its session fds close, workloads go on as they were."""
        for workload in self._workloads.values():
            session, workload.session = workload.session, None
            if session is not None:
                await session.close()

    def node_died(self) -> None:
        """The kernel jumped or failed: nothing of this boot is left. The next use starts
        afresh, or from retrieve()."""
        for workload in self._workloads.values():
            workload.close()
        self._workloads.clear()
        self._started = False

    def _running(self) -> dict[str, _Workload]:
        if not self._started:
            self._started = True
            for number in range(self.count):
                id = f"vm-{number}"
                seed = zlib.crc32(f"{self.seed}/{id}".encode())
                memory = GuestMemory.create(self.size_bytes, seed, self._stamp())
                self._workloads[id] = _Workload(id, memory)
        return self._workloads

    def _stamp(self) -> Stamp:
        return Stamp(
            realtime_ns=int(self.clock.realtime().timestamp() * 1e9),
            boottime_ns=int(self.clock.boottime_s() * 1e9),
            tsc=self.clock.tsc(),
            tsc_hz=self.clock.tsc_hz,
            boot_id=self._boot_id,
        )

    def _fault(self, workload: _Workload, name: str) -> bool:
        faults = self.faults.get(workload.id)
        left: int = getattr(faults, name) if faults is not None else 0
        if faults is not None and left > 0:
            setattr(faults, name, left - 1)
        return left != 0

    async def _hang(self, workload: _Workload, answer: str) -> None:
        await self.clock.sleep(self.timeout_s)
        raise BrokerError(
            f"workload {workload.id} did not say {answer} within {self.timeout_s:g} s",
            reason="WORKLOAD_TIMEOUT",
            remedy=f"Look at what {workload.id} is doing; a restart of it makes it answer again.",
            workload=workload.id,
            answer=answer,
        )

    def _tick(self, workload: _Workload) -> None:
        """Write the ticks since the last look."""
        now, memory = self._stamp(), workload.memory
        if not memory.suspended:
            elapsed_s = max(0, now.boottime_ns - memory.stamp.boottime_ns) / 1e9
            memory.advance(int(elapsed_s / self.tick_s), now)

    async def _preserve(self, kernel: Kernel, attempt: str, workload: _Workload) -> str:
        if workload.session is not None:
            raise BrokerError(
                f"workload {workload.id} is in a session already",
                reason="ALREADY_PRESERVED",
                retry=Retry.FIX_STATE,
                workload=workload.id,
            )
        self._tick(workload)
        name = session_name(attempt, workload.id)
        workload.session = await self._device.in_turn(lambda: kernel.create_session(name))
        if self._fault(workload, "refuse_ready"):
            raise BrokerError(
                f"workload {workload.id} refused to be preserved",
                reason="WORKLOAD_REFUSED",
                remedy=f"Read the log of {workload.id} for what it cannot preserve.",
                workload=workload.id,
            )
        await workload.session.preserve_fd(workload.memory.fd, MEMORY_TOKEN)
        self._start_device(workload)
        if workload.device is not None:
            await workload.device.preserve(workload.session)
        return name

    def _objects(self) -> Objects | None:
        return self.devices() if self.devices is not None else None

    def _start_device(self, workload: _Workload) -> None:
        """If it has none yet, and there is one for it."""
        objects, number = self._objects(), tuple(self._workloads).index(workload.id)
        if objects is None or workload.device is not None or number >= len(objects.hardware.devices):
            return
        workload.device = WorkloadDevice.start(objects, tuple(objects.hardware.devices)[number])

    async def _suspend(self, workload: _Workload) -> None:
        if self._fault(workload, "hang_suspend"):
            await self._hang(workload, "SUSPENDED")
        self._tick(workload)
        workload.pause = None
        if workload.device is not None and (objects := self._objects()) is not None:
            workload.device.suspend(objects)
        workload.memory.suspend()

    async def _retrieve(self, kernel: Kernel, id: str, name: str) -> None:
        known = self._workloads.get(id)
        if known is not None and known.session is not None:
            return
        try:
            session = await self._device.in_turn(lambda: kernel.retrieve_session(name))
        except KernelError as error:
            if known is not None and known.crossed and error.reason == "SESSION_NOT_FOUND":
                # An earlier agent of this boot retrieved it, and its end finished it: the
                # workload itself has its memory. So it is where the kernel restores a file once.
                return
            raise
        try:
            fd = await session.retrieve_fd(MEMORY_TOKEN)
        except BaseException as error:
            if known is not None and known.crossed and _already_restored(error):
                await self._retrieve_device(known, session)
                await session.close()
                return
            await session.close()
            raise
        try:
            memory = GuestMemory.attach(fd)
        except BrokerError:
            os.close(fd)
            await session.close()
            raise
        if known is not None:
            known.close()
        workload = self._workloads[id] = _Workload(id, memory, crossed=True)
        await self._retrieve_device(workload, session)
        workload.session = session

    async def _retrieve_device(self, workload: _Workload, session: Session) -> None:
        """What was restored stays the workload's when this fails, or the agent dies: the next try goes on."""
        if workload.device is not None or self._objects() is None:
            return
        workload.waits_for_device = True
        try:
            workload.device = await WorkloadDevice.retrieve(session, workload.restored)
        except BaseException:
            await session.close()
            raise
        workload.restored, workload.waits_for_device = [], False

    async def _resume(self, workload: _Workload) -> WorkloadPause:
        if workload.pause is not None:
            return workload.pause
        if self._fault(workload, "hang_resume"):
            await self._hang(workload, "RESUMED")
        verified = workload.memory.verify()
        landed = not workload.waits_for_device
        if workload.device is not None and (objects := self._objects()) is not None:
            landed = workload.device.landed(objects)
        now = self._stamp()
        measured = measure(workload.memory.stamp, now, emulated=True)
        workload.memory.resume(now)
        workload.pause = WorkloadPause(
            workload=workload.id,
            duration_s=measured.duration_s,
            uncertainty_s=measured.uncertainty_s,
            clock=measured.clock,
            memory_intact=verified.intact and landed,
            bytes_checked=verified.bytes_checked,
            rejected=measured.rejected,
        )
        return workload.pause

    async def _finish(self, workload: _Workload) -> None:
        workload.pause = None
        if workload.session is not None:
            await workload.session.finish()
            session, workload.session = workload.session, None
            await session.close()

    async def _release(self, workload: _Workload) -> None:
        workload.pause = None
        if workload.session is None:
            return
        if self._fault(workload, "keep_session"):
            raise BrokerError(
                f"a process still holds the session of workload {workload.id}",
                reason="SESSION_STILL_HELD",
                retry=Retry.FIX_STATE,
                remedy=f"Restart {workload.id}: the kernel gives its memory free when the last copy closes.",
                workload=workload.id,
                session=workload.session.name,
            )
        session, workload.session = workload.session, None
        await session.close()


def _already_restored(error: BaseException) -> bool:
    return isinstance(error, KernelError) and error.reason == "ALREADY_RESTORED"
