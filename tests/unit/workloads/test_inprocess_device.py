"""In-process workloads with devices: what those write while there is no kernel is part of the check."""

from __future__ import annotations

import os

import pytest

from node_agent.errors import BrokerError, KernelError
from node_agent.kernel.emulated.image import EmulatedImage, ImageTable
from node_agent.kernel.emulated.machine import Machine
from node_agent.kernel.emulated.node import Boot, EmulatedNode
from node_agent.kernel.emulated.rfc2.handlers_objects import IommufdHandler
from node_agent.kernel.emulated.rfc2.hardware import BOOT_WRITES, PURGATORY_WRITES, SHUTDOWN_WRITES, PageTable
from node_agent.kernel.emulated.rfc2.memory import Blob
from node_agent.kernel.faults import FaultPlan
from node_agent.ports import KexecImage, Tokens, WorkloadPause
from node_agent.workloads.inprocess import InProcessWorkloads
from node_agent.workloads.inprocess_device import RING_BYTES, RING_TOKEN

DEVICES = ("0000:01:00.0", "0000:02:00.0")
PHASES = SHUTDOWN_WRITES + PURGATORY_WRITES + BOOT_WRITES
RFC2 = EmulatedImage.rfc2("6.15")
IMAGE = KexecImage("/k", "", "kho=on liveupdate=on", "next")


def node(image: EmulatedImage = RFC2, faults: str = "") -> EmulatedNode:
    return EmulatedNode(
        image=image,
        images=ImageTable(otherwise=image),
        machine=Machine(pci_devices=DEVICES),
        faults=FaultPlan.parse(faults),
    )


def make(emulated: EmulatedNode, boot: Boot, count: int = 1) -> InProcessWorkloads:
    return InProcessWorkloads(
        boot.clock, count=count, size_bytes=8192, devices=lambda: emulated.model.objects
    )


def open_fds() -> int:
    return len(os.listdir("/proc/self/fd"))


class Hops:
    """A node that goes through hops of a saga's calls; `sabotage` is done to each prepared kernel."""

    def __init__(self, emulated: EmulatedNode, hops: int = 1, count: int = 1) -> None:
        self.node, self.hops, self.count = emulated, hops, count
        self.sessions: dict[str, str] = {}
        self.tokens: Tokens = {}
        self.pauses: list[WorkloadPause] = []
        self.written: list[int] = []

    def sabotage(self) -> None:
        """Nothing."""

    async def userspace(self, boot: Boot) -> None:
        workloads = make(self.node, boot, self.count)
        kernel = boot.kernel
        try:
            if boot.boots > 1:
                await kernel.recall(self.tokens)
                await workloads.retrieve(kernel, self.sessions)
                self.pauses += await workloads.resume()
                await workloads.finish()
                await kernel.finish()
                self.written.append(self.node.model.hardware.devices[DEVICES[0]].written)
            if boot.boots <= self.hops:
                self.sessions = dict(await workloads.preserve(kernel, f"a{boot.boots}"))
                self.tokens = await kernel.prepare()
                self.sabotage()
                await workloads.suspend()
                await kernel.load(IMAGE)
                await kernel.reboot_kexec()
        finally:
            workloads.node_died()


async def test_what_devices_write_in_the_blackout_is_part_of_the_memory() -> None:
    fds, hops = open_fds(), Hops(node(), hops=2, count=3)
    await hops.node.run(hops.userspace)
    assert [p.memory_intact for p in hops.pauses] == [True] * 6
    assert hops.written == [PHASES, 2 * PHASES]
    assert open_fds() == fds


class LosesTheMapping(Hops):
    def sabotage(self) -> None:
        """As a handler that does not keep the table would."""
        rfc2 = self.node.model.rfc2
        assert rfc2 is not None
        for file in rfc2.files.outgoing.values():
            if isinstance(file.handler, IommufdHandler):
                kept = rfc2.memory.at(file.data)
                assert isinstance(kept, Blob)
                rfc2.memory.free(kept.value["table"])
                kept.value["table"] = rfc2.memory.keep(PageTable())
                kept.points_to = (kept.value["table"],)


class StopsTheDevice(Hops):
    def sabotage(self) -> None:
        self.node.model.hardware.devices[DEVICES[0]].bus_master = False


class LosesAWrite(Hops):
    def sabotage(self) -> None:
        """One that was counted and did not land."""
        self.node.model.hardware.devices[DEVICES[0]].written += 1


@pytest.mark.parametrize("hops", [LosesTheMapping, StopsTheDevice, LosesAWrite])
async def test_dma_that_did_not_land_is_memory_that_is_not_intact(hops: type[Hops]) -> None:
    fds, broken = open_fds(), hops(node(), count=2)
    await broken.node.run(broken.userspace)
    assert [p.memory_intact for p in broken.pauses] == [False, hops is not LosesTheMapping]
    assert open_fds() == fds


async def test_on_a_kernel_with_sessions_there_are_no_devices() -> None:
    hops = Hops(node(EmulatedImage("7.2.13")))
    await hops.node.run(hops.userspace)
    assert [p.memory_intact for p in hops.pauses] == [True]
    assert hops.written == [0]


async def test_by_default_there_is_no_device() -> None:
    emulated = node()

    async def userspace(boot: Boot) -> None:
        workloads = InProcessWorkloads(boot.clock, size_bytes=8192)
        await workloads.preserve(boot.kernel, "a")
        tokens = await boot.kernel.prepare()
        assert list(tokens.values()) == [{1: 0}]
        await boot.kernel.cancel()
        await workloads.release()
        workloads.node_died()

    await emulated.run(userspace)


async def test_unwound_a_device_goes_on_and_is_preserved_again() -> None:
    emulated = node()

    async def userspace(boot: Boot) -> None:
        workloads = make(emulated, boot)
        for attempt in ("a", "b"):
            await workloads.preserve(boot.kernel, attempt)
            await boot.kernel.prepare()
            await workloads.suspend()
            emulated.model.hardware.run(3)
            (pause,) = await workloads.resume()
            assert pause.memory_intact
            await boot.kernel.cancel()
            await workloads.release()
            assert emulated.model.rfc2 is not None
            assert len(emulated.model.rfc2.files.outgoing) == len(emulated.model.rfc2.memory) == 0
        assert emulated.model.hardware.devices[DEVICES[0]].written == 6
        workloads.node_died()

    await emulated.run(userspace)


async def test_a_device_that_somebody_has_open_cannot_be_used() -> None:
    fds, emulated = open_fds(), node()

    async def userspace(boot: Boot) -> None:
        workloads = make(emulated, boot)
        objects = await boot.kernel.objects()
        other = objects.open_vfio(DEVICES[0])
        with pytest.raises(BrokerError) as caught:
            await workloads.preserve(boot.kernel, "a")
        assert caught.value.reason == "DEVICE_UNAVAILABLE"
        assert caught.value.fields["device"] == DEVICES[0]
        await workloads.release()
        os.close(other)
        await workloads.preserve(boot.kernel, "b")
        workloads.node_died()

    await emulated.run(userspace)
    assert open_fds() == fds


@pytest.mark.parametrize("again", [True, False])
async def test_a_retrieve_that_fails_half_way_goes_on_where_it_was(again: bool) -> None:
    """This kernel restores a file once: what was restored stays the workload's. It is not intact until all is
    there."""
    fds, emulated = open_fds(), node()
    hops = Hops(emulated)

    async def userspace(boot: Boot) -> None:
        if boot.boots == 1:
            await hops.userspace(boot)
        workloads = make(emulated, boot)
        await boot.kernel.recall(hops.tokens)
        assert emulated.model.rfc2 is not None
        incoming = emulated.model.rfc2.files.incoming
        (vfio,) = [file for file in incoming.values() if file.handler.kind == "vfiofd"]
        vfio.errno = 5
        with pytest.raises(KernelError) as caught:
            await workloads.retrieve(boot.kernel, hops.sessions)
        assert caught.value.errno == 5
        if again:
            vfio.errno = 0
            await boot.kernel.recall(hops.tokens)
            await workloads.retrieve(boot.kernel, hops.sessions)
        (pause,) = await workloads.resume()
        assert pause.memory_intact is again
        workloads.node_died()

    await emulated.run(userspace)
    assert open_fds() == fds


async def test_a_dead_process_and_a_kernel_without_have_no_objects() -> None:
    async def userspace(boot: Boot) -> None:
        with pytest.raises(KernelError) as caught:
            await boot.kernel.objects()
        assert caught.value.errno == 2

    await node(EmulatedImage("7.2.13")).run(userspace)


def test_the_ring_holds_many_blackouts() -> None:
    assert RING_BYTES // 8 > 20 * PHASES
    assert RING_TOKEN != 1
