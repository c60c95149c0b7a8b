"""A workload's device: it writes a sequence into memory of the workload's through the IOMMU, blackout or not.

The workload preserves the memory, the address space, the device and an eventfd in its session. The eventfd
counts the writes that the workload has been told of; suspend tells it last. So whoever resumes it can say
whether the device went on meanwhile, and whether everything that it counted landed.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass

from node_agent.errors import BrokerError, KernelError
from node_agent.kernel.emulated.rfc2.handlers_eventfd import eventfd_state
from node_agent.kernel.emulated.rfc2.hardware import lost
from node_agent.kernel.emulated.rfc2.objects import Objects
from node_agent.ports import Session

TOKENS = RING_TOKEN, IOMMUFD_TOKEN, VFIOFD_TOKEN, EVENTFD_TOKEN = 2, 3, 4, 5
"""In the workload's session, beside memory.MEMORY_TOKEN."""

RING_BYTES = 4096
"""512 slots: many blackouts' worth of an emulated device's writes, before it overwrites the first."""

IOVA = 0x10_0000


@dataclass(slots=True)
class WorkloadDevice:
    """The workload's four descriptors, its own."""

    ring: int
    iommufd: int
    vfiofd: int
    eventfd: int
    crossed: bool = False
    """It came out of a session in this boot, so there was a blackout without a kernel."""

    @classmethod
    def start(cls, objects: Objects, address: str) -> WorkloadDevice:
        """Let the device of this PCI address write. Raises BrokerError."""
        fds: list[int] = []
        try:
            fds.append(os.memfd_create("liveroll-ring", os.MFD_CLOEXEC))
            os.ftruncate(fds[0], RING_BYTES)
            fds.append(objects.open_iommufd())
            fds.append(objects.open_vfio(address))
            fds.append(os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK))
            device = cls._of(fds)
            objects.map(device.iommufd, IOVA, RING_BYTES, device.ring)
            objects.attach(device.vfiofd, device.iommufd)
            objects.start_dma(device.vfiofd, IOVA, RING_BYTES)
        except OSError as cause:
            for fd in fds:
                os.close(fd)
            raise BrokerError(
                f"device {address} cannot be used",
                reason="DEVICE_UNAVAILABLE",
                remedy=f"End whoever has {address} open, or leave it out of the node's devices.",
                device=address,
                errno=cause.errno,
            ) from cause
        return device

    @classmethod
    async def retrieve(cls, session: Session, fds: list[int]) -> WorkloadDevice | None:
        """What crossed in the session; None: it has no device. Raises KernelError.

        Args:
            fds: what was restored before, in the order of TOKENS, and gets what is restored now: a kernel may
                restore a file only once.
        """
        try:
            for token in TOKENS[len(fds) :]:
                fds.append(await session.retrieve_fd(token))
        except KernelError as error:
            if not fds and error.reason == "TOKEN_NOT_FOUND":
                return None
            raise
        device = cls._of(fds)
        device.crossed = True
        return device

    @classmethod
    def _of(cls, fds: Sequence[int]) -> WorkloadDevice:
        ring, iommufd, vfiofd, eventfd = fds
        return cls(ring, iommufd, vfiofd, eventfd)

    async def preserve(self, session: Session) -> None:
        """Raises KernelError. What the kernel has by then it gives up with the session."""
        for fd, token in zip(self.fds, TOKENS, strict=True):
            await session.preserve_fd(fd, token)

    @property
    def fds(self) -> Sequence[int]:
        """In the order of TOKENS."""
        return self.ring, self.iommufd, self.vfiofd, self.eventfd

    def suspend(self, objects: Objects) -> None:
        """From here on nobody looks at the device until landed()."""
        written = objects.dma(self.vfiofd).written
        os.eventfd_write(self.eventfd, written - self._told())
        self.crossed = False

    def landed(self, objects: Objects) -> bool:
        """Did the device go on, and is all that it counted in the memory, in order?"""
        state = objects.dma(self.vfiofd)
        went_on = state.running and state.written >= self._told() + self.crossed
        missing = lost(os.pread(self.ring, RING_BYTES, 0), state.written)
        return went_on and not state.faults and not missing

    def _told(self) -> int:
        state = eventfd_state(self.eventfd)
        return state.count if state is not None else 0

    def close(self) -> None:
        """Once: the last close resets the device."""
        for fd in self.fds:
            os.close(fd)
