"""Devices that go on writing to memory while there is no kernel, and the check that all of it landed."""

from __future__ import annotations

import errno
import fcntl
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from node_agent.kernel.emulated.image import EmulatedImage
from node_agent.kernel.emulated.rfc2 import kernel, registry
from node_agent.kernel.emulated.rfc2.handlers_objects import IommufdHandler
from node_agent.kernel.emulated.rfc2.hardware import (
    BOOT_WRITES,
    PURGATORY_WRITES,
    SHUTDOWN_WRITES,
    Hardware,
    PageTable,
    lost,
)
from node_agent.kernel.emulated.rfc2.memory import Blob, Keepable
from node_agent.kernel.emulated.rfc2.object_kinds import Iommufd
from node_agent.kernel.emulated.rfc2.states import LuoState
from tests.unit.kernel.rfc2.participants import GPU, IOVA, NIC, PAGE, Dma, Node, again, open_fds, raises

PHASES = SHUTDOWN_WRITES + PURGATORY_WRITES + BOOT_WRITES
KEEPS_NOTHING = EmulatedImage("7.2.13")


@pytest.fixture
def node() -> Iterator[Node]:
    node = Node()
    yield node
    node.close()


def test_every_phase_of_a_blackout_has_writes_and_all_of_them_land_in_order(node: Node) -> None:
    """The seed thread: "designed specifically around the live update flows:
    brownout/blackout/post-liveupdate"."""
    assert min(SHUTDOWN_WRITES, PURGATORY_WRITES, BOOT_WRITES) >= 1
    dma = Dma.start(node)
    node.model.hardware.run(5)
    tokens = node.preserve(*dma.files)
    node.luo.prepare()
    node.model.hardware.run(4)
    node.kexec()
    assert node.luo.state is LuoState.UPDATED
    node.model.hardware.run(2)
    dma = again(node.restore(*tokens))
    state = node.objects.dma(dma.vfio)
    assert (state.written, state.faults, state.running, state.bus_master) == (11 + PHASES, 0, True, True)
    assert dma.lost(node) == ()
    words = memoryview(os.pread(dma.ring, PAGE, 0)).cast("Q")
    assert list(words[: state.written + 1]) == [*range(1, state.written + 1), 0]
    node.luo.finish()
    assert len(node.rfc2.memory) == 0
    node.model.hardware.run(3)
    assert dma.lost(node) == ()


def test_each_phase_has_its_writes(node: Node) -> None:
    dma = Dma.start(node)
    node.preserve(*dma.files)
    node.luo.prepare()
    node.load()
    node.model.freeze()
    assert node.pci().written == 0
    assert node.model.jump().arrived
    assert node.pci().written == SHUTDOWN_WRITES + PURGATORY_WRITES
    node.model.arrive()
    assert node.pci().written == PHASES


def test_an_update_that_is_not_finished_does_not_cross_a_second_kexec(node: Node) -> None:
    """A reboot from UPDATED is a plain kexec: restored or not, the device is reset."""
    for restored in (True, False):
        dma = Dma.start(node)
        tokens = node.preserve(*dma.files)
        node.luo.prepare()
        node.kexec()
        if restored:
            node.restore(*tokens)
        assert node.pci().bus_master
        node.kexec("again")
        assert node.luo.state is LuoState.NORMAL
        assert not node.pci().bus_master


def test_a_kernel_without_the_handler_resets_the_device(node: Node, monkeypatch: pytest.MonkeyPatch) -> None:
    dma = Dma.start(node)
    node.preserve(*dma.files)
    node.luo.prepare()
    with monkeypatch.context() as next_kernel:
        next_kernel.setattr(
            kernel, "handlers", lambda *made: [h for h in registry.handlers(*made) if h.kind != "vfiofd"]
        )
        node.kexec()
    assert node.luo.state is LuoState.UPDATED
    assert any("vfiofd-v1" in line for line in node.model.log)
    assert not node.pci().bus_master


def test_memory_that_was_cut_or_sealed_takes_no_more_writes(node: Node) -> None:
    """And a device's writes do not make it grow again."""
    dma = Dma.start(node)
    os.ftruncate(dma.ring, 8)
    node.model.hardware.run(2)
    assert node.objects.dma(dma.vfio).faults == 1
    assert os.fstat(dma.ring).st_size == 8
    sealed = node.mine(os.memfd_create("sealed", os.MFD_ALLOW_SEALING))
    os.ftruncate(sealed, PAGE)
    node.objects.map(dma.iommufd, 2 * IOVA, PAGE, sealed)
    node.objects.start_dma(dma.vfio, 2 * IOVA, PAGE)
    fcntl.fcntl(sealed, fcntl.F_ADD_SEALS, fcntl.F_SEAL_WRITE)
    node.model.hardware.run(2)
    assert node.objects.dma(dma.vfio).faults == 2
    with raises(errno.EPERM):
        node.objects.map(dma.iommufd, 3 * IOVA, PAGE, sealed)


def test_there_and_back_again(node: Node) -> None:
    """Two hops; the memory that came in goes out again."""
    dma = Dma.start(node)
    for hop in (1, 2):
        tokens = node.preserve(*dma.files)
        node.luo.prepare()
        node.kexec(f"hop-{hop}")
        dma = again(node.restore(*tokens))
        node.luo.finish()
        assert node.objects.dma(dma.vfio).written == hop * PHASES
        assert dma.lost(node) == ()
        assert len(node.rfc2.memory) == 0


def test_more_writes_than_slots_go_round(node: Node) -> None:
    dma = Dma.start(node)
    tokens = node.preserve(*dma.files)
    node.luo.prepare()
    node.model.hardware.run(PAGE // 8)
    node.kexec()
    dma = again(node.restore(*tokens))
    assert node.objects.dma(dma.vfio).written == PAGE // 8 + PHASES
    assert dma.lost(node) == ()


class ForgetsTheTable(IommufdHandler):
    """Keeps the book of the mappings but not what the hardware walks."""

    def table(self, space: Iommufd) -> Keepable:
        return Blob({})


class KeepsACopy(IommufdHandler):
    """Keeps a table that nobody walks."""

    def table(self, space: Iommufd) -> Keepable:
        return PageTable()


@pytest.mark.parametrize("handler", [ForgetsTheTable, KeepsACopy])
def test_a_handler_that_does_not_keep_the_mapping_fails_the_check(
    node: Node, handler: type[IommufdHandler]
) -> None:
    dma = Dma.start(node)
    handlers = node.rfc2.files.handlers
    at = next(i for i, other in enumerate(handlers) if other.kind == "iommufd")
    handlers[at] = handler(node.rfc2.memory, node.objects)
    vfio, space, ring = node.preserve(*dma.files)
    node.luo.prepare()
    node.kexec()
    if handler is ForgetsTheTable:
        with raises(errno.EFAULT):
            node.restore(vfio)
    (memory,) = node.restore(ring)
    pci = node.pci()
    assert (pci.written, pci.faults) == (PHASES, BOOT_WRITES)
    # While the old kernel's memory was still there its table was too.
    assert lost(os.pread(memory, PAGE, 0), pci.written) == tuple(
        range(SHUTDOWN_WRITES + PURGATORY_WRITES + 1, PHASES + 1)
    )
    del space


def test_a_device_that_is_not_preserved_is_reset_by_the_shutdown(node: Node) -> None:
    kept, other = Dma.start(node), Dma.start(node, GPU)
    tokens = node.preserve(*kept.files)
    node.luo.prepare()
    node.kexec()
    assert node.pci(NIC).written == PHASES
    gpu = node.pci(GPU)
    assert (gpu.written, gpu.running, gpu.bus_master, gpu.table) == (0, False, False, None)
    assert again(node.restore(*tokens)).lost(node) == ()
    with raises(errno.EBUSY):
        node.objects.open_vfio(NIC)
    node.vfio(GPU)
    del other


def test_a_plain_kexec_stops_all_devices(node: Node) -> None:
    dma = Dma.start(node)
    node.preserve(*dma.files)
    node.kexec()
    assert node.luo.state is LuoState.NORMAL
    assert not node.pci().bus_master
    assert node.pci().written == 0
    node.vfio()


def test_a_cancelled_one_is_not_preserved(node: Node) -> None:
    dma = Dma.start(node)
    node.preserve(*dma.files)
    node.luo.prepare()
    node.luo.freeze()
    node.luo.cancel()
    node.load()
    node.model.freeze()
    assert node.pci().bus_master
    node.model.jump()
    assert not node.pci().bus_master  # before there is a next kernel
    node.model.arrive()


@pytest.mark.parametrize("faults", ["panic@1", "power_loss@1", "never_back@1"])
def test_a_cold_boot_resets_every_device(faults: str) -> None:
    node = Node(faults=faults)
    dma = Dma.start(node)
    node.preserve(*dma.files)
    node.luo.prepare()
    node.kexec()
    assert node.luo.state is LuoState.NORMAL
    assert (node.pci().bus_master, node.pci().written) == (False, 0)
    node.close()


@pytest.mark.parametrize(
    ("release", "legacy"), [("7.2.13", False), ("kho-off", False), ("luo-off", False), ("next", True)]
)
def test_a_kernel_that_does_not_know_of_a_device_resets_it_when_it_boots(release: str, legacy: bool) -> None:
    """The device was told to go on; what it wrote to is nobody's."""
    node = Node(
        images={
            "7.2.13": KEEPS_NOTHING,
            "kho-off": EmulatedImage.rfc2("kho-off", kho=False),
            "luo-off": EmulatedImage.rfc2("luo-off", liveupdate=False),
        }
    )
    dma = Dma.start(node)
    node.preserve(*dma.files)
    node.luo.prepare()
    node.kexec(release, legacy=legacy)
    assert (node.pci().bus_master, node.pci().written) == (False, 0)
    node.model.cold_boot()
    node.close()


def test_what_arrived_of_a_lost_update_is_reset_too() -> None:
    node = Node(faults="session_lost@1")
    dma = Dma.start(node)
    node.preserve(*dma.files)
    node.luo.prepare()
    node.kexec()
    assert node.luo.state is LuoState.NORMAL
    assert not node.pci().bus_master
    node.close()


def test_in_prepared_and_frozen_no_mapping_changes_and_dma_goes_on(node: Node) -> None:
    """RFC v2's doc of the prepared state: devices might not be unbound, nor new mappings be set up."""
    dma, spare, other = Dma.start(node), node.memfd(), node.vfio(GPU)
    tokens = node.preserve(*dma.files)
    objects = node.objects
    node.luo.prepare()
    for change in (None, node.luo.freeze):
        if change is not None:
            change()
        for call in (
            lambda: objects.map(dma.iommufd, 2 * IOVA, PAGE, spare),
            lambda: objects.unmap(dma.iommufd, IOVA),
            lambda: objects.detach(dma.vfio),
            lambda: objects.attach(other, dma.iommufd),
        ):
            with raises(errno.EBUSY):
                call()
        node.model.hardware.run(3)
    assert objects.dma(dma.vfio).written == 6
    assert dma.lost(node) == ()
    node.luo.cancel()
    objects.map(dma.iommufd, 2 * IOVA, PAGE, spare)
    objects.unmap(dma.iommufd, 2 * IOVA)
    objects.detach(dma.vfio)
    assert len(node.rfc2.memory) == 0
    assert node.preserve(spare) == [max(tokens) + 1]


def test_after_the_update_mappings_change_again_and_the_hardware_follows(node: Node) -> None:
    dma = Dma.start(node)
    tokens = node.preserve(*dma.files)
    node.luo.prepare()
    node.kexec()
    dma = again(node.restore(*tokens))
    more = node.memfd()
    node.objects.map(dma.iommufd, 2 * IOVA, PAGE, more)
    with raises(errno.EEXIST):
        node.objects.map(dma.iommufd, IOVA, PAGE, more)
    node.objects.start_dma(dma.vfio, 2 * IOVA, PAGE)
    node.model.hardware.run(2)
    assert lost(os.pread(more, PAGE, 0), 2) == ()
    node.objects.unmap(dma.iommufd, 2 * IOVA)
    node.model.hardware.run(1)
    assert node.objects.dma(dma.vfio).faults == 1
    node.luo.finish()


def test_dma_that_was_stopped_stays_so(node: Node) -> None:
    dma = Dma.start(node)
    node.model.hardware.run(2)
    node.objects.stop_dma(dma.vfio)
    tokens = node.preserve(*dma.files)
    node.luo.prepare()
    node.kexec()
    dma = again(node.restore(*tokens))
    state = node.objects.dma(dma.vfio)
    assert (state.written, state.running, state.bus_master) == (2, False, True)
    assert dma.lost(node) == ()


def test_what_lands_nowhere_is_counted(node: Node) -> None:
    device = node.vfio()
    node.objects.start_dma(device, IOVA, PAGE)
    node.model.hardware.run(3)
    state = node.objects.dma(device)
    assert (state.written, state.faults) == (3, 3)


def test_the_check_finds_what_is_missing_and_what_is_out_of_order() -> None:
    words = [1, 2, 0, 4]
    ring = b"".join(word.to_bytes(8, "little") for word in words)
    assert lost(ring, 0) == ()
    assert lost(ring, 2) == ()
    assert lost(ring, 4) == (3,)
    assert lost(ring, 5) == (3, 5)
    assert lost(ring[8:16] + ring[:8] + ring[16:], 2) == (1, 2)


@pytest.mark.parametrize(("iova", "size_bytes"), [(0, 0), (0, 7), (0, 12), (4, 8), (0, -8)])
def test_dma_needs_whole_slots(node: Node, iova: int, size_bytes: int) -> None:
    with raises(errno.EINVAL):
        node.objects.start_dma(node.vfio(), iova, size_bytes)


def test_a_table_lives_as_long_as_its_last_holder() -> None:
    before = open_fds()
    memory = os.memfd_create("memory")
    os.ftruncate(memory, PAGE)
    table = PageTable()
    table.map(IOVA, PAGE, memory, 0)
    os.close(memory)
    assert table.hold() is table
    table.close()
    assert len(table) == 1
    assert table.write(IOVA, b"12345678")
    assert not table.write(IOVA + PAGE - 4, b"12345678")
    assert not table.write(IOVA - 4, b"12345678")
    table.close()
    assert not table.write(IOVA, b"12345678")
    assert open_fds() == before


def test_hardware_resets_all_but_what_it_is_told() -> None:
    hardware = Hardware([NIC, GPU])
    with raises(errno.ENODEV):
        hardware.device("0000:03:00.0", "open")
    for device in hardware.devices.values():
        device.bus_master = True
    hardware.reset(but=[GPU])
    assert [device.bus_master for device in hardware.devices.values()] == [False, True]


def test_the_page_says_how_many_writes_there_are() -> None:
    page = (Path(__file__).parents[4] / "docs" / "rfc-v2.md").read_text()
    assert (
        f"shutdown ({SHUTDOWN_WRITES} writes), purgatory ({PURGATORY_WRITES}) and boot ({BOOT_WRITES})"
        in page
    )
    assert f"| all preserved | {PHASES} | {PHASES} |" in page
    assert f"| {PHASES} | {SHUTDOWN_WRITES + PURGATORY_WRITES}: the table was gone" in page
