"""Handlers of the kernel's own objects: kvmfd, iommufd, vfiofd.

What crosses of each is a page of plain values, which names other files by where LUO keeps them; of an address
space also its table, which the hardware walks meanwhile; of a device the device itself, which is only told
not to stop.

Rules
1. A virtual machine and an address space need the memory files that they are made of, an address space the
   devices whose own memory it maps, a device the address space that it is attached to. So memfd comes before
   iommufd, and iommufd before vfiofd; an address space that maps the memory of one of its own devices is a
   cycle.
2. A device whose state is frozen is left alone by the shutdown. Undoing that is all that cancel does to it.
3. Finished without having been restored: a device is reset, the rest is freed.

Source: the participants and their order are the seed thread's; RFC v2 itself brought none of these three.
"""

from __future__ import annotations

import errno
import os

from node_agent.kernel.emulated.files import Inode, PreservedFile
from node_agent.kernel.emulated.rfc2.memory import Blob, Keepable, Memory
from node_agent.kernel.emulated.rfc2.object_kinds import NOBODY, Iommufd, Kvm, KvmSlot, VfioDevice
from node_agent.kernel.emulated.rfc2.objects import OPEN_VFIO, Objects, at

PREPARE = "liveupdate_file_ops.prepare"

VFIOFD = "vfiofd"


class KvmHandler:
    """Virtual machines: registers may change until freeze."""

    compatible = "kvmfd-v1"
    kind = "kvmfd"

    def __init__(self, memory: Memory, objects: Objects) -> None:
        self._memory, self._objects = memory, objects

    def can_preserve(self, fd: int) -> bool:
        return isinstance(self._objects.find(fd), Kvm)

    def depends_on(self, fd: int) -> tuple[Inode, ...]:
        return tuple(slot.target for slot in self._kvm(fd).slots.values())

    def prepare(self, fd: int) -> int:
        return self._memory.keep(self._state(fd))

    def freeze(self, fd: int, data: int) -> int:
        kept, now = at(self._memory, data, Blob), self._state(fd)
        kept.value, kept.points_to = now.value, now.points_to
        return data

    def cancel(self, fd: int, data: int) -> None:
        self._memory.free(data)

    def retrieve(self, data: int) -> int:
        told = self._memory.blob(data)
        files = {row[0]: at(self._memory, row[4], PreservedFile) for row in told["slots"]}
        machine = self._objects.add(Kvm())
        for slot, guest_address, size_bytes, offset, _ in told["slots"]:
            file = files[slot]
            machine.slots[slot] = KvmSlot(guest_address, size_bytes, os.dup(file.fd), offset, file.inode)
        machine.vcpus.update((number, dict(registers)) for number, registers in told["vcpus"])
        return self._objects.descriptor(machine)

    def finish(self, data: int, *, reclaimed: bool) -> None:
        self._memory.free(data)

    def _kvm(self, fd: int) -> Kvm:
        return self._objects.of(fd, Kvm, PREPARE)

    def _state(self, fd: int) -> Blob:
        """Raises OSError: ENOENT, a memory file of it is not kept (any more, if it changed)."""
        machine = self._kvm(fd)
        slots = [
            [number, s.guest_address, s.size_bytes, s.offset, self._objects.memfd_kept_at(s.target)]
            for number, s in machine.slots.items()
        ]
        vcpus = [[number, dict(registers)] for number, registers in machine.vcpus.items()]
        return Blob({"slots": slots, "vcpus": vcpus}, points_to=[slot[-1] for slot in slots])


class IommufdHandler:
    """Address spaces: the book of the mappings, and the table."""

    compatible = "iommufd-v1"
    kind = "iommufd"

    def __init__(self, memory: Memory, objects: Objects) -> None:
        self._memory, self._objects = memory, objects

    def can_preserve(self, fd: int) -> bool:
        return isinstance(self._objects.find(fd), Iommufd)

    def depends_on(self, fd: int) -> tuple[Inode, ...]:
        return self._objects.needs(self._space(fd))

    def prepare(self, fd: int) -> int:
        space = self._space(fd)
        rows = [
            (m, 0 if m.device else self._objects.memfd_kept_at(m.target)) for m in space.mappings.values()
        ]
        table = self._memory.keep(self.table(space))
        told = {
            "table": table,
            "mappings": [[m.iova, m.size_bytes, m.offset, memfd, m.device] for m, memfd in rows],
        }
        points_to = [table, *(memfd for _, memfd in rows if memfd)]
        try:
            space.kept_at = self._memory.keep(Blob(told, points_to))
        except OSError:
            self._memory.free(table)
            raise
        return space.kept_at

    def freeze(self, fd: int, data: int) -> int:
        return data  # no mapping has changed since prepare

    def cancel(self, fd: int, data: int) -> None:
        self._space(fd).kept_at = 0
        self._free(data)

    def retrieve(self, data: int) -> int:
        return self._objects.descriptor(self._objects.arrived(data))

    def finish(self, data: int, *, reclaimed: bool) -> None:
        self._objects.forget(data)
        self._free(data)

    def table(self, space: Iommufd) -> Keepable:
        """What is kept for the hardware to walk."""
        return space.table.hold()

    def _space(self, fd: int) -> Iommufd:
        return self._objects.of(fd, Iommufd, PREPARE)

    def _free(self, data: int) -> None:
        self._memory.free(self._memory.blob(data)["table"])
        self._memory.free(data)


class VfioHandler:
    """Devices. What one does meanwhile it does by itself."""

    compatible = "vfiofd-v1"
    kind = VFIOFD

    def __init__(self, memory: Memory, objects: Objects) -> None:
        self._memory, self._objects = memory, objects

    def can_preserve(self, fd: int) -> bool:
        return isinstance(self._objects.find(fd), VfioDevice)

    def depends_on(self, fd: int) -> tuple[Inode, ...]:
        space = self._device(fd).iommufd
        return (space.inode if space.end is not None else NOBODY,) if space is not None else ()

    def prepare(self, fd: int) -> int:
        device = self._device(fd)
        if device.iommufd is not None and not device.iommufd.kept_at:
            raise OSError(errno.ENOENT, PREPARE)
        space = device.iommufd.kept_at if device.iommufd is not None else 0
        return self._memory.keep(
            Blob({"device": device.pci.address, "iommufd": space}, points_to=[space] if space else [])
        )

    def freeze(self, fd: int, data: int) -> int:
        self._device(fd).frozen = True
        return data

    def cancel(self, fd: int, data: int) -> None:
        self._device(fd).frozen = False
        self._memory.free(data)

    def retrieve(self, data: int) -> int:
        told = self._memory.blob(data)
        pci = self._objects.hardware.device(told["device"], OPEN_VFIO)
        space = self._objects.arrived(told["iommufd"]) if told["iommufd"] else None
        return self._objects.descriptor(self._objects.add(VfioDevice(pci=pci, iommufd=space)))

    def finish(self, data: int, *, reclaimed: bool) -> None:
        self._objects.give_up(data, reclaimed=reclaimed)
        self._memory.free(data)

    def _device(self, fd: int) -> VfioDevice:
        return self._objects.of(fd, VfioDevice, PREPARE)
