"""Kexec telemetry: when a kexec passed each of its phases, as the kernels on both sides note it.

Rules
1. The old kernel notes when it began to shut down and when it was left, and hands both to the next one as
   plain values, whether or not anything else is handed over: a plain kexec is measured too.
2. The new kernel notes when it started and when it started its first process; later processes change nothing.
3. All are raw cycles of one counter that a kexec does not stop. A kernel that misses one of the four, cannot
   read what it was handed, or finds them out of order, tells nothing.

Who passes the phases' time (a node, a kernel process) stamps them; a kernel here has no clock.

Source: the seed thread, "precise time information about kexec, including shutdown, purgatory, boot".
"""

from __future__ import annotations

import enum
from collections.abc import Callable, Mapping
from typing import Any

from node_agent.core.model import KexecTelemetry

VERSION = 1


class Phase(enum.StrEnum):
    """What is noted: the beginning of each."""

    SHUTDOWN = "shutdown"
    """reboot(KEXEC) is past its point of no return and shuts devices down."""
    PURGATORY = "purgatory"
    """The old kernel is left."""
    KERNEL = "kernel"
    """The new kernel starts."""
    USERSPACE = "userspace"
    """It starts its first process."""


LEAVING = (Phase.SHUTDOWN, Phase.PURGATORY)
"""What the kernel that is left notes, and hands over."""
STARTING = (Phase.KERNEL, Phase.USERSPACE)
"""What the next one notes."""

Page = Mapping[str, Any]
"""What is handed over: plain values, JSON's."""


class Telemetry:
    """Of one boot.

    Args:
        log: the kernel's.
    """

    def __init__(self, log: Callable[[str], None]) -> None:
        self._log = log
        self._noted: dict[Phase, int] = {}
        self._tsc_hz = 0.0
        self._before: dict[Phase, int] = {}
        self._before_hz = 0.0

    def stamp(self, phase: Phase, tsc: int, tsc_hz: float) -> None:
        """Note a phase's beginning. The first word counts.

        Args:
            tsc: raw cycles.
            tsc_hz: cycles a second, as this kernel knows it.
        """
        self._noted.setdefault(phase, tsc)
        self._tsc_hz = tsc_hz

    def page(self) -> dict[str, Any]:
        """What the next kernel is handed."""
        noted = {str(phase): self._noted[phase] for phase in LEAVING if phase in self._noted}
        return {"version": VERSION, "tsc_hz": self._tsc_hz, **noted}

    def arrive(self, page: Page) -> None:
        """Take what the kernel before handed over; a page that cannot be read is left alone."""
        version = page.get("version")
        if version != VERSION:
            self._log(f"kexec_telemetry: version {version} is not known here")
            return
        self._before = {phase: int(page[phase]) for phase in LEAVING if phase in page}
        self._before_hz = float(page["tsc_hz"])

    def report(self) -> KexecTelemetry | None:
        """Of the kexec that started this boot; None for a cold boot, or by rule 3."""
        noted = {**self._before, **{at: self._noted[at] for at in STARTING if at in self._noted}}
        cycles = [noted[phase] for phase in Phase if phase in noted]
        if len(cycles) < len(Phase) or cycles != sorted(cycles):
            return None
        shutdown, purgatory, kernel, userspace = cycles
        return KexecTelemetry(shutdown, purgatory, kernel, userspace, self._before_hz)
