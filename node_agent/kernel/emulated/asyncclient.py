"""What syncclient does, on asyncio: one call to a kernel process, waited for on a reply socket of its own.

Raises KernelError; a boot that is over is ESHUTDOWN, BOOT_OVER.
"""

from __future__ import annotations

import _socket
import asyncio
import errno
from collections.abc import Callable
from typing import TypeVar

from node_agent.errors import KernelError
from node_agent.kernel import abi
from node_agent.kernel import failure as calls
from node_agent.kernel.emulated import syncclient

T = TypeVar("T")


async def open_device(root: str) -> tuple[int, str]:
    """syncclient.open_device(), and the id of the boot that it is of."""
    try:
        device = syncclient.connect(f"{root}/dev/liveupdate")
    except OSError as cause:
        raise calls.failure(OSError(cause.errno, calls.OPEN)) from cause
    try:
        boot_id = await _answered(device, lambda: syncclient.opened(device))
        return device.detach(), boot_id
    finally:
        device.close()


async def control(root: str, *words: str) -> str:
    """syncclient.control()."""
    try:
        sock = syncclient.ask_control(root, *words)
    except OSError as cause:
        raise _failure(cause) from cause
    try:
        return await _answered(sock, lambda: syncclient.take_control(sock, words[0]))
    finally:
        sock.close()


async def ioctl(
    fd: int,
    number: int,
    argument: bytearray,
    passed_fd: int | None = None,
    *,
    call: str = "",
    fd_at: int = syncclient.FD_AT,
) -> None:
    """syncclient.ioctl(), of an emulated fd."""
    call = call or abi.CALL_NAMES[number]
    try:
        reply = syncclient.ask(fd, number, argument, passed_fd, call)
    except OSError as cause:
        raise _failure(cause) from cause
    try:
        await _answered(reply, lambda: syncclient.take(reply, argument, call, fd_at))
    finally:
        reply.close()


async def _answered(sock: _socket.socket, take: Callable[[], T]) -> T:
    """Wait until there is an answer, then take it."""
    loop = asyncio.get_running_loop()
    readable = asyncio.Event()
    loop.add_reader(sock.fileno(), readable.set)
    try:
        await readable.wait()
    finally:
        loop.remove_reader(sock.fileno())
    try:
        return take()
    except OSError as cause:
        raise _failure(cause) from cause


def boot_over(call: str) -> KernelError:
    """Whoever answered was another kernel, or nobody did."""
    return KernelError(errno.ESHUTDOWN, call, "that boot of the node is over", reason="BOOT_OVER")


def _failure(cause: OSError) -> KernelError:
    if cause.errno == errno.ESHUTDOWN:
        return boot_over(cause.strerror or "unknown call")
    return calls.failure(cause)
