"""The kernel's binary interface: ioctl numbers, struct layouts, syscall constants.

Every LUO ioctl is `_IO()`: its number carries neither size nor direction, so the struct's own
first field says how long it is. Layouts are native order without padding. What an errno means is not here.

Source: include/uapi/linux/liveupdate.h, Linux 7.2 (7.3's is byte-identical).
"""

import errno

# _struct, not struct: the blackout path may import interpreter builtins only.
from _struct import Struct

IOCTL_TYPE = 0xBA
"""Source: LIVEUPDATE_IOCTL_TYPE."""

CREATE_SESSION = 0xBA00
RETRIEVE_SESSION = 0xBA01
"""On /dev/liveupdate. Source: LIVEUPDATE_CMD_BASE 0x00."""

SESSION_PRESERVE_FD = 0xBA40
SESSION_RETRIEVE_FD = 0xBA41
SESSION_FINISH = 0xBA42
SESSION_GET_NAME = 0xBA43
"""On a session fd. Source: LIVEUPDATE_CMD_SESSION_BASE 0x40; GET_NAME is not in 6.19."""

DEVICE_IOCTLS = (CREATE_SESSION, RETRIEVE_SESSION)
SESSION_IOCTLS = (SESSION_PRESERVE_FD, SESSION_RETRIEVE_FD, SESSION_FINISH, SESSION_GET_NAME)

CALL_NAMES = {
    CREATE_SESSION: "LIVEUPDATE_IOCTL_CREATE_SESSION",
    RETRIEVE_SESSION: "LIVEUPDATE_IOCTL_RETRIEVE_SESSION",
    SESSION_PRESERVE_FD: "LIVEUPDATE_SESSION_PRESERVE_FD",
    SESSION_RETRIEVE_FD: "LIVEUPDATE_SESSION_RETRIEVE_FD",
    SESSION_FINISH: "LIVEUPDATE_SESSION_FINISH",
    SESSION_GET_NAME: "LIVEUPDATE_SESSION_GET_NAME",
}

SESSION_NAME_BYTES = 64
"""Including the NUL, so 63 bytes of name. Source: LIVEUPDATE_SESSION_NAME_LENGTH."""

SESSION_STRUCT = Struct("=Ii64s")
"""u32 size; s32 fd (out); u8 name[64]. Source: struct liveupdate_ioctl_create_session."""

FD_STRUCT = Struct("=IiQ")
"""u32 size; s32 fd (in for preserve, out for retrieve); u64 token.

Source: struct liveupdate_session_preserve_fd, liveupdate_session_retrieve_fd.
"""

FINISH_STRUCT = Struct("=II")
"""u32 size; u32 reserved, 0. Source: struct liveupdate_session_finish."""

NAME_STRUCT = Struct("=II64s")
"""u32 size; u32 reserved, 0; u8 name[64] (out). Source: struct liveupdate_session_get_name."""

STRUCTS = {
    CREATE_SESSION: SESSION_STRUCT,
    RETRIEVE_SESSION: SESSION_STRUCT,
    SESSION_PRESERVE_FD: FD_STRUCT,
    SESSION_RETRIEVE_FD: FD_STRUCT,
    SESSION_FINISH: FINISH_STRUCT,
    SESSION_GET_NAME: NAME_STRUCT,
}

TOKEN_MAX = 2**64 - 1

REBOOT_MAGIC1 = 0xFEE1DEAD
REBOOT_MAGIC2 = 672274793
REBOOT_CMD_KEXEC = 0x45584543
"""Source: include/uapi/linux/reboot.h."""

SYS_KEXEC_FILE_LOAD = {"x86_64": 320, "aarch64": 294}
SYS_REBOOT = {"x86_64": 169, "aarch64": 142}
"""By `uname -m`. Source: arch/x86/entry/syscalls/syscall_64.tbl, scripts/syscall.tbl."""

KEXEC_FILE_UNLOAD = 0x1
KEXEC_FILE_ON_CRASH = 0x2
KEXEC_FILE_NO_INITRAMFS = 0x4
"""Source: include/uapi/linux/kexec.h."""

KEXEC_METADATA_STRUCT = Struct("=I65sI")
"""u32 version (1); char previous_release[65]; u32 kexec_count.

Source: KHO's kexec-metadata subtree; /sys/kernel/debug/kho/in/sub_fdts/kexec-metadata.
"""


def pack_session(name: str) -> bytearray:
    """The argument of CREATE_SESSION and RETRIEVE_SESSION.

    A name of 64 bytes or more leaves no room for the NUL; the kernel answers EINVAL.
    """
    return bytearray(SESSION_STRUCT.pack(SESSION_STRUCT.size, -1, name.encode()))


def unpack_session(buffer: bytes | bytearray) -> tuple[int, bytes]:
    """(fd, raw 64-byte name)."""
    _, fd, name = SESSION_STRUCT.unpack_from(buffer)
    return int(fd), bytes(name)


def pack_fd(fd: int, token: int) -> bytearray:
    """The argument of PRESERVE_FD, and of RETRIEVE_FD with fd -1. token: 0 … TOKEN_MAX."""
    return bytearray(FD_STRUCT.pack(FD_STRUCT.size, fd, token))


def unpack_fd(buffer: bytes | bytearray) -> tuple[int, int]:
    """(fd, token)."""
    _, fd, token = FD_STRUCT.unpack_from(buffer)
    return int(fd), int(token)


def pack_finish() -> bytearray:
    """The argument of FINISH."""
    return bytearray(FINISH_STRUCT.pack(FINISH_STRUCT.size, 0))


def pack_name(name: bytes = b"") -> bytearray:
    """The argument (empty name) and the result of GET_NAME."""
    return bytearray(NAME_STRUCT.pack(NAME_STRUCT.size, 0, name))


def unpack_name(buffer: bytes | bytearray) -> bytes:
    """The name, without its NUL."""
    _, _, name = NAME_STRUCT.unpack_from(buffer)
    return bytes(name).split(b"\0", 1)[0]


def unpack_kexec_metadata(buffer: bytes) -> tuple[str, int]:
    """(previous release, kexec count). Raises ValueError for another version."""
    version, release, count = KEXEC_METADATA_STRUCT.unpack_from(buffer)
    if version != 1:
        raise ValueError(f"kexec metadata of version {version}, only 1 is known")
    return release.split(b"\0", 1)[0].decode(errors="replace"), int(count)


_HEAD = Struct("=II")
"""u32 number, u32 size: the struct's own first field."""


def decode(message: bytes, *allowed: int, refused: tuple[int, ...] = ()) -> tuple[int, bytes]:
    """(ioctl number, struct of exactly its size) of a message: u32 number, then the struct.

    As a kernel does it: a number is looked up by its low byte, and is ENOTTY if the rest of it is
    another's; what this file does not take at all (refused) is EINVAL whatever the struct is like. A
    struct too small is EINVAL, a larger one is taken if its tail is zeros, else E2BIG.

    Raises OSError: EINVAL, ENOTTY, E2BIG.

    Source: luo_ioctl() and luo_session_ioctl(), Linux 7.2; copy_struct_from_user() in them.
    """
    if len(message) < _HEAD.size:
        raise OSError(errno.EINVAL, "ioctl")
    number, size = _HEAD.unpack_from(message)
    if number not in allowed:
        mistyped = any(number & 0xFF == known & 0xFF for known in allowed)
        raise OSError(errno.ENOTTY if mistyped else errno.EINVAL, "ioctl")
    call, wanted = CALL_NAMES[number], STRUCTS[number].size
    if number in refused:
        raise OSError(errno.EINVAL, call)
    argument = message[4 : 4 + size]
    if len(argument) < wanted:
        raise OSError(errno.EINVAL, call)
    if any(argument[wanted:]):
        raise OSError(errno.E2BIG, call)
    return number, argument[:wanted]
