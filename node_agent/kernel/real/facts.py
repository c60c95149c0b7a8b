"""What this boot is, read from /proc and /sys. Not here: the device, which kernel.py asks.

Source: Documentation/ABI/testing/procfs-*, sysfs-firmware-dmi; KHO's debugfs (abi.KEXEC_METADATA_STRUCT).
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from node_agent.kernel import abi

MODEL_MAX = 63
"""The longest value of a label, which the hardware model also is."""

_NOT_LABEL = re.compile(r"[^A-Za-z0-9._]+")
_UNSET = frozenset(
    {"", "None", "Not-Specified", "System-Product-Name", "To-Be-Filled-By-O.E.M", "Default-string"}
)
"""What firmware has where nobody wrote a name."""

_METADATA = "/sys/kernel/debug/kho/in/sub_fdts/kexec-metadata"


@dataclass(frozen=True, slots=True)
class Identity:
    """BootFacts without what /dev/liveupdate says."""

    boot_id: str
    release: str
    command_line: str
    hardware_model: str
    previous_release: str
    kexec_count: int


def read_identity(root: str = "") -> Identity:
    """Raises OSError if /proc is not there.

    Args:
        root: a directory that stands for /; "" is this machine.
    """
    previous_release, kexec_count = read_metadata(root)
    return Identity(
        boot_id=_read(root + "/proc/sys/kernel/random/boot_id"),
        release=_read(root + "/proc/sys/kernel/osrelease"),
        command_line=_read(root + "/proc/cmdline"),
        hardware_model=hardware_model(root),
        previous_release=previous_release,
        kexec_count=kexec_count,
    )


def hardware_model(root: str = "") -> str:
    """The firmware's product name as a label value, "unknown" if it has none."""
    try:
        with open(root + "/sys/class/dmi/id/product_name", encoding="utf-8", errors="replace") as file:
            return model_label(file.read(4096))
    except OSError:
        return "unknown"


def model_label(product_name: str) -> str:
    """A product name with words joined by "-", at most MODEL_MAX characters; "unknown" for none."""
    words = _NOT_LABEL.sub("-", product_name.strip())[:MODEL_MAX].strip("-.")
    return "unknown" if words in _UNSET else words


def read_metadata(root: str = "") -> tuple[str, int]:
    """(previous release, kexec count) as KHO hands them on; ("", 0) after a cold boot, without
    debugfs, or for a version that is not known. Advisory."""
    try:
        with open(root + _METADATA, "rb") as file:
            blob = file.read(abi.KEXEC_METADATA_STRUCT.size)
    except OSError:
        return "", 0
    if len(blob) < abi.KEXEC_METADATA_STRUCT.size:
        return "", 0
    try:
        return abi.unpack_kexec_metadata(blob)
    except ValueError:
        return "", 0


def _read(path: str) -> str:
    with open(path, encoding="utf-8", errors="replace") as file:
        return file.read().strip()
