"""The ioctl-decoding layer of RFC v2: struct bytes in, struct bytes out, over Luo.

A message is as wire says: u32 number, then the struct. Here the number carries the struct's size and
direction, so one that is wrong in any part is ENOTTY, and a struct that is not all there is EFAULT: the
kernel copies just what the number says, and there is no memory behind it.

Source: luo_ioctl() in luo_ioctl.c of RFC v2.
"""

from __future__ import annotations

import errno

from node_agent.kernel import rfc2_abi as abi
from node_agent.kernel.emulated import wire
from node_agent.kernel.emulated.rfc2.luo import Luo

CALLS = {
    abi.FD_PRESERVE: "fd_preserve",
    abi.FD_UNPRESERVE: "fd_unpreserve",
    abi.FD_RESTORE: "fd_restore",
    abi.GET_STATE: "get_state",
    abi.PREPARE: "prepare",
    abi.FREEZE: "freeze",
    abi.CANCEL: "cancel",
    abi.FINISH: "finish",
}
"""The model's name of each ioctl, as faults spell it."""


def decode(body: bytes) -> tuple[int, bytes]:
    """(ioctl number, struct of exactly its size). Raises OSError: ENOTTY, EFAULT."""
    if len(body) < wire.NUMBER.size:
        raise OSError(errno.ENOTTY, "ioctl")
    (number,) = wire.NUMBER.unpack_from(body)
    if number not in abi.STRUCTS:
        raise OSError(errno.ENOTTY, "ioctl")
    argument = body[wire.NUMBER.size :][: abi.STRUCTS[number].size]
    if len(argument) < abi.STRUCTS[number].size:
        raise OSError(errno.EFAULT, abi.CALL_NAMES[number])
    return number, argument


def call(luo: Luo, number: int, argument: bytes, fd: int) -> tuple[bytes, int]:
    """Any of them: (struct, new fd or -1). Raises OSError as they do.

    Args:
        fd: the descriptor that came along, as this process knows it; -1 if none.
    """
    match number:
        case abi.FD_PRESERVE:
            said, flags, _ = abi.FD_STRUCT.unpack(argument)
            return abi.FD_STRUCT.pack(said, flags, luo.fd_preserve(fd)), -1
        case abi.FD_UNPRESERVE:
            luo.fd_unpreserve(*abi.TOKEN_STRUCT.unpack(argument))
        case abi.FD_RESTORE:
            return argument, luo.fd_restore(abi.FD_STRUCT.unpack(argument)[2])
        case abi.GET_STATE:
            return abi.STATE_STRUCT.pack(luo.state), -1
        case abi.PREPARE:
            luo.prepare()
        case abi.FREEZE:
            luo.freeze()
        case abi.CANCEL:
            luo.cancel()
        case _:
            luo.finish()
    return argument, -1
