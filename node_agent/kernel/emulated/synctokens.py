"""RFC v2's LUO calls, blocking, from interpreter builtins only: for the blackout path and luoctl.

As syncclient's, they work on a real kernel and on an emulated one, and fail with OSError: the errno, and the
call's name as strerror. Who makes several calls opens the device once (syncclient.open_device); it is not
single-open here. The descriptors returned are CLOEXEC and the caller's.
"""

from node_agent.kernel import rfc2_abi as abi
from node_agent.kernel.emulated import syncclient

FD_AT = 0
"""Where liveupdate_fd has its descriptor; the token stands at 8."""


def preserve(device: int, fd: int) -> int:
    """FD_PRESERVE: the kernel's token. The fd stays the caller's. EBUSY, EBADF, ENOENT, EEXIST."""
    argument = bytearray(abi.FD_STRUCT.pack(fd, 0, 0))
    call(device, abi.FD_PRESERVE, argument, fd)
    return int(abi.FD_STRUCT.unpack(argument)[2])


def unpreserve(device: int, token: int) -> None:
    """FD_UNPRESERVE. EBUSY, ENOENT."""
    call(device, abi.FD_UNPRESERVE, bytearray(abi.TOKEN_STRUCT.pack(token)))


def restore(device: int, token: int) -> int:
    """FD_RESTORE: a new fd, once. EBUSY, ENOENT, EINVAL (a second time)."""
    argument = bytearray(abi.FD_STRUCT.pack(-1, 0, token))
    call(device, abi.FD_RESTORE, argument)
    return int(abi.FD_STRUCT.unpack(argument)[0])


def get_state(device: int) -> str:
    """GET_STATE: one of rfc2_abi.STATE_NAMES."""
    argument = bytearray(abi.STATE_STRUCT.size)
    call(device, abi.GET_STATE, argument)
    return abi.STATE_NAMES[abi.STATE_STRUCT.unpack(argument)[0]]


def prepare(device: int) -> None:
    """EVENT_PREPARE. EINVAL (another state than normal), what a callback gives."""
    call(device, abi.PREPARE, bytearray())


def freeze(device: int) -> None:
    """EVENT_FREEZE. EINVAL (not prepared), what a callback gives: the state is normal then."""
    call(device, abi.FREEZE, bytearray())


def cancel(device: int) -> None:
    """EVENT_CANCEL. EINVAL (neither prepared nor frozen)."""
    call(device, abi.CANCEL, bytearray())


def finish(device: int) -> None:
    """EVENT_FINISH. EINVAL (not updated)."""
    call(device, abi.FINISH, bytearray())


def call(device: int, number: int, argument: bytearray, passed_fd: int | None = None) -> None:
    """Any of them; the argument is updated in place."""
    name = abi.CALL_NAMES.get(number, "ioctl")
    syncclient.ioctl(device, number, argument, passed_fd, call=name, fd_at=FD_AT)
