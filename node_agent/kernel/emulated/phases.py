"""How long an emulated node takes for each phase of a kexec or a cold boot, in seconds."""

from __future__ import annotations

from dataclasses import dataclass

from node_agent.kernel.faults import FaultPlan


@dataclass(frozen=True, slots=True)
class PhaseTimes:
    """All emulated: they say nothing about a real node. Zeros cost no time at all."""

    shutdown_s: float = 0.0
    purgatory_s: float = 0.0
    boot_s: float = 0.0
    panic_s: float = 0.0
    """From a panic to the firmware's reset (panic=N)."""
    firmware_s: float = 0.0
    """From the reset or power-on to the kernel's start."""

    def shutdown_with_s(self, faults: FaultPlan, n: int) -> float:
        """From the n-th reboot(KEXEC) until the old kernel is left, faults included."""
        return self.shutdown_s + faults.added_s("shutdown", n)

    def purgatory_with_s(self, faults: FaultPlan, n: int) -> float:
        """From there to the new kernel's start, faults included."""
        return self.purgatory_s + faults.added_s("purgatory", n)

    def boot_with_s(self, faults: FaultPlan, n: int) -> float:
        """From the kernel's start to userspace, faults included."""
        return self.boot_s + faults.added_s("boot", n)
