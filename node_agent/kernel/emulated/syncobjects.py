"""The calls on an emulated node's kernel objects, blocking, as a process of its userspace makes them.

Descriptors are CLOEXEC and the caller's; they can be duplicated and passed on. Failures are OSError. See
object_sockets for what is said, rfc2.objects for what it means.
"""

from __future__ import annotations

import array
import json
import socket
from collections.abc import Mapping
from typing import Any

from node_agent.kernel.emulated.object_sockets import CALL
from node_agent.kernel.emulated.rfc2.object_kinds import DmaState
from node_agent.kernel.emulated.syncclient import ask, connect, take

_FD_BYTES = array.array("i").itemsize


def open_iommufd(root: str) -> int:
    """A descriptor of a new address space of the node in this root directory."""
    return _open(root, "iommu")


def open_vfio(root: str, address: str) -> int:
    """A descriptor of the device of this PCI address. Raises OSError: ENOENT, EBUSY."""
    return _open(root, f"vfio/{address}")


def open_kvm(root: str) -> int:
    """A descriptor of a new virtual machine."""
    return _open(root, "kvm")


def map_file(iommufd: int, iova: int, size_bytes: int, fd: int, offset: int = 0) -> None:
    """See Objects.map."""
    _call(iommufd, "map", iova, size_bytes, offset, fd=fd)


def unmap(iommufd: int, iova: int) -> None:
    """See Objects.unmap."""
    _call(iommufd, "unmap", iova)


def attach(vfio: int, iommufd: int) -> None:
    """See Objects.attach."""
    _call(vfio, "attach", fd=iommufd)


def detach(vfio: int) -> None:
    """See Objects.detach."""
    _call(vfio, "detach")


def start_dma(vfio: int, iova: int, size_bytes: int) -> None:
    """See Objects.start_dma."""
    _call(vfio, "start_dma", iova, size_bytes)


def stop_dma(vfio: int) -> None:
    """See Objects.stop_dma."""
    _call(vfio, "stop_dma")


def dma(vfio: int) -> DmaState:
    """See Objects.dma."""
    running, bus_master, written, faults = _call(vfio, "dma")
    return DmaState(running, bus_master, written, faults)


def set_memory(
    kvm: int, slot: int, guest_address: int, size_bytes: int, fd: int | None = None, offset: int = 0
) -> None:
    """See Objects.set_memory."""
    _call(kvm, "set_memory", slot, guest_address, size_bytes, offset, fd=fd)


def set_registers(kvm: int, vcpu: int, registers: Mapping[str, int]) -> None:
    """See Objects.set_registers."""
    _call(kvm, "set_registers", vcpu, dict(registers))


def registers(kvm: int, vcpu: int) -> dict[str, int]:
    """Empty: there is no such virtual CPU."""
    found: dict[str, int] = _call(kvm, "registers", vcpu)
    return found


def _open(root: str, name: str) -> int:
    fd = bytearray(_FD_BYTES)
    try:
        sock = connect(f"{root}/dev/{name}")
    except OSError as cause:
        raise OSError(cause.errno, f"open(/dev/{name})") from cause
    with socket.socket(fileno=sock.detach()) as reply:
        take(reply, fd, f"open(/dev/{name})", 0)
    return int.from_bytes(fd, "little")


def _call(of: int, name: str, *arguments: object, fd: int | None = None) -> Any:
    message, answer = bytearray(json.dumps([name, *arguments]).encode()), bytearray()
    reply = ask(of, CALL, message, fd, name)
    try:
        take(reply, answer, name)
    finally:
        reply.close()
    return json.loads(answer)
