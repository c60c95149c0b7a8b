"""A machine of RFC v2's time with devices, and workloads of all kinds on it, for tests."""

from __future__ import annotations

import errno
import itertools
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

import pytest

from node_agent.kernel.emulated.image import DEFAULT_COMMAND_LINE, EmulatedImage, ImageTable
from node_agent.kernel.emulated.machine import Machine
from node_agent.kernel.emulated.model import LuoModel
from node_agent.kernel.emulated.rfc2.hardware import PciDevice, lost
from node_agent.kernel.emulated.rfc2.kernel import Rfc2
from node_agent.kernel.emulated.rfc2.luo import Luo
from node_agent.kernel.emulated.rfc2.objects import Objects
from node_agent.kernel.faults import FaultPlan
from node_agent.ports import KexecImage

NIC, GPU = "0000:01:00.0", "0000:02:00.0"
PAGE = 4096
IOVA = 0x10_0000
RFC2 = EmulatedImage.rfc2("6.15-rfc-v2")


def open_fds() -> int:
    return len(os.listdir("/proc/self/fd"))


@contextmanager
def raises(*numbers: int) -> Iterator[None]:
    with pytest.raises(OSError) as caught:
        yield
    assert caught.value.errno in numbers, errno.errorcode[caught.value.errno or 0]


@dataclass
class Node:
    """One machine. What a test opens through it is closed by close(), which checks that nothing is left."""

    image: EmulatedImage = RFC2
    memory_bytes: int = 0
    faults: str = ""
    images: dict[str, EmulatedImage] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._fds_before = open_fds()
        self._open: list[int] = []
        numbers = itertools.count(1)
        self.model = LuoModel(
            self.image,
            new_boot_id=lambda: f"boot-{next(numbers)}",
            images=ImageTable(self.images, otherwise=self.image),
            faults=FaultPlan.parse(self.faults),
            machine=Machine(pci_devices=(NIC, GPU), memory_bytes=self.memory_bytes),
        )

    @property
    def rfc2(self) -> Rfc2:
        assert self.model.rfc2 is not None
        return self.model.rfc2

    @property
    def luo(self) -> Luo:
        return self.rfc2.the_luo("test")

    @property
    def objects(self) -> Objects:
        return self.rfc2.objects

    def pci(self, address: str = NIC) -> PciDevice:
        return self.model.hardware.devices[address]

    def mine(self, fd: int) -> int:
        """Close this descriptor at the end."""
        self._open.append(fd)
        return fd

    def close_now(self, *fds: int) -> None:
        for fd in fds:
            self._open.remove(fd)
            os.close(fd)

    def memfd(self, pages: int = 1) -> int:
        fd = self.mine(os.memfd_create("memory"))
        os.ftruncate(fd, pages * PAGE)
        return fd

    def eventfd(self, count: int = 0, flags: int = 0) -> int:
        fd = self.mine(os.eventfd(0, flags))
        if count:
            os.eventfd_write(fd, count)
        return fd

    def iommufd(self) -> int:
        return self.mine(self.objects.open_iommufd())

    def vfio(self, address: str = NIC) -> int:
        return self.mine(self.objects.open_vfio(address))

    def kvm(self) -> int:
        return self.mine(self.objects.open_kvm())

    def preserve(self, *fds: int) -> list[int]:
        return [self.luo.fd_preserve(fd) for fd in fds]

    def restore(self, *tokens: int) -> list[int]:
        return [self.mine(self.luo.fd_restore(token)) for token in tokens]

    def load(self, release: str = "next", command_line: str = DEFAULT_COMMAND_LINE) -> None:
        self.model.load(KexecImage("", "", command_line, release))

    def kexec(self, release: str = "next", *, legacy: bool = False) -> None:
        """Userspace dies, its descriptors with it; the next kernel is there."""
        self.model.load(KexecImage("", "", DEFAULT_COMMAND_LINE, release), legacy=legacy)
        self.model.freeze()
        self.close_now(*tuple(self._open))
        jump = self.model.jump()
        if jump.arrived:
            self.model.arrive()
        else:
            self.model.cold_boot()

    def close(self) -> None:
        """Nothing is left of anything."""
        while self._open:
            os.close(self._open.pop())
        self.model.power_off()
        assert not any(device.bus_master for device in self.model.hardware.devices.values())
        assert len(self.rfc2.memory) == 0
        assert open_fds() == self._fds_before


@dataclass
class Dma:
    """A device that writes into memory: three files that need each other, in no good order of tokens."""

    ring: int
    iommufd: int
    vfio: int

    @classmethod
    def start(cls, node: Node, address: str = NIC, pages: int = 1) -> Dma:
        ring, space, device = node.memfd(pages), node.iommufd(), node.vfio(address)
        node.objects.map(space, IOVA, pages * PAGE, ring)
        node.objects.attach(device, space)
        node.objects.start_dma(device, IOVA, pages * PAGE)
        return cls(ring, space, device)

    @property
    def files(self) -> Sequence[int]:
        return self.vfio, self.iommufd, self.ring

    def lost(self, node: Node) -> tuple[int, ...]:
        """Of what the device counted, what is not in the memory."""
        written = node.objects.dma(self.vfio).written
        return lost(os.pread(self.ring, os.fstat(self.ring).st_size, 0), written)


def again(fds: Sequence[int]) -> Dma:
    """What Dma.files was, restored."""
    vfio, space, ring = fds
    return Dma(ring, space, vfio)
