"""Kexec telemetry as a subsystem of RFC v2's LUO, carried by every kexec.

Source: the seed thread, "We are planning to propose kexec telemetry, and it could be LUO subsystem. On the
other hand, it could be useful even without live update, just to measure precise kexec reboot time."
"""

from __future__ import annotations

from node_agent.kernel.emulated.rfc2.memory import Blob, Memory
from node_agent.kernel.emulated.telemetry import Telemetry


class TelemetrySubsystem:
    """Keeps a page of plain values."""

    name = "kexec_telemetry"
    automatic = True

    def __init__(self, telemetry: Telemetry, memory: Memory) -> None:
        self._telemetry, self._memory = telemetry, memory

    def prepare(self) -> int:
        return self._memory.keep(Blob(self._telemetry.page()))

    def freeze(self, data: int) -> int:
        return data

    def cancel(self, data: int) -> None:
        """The page is given back with what every subsystem kept."""

    def boot(self, data: int | None) -> None:
        if data is not None:
            self._telemetry.arrive(self._memory.blob(data))

    def finish(self, data: int | None) -> None:
        """It was read at boot."""
