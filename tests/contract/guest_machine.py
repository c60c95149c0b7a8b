"""A virtual machine that runs guest_kernel.py on a kernel of the lab, and the conversation with it.

Its root is the lab's guest root, only read. A second disk, made once for a test run, has this
checkout's node_agent and every kernel of the lab. QEMU resets the machine as firmware would, so a
panic ends in a cold boot. The line to the guest is a virtio port over a socket pair: no network,
and it stays connected over a kexec.

Calls block, with a time-out: a test has nothing else to do meanwhile.
"""

from __future__ import annotations

import base64
import json
import os
import shutil
import socket
import subprocess
from pathlib import Path

from deploy.lab.machine import QEMU, SCRATCH
from deploy.lab.paths import Lab
from deploy.lab.processes import tied
from node_agent.errors import KernelError, Retry

REPOSITORY = Path(__file__).parents[2]
INSIDE = "/mnt"
DISK_MIB = 128
MEMORY_MIB = 384
"""With KHO's default scratch, or in less, a kernel that is loaded at a random address sometimes finds no
room for scratch and boots without KHO."""
ANSWER_S = 90.0
"""A boot takes 2 to 4 s under TCG alone on a core, many times that on a busy machine."""

COMMAND_LINE = (
    f"console=ttyS0 quiet root=/dev/vda ro panic=1 init=/bin/sh tsc=reliable kho_scratch={SCRATCH} {{}} "
    f'-- -c "mount -t ext4 -o ro /dev/vdb {INSIDE} && exec python3 -I -S -B {INSIDE}/guest_kernel.py"'
)


class GuestGone(Exception):
    """The machine ended, or said nothing for too long; with the end of its console."""


def build_disk(lab: Lab, path: Path) -> None:
    """The second disk, there only once it is whole."""
    fresh, tree = path.with_suffix(".new"), path.with_suffix(".tree")
    tree.mkdir()
    shutil.copy(Path(__file__).with_name("guest_kernel.py"), tree)
    skip = shutil.ignore_patterns("__pycache__")
    shutil.copytree(REPOSITORY / "node_agent", tree / "node_agent", ignore=skip)
    for kernel in lab.kernels.values():
        shutil.copy(kernel.image, tree / f"vmlinuz-{kernel.name}")
    (tree / "bad").write_bytes(os.urandom(65536))
    (tree / "empty").write_bytes(b"")
    command = ["mkfs.ext4", "-q", "-F", "-O", "^has_journal", "-d", tree, fresh, f"{DISK_MIB}M"]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    shutil.rmtree(tree)
    fresh.replace(path)


class Machine:
    """One guest. boot counts its userspace's starts, by kexec or from cold.

    Args:
        kernel: what a cold boot starts, by its name in the lab.
        words: further words of that kernel's command line.
    """

    def __init__(self, lab: Lab, disk: Path, console: Path, kernel: str, words: str) -> None:
        self.boot = 0
        self.waiting = False
        """For an answer: a test that ended meanwhile leaves a machine that nobody can use."""
        self.words = words
        self.kernel = kernel
        self._lab, self._disk, self._console = lab, disk, console
        self._start()

    @property
    def command_line(self) -> str:
        return COMMAND_LINE.format(self.words)

    def _start(self) -> None:
        self.waiting = True
        self._line, theirs = socket.socketpair()
        self._line.settimeout(ANSWER_S)
        self._buffer = b""
        command = [
            *(QEMU, "-M", "q35", "-accel", "tcg", "-cpu", "max", "-smp", "1"),
            *("-m", f"{MEMORY_MIB}M", "-display", "none", "-nodefaults", "-no-user-config"),
            *("-serial", f"file:{self._console}"),
            *("-drive", f"file={self._lab.root_image},format=raw,if=virtio,snapshot=on"),
            *("-drive", f"file={self._disk},format=raw,if=virtio,snapshot=on"),
            *("-device", "virtio-serial-pci", "-chardev", f"socket,id=line,fd={theirs.fileno()}"),
            *("-device", "virtserialport,chardev=line,name=liveroll.contract"),
            *("-kernel", str(self._lab.kernels[self.kernel].image), "-append", self.command_line),
        ]
        self._qemu = subprocess.Popen(tied(command), pass_fds=[theirs.fileno()], stdin=subprocess.DEVNULL)
        theirs.close()
        self.wait_up()
        self.cold_boot = self.boot

    def wait_up(self) -> None:
        """Until userspace has started, once more."""
        while "up" not in self._receive():
            pass
        self.boot += 1

    def call(self, name: str, *arguments: object) -> object:
        """One call in the guest. Raises what it raised: KernelError or OSError."""
        self.ask(name, *arguments)
        return self._value(self._receive())

    def ask(self, name: str, *arguments: object) -> None:
        """A call without waiting for its answer."""
        words = [
            {"b64": base64.b64encode(a).decode()} if isinstance(a, bytes | bytearray) else a
            for a in arguments
        ]
        self.waiting = True
        self._line.sendall(json.dumps([name, *words]).encode() + b"\n")

    def reboot(self) -> None:
        """reboot(KEXEC) and the next userspace, whichever it is; raises the refusal."""
        self.ask("reboot_kexec")
        told = self._receive()
        if "up" not in told:
            self._value(told)
        self.boot += 1

    def power_cycle(self) -> None:
        """Off and on again, whatever it was doing."""
        self.end()
        self._start()

    def end(self) -> None:
        self._line.close()
        self._qemu.kill()
        self._qemu.wait()

    def _value(self, told: dict[str, object]) -> object:
        if "kernel_error" in told:
            number, call, message, reason, retry, remedy = told["kernel_error"]
            raise KernelError(number, call, message, reason=reason, retry=Retry(retry), remedy=remedy)
        if "os_error" in told:
            raise OSError(*told["os_error"])
        value = told["value"]
        return base64.b64decode(value["b64"]) if isinstance(value, dict) and set(value) == {"b64"} else value

    def _receive(self) -> dict[str, object]:
        while b"\n" not in self._buffer:
            try:
                piece = self._line.recv(1 << 16)
            except TimeoutError:
                piece = b""
            if not piece:
                raise GuestGone(self._console.read_text(errors="replace")[-3000:])
            self._buffer += piece
        one, _, self._buffer = self._buffer.partition(b"\n")
        self.waiting = False
        return json.loads(one)
