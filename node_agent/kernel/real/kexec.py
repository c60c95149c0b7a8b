"""kexec_file_load(2) and reboot(2), blocking: to be called in a thread.

Both go through syscall(2), as no C library has kexec_file_load. Failures are OSError with the
errno and, as strerror, the call's name (see kernel/failure.py). ctypes is imported by the first
call, not with this module: it takes long, and who only asks whether an image is loaded needs it not.
"""

from __future__ import annotations

import errno
import os
import platform

from node_agent.kernel import abi
from node_agent.kernel.failure import LOAD, REBOOT
from node_agent.ports import KexecImage

LOADED = ("/sys/kernel/kexec/loaded", "/sys/kernel/kexec_loaded")
"""Source: kernel/kexec_core.c and kernel/ksysfs.c; the second is the older name, still there."""


def load(image: KexecImage) -> None:
    """Load a kernel for the next reboot_kexec(); one loaded before is replaced on success.

    Raises OSError: ENOENT, ENOEXEC, EADDRNOTAVAIL, EPERM, EBUSY, ENOMEM, EKEYREJECTED and others.
    """
    kernel = initrd = -1
    try:
        kernel = _open(image.kernel_path)
        flags = abi.KEXEC_FILE_NO_INITRAMFS
        if image.initrd_path:
            initrd, flags = _open(image.initrd_path), 0
        file_load(kernel, initrd, image.command_line, flags)
    finally:
        for fd in (kernel, initrd):
            if fd >= 0:
                os.close(fd)


def unload() -> None:
    """Forget the loaded kernel. No error if there is none. OSError: EPERM, EBUSY."""
    file_load(-1, -1, "", abi.KEXEC_FILE_UNLOAD)


def file_load(kernel_fd: int, initrd_fd: int, command_line: str, flags: int) -> None:
    """kexec_file_load(2).

    Args:
        command_line: may be empty; the kernel's limit is 2,047 bytes on x86.
        flags: KEXEC_FILE_….
    """
    number = _number(abi.SYS_KEXEC_FILE_LOAD, LOAD)
    # The length counts the NUL; the kernel refuses a text that does not end with one.
    text = command_line.encode() + b"\0"
    _syscall(LOAD, number, kernel_fd, initrd_fd, len(text), text, flags)


def loaded(root: str = "") -> bool:
    """Has kexec_load or kexec_file_load a kernel waiting?

    Raises OSError(ENOSYS) where the kernel has no kexec.
    """
    for path in LOADED:
        try:
            with open(root + path, encoding="ascii") as file:
                return file.read().strip() == "1"
        except FileNotFoundError:
            continue
    raise OSError(errno.ENOSYS, LOAD)


def reboot() -> None:
    """reboot(LINUX_REBOOT_CMD_KEXEC): returns only by raising OSError, for a refusal.

    Neither syncs nor stops anything: that is the caller's to have done.
    """
    number = _number(abi.SYS_REBOOT, REBOOT)
    _syscall(REBOOT, number, abi.REBOOT_MAGIC1, abi.REBOOT_MAGIC2, abi.REBOOT_CMD_KEXEC, None)
    raise OSError(errno.EIO, REBOOT)  # it said that it had jumped, and we are still here


def _open(path: str) -> int:
    try:
        return os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError as cause:
        raise OSError(cause.errno, LOAD) from cause


def _number(numbers: dict[str, int], call: str) -> int:
    try:
        return numbers[platform.machine()]
    except KeyError:
        raise OSError(errno.ENOSYS, call) from None


def _syscall(call: str, number: int, *arguments: int | bytes | None) -> None:
    """One system call; the GIL is not held meanwhile. Raises OSError."""
    import ctypes

    libc = ctypes.CDLL(None, use_errno=True)
    # All of them as long: what ctypes makes of a plain int is 32 bits wide.
    words = [a if a is None or isinstance(a, bytes) else ctypes.c_long(a) for a in arguments]
    if libc.syscall(ctypes.c_long(number), *words) < 0:
        raise OSError(ctypes.get_errno(), call)
