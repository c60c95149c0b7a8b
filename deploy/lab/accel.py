"""Which accelerator guests run with: KVM where it truly runs one, else TCG.

A /dev/kvm that can be opened proves nothing: nested in another virtual machine it may refuse a
register, or never start the guest. So a kernel is booted with it, once; the answer is kept beside
the kernels for this boot of the machine. $LIVEROLL_LAB_ACCEL=tcg|kvm overrides.
"""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Mapping
from pathlib import Path

from deploy.lab.console import Console
from deploy.lab.errors import LabError
from deploy.lab.machine import Machine
from deploy.lab.qemu import Qemu

ACCELERATORS = ("kvm", "tcg")
OVERRIDE = "LIVEROLL_LAB_ACCEL"
PROBE_S = 8.0
"""A kernel's first line comes within a second under TCG, which is the slow one."""
_CACHE = "accel.json"


async def choose(kernel: Path, cache: Path, environment: Mapping[str, str] | None = None) -> str:
    """kvm or tcg.

    Args:
        kernel: a bzImage with a serial console, for the probe.
        cache: directory where the answer is kept.

    Raises:
        LabError: ACCEL_UNKNOWN.
    """
    chosen = (os.environ if environment is None else environment).get(OVERRIDE, "")
    if chosen:
        return checked(chosen)
    if not os.access("/dev/kvm", os.R_OK | os.W_OK):
        return "tcg"
    key = f"{_boot_id()} {kernel.stat().st_mtime_ns}"
    kept = cache / _CACHE
    try:
        answer = json.loads(kept.read_text())
        if answer["key"] == key:
            return checked(answer["accel"])
    except (OSError, ValueError, KeyError, TypeError, LabError):
        pass
    accel = "kvm" if await runs("kvm", kernel) else "tcg"
    fresh = kept.with_suffix(".new")
    fresh.write_text(json.dumps({"key": key, "accel": accel}) + "\n")
    fresh.replace(kept)
    return accel


def checked(accel: str) -> str:
    """Raises LabError (ACCEL_UNKNOWN) for anything but kvm and tcg."""
    if accel not in ACCELERATORS:
        raise LabError(
            f"{accel!r} is no accelerator of the lab",
            reason="ACCEL_UNKNOWN",
            remedy=f"Set {OVERRIDE} or --accel to kvm or tcg, or leave it out.",
        )
    return accel


async def runs(accel: str, kernel: Path) -> bool:
    """Whether a guest says its first line with it."""
    with tempfile.TemporaryDirectory(prefix="liveroll-lab-") as scratch:
        console, disk = Path(scratch, "console"), Path(scratch, "disk")
        disk.write_bytes(bytes(1 << 20))
        machine = Machine("probe", disk, console, accel=accel, memory_mib=192)
        try:
            qemu = await Qemu.start(machine, kernel=kernel, append="console=ttyS0 panic=-1")
        except LabError:
            return False
        try:
            await Console(console).wait_for("Linux version", timeout_s=PROBE_S)
        except LabError:
            return False
        finally:
            await qemu.kill()
        return True


def _boot_id() -> str:
    return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
