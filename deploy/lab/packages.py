"""Debian packages that the lab needs, and the installation of those that are missing."""

from __future__ import annotations

import os
from pathlib import Path

from deploy.lab import children
from deploy.lab.errors import LabError

NEEDED = (
    # to run
    "qemu-system-x86",
    "qemu-utils",
    "e2fsprogs",
    # to build kernels
    "gcc",
    "make",
    "libc6-dev",
    "flex",
    "bison",
    "bc",
    "libelf-dev",
    "libssl-dev",
    "lz4",
    "kmod",
    "xz-utils",
    # to build the root
    "debootstrap",
    "busybox-static",
)

_INSTALLED = "installed"


def missing(listing: str) -> list[str]:
    """Those of NEEDED that dpkg-query's lines (`name status`) do not show as installed."""
    there = {
        name.split(":", 1)[0]
        for name, _, status in (line.partition(" ") for line in listing.splitlines())
        if status.strip() == _INSTALLED
    }
    return [name for name in NEEDED if name not in there]


def install(log: Path) -> None:
    """Install what is missing. Raises LabError (NOT_DEBIAN, INSTALL_FAILED)."""
    listing = children.output(
        ["dpkg-query", "-W", "-f", "${Package} ${db:Status-Status}\n"],
        reason="NOT_DEBIAN",
        remedy="The lab needs Debian.",
    )
    wanted = missing(listing)
    if not wanted:
        return
    children.say(f"installing {', '.join(wanted)}")
    environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    remedy = f"Install them by hand: apt-get install {' '.join(wanted)}"
    command = ["apt-get", "install", "--yes", "--no-install-recommends", *wanted]
    try:
        children.run(command, what="packages", log=log, reason="INSTALL_FAILED", environment=environment)
    except LabError:
        # The usual cause is a list of packages that is old or was never fetched.
        children.say("again, with fresh package lists")
        for step in (["apt-get", "update"], command):
            children.run(
                step,
                what="packages",
                log=log,
                reason="INSTALL_FAILED",
                remedy=remedy,
                environment=environment,
            )
