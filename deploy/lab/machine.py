"""A guest machine as one frozen value, and QEMU's command line for it. Pure.

The machine is the same for every boot of a node; what is booted (kernel and command line) is
given for each.
"""

from __future__ import annotations

import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType

QEMU = "qemu-system-x86_64"
FIRMWARE_PORT = "liveroll.firmware"
GUEST_ADDRESS = "10.0.2.15"
HOST_ADDRESS = "10.0.2.2"
"""QEMU's user network: the guest, and the host's loopback as the guest sees it."""
EXEC_PORT = 7000
METRICS_PORT = 7490

DEFAULT_MEMORY_MIB = 512
MIN_MEMORY_MIB = 256
"""Python and gRPC run in 160 MiB; beside them are scratch areas and a workload's 64 MiB."""

SCRATCH = "16M,0M,64M"
"""KHO's scratch: low, global, for each memory node. The next kernel is loaded into it and boots in it
alone: 64 MiB hold an image of 30 MiB unpacked and what it takes before it knows what was preserved."""


@dataclass(frozen=True, slots=True)
class Machine:
    """One guest's hardware.

    forwards: guest TCP port → port on 127.0.0.1. model: the DMI product name.
    """

    name: str
    disk: Path
    console: Path
    accel: str = "tcg"
    memory_mib: int = DEFAULT_MEMORY_MIB
    model: str = "lab-q35"
    forwards: Mapping[int, int] = field(default_factory=lambda: MappingProxyType({}))


def command_line(words: Sequence[str] = (), *, init: str = "/usr/lib/liveroll/init") -> str:
    """The kernel command line of a node; `words` come last, so that they win."""
    base = (
        "console=ttyS0",
        "root=/dev/vda",
        "rootfstype=ext4",
        "rw",
        f"init={init}",
        "kho=on",
        "liveupdate=on",
        f"kho_scratch={SCRATCH}",
        "panic=1",  # a panic is a reset after a second: the firmware boots cold
        # A hypervisor has no PS/2 mouse; QEMU's costs every boot a third of a second of probing.
        "i8042.noaux",
        "loglevel=4",  # each line on a serial console costs blackout
        # On a busy host TCG's HPET lags, and the guest's watchdog blames the TSC for it: it then reads
        # the HPET for every clock_gettime, which makes the guest ten times slower, and measures no blackout.
        "tsc=reliable",
    )
    return " ".join((*base, *words))


def argv(machine: Machine, *, kernel: Path, append: str, monitor_fd: int, firmware_fd: int) -> list[str]:
    """QEMU's whole command line.

    Args:
        monitor_fd, firmware_fd: connected sockets that the process inherits, for QMP and for the
            guest's firmware port.
    """
    forwards = "".join(
        f",hostfwd=tcp:127.0.0.1:{host}-{GUEST_ADDRESS}:{guest}"
        for guest, host in sorted(machine.forwards.items())
    )
    return [
        QEMU,
        *("-name", option(machine.name)),
        *("-M", "q35", "-accel", machine.accel, "-cpu", "max"),
        *("-m", f"{machine.memory_mib}M", "-smp", "1"),
        *("-display", "none", "-nodefaults", "-no-user-config", "-no-reboot"),
        *("-smbios", f"type=1,manufacturer=Liveroll,product={option(machine.model)}"),
        *("-chardev", f"socket,id=monitor,fd={monitor_fd}", "-mon", "chardev=monitor,mode=control"),
        *("-chardev", f"file,id=console,path={option(str(machine.console))},append=on"),
        *("-serial", "chardev:console"),
        # writeback honours the guest's flushes: what it has synced outlives a reset and a dead QEMU.
        *("-drive", f"file={option(str(machine.disk))},format=raw,if=none,id=disk,cache=writeback"),
        *("-device", "virtio-blk-pci,drive=disk"),
        *("-netdev", f"user,id=net{forwards}", "-device", "virtio-net-pci,netdev=net,romfile="),
        *("-device", "virtio-serial-pci", "-chardev", f"socket,id=firmware,fd={firmware_fd}"),
        *("-device", f"virtserialport,chardev=firmware,name={FIRMWARE_PORT}"),
        *("-kernel", str(kernel), "-append", append),
    ]


def option(value: str) -> str:
    """A value within a comma-separated option. Source: qemu(1), -drive: a comma is doubled."""
    return value.replace(",", ",,")


def candidate_port() -> int:
    """A port to try: below Linux' ephemeral range, so that no outgoing connection takes it meanwhile."""
    return 20_000 + secrets.randbelow(12_000)
