"""Kernel objects that userspace holds by descriptor: virtual machines, IOMMU address spaces, PCI devices.

A descriptor is one end of a socketpair. It can be duplicated and passed on like any other; the object is
known by the socket's inode, and the end of the last copy is seen at the other end.

Rules
1. Closing the last copy of a device's descriptor resets the device. An address space lives for as long as it
   is open or a device is attached to it.
2. In the states PREPARED and FROZEN no mapping changes, and no device is attached or detached: EBUSY. DMA
   through the mappings that are there goes on, and may be started and stopped.
3. A device that came in belongs to its token until FINISH: opening it is EBUSY.

Source: enum liveupdate_state of RFC v2 says of the prepared state that devices might not be unbound in it,
nor new DMA mappings be made; the calls' names and errors are include/uapi/linux/{iommufd,vfio,kvm}.h's.
"""

from __future__ import annotations

import errno
import fcntl
import os
import select
import socket
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from typing import TypeVar

from node_agent.kernel.emulated.files import Inode, PreservedFile, inode_of, seals_of
from node_agent.kernel.emulated.image import MEMFD_HANDLER
from node_agent.kernel.emulated.rfc2.hardware import MAP, REGION_BYTES, UNMAP, Hardware, PageTable
from node_agent.kernel.emulated.rfc2.memory import Memory
from node_agent.kernel.emulated.rfc2.object_kinds import (
    NOBODY,
    NOBODYS,
    DmaState,
    IoMapping,
    Iommufd,
    KernelObject,
    Kvm,
    KvmSlot,
    VfioDevice,
)
from node_agent.kernel.emulated.rfc2.states import LuoState

OPEN_IOMMU, OPEN_VFIO = "open(/dev/iommu)", "open(/dev/vfio/devices)"
ATTACH, DETACH = "VFIO_DEVICE_ATTACH_IOMMUFD_PT", "VFIO_DEVICE_DETACH_IOMMUFD_PT"
SET_MEMORY, VCPU = "KVM_SET_USER_MEMORY_REGION", "KVM_SET_REGS"
RETRIEVE = "liveupdate_file_ops.retrieve"

_READ_ONLY = fcntl.F_SEAL_WRITE | 0x10
"""F_SEAL_WRITE and F_SEAL_FUTURE_WRITE; Python 3.11 does not name the second."""

SETTLED = frozenset({LuoState.PREPARED, LuoState.FROZEN})
"""What is going to cross must stay as it was described."""


Handle = int | KernelObject
"""A descriptor, as userspace names an object; or the object, where the kernel was asked through its end."""

T = TypeVar("T", bound=KernelObject)
K = TypeVar("K")


class Objects:
    """All of one boot.

    Args:
        hardware: of the machine.
        memory: what came in, and goes out.
        state: LUO's; None if it is off.
    """

    def __init__(self, hardware: Hardware, memory: Memory, state: Callable[[], LuoState | None]) -> None:
        self.hardware = hardware
        self._memory = memory
        self._state = state
        self.on_descriptor: Callable[[KernelObject, socket.socket], None] = lambda _thing, _end: None
        """Told of each descriptor that userspace gets, with the kernel's end of it, by who serves those."""
        self._all: list[KernelObject] = []
        self._arrived: dict[int, Iommufd] = {}
        self._claims: dict[int, str] = {}

    # --- userspace's calls

    def open_iommufd(self) -> int:
        """open(/dev/iommu): a descriptor, the caller's."""
        return self.descriptor(self.add(Iommufd()))

    def open_vfio(self, address: str) -> int:
        """open(/dev/vfio/devices/…): a descriptor, the caller's. Raises OSError: ENODEV, EBUSY."""
        self.reap()
        device = self.hardware.device(address, OPEN_VFIO)
        if address in self._claims.values() or self._opened(address) is not None:
            raise OSError(errno.EBUSY, OPEN_VFIO)
        return self.descriptor(self.add(VfioDevice(pci=device)))

    def open_kvm(self) -> int:
        """KVM_CREATE_VM: a descriptor, the caller's."""
        return self.descriptor(self.add(Kvm()))

    def map(self, iommufd: Handle, iova: int, size_bytes: int, fd: int, offset: int = 0) -> None:
        """Map a range of a memory file, or of a device's own memory, at an I/O address. Raises OSError:
        EPERM (sealed against writing), EINVAL (no pages, or not the file's), EEXIST, EBUSY."""
        space = self.of(iommufd, Iommufd, MAP)
        self._may_change(MAP)
        device = self.find(fd)
        if isinstance(device, VfioDevice):
            mapping = IoMapping(iova, size_bytes, offset, device.inode, device.pci.address)
            pages, room = device.pci.region(), REGION_BYTES
        else:
            mapping = IoMapping(iova, size_bytes, offset, _memory_file(fd, MAP, but=_READ_ONLY))
            pages, room = fd, os.fstat(fd).st_size
        if offset + size_bytes > room:
            raise OSError(errno.EINVAL, MAP)
        space.table.map(iova, size_bytes, pages, offset)
        space.mappings[iova] = mapping

    def unmap(self, iommufd: Handle, iova: int) -> None:
        """Raises OSError: ENOENT, EBUSY."""
        space = self.of(iommufd, Iommufd, UNMAP)
        self._may_change(UNMAP)
        space.table.unmap(iova)
        del space.mappings[iova]

    def attach(self, vfio: Handle, iommufd: Handle) -> None:
        """Let the IOMMU translate the device's addresses by this address space. Raises OSError: EBUSY (it is
        attached, or LUO's state)."""
        device, space = self.of(vfio, VfioDevice, ATTACH), self.of(iommufd, Iommufd, ATTACH)
        self._may_change(ATTACH)
        if device.iommufd is not None:
            raise OSError(errno.EBUSY, ATTACH)
        device.iommufd, device.pci.table = space, space.table

    def detach(self, vfio: Handle) -> None:
        """Raises OSError: EINVAL (it is not attached), EBUSY."""
        device = self.of(vfio, VfioDevice, DETACH)
        self._may_change(DETACH)
        if device.iommufd is None:
            raise OSError(errno.EINVAL, DETACH)
        device.iommufd = device.pci.table = None

    def start_dma(self, vfio: Handle, iova: int, size_bytes: int) -> None:
        """Let the device write its sequence there, round and round. Raises OSError: EINVAL (no slots)."""
        device = self.of(vfio, VfioDevice, OPEN_VFIO).pci
        device.start(iova, size_bytes)
        device.bus_master = True

    def stop_dma(self, vfio: Handle) -> None:
        """Idempotent."""
        self.of(vfio, VfioDevice, OPEN_VFIO).pci.stop()

    def dma(self, vfio: Handle) -> DmaState:
        """What the device says of itself."""
        pci = self.of(vfio, VfioDevice, OPEN_VFIO).pci
        return DmaState(pci.running, pci.bus_master, pci.written, pci.faults)

    def set_memory(
        self, kvm: Handle, slot: int, guest_address: int, size_bytes: int, fd: int = -1, offset: int = 0
    ) -> None:
        """Guest memory of a slot, in place of what it was; 0 bytes for none. Raises OSError: EINVAL."""
        machine = self.of(kvm, Kvm, SET_MEMORY)
        new: KvmSlot | None = None
        if size_bytes:
            target = _memory_file(fd, SET_MEMORY)
            if min(size_bytes, guest_address, offset) < 0 or offset + size_bytes > os.fstat(fd).st_size:
                raise OSError(errno.EINVAL, SET_MEMORY)
            new = KvmSlot(guest_address, size_bytes, os.dup(fd), offset, target)
        old = machine.slots.pop(slot, None)
        if old is not None:
            os.close(old.fd)
        if new is not None:
            machine.slots[slot] = new

    def set_registers(self, kvm: Handle, vcpu: int, registers: Mapping[str, int]) -> None:
        """Makes the virtual CPU if there is none of that number."""
        self.of(kvm, Kvm, VCPU).vcpus[vcpu] = dict(registers)

    def kvm(self, kvm: Handle) -> Kvm:
        """The virtual machine as it is."""
        return self.of(kvm, Kvm, VCPU)

    # --- descriptors and lives

    def find(self, fd: int) -> KernelObject | None:
        """The object of a descriptor of userspace's, or a copy. Raises OSError(EBADF)."""
        status = os.fstat(fd)
        inode = status.st_dev, status.st_ino
        return next((it for it in self._all if it.end is not None and it.inode == inode), None)

    def of(self, handle: Handle, kind: type[T], call: str) -> T:
        """Raises OSError: EBADF, ENOTTY (no such object's)."""
        self.reap()
        found = self.find(handle) if isinstance(handle, int) else handle
        if not isinstance(found, kind):
            raise OSError(errno.ENOTTY, call)
        return found

    def add(self, thing: T) -> T:
        """An object that lives until it is closed."""
        self._all.append(thing)
        return thing

    def descriptor(self, thing: KernelObject) -> int:
        """Userspace's descriptor of it, the caller's."""
        userspace, thing.end = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        thing.inode = inode_of(userspace.fileno())
        self.on_descriptor(thing, thing.end)
        return userspace.detach()

    def reap(self) -> None:
        """See which descriptors are closed, and end what nobody holds any more."""
        for thing in self._all:
            if thing.end is not None and _hung_up(thing.end):
                thing.end.close()
                thing.end = None
        for thing in [it for it in self._all if it.end is None and not isinstance(it, Iommufd)]:
            self._end(thing)
        used = [it.iommufd for it in self._all if isinstance(it, VfioDevice)]
        for thing in [it for it in self._all if it.end is None and it not in used]:
            self._end(thing)

    def _end(self, thing: KernelObject) -> None:
        self._all.remove(thing)
        if isinstance(thing, VfioDevice):
            thing.pci.reset()
            self._revoke(thing.pci.address)
        self._arrived = {at: space for at, space in self._arrived.items() if space is not thing}
        _release(thing)

    def _revoke(self, address: str) -> None:
        """A device's own memory is gone with its descriptor: nobody writes to it any more."""
        for space in self._all:
            if isinstance(space, Iommufd):
                for mapping in [m for m in space.mappings.values() if m.device == address]:
                    space.table.unmap(mapping.iova)
                    del space.mappings[mapping.iova]

    def _opened(self, address: str) -> VfioDevice | None:
        devices = (it for it in self._all if isinstance(it, VfioDevice))
        return next((it for it in devices if it.pci.address == address), None)

    def _may_change(self, call: str) -> None:
        if self._state() in SETTLED:
            raise OSError(errno.EBUSY, call)

    # --- for handlers, and for the kernel's start and end

    def claim(self, vfio: Iterable[int]) -> None:
        """At boot: devices that came in, by their state's addresses, go on; every other one is reset."""
        for data in vfio:
            with suppress(OSError):  # a subtree that a failed freeze left behind points to nothing
                self._claims[data] = self._memory.blob(data)["device"]
        self.hardware.reset(but=set(self._claims.values()))

    def give_up(self, data: int, *, reclaimed: bool) -> None:
        """A device's token is finished: whoever has its descriptor keeps it; else it is reset."""
        address = self._claims.pop(data, "")
        if address and not reclaimed:
            self.hardware.device(address, OPEN_VFIO).reset()
            self._revoke(address)

    def arrived(self, data: int) -> Iommufd:
        """The address space that was kept there, one for whoever asks: its own token, and the devices that
        are attached to it. Raises OSError: EFAULT."""
        space = self._arrived.get(data)
        if space is None:
            told = self._memory.blob(data)
            mappings = {
                iova: IoMapping(
                    iova,
                    size_bytes,
                    offset,
                    NOBODY if device else at(self._memory, memfd, PreservedFile).inode,
                    device,
                )
                for iova, size_bytes, offset, memfd, device in told["mappings"]
            }
            table = at(self._memory, told["table"], PageTable)
            space = self._arrived[data] = self.add(Iommufd(table=table.hold(), mappings=mappings))
        return space

    def forget(self, data: int) -> None:
        """The token of an address space is finished; who uses it goes on."""
        self._arrived.pop(data, None)

    def needs(self, space: Iommufd) -> tuple[Inode, ...]:
        """The files that its mappings are of, as they are open now."""
        devices = {m.device: self._opened(m.device) for m in space.mappings.values() if m.device}
        return tuple(
            (devices[m.device] or NOBODYS).inode if m.device else m.target for m in space.mappings.values()
        )

    def memfd_kept_at(self, inode: Inode) -> int:
        """Where a prepared memory file is kept. Raises OSError: ENOENT."""
        for address in self._memory.addresses():
            kept = self._memory.at(address)
            if isinstance(kept, PreservedFile) and kept.inode == inode:
                return address
        raise OSError(errno.ENOENT, "liveupdate_file_ops.prepare")

    def shutdown(self) -> None:
        """Within reboot(KEXEC), past all refusals: devices that are not preserved are reset."""
        self.reap()
        self.hardware.reset(
            but={it.pci.address for it in self._all if isinstance(it, VfioDevice) and it.frozen}
        )

    def close(self) -> None:
        """The kernel is gone, and its objects with it; what hardware does is not its matter."""
        for thing in self._all:
            if thing.end is not None:
                thing.end.close()
            _release(thing)
        self._all, self._arrived, self._claims = [], {}, {}


def at(memory: Memory, address: int, kind: type[K]) -> K:
    """What is kept there. Raises OSError: EFAULT, nothing of the kind."""
    kept = memory.at(address)
    if not isinstance(kept, kind):
        raise OSError(errno.EFAULT, RETRIEVE)
    return kept


def _release(thing: KernelObject) -> None:
    """Give back what it holds itself."""
    match thing:
        case Iommufd():
            thing.table.close()
        case Kvm():
            while thing.slots:
                os.close(thing.slots.popitem()[1].fd)


def _memory_file(fd: int, call: str, *, but: int = 0) -> Inode:
    """Raises OSError: EINVAL for any other file, EPERM for one with one of these seals."""
    try:
        seals = seals_of(fd, (MEMFD_HANDLER,))
    except OSError as cause:
        raise OSError(errno.EBADF if cause.errno == errno.EBADF else errno.EINVAL, call) from cause
    if seals & but:
        raise OSError(errno.EPERM, call)
    return inode_of(fd)


def _hung_up(end: socket.socket) -> bool:
    poll = select.poll()
    poll.register(end, 0)
    return bool(poll.poll(0))
