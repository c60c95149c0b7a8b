"""What the kernel knows of each object that userspace holds by descriptor: iommufd, vfiofd, kvmfd."""

from __future__ import annotations

import socket
from dataclasses import dataclass, field

from node_agent.kernel.emulated.files import Inode
from node_agent.kernel.emulated.rfc2.hardware import PageTable, PciDevice

NOBODY: Inode = (0, 0)
"""No file's."""


@dataclass(slots=True, eq=False)
class KernelObject:
    """What every kind has. An object that came in may have no descriptor yet."""

    inode: Inode = NOBODY
    """Of userspace's descriptor."""
    end: socket.socket | None = None
    """The kernel's end, until the last copy of the other one is closed."""
    kept_at: int = 0
    """Where a prepared one's state is."""


NOBODYS = KernelObject()
"""A device's that nobody has open."""


@dataclass(frozen=True, slots=True)
class IoMapping:
    """One range of an address space. `target` is the file whose pages they are."""

    iova: int
    size_bytes: int
    offset: int
    target: Inode
    device: str = ""
    """The target is this device's own memory."""


@dataclass(slots=True, eq=False)
class Iommufd(KernelObject):
    """An IOMMU address space. The mappings are the kernel's book of what the table holds."""

    table: PageTable = field(default_factory=PageTable)
    mappings: dict[int, IoMapping] = field(default_factory=dict)


@dataclass(slots=True, eq=False)
class VfioDevice(KernelObject):
    """A PCI device that userspace drives."""

    pci: PciDevice = field(default_factory=lambda: PciDevice(""))
    iommufd: Iommufd | None = None
    frozen: bool = False
    """Its state is final and will be handed over: the shutdown leaves it alone."""


@dataclass(frozen=True, slots=True)
class KvmSlot:
    """Guest memory: a range of a memory file. The descriptor pins it, and is the object's own."""

    guest_address: int
    size_bytes: int
    fd: int
    offset: int
    target: Inode


@dataclass(slots=True, eq=False)
class Kvm(KernelObject):
    """A virtual machine."""

    slots: dict[int, KvmSlot] = field(default_factory=dict)
    vcpus: dict[int, dict[str, int]] = field(default_factory=dict)
    """Registers, by the number of the virtual CPU."""


@dataclass(frozen=True, slots=True)
class DmaState:
    """A device's registers, as its driver reads them."""

    running: bool
    bus_master: bool
    written: int
    faults: int
