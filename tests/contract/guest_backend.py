"""The real kernel under contract: Backend over a guest of the lab.

A test's calls on files go to the guest too (node.os, node.fcntl), since its descriptors are
there. Calls block this loop, which nobody else uses. What only an emulated kernel can be told to do
is skipped, with that reason, before anything boots.
"""

from __future__ import annotations

import fcntl
import zlib
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NoReturn

import pytest

from deploy.lab.paths import Lab
from node_agent.errors import KernelError
from node_agent.kernel.sessions import SessionModel
from node_agent.ports import BootFacts, Kernel, KexecImage, KhoFacts, MemoryFacts, Session
from tests.contract.guest_machine import COMMAND_LINE, INSIDE, Machine, build_disk
from tests.contract.kernel_backends import ON, Backend, Holder


class Guests:
    """The machines of one module's tests. One that a test left as it was serves the next.

    Args:
        directory: for consoles.
        shared: a directory of the whole test run, for the disk that all its processes use.
    """

    def __init__(self, lab: Lab, directory: Path, shared: Path) -> None:
        self.lab = lab
        self._directory = directory
        # A lab that is built further during a run gets a disk of its own.
        kernels = "".join(sorted(str(kernel.image) for kernel in lab.kernels.values()))
        self._disk = shared / f"contract-{zlib.crc32(kernels.encode()):08x}.ext4"
        self._idle: list[Machine] = []
        self._started = 0

    def take(self, kernel: str = "a", words: str = ON) -> Machine:
        """A machine after a cold boot. Other words than the usual get one of their own."""
        self.require(kernel)
        if (kernel, words) == ("a", ON) and self._idle:
            return self._idle.pop()
        with open(self._disk.with_suffix(".lock"), "w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if not self._disk.exists():
                build_disk(self.lab, self._disk)
        self._started += 1
        return Machine(self.lab, self._disk, self._directory / f"console-{self._started}", kernel, words)

    def give_back(self, machine: Machine) -> None:
        """To the next test if it is in its first boot and nothing is loaded or held; else it ends."""
        usual = (machine.kernel, machine.words) == ("a", ON) and machine.boot == machine.cold_boot
        if usual and not machine.waiting and machine.call("tidy"):
            self._idle.append(machine)
        else:
            machine.end()

    def require(self, kernel: str) -> None:
        """Skip where the lab was built without this kernel."""
        if kernel not in self.lab.kernels:
            pytest.skip(f"the lab has no kernel {kernel}")

    def end(self) -> None:
        for machine in self._idle:
            machine.end()
        self._idle.clear()


class GuestOs:
    """The os module of a guest, as far as the contract uses it."""

    def __init__(self, machine: Machine) -> None:
        self._machine = machine
        self.path = SimpleNamespace(sameopenfile=lambda *fds: machine.call("sameopenfile", *fds))

    def __getattr__(self, name: str) -> Callable[..., Any]:
        return lambda *arguments: self._machine.call(name, *arguments)

    def fstat(self, fd: int) -> SimpleNamespace:
        return SimpleNamespace(st_size=self._machine.call("size", fd))


def kho_facts(told: dict[str, Any]) -> KhoFacts:
    return KhoFacts(**(told | {"scratch_bytes": tuple(told["scratch_bytes"])}))


class GuestKernel(SessionModel):
    """ports.Kernel of a guest's present boot, made by RealKernel in it."""

    def __init__(self, machine: Machine) -> None:
        self._machine = machine

    async def facts(self) -> BootFacts:
        told = self._machine.call("facts")
        told["kho"] = kho_facts(told["kho"])
        told["memory"] = told["memory"] and MemoryFacts(**told["memory"])
        return BootFacts(**told)

    async def create_session(self, name: str) -> GuestSession:
        return GuestSession(self._machine, name, self._machine.call("create_session", name))

    async def retrieve_session(self, name: str) -> GuestSession:
        return GuestSession(self._machine, name, self._machine.call("retrieve_session", name))

    async def telemetry(self) -> None:
        return None

    async def load(self, image: KexecImage) -> None:
        self._machine.call("load", image.kernel_path, image.initrd_path, image.command_line, image.release)

    async def unload(self) -> None:
        self._machine.call("unload")

    async def loaded(self) -> bool:
        return bool(self._machine.call("loaded"))

    async def reboot_kexec(self) -> NoReturn:
        self._machine.reboot()
        raise KernelError(0, "reboot", reason="BOOT_OVER")


class GuestSession:
    """ports.Session of a guest's boot; closing it in a later one does nothing."""

    def __init__(self, machine: Machine, name: str, fd: int) -> None:
        self._machine, self._name, self._fd = machine, name, fd
        self._boot = machine.boot

    @property
    def name(self) -> str:
        return self._name

    def fileno(self) -> int:
        return self._fd

    async def preserve_fd(self, fd: int, token: int) -> None:
        self._machine.call("preserve_fd", self._fd, fd, token)

    async def retrieve_fd(self, token: int) -> int:
        return int(self._machine.call("retrieve_fd", self._fd, token))

    async def finish(self) -> None:
        self._machine.call("finish", self._fd)

    async def close(self) -> None:
        if self._boot == self._machine.boot and self._fd >= 0:
            self._machine.call("close_session", self._fd)
        self._fd = -1


class GuestHolder(Holder):
    """A process of a guest's boot."""

    def __init__(self, machine: Machine, fd: int) -> None:
        self._machine, self._boot = machine, machine.boot
        self._pid = machine.call("hold", fd)

    async def end(self) -> None:
        if self._boot == self._machine.boot:
            self._machine.call("kill", self._pid)


class Guest(Backend):
    """A real kernel. start() boots it, or takes one that another test has left clean."""

    real = True
    guests: Guests
    """Set by the fixture that makes this backend."""
    first_kernel = "a"
    first_words = ON

    async def start(self) -> None:
        if self.faults or self.memory_bytes or self.scratch_bytes:
            pytest.skip("only an emulated kernel can be told to fail so")
        self.machine = self.guests.take(self.first_kernel, self.first_words)
        self.os, self.fcntl = GuestOs(self.machine), GuestOs(self.machine)
        self.kernel = GuestKernel(self.machine)
        kernels = self.guests.lab.kernels
        self.releases = (kernels["b"].release, (kernels.get("c") or kernels["a"]).release)

    async def stop(self) -> None:
        if hasattr(self, "machine"):
            self.guests.give_back(self.machine)

    def image(self, release: str = "", command_line: str = ON, **properties: object) -> KexecImage:
        """The lab's kernel of this release, or the one that has this property."""
        name = self._kernel(release or self.releases[0], properties)
        self.guests.require(name)
        words = f"{command_line} init=/bin/false" if properties.get("panics") else command_line
        line = COMMAND_LINE.format(words)
        return KexecImage(f"{INSIDE}/vmlinuz-{name}", "", line, self.guests.lab.kernels[name].release)

    def _kernel(self, release: str, properties: dict[str, object]) -> str:
        match properties:
            case {"kho": False}:
                return "nokho"
            case {"handlers": []}:
                return "nomemfd"
            case {"abi": _}:
                return "otherabi"
            case {"panics": True}:
                return "b"
        if properties:
            pytest.skip(f"no kernel can be built that is {properties}")
        return next(k.name for k in self.guests.lab.kernels.values() if k.release == release)

    def broken_images(self) -> list[KexecImage]:
        return [KexecImage(f"{INSIDE}/{name}", "", "", "") for name in ("bad", "empty")]

    async def jump(self) -> Kernel:
        self.machine.reboot()
        return self.kernel

    async def next_boot(self) -> Kernel:
        self.machine.wait_up()
        return self.kernel

    async def power_loss(self) -> Kernel:
        self.machine.power_cycle()
        return self.kernel

    async def vanish(self) -> None:
        raise NotImplementedError("a real kernel vanishes by a fault only")

    async def press_power(self) -> Kernel:
        return await self.power_loss()

    async def session_ioctl(self, session: Session, number: int, argument: bytearray) -> None:
        argument[:] = self.machine.call("session_ioctl", session.fileno(), number, argument)

    async def device_ioctl(self, number: int, argument: bytearray) -> None:
        self.machine.call("device_ioctl", number, argument)

    @asynccontextmanager
    async def device_held(self) -> AsyncIterator[None]:
        self.machine.call("hold_device")
        yield
        self.machine.call("release_device")

    async def kernel_fds(self) -> int:
        return int(self.machine.call("descriptors"))

    async def hold(self, session: Session) -> Holder:
        return GuestHolder(self.machine, session.fileno())

    def of_kind(self, kind: str) -> int:
        return int(self.machine.call("of_kind", kind))

    def shared(self, *, unlinked: bool) -> int:
        fd = int(self.machine.call("shared", "contract"))
        if unlinked:
            self.machine.call("unlink_shared", "contract")
        return fd
