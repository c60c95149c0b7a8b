"""ObjectSockets: /dev/iommu, /dev/kvm, /dev/vfio/ADDRESS of a kernel process, and the descriptors they give.

Connecting is opening: the one message from the kernel is the open's result with the new descriptor. On that
a call is one message of the wire's (see wire): the number CALL, then a JSON list of the call's name and its
arguments, with the descriptor that it is about if there is one. The answer is a JSON value.

Not a real kernel's interface: its objects have much more to say. Who speaks this is syncobjects.
"""

from __future__ import annotations

import errno
import json
import socket
import struct
from collections.abc import Callable
from typing import Any

from node_agent.kernel.emulated import wire
from node_agent.kernel.emulated.rfc2.object_kinds import KernelObject
from node_agent.kernel.emulated.rfc2.objects import Objects

CALL = 0
"""In place of an ioctl's number; none has it."""

Serve = Callable[[socket.socket], bool]


class ObjectSockets:
    """Of one boot.

    Args:
        objects: the boot's.
        listen: make a socket under dev/; what accepts is given the listener.
        add: serve a socket until its end, and then say so.
        serve_request: read a message, hand it on, and answer what is raised.
    """

    def __init__(
        self,
        objects: Objects,
        listen: Callable[[str, Serve], None],
        add: Callable[[socket.socket, Serve, Callable[[], None]], None],
        serve_request: Callable[[socket.socket, Callable[[wire.Request], None]], bool],
    ) -> None:
        self._objects, self._add, self._serve_request = objects, add, serve_request
        objects.on_descriptor = self._given
        listen("iommu", self._accept(objects.open_iommufd))
        listen("kvm", self._accept(objects.open_kvm))
        for address in objects.hardware.devices:
            listen(f"vfio/{address}", self._accept(lambda it=address: objects.open_vfio(it)))  # type: ignore[misc]

    @staticmethod
    def _accept(make: Callable[[], int]) -> Serve:
        def accept(listener: socket.socket) -> bool:
            try:
                caller, _ = listener.accept()
            except BlockingIOError:
                return True
            request = wire.Request(b"", caller)
            try:
                wire.answer(request, b"", make())
            except OSError as cause:
                request.answer(-(cause.errno or errno.EIO))
            return True

        return accept

    def _given(self, thing: KernelObject, end: socket.socket) -> None:
        """Somebody gets a descriptor: serve the other end, until the last copy is closed."""

        def call(request: wire.Request) -> None:
            answer = _call(self._objects, thing, request.body, request.fd)
            request.answer(0, json.dumps(answer).encode())

        self._add(end.dup(), lambda sock: self._serve_request(sock, call), self._objects.reap)


def _call(objects: Objects, thing: KernelObject, body: bytes, fd: int) -> Any:
    """Raises OSError: the call's own, EINVAL (no call), ENOTTY (an unknown one)."""
    try:
        (number,) = wire.NUMBER.unpack_from(body)
        name, *arguments = json.loads(body[wire.NUMBER.size :])
    except (ValueError, TypeError, RecursionError, struct.error) as cause:
        raise OSError(errno.EINVAL, "ioctl") from cause
    if number != CALL:
        raise OSError(errno.ENOTTY, "ioctl")
    match [name, *arguments]:
        case ["map", int(iova), int(size_bytes), int(offset)]:
            objects.map(thing, iova, size_bytes, fd, offset)
        case ["unmap", int(iova)]:
            objects.unmap(thing, iova)
        case ["attach"]:
            objects.attach(thing, fd)
        case ["detach"]:
            objects.detach(thing)
        case ["start_dma", int(iova), int(size_bytes)]:
            objects.start_dma(thing, iova, size_bytes)
        case ["stop_dma"]:
            objects.stop_dma(thing)
        case ["dma"]:
            state = objects.dma(thing)
            return [state.running, state.bus_master, state.written, state.faults]
        case ["set_memory", int(slot), int(guest_address), int(size_bytes), int(offset)]:
            objects.set_memory(thing, slot, guest_address, size_bytes, fd, offset)
        case ["set_registers", int(vcpu), dict(registers)]:
            if not all(isinstance(value, int) for value in registers.values()):
                raise OSError(errno.EINVAL, "ioctl")
            objects.set_registers(thing, vcpu, registers)
        case ["registers", int(vcpu)]:
            return objects.kvm(thing).vcpus.get(vcpu, {})
        case _:
            raise OSError(errno.ENOTTY, "ioctl")
    return None
