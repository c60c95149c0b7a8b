"""Devices of a node whose kernel is a process, opened, mapped and preserved as its userspace does it."""

from __future__ import annotations

import errno
import os
import socket
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from node_agent.kernel.emulated import process, synctokens
from node_agent.kernel.emulated import syncobjects as objects
from node_agent.kernel.emulated.object_sockets import CALL
from node_agent.kernel.emulated.rfc2.hardware import BOOT_WRITES, PURGATORY_WRITES, SHUTDOWN_WRITES, lost
from node_agent.kernel.emulated.rfc2.object_kinds import DmaState
from node_agent.kernel.emulated.syncclient import ask, take
from tests.contract.rfc2_process import Node, running

NIC, GPU = "0000:01:00.0", "0000:02:00.0"
PHASES = SHUTDOWN_WRITES + PURGATORY_WRITES + BOOT_WRITES
PAGE = 4096
IOVA = 0x10_0000


@pytest.fixture
async def node(tmp_path: Path) -> AsyncIterator[Node]:
    async with running(tmp_path / "node", "--pci-device", NIC, "--pci-device", GPU) as node:
        yield node


def refused(number: int, call: object, *arguments: object) -> None:
    with pytest.raises(OSError) as caught:
        call(*arguments)  # type: ignore[operator]
    assert caught.value.errno == number


def ring() -> int:
    fd = os.memfd_create("ring", os.MFD_CLOEXEC)
    os.ftruncate(fd, PAGE)
    return fd


def start(node: Node, address: str = NIC) -> list[int]:
    """Memory, address space, device: DMA goes on."""
    fds = [ring(), objects.open_iommufd(node.root), objects.open_vfio(node.root, address)]
    memory, space, device = fds
    objects.map_file(space, IOVA, PAGE, memory)
    objects.attach(device, space)
    objects.start_dma(device, IOVA, PAGE)
    return fds


def close(*fds: int) -> None:
    for fd in fds:
        os.close(fd)


async def test_dma_goes_on_while_there_is_no_kernel_process_to_ask(node: Node) -> None:
    """There and back again; what the hardware counted is in the memory, in order."""
    fds = start(node)
    assert node.device >= 0  # open it, so that it is counted
    before = node.control("descriptors")
    for hop in (1, 2):
        tokens = [synctokens.preserve(node.device, fd) for fd in reversed(fds)]
        synctokens.prepare(node.device)
        refused(errno.EBUSY, objects.map_file, fds[1], 2 * IOVA, PAGE, fds[0])
        await node.kexec()
        refused(errno.ESHUTDOWN, objects.dma, fds[2])
        close(*fds)
        fds = [synctokens.restore(node.device, token) for token in reversed(tokens)]
        assert objects.dma(fds[2]) == DmaState(True, True, hop * PHASES, 0)
        assert lost(os.pread(fds[0], PAGE, 0), hop * PHASES) == ()
        synctokens.finish(node.device)
    assert node.control("descriptors") == before
    close(*fds)


async def test_a_plain_kexec_resets_the_device(node: Node) -> None:
    fds = start(node)
    await node.kexec()
    close(*fds)
    device = objects.open_vfio(node.root, NIC)
    assert objects.dma(device) == DmaState(False, False, 0, 0)
    close(device)


async def test_a_descriptor_is_passed_on_and_its_last_close_frees_the_device(node: Node) -> None:
    before = node.control("descriptors")
    memory, space, device = start(node)
    refused(errno.EBUSY, objects.open_vfio, node.root, NIC)
    left, right = socket.socketpair()
    with left, right:
        socket.send_fds(left, [b"x"], [device])
        close(device)
        _, (passed,), _, _ = socket.recv_fds(right, 1, 1)
    assert objects.dma(passed).running
    objects.stop_dma(passed)
    assert not objects.dma(passed).running
    close(passed, space)
    again = objects.open_vfio(node.root, NIC)
    assert objects.dma(again) == DmaState(False, False, 0, 0)
    close(again, memory)
    assert node.control("descriptors") == before


async def test_a_virtual_machine_crosses(node: Node) -> None:
    memory, kvm = ring(), objects.open_kvm(node.root)
    objects.set_memory(kvm, 0, 0, PAGE, memory)
    objects.set_registers(kvm, 0, {"rip": 7})
    assert objects.registers(kvm, 1) == {}
    tokens = [synctokens.preserve(node.device, fd) for fd in (kvm, memory)]
    synctokens.prepare(node.device)
    await node.kexec()
    close(kvm, memory)
    kvm, memory = (synctokens.restore(node.device, token) for token in tokens)
    assert objects.registers(kvm, 0) == {"rip": 7}
    objects.set_memory(kvm, 0, 0, 0)
    close(kvm, memory)


async def test_an_eventfd_crosses(node: Node) -> None:
    event = os.eventfd(5)
    token = synctokens.preserve(node.device, event)
    refused(errno.EEXIST, synctokens.preserve, node.device, event)
    synctokens.prepare(node.device)
    os.eventfd_write(event, 2)
    await node.kexec()
    close(event)
    event = synctokens.restore(node.device, token)
    assert os.eventfd_read(event) == 7
    close(event)


async def test_calls_that_are_none(node: Node) -> None:
    memory, space, device = start(node)
    refused(errno.ENOENT, objects.open_vfio, node.root, "0000:09:00.0")
    refused(errno.ENOTTY, objects.dma, space)
    refused(errno.EBUSY, objects.attach, device, space)
    refused(errno.EEXIST, objects.map_file, space, IOVA, PAGE, memory)
    objects.unmap(space, IOVA)
    refused(errno.ENOENT, objects.unmap, space, IOVA)
    objects.detach(device)
    refused(errno.EINVAL, objects.detach, device)
    kvm = objects.open_kvm(node.root)
    for fd, number, body, expected in (
        (device, CALL, b"", errno.EINVAL),
        (device, CALL, b"{", errno.EINVAL),
        (device, CALL, b"\xff", errno.EINVAL),
        (device, CALL, b"7", errno.EINVAL),
        (device, CALL, b"[]", errno.EINVAL),
        (device, CALL, b"[" * 60_000, errno.EINVAL),
        (device, CALL, b'["dma", 1]', errno.ENOTTY),
        (device, CALL, b'["attach"]', errno.EBADF),
        (device, 1, b'["dma"]', errno.ENOTTY),
        (space, CALL, b'["map", "0", 1, 2]', errno.ENOTTY),
        (space, CALL, b'["map", 0, 4096, 0]', errno.EBADF),
        (space, CALL, b'["dma"]', errno.ENOTTY),
        (kvm, CALL, b'["set_registers", 0, {"rip": "x"}]', errno.EINVAL),
        (kvm, CALL, b'["set_memory", 0, 0, 4096, 0]', errno.EBADF),
    ):
        reply = ask(fd, number, bytearray(body))
        refused(expected, take, reply, bytearray())
        reply.close()
    close(kvm)
    assert objects.dma(device).running
    close(memory, space, device)


async def test_a_kernel_with_sessions_has_no_such_files(node: Node) -> None:
    await node.kexec("7.2.13", model="sessions")
    for name in ("iommu", "kvm", f"vfio/{NIC}"):
        assert not (node.path / "dev" / name).exists()


@pytest.mark.parametrize("address", ["../x", "0000:01:00", "0000:01:20.0", "0000:01:00.8", ""])
def test_a_device_has_a_pci_address(address: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        process.main(["--root", str(tmp_path), "--pci-device", address, "--", "true"])
    assert caught.value.code == 2
    assert "--pci-device" in capsys.readouterr().err
