"""EmulatedNode: one node in this process, from power-on until its userspace returns.

Userspace is a coroutine function of a Boot. A kexec cancels it, passes the phases on the base
clock and calls it again with the next Boot; so do a panic, a power loss and a kill, each in its
own way. Whatever a cancelled userspace does in its `finally` blocks no longer reaches the kernel.
"""

from __future__ import annotations

import asyncio
import enum
import random
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import datetime

from node_agent.kernel.emulated.clock import EPOCH, TSC_HZ, BaseClock, EmulatedClock, HostBase
from node_agent.kernel.emulated.image import DEFAULT_COMMAND_LINE, EmulatedImage, Images, ImageTable
from node_agent.kernel.emulated.inprocess import InProcessKernel
from node_agent.kernel.emulated.model import LuoModel, Machine, boot_id
from node_agent.kernel.emulated.phases import PhaseTimes
from node_agent.kernel.emulated.telemetry import Phase
from node_agent.kernel.faults import FaultPlan

Userspace = Callable[["Boot"], Awaitable[None]]


@dataclass(frozen=True, slots=True)
class Boot:
    """What a userspace gets: its kernel, its clock, and how it came about."""

    kernel: InProcessKernel
    clock: EmulatedClock
    boot_id: str
    release: str
    boots: int
    """Kernels started on this node so far, this one included."""
    starts: int
    """Userspaces started in this boot so far, this one included."""


class _End(enum.Enum):
    """What ended a userspace from outside."""

    KEXEC = enum.auto()
    KILLED = enum.auto()
    POWER_LOSS = enum.auto()


class EmulatedNode:
    """One node.

    Args:
        release: the kernel of the first boot, and of every cold boot until set_default().
        images: how a loaded image is read; by default any release is healthy and no file is read.
        base: where time comes from; the host's clock by default.
        seed: of the boot ids; the same seed gives the same ids.
        restart_s: from a kill of userspace to its next start in the same boot.
        epoch, tsc_hz, rtc_grain_s: see EmulatedClock.
        image: of the first boot, if it is not a healthy one of its release.
    """

    def __init__(
        self,
        release: str = "7.2.13-emulated",
        *,
        command_line: str = DEFAULT_COMMAND_LINE,
        images: Images | None = None,
        faults: FaultPlan | None = None,
        machine: Machine | None = None,
        phases: PhaseTimes | None = None,
        base: BaseClock | None = None,
        seed: int = 0,
        restart_s: float = 0.0,
        epoch: datetime = EPOCH,
        tsc_hz: float = TSC_HZ,
        rtc_grain_s: float = 0.0,
        image: EmulatedImage | None = None,
    ) -> None:
        ids = random.Random(f"boot ids {seed}")  # noqa: S311 - names, no secret
        self.model = LuoModel(
            image or EmulatedImage(release),
            new_boot_id=lambda: boot_id(ids.getrandbits(128)),
            command_line=command_line,
            images=images or ImageTable(),
            faults=faults,
            machine=machine,
        )
        self.phases = phases or PhaseTimes()
        self.base = base or HostBase()
        self._restart_s = restart_s
        self._epoch, self._tsc_hz, self._rtc_grain_s = epoch, tsc_hz, rtc_grain_s
        self._boots = 0
        self._starts = 0
        self._ended: asyncio.Future[_End] | None = None
        self._power: asyncio.Event = asyncio.Event()
        self._kernel: InProcessKernel | None = None
        self._started_s = self._powered_s = 0.0
        self._severed: list[InProcessKernel] = []

    @property
    def running(self) -> bool:
        """Is a userspace running now?"""
        return self._ended is not None and not self._ended.done()

    def kill_userspace(self) -> None:
        """SIGKILL to the whole userspace: its sessions are closed as rules say, and it starts
        again in the same boot. Nothing happens while there is none."""
        self._end(_End.KILLED)

    def power_loss(self) -> None:
        """Power fails and returns: a cold boot, also for a node that never came back."""
        if self.running:
            self._end(_End.POWER_LOSS)
        else:
            self._power.set()

    def set_default(self, release: str, command_line: str | None = None) -> None:
        """What the next cold boot starts."""
        self.model.set_default_release(release, command_line)

    async def run(self, userspace: Userspace) -> None:
        """Power on, and run until a userspace returns; the first userspace's exception is raised.
        At the end, or when cancelled, nothing of the node is left."""
        if self._boots:
            self.model.cold_boot()
        self._powered_s = self.base.now()
        self._boot_from_now()
        await self._wait(self.phases.boot_s)
        try:
            while (end := await self._live(userspace)) is not None:
                if end is _End.KEXEC:
                    await self._kexec()
                elif end is _End.POWER_LOSS:
                    await self._cold_boot(0.0)
                else:
                    await self._wait(self._restart_s)
        finally:
            self._sever()
            self.model.power_off()

    async def _live(self, userspace: Userspace) -> _End | None:
        """One userspace's life; None if it returned."""
        self._starts += 1
        self._power.clear()
        ended: asyncio.Future[_End] = asyncio.get_running_loop().create_future()
        self._ended = ended
        kernel = self._kernel = InProcessKernel(
            self.model, lambda: self._end(_End.KEXEC), lambda: self._end(_End.KILLED)
        )
        self._severed.append(kernel)
        boot = Boot(kernel, self._clock(), self.model.boot_id, self.model.release, self._boots, self._starts)
        task = asyncio.ensure_future(userspace(boot))
        try:
            await asyncio.wait((task, ended), return_when=asyncio.FIRST_COMPLETED)
        finally:
            if not ended.done():
                ended.cancel()
            kernel.die(jumped=False)
            task.cancel()
            await asyncio.wait((task,))
        if ended.cancelled():
            task.result()
            return None
        if not task.cancelled():
            task.exception()
        return ended.result()

    def _end(self, end: _End) -> None:
        if self._ended is None or self._ended.done():
            return
        if self._kernel is not None and end is not _End.KEXEC:
            self._kernel.die(jumped=end is _End.POWER_LOSS)
        if end is _End.KEXEC:
            self._stamp(Phase.SHUTDOWN)
        self._ended.set_result(end)

    async def _kexec(self) -> None:
        n, faults = self.model.reboots, self.model.faults
        self._sever()
        jump = self.model.jump()
        await self._wait(self.phases.shutdown_with_s(faults, n))
        self._stamp(Phase.PURGATORY)
        await self._wait(self.phases.purgatory_with_s(faults, n))
        if not jump.back:
            self.model.power_off()
            await self._power.wait()
        if not jump.arrived:
            await self._cold_boot(self.phases.panic_s if jump.back else 0.0)
            return
        self._boot_from_now()
        self.model.arrive()
        self._stamp(Phase.KERNEL)
        await self._wait(self.phases.boot_with_s(faults, n))
        self._stamp(Phase.USERSPACE)

    async def _cold_boot(self, before_s: float) -> None:
        self._sever()
        await self._wait(before_s)
        self._powered_s = self.base.now()
        await self._wait(self.phases.firmware_s)
        self._boot_from_now()
        self.model.cold_boot()
        await self._wait(self.phases.boot_s)

    def _boot_from_now(self) -> None:
        self._started_s = self.base.now()
        self._boots += 1
        self._starts = 0

    def _sever(self) -> None:
        for kernel in self._severed:
            kernel.die(jumped=True)
        self._severed.clear()

    async def _wait(self, seconds: float) -> None:
        if seconds > 0:
            await self.base.sleep(seconds)

    def _stamp(self, phase: Phase) -> None:
        clock = self._clock()
        self.model.stamp(phase, clock.tsc(), clock.tsc_hz)

    def _clock(self) -> EmulatedClock:
        return EmulatedClock(
            self.base,
            kernel_started_s=self._started_s,
            powered_on_s=self._powered_s,
            tsc_hz=self._tsc_hz,
            epoch=self._epoch,
            rtc_grain_s=self._rtc_grain_s,
        )
