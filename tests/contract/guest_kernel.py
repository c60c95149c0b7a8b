"""The guest's side of the contract on a real kernel: process 1 of a machine that only answers calls.

It mounts what the kernel's facts are read from, then reads one call a line from the virtio port
`liveroll.contract` and answers each with one line, until it is told to reboot: JSON, bytes as
Base64. Everything that a test does to a file or a session it does here, in this process, since
that is where the descriptors are. What may be asked for is in CALLS.

Standard library and node_agent.kernel only. Not here: what the calls mean to a test
(guest_backend).
"""

from __future__ import annotations

import asyncio
import base64
import fcntl
import os
import select
import socket
import subprocess
import sys
from dataclasses import asdict
from json import dumps, loads
from pathlib import Path
from typing import Any

HERE = os.path.dirname(os.path.abspath(__file__))
MOUNTS = (  # ramfs is memory too, and no shmem
    ("proc", "/proc", "proc"),
    ("sysfs", "/sys", "sysfs"),
    ("debugfs", "/sys/kernel/debug", "debugfs"),
    ("tmpfs", "/dev/shm", "tmpfs"),
    ("ramfs", "/media", "ramfs"),
)
PORT = "liveroll.contract"
MIB = 1 << 20


def prepare() -> None:
    """Become a usable process 1."""
    os.environ["PATH"] = "/usr/sbin:/usr/bin:/sbin:/bin"
    for source, target, kind in MOUNTS:
        if target.startswith("/dev"):
            os.makedirs(target, exist_ok=True)
        subprocess.run(["mount", "-t", kind, source, target], check=True)


def open_port() -> int:
    """The line to the test."""
    for port in Path("/sys/class/virtio-ports").iterdir():
        if (port / "name").read_text().strip() == PORT:
            return os.open(f"/dev/{port.name}", os.O_RDWR | os.O_CLOEXEC)
    raise SystemExit(f"no port {PORT}")


class Guest:
    """What a test may ask for, and the descriptors and processes that it left."""

    def __init__(self) -> None:
        from node_agent.kernel.real.clock import RealClock
        from node_agent.kernel.real.kernel import RealKernel

        self.kernel = RealKernel()
        self.clocks = RealClock()
        self.sessions: dict[int, Any] = {}
        self.holders: list[subprocess.Popen[bytes]] = []
        self.device = -1
        self.loop = asyncio.new_event_loop()
        self.kept = self._descriptors()

    def _descriptors(self) -> set[int]:
        return {int(name) for name in os.listdir("/proc/self/fd")}

    # --- the kernel port

    def facts(self) -> dict[str, object]:
        return asdict(self._run(self.kernel.facts()))

    def clock(self) -> dict[str, object]:
        """The TSC, and seconds since this kernel's start."""
        return {
            "tsc": self.clocks.tsc(),
            "boottime_s": self.clocks.boottime_s(),
            "tsc_hz": self.clocks.tsc_hz,
        }

    def create_session(self, name: str) -> int:
        return self._keep(self._run(self.kernel.create_session(name)))

    def retrieve_session(self, name: str) -> int:
        return self._keep(self._run(self.kernel.retrieve_session(name)))

    def _keep(self, session: Any) -> int:
        self.sessions[session.fileno()] = session
        return int(session.fileno())

    def preserve_fd(self, session: int, fd: int, token: int) -> None:
        self._run(self.sessions[session].preserve_fd(fd, token))

    def retrieve_fd(self, session: int, token: int) -> int:
        return int(self._run(self.sessions[session].retrieve_fd(token)))

    def finish(self, session: int) -> None:
        self._run(self.sessions[session].finish())

    def close_session(self, session: int) -> None:
        self._run(self.sessions.pop(session).close())

    def load(self, kernel_path: str, initrd_path: str, command_line: str, release: str) -> None:
        from node_agent.ports import KexecImage

        self._run(self.kernel.load(KexecImage(kernel_path, initrd_path, command_line, release)))

    def unload(self) -> None:
        self._run(self.kernel.unload())

    def loaded(self) -> bool:
        return bool(self._run(self.kernel.loaded()))

    def reboot_kexec(self) -> None:
        os.sync()
        self._run(self.kernel.reboot_kexec())

    def _run(self, call: Any) -> Any:
        return self.loop.run_until_complete(call)

    # --- beside the port

    def session_ioctl(self, session: int, number: int, argument: bytes) -> bytes:
        buffer = bytearray(argument)
        fcntl.ioctl(session, number, buffer, True)
        return bytes(buffer)

    def device_ioctl(self, number: int, argument: bytes) -> None:
        """A session that it makes is closed again."""
        device = os.open("/dev/liveupdate", os.O_RDWR | os.O_CLOEXEC)
        try:
            buffer = bytearray(argument)
            fcntl.ioctl(device, number, buffer, True)
            os.close(int.from_bytes(buffer[4:8], sys.byteorder))
        finally:
            os.close(device)

    def hold_device(self) -> None:
        self.device = os.open("/dev/liveupdate", os.O_RDWR | os.O_CLOEXEC)

    def release_device(self) -> None:
        os.close(self.device)

    def hold(self, fd: int) -> int:
        """Another process with a copy of a descriptor."""
        self.holders.append(subprocess.Popen(["sleep", "600"], pass_fds=[fd]))
        return self.holders[-1].pid

    def kill(self, pid: int) -> None:
        holder = next(h for h in self.holders if h.pid == pid)
        self.holders.remove(holder)
        holder.kill()
        holder.wait()

    def descriptors(self) -> int:
        return len(self._descriptors())

    def free_bytes(self) -> int:
        """MemAvailable."""
        line = next(x for x in Path("/proc/meminfo").read_text().splitlines() if x.startswith("MemAvail"))
        return int(line.split()[1]) * 1024

    def kernel_log(self) -> str:
        fd = os.open("/dev/kmsg", os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        lines = []
        try:
            while True:
                lines.append(os.read(fd, 8192).decode(errors="replace").partition(";")[2])
        except BlockingIOError:
            return "".join(lines)
        finally:
            os.close(fd)

    def tidy(self) -> bool:
        """Give back all that tests left; False if this boot cannot be used for another one."""
        facts = self.facts()
        clean = facts["luo"] and not self.loaded()
        for holder in tuple(self.holders):
            self.kill(holder.pid)
        for session in tuple(self.sessions):
            self.close_session(session)
        for fd in self._descriptors() - self.kept:
            try:
                os.close(fd)
            except OSError:  # the descriptor with which they were listed
                continue
        return bool(clean)

    # --- files

    def of_kind(self, kind: str) -> int:
        """A descriptor of something that cannot be preserved."""
        match kind:
            case "file" | "deleted file":
                fd = os.open("/media/file", os.O_RDWR | os.O_CREAT, 0o600)
                os.unlink("/media/file") if kind == "deleted file" else None
                return fd
            case "directory":
                return os.open("/media", os.O_RDONLY)
            case "device":
                return os.open("/dev/null", os.O_RDWR)
            case "eventfd":
                return os.eventfd(0)
            case "epoll":
                with select.epoll() as epoll:
                    return os.dup(epoll.fileno())
            case "socket":
                return socket.socket().detach()
            case "hugetlb":
                return os.memfd_create("huge", os.MFD_CLOEXEC | os.MFD_HUGETLB)
            case _:
                reader, writer = os.pipe()
                os.close(writer)
                return reader

    def shared(self, name: str) -> int:
        return os.open(f"/dev/shm/{name}", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)

    def unlink_shared(self, name: str) -> None:
        os.unlink(f"/dev/shm/{name}")

    def fill(self, fd: int, seed: int, mib: int) -> str:
        """Write so much that is told by the seed alone; its SHA-256."""
        import hashlib
        import random

        digest, source = hashlib.sha256(), random.Random(seed)
        for _ in range(mib):
            piece = source.randbytes(4096) * (MIB // 4096)
            digest.update(piece)
            os.write(fd, piece)
        return digest.hexdigest()

    def digest(self, fd: int) -> str:
        import hashlib
        import mmap

        with mmap.mmap(fd, 0, prot=mmap.PROT_READ) as content:
            return hashlib.sha256(content).hexdigest()

    def fallocate(self, fd: int, mode: int, offset: int, length: int) -> None:
        """fallocate(2), which os has without its mode."""
        import ctypes

        libc = ctypes.CDLL(None, use_errno=True)
        if libc.fallocate(fd, mode, ctypes.c_long(offset), ctypes.c_long(length)) < 0:
            raise OSError(ctypes.get_errno(), "fallocate")

    def size(self, fd: int) -> int:
        return os.fstat(fd).st_size


CALLS = {
    name: getattr(os, name)
    for name in (
        *("memfd_create", "write", "read", "pread", "pwrite", "lseek", "ftruncate", "close", "dup"),
        *("open", "get_inheritable", "readlink"),
    )
} | {"sameopenfile": os.path.sameopenfile, "fcntl": fcntl.fcntl}


def decoded(word: object) -> object:
    return base64.b64decode(word["b64"]) if isinstance(word, dict) else word


def encoded(value: object) -> object:
    return {"b64": base64.b64encode(value).decode()} if isinstance(value, bytes) else value


def answer(guest: Guest, line: str) -> dict[str, object]:
    """One call made. A method of Guest first, then CALLS."""
    from node_agent.errors import KernelError

    name, *arguments = loads(line)
    words = [decoded(word) for word in arguments]
    try:
        call = getattr(guest, name, None) if not name.startswith("_") else None
        return {"value": encoded((call or CALLS[name])(*words))}
    except KernelError as error:
        told = (error.errno, error.call, error.message, error.reason, error.retry.value, error.remedy)
        return {"kernel_error": told}
    except OSError as error:
        return {"os_error": [error.errno, error.strerror]}


def main() -> None:
    prepare()
    sys.path.insert(0, HERE)
    port = open_port()
    guest = Guest()
    say(port, {"up": Path("/proc/sys/kernel/random/boot_id").read_text().strip()})
    pending = b""
    while True:
        while b"\n" not in pending:
            pending += os.read(port, 1 << 16)
        line, _, pending = pending.partition(b"\n")
        say(port, answer(guest, line.decode()))


def say(port: int, what: dict[str, object]) -> None:
    rest = dumps(what).encode() + b"\n"
    while rest:
        rest = rest[os.write(port, rest) :]


if __name__ == "__main__":
    main()
