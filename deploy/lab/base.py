"""The lowest layer of the guest's root: a minimal Debian, trimmed, with the lab's users."""

from __future__ import annotations

import shutil
from pathlib import Path

from deploy.lab import children, mirror
from deploy.lab.errors import LabError

_VERSION = 2
"""To be raised when what is done here changes."""

_PACKAGES = ("python3", "busybox-static", "kexec-tools")
"""kexec-tools: for a kexec that is not the agent's."""

_TRIM = (
    "usr/share/doc",
    "usr/share/man",
    "usr/share/info",
    "usr/share/locale",
    "usr/share/i18n",
    "usr/share/zoneinfo",
    "usr/lib/x86_64-linux-gnu/gconv",
    "var/cache/apt",
    "var/lib/apt/lists",
    "var/log",
)
"""Of no use in a guest that lives for minutes, and half of the tree."""

_USERS = (("worker", 1000), ("other", 1001))
"""Two that are not root, for what one workload may not do to another's."""


_FILES = {
    "hostname": "lab\n",
    "hosts": "127.0.0.1 localhost\n",
    # debootstrap leaves this machine's own; 10.0.2.3 is QEMU's user network.
    "resolv.conf": "nameserver 10.0.2.3\n",
}


def key() -> str:
    """Changes when the base has to be made anew."""
    return repr((_VERSION, _PACKAGES, _TRIM, _USERS, _FILES))


def install(tree: Path, logs: Path) -> None:
    """Make `tree` anew. Raises LabError: NO_MIRROR, NOT_DEBIAN, DEBOOTSTRAP_FAILED."""
    source, release = mirror.here()
    shutil.rmtree(tree, ignore_errors=True)
    keyring = [f"--keyring={source.signed_by}"] if source.signed_by else []
    options = ["--variant=minbase", *keyring, f"--include={','.join(_PACKAGES)}"]
    children.run(
        # In a mount namespace of its own: what it mounts in the tree is gone with it, whatever happens.
        ["unshare", "--mount", "debootstrap", *options, release, str(tree), source.uri],
        what=f"debootstrap of {release}",
        log=logs / "debootstrap.log",
        reason="DEBOOTSTRAP_FAILED",
        remedy="Check the network and the mirror; debootstrap needs chroot and mknod.",
    )
    for name in _TRIM:
        shutil.rmtree(tree / name, ignore_errors=True)
        (tree / name).mkdir()
    _add_users(tree / "etc")
    for name in ("etc/liveroll", "var/lib/liveroll-agent", "run/luod", "run/liveroll-agent"):
        (tree / name).mkdir(parents=True, exist_ok=True)
    for name, text in _FILES.items():
        (tree / "etc" / name).write_text(text)


def python_version(tree: Path) -> str:
    """The guest's Python, such as 3.11. Raises LabError (DEBOOTSTRAP_FAILED)."""
    for found in sorted((tree / "usr/bin").glob("python3.[0-9]*")):
        words = found.name.removeprefix("python")
        if words.replace(".", "").isdigit():
            return words
    raise LabError("the guest's root has no python3", reason="DEBOOTSTRAP_FAILED")


def _add_users(etc: Path) -> None:
    with (etc / "passwd").open("a") as passwd, (etc / "group").open("a") as group:
        for name, number in _USERS:
            passwd.write(f"{name}:x:{number}:{number}::/tmp:/bin/sh\n")
            group.write(f"{name}:x:{number}:\n")
