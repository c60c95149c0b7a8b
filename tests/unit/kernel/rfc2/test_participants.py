"""The seed's participants, one by one: what each handler takes, keeps, gives back and frees."""

from __future__ import annotations

import array
import errno
import json
import os
import select
import socket
from collections.abc import Callable, Iterator

import pytest

from node_agent.kernel.emulated.rfc2.handlers_eventfd import EventfdState, eventfd_state
from node_agent.kernel.emulated.rfc2.memory import Blob
from node_agent.kernel.emulated.rfc2.object_kinds import KernelObject
from tests.unit.kernel.rfc2.participants import GPU, IOVA, NIC, PAGE, Dma, Node, again, open_fds, raises


@pytest.fixture
def node() -> Iterator[Node]:
    node = Node()
    yield node
    node.close()


def test_each_kind_has_its_handler(node: Node) -> None:
    """The seed thread: "it should only support participants that are related to live update:
    iommufd/vfiofd/kvmfd/memfd/eventfd"."""
    dma, kvm = Dma.start(node), node.kvm()
    fds = {
        "memfd": dma.ring, "eventfd": node.eventfd(), "kvmfd": kvm, "iommufd": dma.iommufd, "vfiofd": dma.vfio
    }  # fmt: skip
    for kind, fd in fds.items():
        token = node.luo.fd_preserve(fd)
        assert node.rfc2.files.outgoing[token].handler.kind == kind
    handlers = node.rfc2.files.handlers
    for kind, fd in fds.items():
        assert [handler.kind for handler in handlers if handler.can_preserve(fd)] == [kind]
    assert len({handler.compatible for handler in handlers}) == len(fds)


def pipe() -> tuple[int, ...]:
    return os.pipe()


def sockets() -> tuple[int, ...]:
    return tuple(end.detach() for end in socket.socketpair())


def regular_file() -> tuple[int, ...]:
    return (os.open(__file__, os.O_RDONLY),)


def directory() -> tuple[int, ...]:
    return (os.open(os.path.dirname(__file__), os.O_RDONLY),)


def device_file() -> tuple[int, ...]:
    return (os.open("/dev/null", os.O_RDONLY),)


@pytest.mark.parametrize("make", [pipe, sockets, regular_file, directory, device_file])
def test_no_handler_takes_another_kind_of_file(node: Node, make: Callable[[], tuple[int, ...]]) -> None:
    for fd in [node.mine(fd) for fd in make()]:
        with raises(errno.ENOENT):
            node.luo.fd_preserve(fd)
    assert node.luo.fd_preserve(node.eventfd()) == 0


def test_a_file_is_preserved_once_however_it_was_duplicated(node: Node) -> None:
    dma = Dma.start(node)
    files = [*dma.files, node.eventfd(), node.kvm()]
    node.preserve(*files)
    for fd in files:
        with raises(errno.EEXIST):
            node.luo.fd_preserve(node.mine(os.dup(fd)))


def test_a_closed_descriptor_is_no_file(node: Node) -> None:
    fd = os.dup(node.kvm())
    os.close(fd)
    with raises(errno.EBADF):
        node.luo.fd_preserve(fd)
    for call in (node.objects.kvm, node.objects.dma):
        with raises(errno.EBADF):
            call(fd)


def test_a_descriptor_of_an_earlier_boot_is_no_objects(node: Node) -> None:
    old = os.dup(node.vfio())
    node.kexec()
    with raises(errno.ENOTTY):
        node.objects.dma(old)
    with raises(errno.ENOENT):
        node.luo.fd_preserve(old)
    os.close(old)


def test_an_objects_calls_are_its_own(node: Node) -> None:
    dma, kvm = Dma.start(node), node.kvm()
    objects = node.objects
    for call in (
        lambda: objects.dma(dma.iommufd),
        lambda: objects.start_dma(kvm, IOVA, PAGE),
        lambda: objects.attach(dma.vfio, kvm),
        lambda: objects.map(dma.vfio, IOVA, PAGE, dma.ring),
        lambda: objects.set_registers(dma.ring, 0, {}),
    ):
        with raises(errno.ENOTTY):
            call()


# --- eventfd


@pytest.mark.parametrize("flags", [0, os.EFD_SEMAPHORE, os.EFD_NONBLOCK, os.EFD_SEMAPHORE | os.EFD_NONBLOCK])
@pytest.mark.parametrize("count", [0, 3, 2**64 - 2])
def test_an_eventfd_crosses_with_count_and_flags(node: Node, count: int, flags: int) -> None:
    event = node.eventfd(count, flags)
    (token,) = node.preserve(event)
    node.luo.prepare()
    node.kexec()
    (event,) = node.restore(token)
    assert eventfd_state(event) == EventfdState(
        count, bool(flags & os.EFD_SEMAPHORE), bool(flags & os.EFD_NONBLOCK)
    )
    if count == 3:
        assert os.eventfd_read(event) == (1 if flags & os.EFD_SEMAPHORE else 3)
    if flags & os.EFD_NONBLOCK and not count:
        with raises(errno.EAGAIN):
            os.eventfd_read(event)
    node.luo.finish()


def test_what_is_signalled_until_freeze_is_in_the_count(node: Node) -> None:
    event = node.eventfd(1)
    (token,) = node.preserve(event)
    node.luo.prepare()
    os.eventfd_write(event, 6)
    node.luo.freeze()
    os.eventfd_write(event, 100)
    node.kexec()
    (event,) = node.restore(token)
    assert os.eventfd_read(event) == 7


def test_the_new_eventfd_is_not_the_old_one(node: Node) -> None:
    """Whoever held on to the old one signals into the void."""
    old = os.eventfd(0)
    (token,) = node.preserve(old)
    node.luo.prepare()
    node.kexec()
    (new,) = node.restore(token)
    os.eventfd_write(old, 9)
    os.close(old)
    state = eventfd_state(new)
    assert state is not None
    assert state.count == 0


def test_two_eventfds_are_two_files(node: Node) -> None:
    """All eventfds share one inode."""
    tokens = node.preserve(node.eventfd(1), node.eventfd(2))
    node.luo.prepare()
    node.kexec()
    assert [os.eventfd_read(fd) for fd in node.restore(*tokens)] == [1, 2]


def test_a_cancelled_eventfd_goes_on(node: Node) -> None:
    event = node.eventfd(4)
    node.preserve(event)
    node.luo.prepare()
    node.luo.cancel()
    assert len(node.rfc2.memory) == 0
    assert os.eventfd_read(event) == 4


def test_other_anonymous_files_are_no_eventfds(node: Node) -> None:
    with select.epoll() as epoll:
        assert eventfd_state(epoll.fileno()) is None
        with raises(errno.ENOENT):
            node.luo.fd_preserve(epoll.fileno())


# --- kvmfd


def test_a_virtual_machine_crosses_with_memory_and_registers(node: Node) -> None:
    guest, rom, kvm = node.memfd(4), node.memfd(), node.kvm()
    node.objects.set_memory(kvm, 0, 0, 2 * PAGE, guest, 2 * PAGE)
    node.objects.set_memory(kvm, 1, 0xF000_0000, PAGE, rom)
    node.objects.set_registers(kvm, 0, {"rip": 0x1000, "rax": 1})
    tokens = node.preserve(kvm, rom, guest)
    node.luo.prepare()
    assert node.objects.kvm(kvm).slots[0].offset == 2 * PAGE
    node.objects.set_registers(kvm, 0, {"rip": 0x2000, "rax": 2})
    node.objects.set_registers(kvm, 1, {"rip": 0x3000})
    os.pwrite(guest, b"guest", 2 * PAGE)
    node.kexec()
    kvm, rom, guest = node.restore(*tokens)
    machine = node.objects.kvm(kvm)
    assert machine.vcpus == {0: {"rip": 0x2000, "rax": 2}, 1: {"rip": 0x3000}}
    slots = {n: (s.guest_address, s.size_bytes, s.offset) for n, s in machine.slots.items()}
    assert slots == {0: (0, 2 * PAGE, 2 * PAGE), 1: (0xF000_0000, PAGE, 0)}
    assert os.pread(machine.slots[0].fd, 5, 2 * PAGE) == b"guest"
    assert [s.target for s in machine.slots.values()] == [
        (os.fstat(fd).st_dev, os.fstat(fd).st_ino) for fd in (guest, rom)
    ]
    node.luo.finish()
    # And back again.
    tokens = node.preserve(kvm, rom, guest)
    node.luo.prepare()
    node.kexec("back")
    kvm, rom, guest = node.restore(*tokens)
    assert node.objects.kvm(kvm).vcpus[1] == {"rip": 0x3000}


def test_guest_memory_is_a_memory_files(node: Node) -> None:
    kvm, guest = node.kvm(), node.memfd()
    for size_bytes, fd, offset in (
        (PAGE, node.eventfd(), 0),
        (2 * PAGE, guest, 0),
        (PAGE, guest, PAGE),
        (PAGE, guest, -PAGE),
        (-PAGE, guest, 0),
    ):
        with raises(errno.EINVAL):
            node.objects.set_memory(kvm, 0, 0, size_bytes, fd, offset)
    with raises(errno.EBADF):
        node.objects.set_memory(kvm, 0, 0, PAGE, -1)


def test_a_slot_may_be_replaced_and_removed(node: Node) -> None:
    kvm, guest = node.kvm(), node.memfd()
    before = open_fds()
    node.objects.set_memory(kvm, 0, 0, PAGE, guest)
    node.objects.set_memory(kvm, 0, PAGE, PAGE, guest)
    assert open_fds() == before + 1
    node.objects.set_memory(kvm, 0, 0, 0)
    node.objects.set_memory(kvm, 5, 0, 0)
    assert node.objects.kvm(kvm).slots == {}
    assert open_fds() == before


def test_memory_that_was_added_after_prepare_refuses_the_freeze(node: Node) -> None:
    """It is not preserved: the guest would lose it."""
    kvm = node.kvm()
    node.preserve(kvm)
    node.luo.prepare()
    node.objects.set_memory(kvm, 0, 0, PAGE, node.memfd())
    with raises(errno.ENOENT):
        node.luo.freeze()
    assert str(node.luo.state) == "normal"
    assert len(node.rfc2.memory) == 0


# --- iommufd and vfiofd


@pytest.mark.parametrize(
    ("iova", "size_bytes", "offset"),
    [(1, PAGE, 0), (0, PAGE - 1, 0), (0, 0, 0), (0, PAGE, 8), (0, 3 * PAGE, 0), (0, PAGE, 2 * PAGE),
     (-PAGE, PAGE, 0), (0, -PAGE, 0), (0, PAGE, -PAGE)],
)  # fmt: skip
def test_a_mapping_is_of_whole_pages_of_the_file(node: Node, iova: int, size_bytes: int, offset: int) -> None:
    with raises(errno.EINVAL):
        node.objects.map(node.iommufd(), iova, size_bytes, node.memfd(2), offset)


def test_mappings_do_not_overlap(node: Node) -> None:
    space, memory = node.iommufd(), node.memfd(4)
    node.objects.map(space, IOVA, 2 * PAGE, memory)
    for iova, size_bytes in ((IOVA, PAGE), (IOVA + PAGE, PAGE), (IOVA - PAGE, 2 * PAGE), (0, 2 * IOVA)):
        with raises(errno.EEXIST, errno.EINVAL):
            node.objects.map(space, iova, size_bytes, memory)
    node.objects.map(space, IOVA + 2 * PAGE, PAGE, memory, 2 * PAGE)
    with raises(errno.ENOENT):
        node.objects.unmap(space, IOVA + PAGE)
    node.objects.unmap(space, IOVA)
    node.objects.map(space, IOVA, PAGE, memory)


def test_only_memory_can_be_mapped(node: Node) -> None:
    space = node.iommufd()
    for fd in (node.eventfd(), node.kvm(), space):
        with raises(errno.EINVAL):
            node.objects.map(space, IOVA, PAGE, fd)
    with raises(errno.EBADF):
        node.objects.map(space, IOVA, PAGE, -1)


def test_a_device_is_opened_once_and_attached_once(node: Node) -> None:
    dma = Dma.start(node)
    with raises(errno.EBUSY):
        node.vfio(NIC)
    with raises(errno.ENODEV):
        node.vfio("0000:09:00.0")
    with raises(errno.EBUSY):
        node.objects.attach(dma.vfio, dma.iommufd)
    node.objects.detach(dma.vfio)
    with raises(errno.EINVAL):
        node.objects.detach(dma.vfio)
    node.model.hardware.run()
    assert node.objects.dma(dma.vfio).faults == 1


def test_the_last_close_resets_a_device_and_an_address_space_lives_while_it_is_used(node: Node) -> None:
    dma = Dma.start(node)
    copy = node.mine(os.dup(dma.vfio))
    node.close_now(dma.vfio, dma.iommufd, dma.ring)
    node.objects.reap()
    node.model.hardware.run(2)
    assert node.objects.dma(copy).faults == 0
    node.close_now(copy)
    before = open_fds()
    node.objects.reap()
    # The device's and nothing else's: what it mapped is unpinned.
    assert open_fds() == before - 2
    assert not node.pci().bus_master
    node.vfio(NIC)


def test_descriptors_can_be_passed_to_another_process(node: Node) -> None:
    dma = Dma.start(node)
    left, right = socket.socketpair()
    with left, right:
        socket.send_fds(left, [b"x"], [dma.vfio])
        _, fds, _, _ = socket.recv_fds(right, 1, 1)
    passed = node.mine(fds[0])
    node.close_now(dma.vfio)
    assert node.objects.dma(passed).running
    (token,) = node.preserve(passed)
    node.close_now(passed)
    node.objects.reap()
    assert node.pci().bus_master  # the kernel's own reference
    node.luo.fd_unpreserve(token)
    node.objects.reap()
    assert not node.pci().bus_master


def test_data_on_a_descriptor_does_not_hide_its_close(node: Node) -> None:
    device = node.vfio()
    os.write(device, array.array("B", [1]).tobytes())
    node.close_now(device)
    node.vfio()


def test_a_device_without_an_address_space_crosses_alone(node: Node) -> None:
    (token,) = node.preserve(node.vfio())
    node.luo.prepare()
    node.kexec()
    (device,) = node.restore(token)
    with raises(errno.EINVAL):
        node.objects.detach(device)
    node.objects.attach(device, node.iommufd())


def test_an_address_space_is_one_whoever_is_restored_first(node: Node) -> None:
    dma = Dma.start(node)
    vfio, space, ring = node.preserve(*dma.files)
    node.luo.prepare()
    node.kexec()
    (device,) = node.restore(vfio)
    node.model.hardware.run()
    dma = again([device, *node.restore(space, ring)])
    assert dma.lost(node) == ()
    node.luo.finish()
    more = node.memfd()
    node.objects.map(dma.iommufd, 2 * IOVA, PAGE, more)
    node.objects.start_dma(dma.vfio, 2 * IOVA, PAGE)
    node.model.hardware.run()
    assert os.pread(more, 1, 0) == b"\1"


def test_an_address_space_that_nobody_restored_serves_its_device_still(node: Node) -> None:
    dma = Dma.start(node)
    vfio, _, ring = node.preserve(*dma.files)
    node.luo.prepare()
    node.kexec()
    device, memory = node.restore(vfio, ring)
    node.luo.finish()
    node.model.hardware.run(4)
    assert Dma(memory, -1, device).lost(node) == ()
    # But it cannot be preserved again: there is no descriptor of it.
    node.preserve(device, memory)
    with raises(errno.ENOENT):
        node.luo.prepare()


def test_finished_without_having_been_restored_a_device_is_reset(node: Node) -> None:
    node.preserve(*Dma.start(node).files)
    node.luo.prepare()
    node.kexec()
    assert node.pci().bus_master
    node.luo.finish()
    assert not node.pci().bus_master
    assert len(node.rfc2.memory) == 0
    node.vfio()


def test_closed_before_finish_a_device_is_reset_and_finish_does_no_more(node: Node) -> None:
    dma = Dma.start(node)
    tokens = node.preserve(*dma.files)
    node.luo.prepare()
    node.kexec()
    node.close_now(*node.restore(*tokens))
    node.objects.reap()
    assert not node.pci().bus_master
    node.luo.finish()
    Dma.start(node)


def test_a_device_writes_into_another_one(node: Node) -> None:
    """Its own memory is part of what the other's address space maps, and crosses with it."""
    nic, gpu = Dma.start(node), Dma.start(node, GPU)
    node.objects.map(nic.iommufd, 2 * IOVA, PAGE, gpu.vfio)
    node.objects.start_dma(nic.vfio, 2 * IOVA, PAGE)
    for hop in (1, 2):
        tokens = node.preserve(*nic.files, *gpu.files)
        node.luo.prepare()
        order = [file.handler.kind for file in node.rfc2.files._prepared]
        assert order == ["memfd", "memfd", "iommufd", "vfiofd", "iommufd", "vfiofd"]
        node.kexec(f"hop-{hop}")
        fds = node.restore(*tokens)
        nic, gpu = again(fds[:3]), again(fds[3:])
        assert node.objects.dma(nic.vfio).faults == 0
        assert int.from_bytes(os.pread(node.pci(GPU).region(), 8, 0), "little") == 1
        assert gpu.lost(node) == ()
        node.luo.finish()
    # Its memory is gone with its last close: the mapping with it.
    node.close_now(gpu.vfio)
    node.objects.reap()
    node.model.hardware.run()
    assert node.objects.dma(nic.vfio).faults == 1
    node.preserve(*nic.files)
    node.luo.prepare()


def test_the_memory_of_a_device_that_was_given_up_is_mapped_no_more(node: Node) -> None:
    nic, gpu = Dma.start(node), Dma.start(node, GPU)
    node.objects.map(nic.iommufd, 2 * IOVA, PAGE, gpu.vfio)
    with raises(errno.EINVAL):
        node.objects.map(nic.iommufd, 3 * IOVA, 2 * PAGE, gpu.vfio)
    tokens = node.preserve(*nic.files, *gpu.files)
    node.luo.prepare()
    node.kexec()
    nic = again(node.restore(*tokens[:3]))
    node.luo.finish()
    with raises(errno.ENOENT):
        node.objects.unmap(nic.iommufd, 2 * IOVA)


# --- nothing but memory crosses


def test_state_crosses_as_plain_values_and_kept_memory_only(node: Node) -> None:
    kvm = node.kvm()
    dma = Dma.start(node)
    node.objects.set_memory(kvm, 0, 0, PAGE, dma.ring)
    node.objects.set_registers(kvm, 0, {"rip": 1})
    node.preserve(*dma.files, kvm, node.eventfd(2))
    node.luo.prepare()
    node.luo.freeze()
    memory = node.rfc2.memory
    kept = [memory.at(address) for address in memory.addresses()]
    assert sorted(type(thing).__name__ for thing in kept) == [
        "Blob", "Blob", "Blob", "Blob", "PageTable", "PreservedFile"
    ]  # fmt: skip
    for thing in kept:
        assert not isinstance(thing, KernelObject)
        if isinstance(thing, Blob):
            assert json.loads(json.dumps(thing.value)) == thing.value
            assert set(thing.points_to) <= set(memory.addresses())
