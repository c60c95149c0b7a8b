"""What this process has open, to see that a test has left nothing."""

from __future__ import annotations

import contextlib
import os


def descriptors() -> frozenset[str]:
    """Each descriptor and what it is of. Compare with `-`: what earlier tests left to gRPC may be
    closed at any time."""
    held = set()
    for fd in os.listdir("/proc/self/fd"):
        # The one that lists them is gone by now.
        with contextlib.suppress(FileNotFoundError):
            held.add(f"{fd} {os.readlink(f'/proc/self/fd/{fd}')}")
    return frozenset(held)
