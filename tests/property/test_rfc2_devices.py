"""RFC v2's participants against a small model of theirs: whatever is opened, mapped, preserved and crossed,
in whatever order, memory holds exactly what devices wrote, a device stops exactly when nobody answers for it,
and nothing is left.
"""

from __future__ import annotations

import errno
import os
from dataclasses import dataclass, field
from typing import Any

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from node_agent.kernel.emulated.rfc2.handlers_eventfd import eventfd_state
from node_agent.kernel.emulated.rfc2.hardware import BOOT_WRITES, PURGATORY_WRITES, SHUTDOWN_WRITES
from node_agent.kernel.emulated.rfc2.states import LuoState
from tests.unit.kernel.rfc2.participants import GPU, NIC, PAGE, Node, raises

NORMAL, PREPARED, FROZEN, UPDATED = LuoState
SLOTS = 8
IOVAS = (0x1000, 0x2000)
PAGES = 2


@dataclass(eq=False)
class File:
    fd: int = -1
    token: int = -1
    """Of LUO's, while it is registered or came in."""


@dataclass(eq=False)
class MemoryFile(File):
    content: bytearray = field(default_factory=lambda: bytearray(PAGES * PAGE))


@dataclass(eq=False)
class Space(File):
    maps: dict[int, tuple[MemoryFile, int]] = field(default_factory=dict)


@dataclass(eq=False)
class Device(File):
    address: str = ""
    space: Space | None = None
    running: bool = False
    iova: int = 0
    written: int = 0

    def write(self, times: int) -> None:
        """What the hardware should do."""
        for _ in range(times if self.running else 0):
            at = self.iova + self.written % SLOTS * 8
            self.written += 1
            page = self.space.maps.get(at // PAGE * PAGE) if self.space is not None else None
            if page is not None:
                memory, offset = page
                where = offset + at % PAGE
                memory.content[where : where + 8] = self.written.to_bytes(8, "little")


@dataclass(eq=False)
class Event(File):
    count: int = 0


@dataclass(eq=False)
class Machine(File):
    memory: MemoryFile | None = None
    registers: dict[str, int] = field(default_factory=dict)


class Participants(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.node = Node()
        self.files: list[File] = []
        """Open in this boot."""
        self.coming: list[File] = []
        """Came in, and are not restored."""
        self.crossed: list[File] = []
        """All that came in and is not finished."""
        self.state = NORMAL

    # --- helpers

    def some(self, kind: type[File], pick: int) -> Any:
        found = [file for file in self.files if isinstance(file, kind)]
        return found[pick % len(found)] if found else None

    def expect(self, number: int, call: Any, *arguments: Any) -> Any:
        """The call's answer; it must fail with that errno if there is one."""
        if not number:
            return call(*arguments)
        with raises(number):
            call(*arguments)
        return None

    @property
    def settled(self) -> bool:
        return self.state in (PREPARED, FROZEN)

    @property
    def devices(self) -> list[Device]:
        """All that is known to be driven by somebody, or to wait for being so."""
        found = {*self.files, *self.coming}
        return [file for file in found if isinstance(file, Device)]

    # --- userspace

    @rule()
    def open_memory(self) -> None:
        self.files.append(MemoryFile(self.node.memfd(PAGES)))

    @rule(count=st.integers(0, 3))
    def open_event(self, count: int) -> None:
        self.files.append(Event(self.node.eventfd(count, os.EFD_NONBLOCK), count=count))

    @rule()
    def open_space(self) -> None:
        self.files.append(Space(self.node.iommufd()))

    @rule(address=st.sampled_from((NIC, GPU)))
    def open_device(self, address: str) -> None:
        taken = any(device.address == address for device in self.devices)
        taken |= any(isinstance(file, Device) and file.address == address for file in self.crossed)
        fd = self.expect(errno.EBUSY if taken else 0, self.node.objects.open_vfio, address)
        if fd is not None:
            self.files.append(Device(self.node.mine(fd), address=address))

    @precondition(lambda self: not self.settled)
    @rule(address=st.sampled_from((NIC, GPU)))
    def open_all(self, address: str) -> None:
        """What takes many steps to come about by chance: a device that writes."""
        before = len(self.files)
        self.open_device(address)
        if len(self.files) > before:
            self.open_memory()
            self.open_space()
            device, memory, space = self.files[before:]
            assert isinstance(device, Device)
            assert isinstance(memory, MemoryFile)
            assert isinstance(space, Space)
            self.node.objects.map(space.fd, IOVAS[0], PAGE, memory.fd, PAGE)
            self.node.objects.attach(device.fd, space.fd)
            self.node.objects.start_dma(device.fd, IOVAS[0], SLOTS * 8)
            space.maps[IOVAS[0]], device.space = (memory, PAGE), space
            device.running, device.iova = True, IOVAS[0]

    @rule(memory=st.integers(0, 9))
    def open_machine(self, memory: int) -> None:
        machine = Machine(self.node.kvm(), memory=self.some(MemoryFile, memory))
        if machine.memory is not None and not self.settled:
            self.node.objects.set_memory(machine.fd, 0, 0, PAGE, machine.memory.fd)
        else:
            machine.memory = None
        self.files.append(machine)

    @rule(pick=st.integers(0, 9), value=st.integers(0, 9))
    def run_machine(self, pick: int, value: int) -> None:
        machine = self.some(Machine, pick)
        if machine is not None:
            machine.registers = {"rax": value}
            self.node.objects.set_registers(machine.fd, 0, machine.registers)

    @rule(pick=st.integers(0, 9))
    def signal(self, pick: int) -> None:
        event = self.some(Event, pick)
        if event is not None:
            os.eventfd_write(event.fd, 1)
            event.count += 1

    @rule(a=st.integers(0, 9), b=st.integers(0, 9), iova=st.sampled_from(IOVAS), page=st.integers(0, 1))
    def map(self, a: int, b: int, iova: int, page: int) -> None:
        space, memory = self.some(Space, a), self.some(MemoryFile, b)
        if space is None or memory is None:
            return
        number = errno.EBUSY if self.settled else errno.EEXIST if iova in space.maps else 0
        self.expect(number, self.node.objects.map, space.fd, iova, PAGE, memory.fd, page * PAGE)
        if not number:
            space.maps[iova] = memory, page * PAGE

    @rule(a=st.integers(0, 9), iova=st.sampled_from(IOVAS))
    def unmap(self, a: int, iova: int) -> None:
        space = self.some(Space, a)
        if space is not None:
            number = errno.EBUSY if self.settled else 0 if iova in space.maps else errno.ENOENT
            self.expect(number, self.node.objects.unmap, space.fd, iova)
            if not number:
                del space.maps[iova]

    @rule(a=st.integers(0, 9), b=st.integers(0, 9))
    def attach(self, a: int, b: int) -> None:
        device, space = self.some(Device, a), self.some(Space, b)
        if device is None or space is None:
            return
        number = errno.EBUSY if self.settled or device.space is not None else 0
        self.expect(number, self.node.objects.attach, device.fd, space.fd)
        if not number:
            device.space = space

    @rule(a=st.integers(0, 9))
    def detach(self, a: int) -> None:
        device = self.some(Device, a)
        if device is not None:
            number = errno.EBUSY if self.settled else errno.EINVAL if device.space is None else 0
            self.expect(number, self.node.objects.detach, device.fd)
            if not number:
                device.space = None

    @rule(a=st.integers(0, 9), iova=st.sampled_from(IOVAS))
    def start(self, a: int, iova: int) -> None:
        device = self.some(Device, a)
        if device is not None:
            self.node.objects.start_dma(device.fd, iova, SLOTS * 8)
            device.running, device.iova, device.written = True, iova, 0

    @rule(a=st.integers(0, 9))
    def stop(self, a: int) -> None:
        device = self.some(Device, a)
        if device is not None:
            self.node.objects.stop_dma(device.fd)
            device.running = False

    @rule(writes=st.integers(1, 5))
    def time_goes_by(self, writes: int) -> None:
        self.node.model.hardware.run(writes)
        for device in self.devices:
            device.write(writes)

    @rule(pick=st.integers(0, 99))
    def close(self, pick: int) -> None:
        """Of a file that LUO has, and of an address space that a device uses, only the descriptor goes."""
        file = self.some(File, pick)
        if file is not None and file.token < 0:
            self.files.remove(file)
            self.node.close_now(file.fd)
            self.node.objects.reap()

    # --- LUO

    @rule(pick=st.integers(0, 99))
    def preserve(self, pick: int) -> None:
        file = self.some(File, pick)
        if file is not None:
            number = errno.EBUSY if self.state is not NORMAL else errno.EEXIST if file.token >= 0 else 0
            token = self.expect(number, self.node.luo.fd_preserve, file.fd)
            if token is not None:
                file.token = token

    @rule()
    def preserve_all(self) -> None:
        if self.state is NORMAL:
            for file in self.files:
                if file.token < 0:
                    file.token = self.node.luo.fd_preserve(file.fd)

    @rule(pick=st.integers(0, 99))
    def unpreserve(self, pick: int) -> None:
        file = self.some(File, pick)
        if file is not None and self.state is not UPDATED:
            number = errno.EBUSY if self.state is not NORMAL else 0 if file.token >= 0 else errno.ENOENT
            self.expect(number, self.node.luo.fd_unpreserve, file.token if file.token >= 0 else 10**6)
            if not number:
                file.token = -1

    @rule()
    def prepare(self) -> None:
        registered = [file for file in self.files if file.token >= 0]
        needs: list[File | None] = []
        for file in registered:
            if isinstance(file, Space):
                needs += [memory for memory, _ in file.maps.values()]
            elif isinstance(file, Device):
                needs += [file.space] if file.space is not None else []
            elif isinstance(file, Machine):
                needs += [file.memory] if file.memory is not None else []
        missing = any(need not in registered for need in needs)
        number = errno.EINVAL if self.state is not NORMAL else errno.ENOENT if missing else 0
        self.expect(number, self.node.luo.prepare)
        if not number:
            self.state = PREPARED

    @rule()
    def freeze(self) -> None:
        self.expect(0 if self.state is PREPARED else errno.EINVAL, self.node.luo.freeze)
        if self.state is PREPARED:
            self.state = FROZEN
            self.at_freeze()

    @rule()
    def cancel(self) -> None:
        self.expect(0 if self.settled else errno.EINVAL, self.node.luo.cancel)
        if self.settled:
            self.state = NORMAL

    def at_freeze(self) -> None:
        self.frozen = {f: f.count for f in self.files if isinstance(f, Event)}
        self.registers = {f: f.registers for f in self.files if isinstance(f, Machine)}

    @precondition(lambda self: self.files)
    @rule(really=st.sampled_from((False, False, False, True)))
    def kexec(self, really: bool) -> None:
        """Not too often: what a plain one loses had better be something."""
        if really:
            self.jump()

    def jump(self) -> None:
        if self.state is PREPARED:
            self.at_freeze()
        crossing = [file for file in self.files if file.token >= 0 and self.settled]
        self.node.kexec()
        for file in crossing:
            if isinstance(file, Device):
                file.write(SHUTDOWN_WRITES + PURGATORY_WRITES + BOOT_WRITES)
            elif isinstance(file, Event):
                file.count = self.frozen[file]
            elif isinstance(file, Machine):
                file.registers = self.registers[file]
        self.state = UPDATED if self.settled else NORMAL
        self.files, self.coming, self.crossed = [], crossing, list(crossing)

    @precondition(lambda self: self.state is NORMAL)
    @rule(but=st.integers(0, 30), cancelled=st.booleans())
    def live_update(self, but: int, cancelled: bool) -> None:
        """The saga's way, perhaps without one of the files; perhaps unwound in the last moment."""
        for address in (NIC, GPU):
            self.open_all(address)
        self.open_event(1)
        self.open_machine(but)
        self.preserve_all()
        if but < len(self.files):
            self.unpreserve(but)
        self.prepare()
        self.signal(but)
        self.run_machine(but, but)
        if cancelled and self.state is PREPARED:
            self.freeze()
            self.cancel()
        self.jump()

    @precondition(lambda self: self.coming)
    @rule(pick=st.integers(0, 99))
    def restore(self, pick: int) -> None:
        file = self.coming.pop(pick % len(self.coming))
        file.fd = self.node.mine(self.node.luo.fd_restore(file.token))
        self.expect(errno.EINVAL, self.node.luo.fd_restore, file.token)
        file.token = -1
        self.files.append(file)

    @precondition(lambda self: self.coming)
    @rule(backwards=st.booleans())
    def restore_all(self, backwards: bool) -> None:
        while self.coming:
            self.restore(-1 if backwards else 0)

    @rule()
    def finish(self) -> None:
        self.expect(0 if self.state is UPDATED else errno.EINVAL, self.node.luo.finish)
        if self.state is UPDATED:
            self.state = NORMAL
            self.coming, self.crossed = [], []
            assert len(self.node.rfc2.memory) == 0

    # --- what holds

    @invariant()
    def it_is_as_the_model_says(self) -> None:
        assert self.node.luo.state is self.state
        for file in self.files:
            match file:
                case MemoryFile():
                    assert os.pread(file.fd, PAGES * PAGE, 0) == file.content
                case Device():
                    state = self.node.objects.dma(file.fd)
                    assert (state.running, state.written) == (file.running, file.written)
                case Event():
                    state_now = eventfd_state(file.fd)
                    assert state_now is not None
                    assert state_now.count == file.count
                case Machine():
                    vcpus = self.node.objects.kvm(file.fd).vcpus
                    assert vcpus == ({0: file.registers} if file.registers else {})
        for device in self.devices:
            assert self.node.pci(device.address).written == device.written
        driven = {device.address for device in self.devices if device.running}
        for address in (NIC, GPU):
            pci = self.node.pci(address)
            assert (pci.running and pci.bus_master) == (address in driven)

    @invariant()
    def what_is_kept_is_what_luo_has(self) -> None:
        files = self.crossed
        if self.settled:
            files = [file for file in self.files if file.token >= 0]
        pages = sum(2 if isinstance(file, Space) else 1 for file in files)
        assert len(self.node.rfc2.memory) == pages

    def teardown(self) -> None:
        self.node.close()


TestParticipants = Participants.TestCase
TestParticipants.settings = settings(max_examples=150, stateful_step_count=40)
