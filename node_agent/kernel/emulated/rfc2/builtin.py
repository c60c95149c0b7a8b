"""What a kernel has built in that takes part in a kexec without any file: reserve_mem, the buffers that live
in it, telemetry; as subsystems of LUO, or as users of KHO.

Rules
1. Subsystems are called in this order: faults, reserve_mem, ftrace, kexec_telemetry: who lives in a region
   comes after it.
2. A name of `auto_preserve` that is no subsystem here, or none that can be preserved so, is logged and
   changes nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from node_agent.kernel.emulated.image import EmulatedImage
from node_agent.kernel.emulated.rfc2.buffers import PSTORE, TRACE, Ftrace, Pstore
from node_agent.kernel.emulated.rfc2.kho import Kho
from node_agent.kernel.emulated.rfc2.refusals import Refusals
from node_agent.kernel.emulated.rfc2.reserve_mem import Reserved
from node_agent.kernel.emulated.rfc2.reserve_mem_ways import LUO_WAY, ReserveMemNotifier, ReserveMemSubsystem
from node_agent.kernel.emulated.rfc2.states import Coupling
from node_agent.kernel.emulated.rfc2.subsystems import Subsystem
from node_agent.kernel.emulated.rfc2.telemetry import TelemetrySubsystem
from node_agent.kernel.emulated.telemetry import Telemetry

LAST_WORDS = "kexec_core: Starting new kernel"
"""What a kernel says last. Source: kernel_kexec()."""


class Builtin:
    """Of one boot.

    Args:
        reserved: its regions, all zeros as yet.
        telemetry: of this boot; None where the kernel has none.
        refuses: see refusals.Refusals.
        log: the kernel's.
    """

    def __init__(
        self,
        image: EmulatedImage,
        kho: Kho,
        reserved: Reserved,
        telemetry: Telemetry | None,
        refuses: Callable[[str], int],
        log: Callable[[str], None],
    ) -> None:
        self.reserved = reserved
        self.subsystems: list[Subsystem] = [Refusals(refuses)]
        self.ftrace: Ftrace | None = None
        self.pstore: Pstore | None = None
        self._notifier: ReserveMemNotifier | None = None
        if reserved.regions:
            if image.reserve_mem == LUO_WAY:
                automatic = ReserveMemSubsystem.name in image.auto_preserve
                self.subsystems.append(ReserveMemSubsystem(reserved, kho.memory, automatic=automatic))
            elif image.coupling == Coupling.NOTIFIER:
                self._notifier = ReserveMemNotifier(reserved, kho)
                kho.chain.append(self._notifier)
            else:
                log("reserve_mem: KHO calls nobody here, so nothing of it is preserved")
        if TRACE in reserved.regions:
            self.ftrace = Ftrace(reserved)
            self.subsystems.append(self.ftrace)
        if telemetry is not None:
            self.subsystems.append(TelemetrySubsystem(telemetry, kho.memory))
        for name in sorted(set(image.auto_preserve) - {s.name for s in self.subsystems if s.automatic}):
            log(f"luo_subsystems: auto-preserve of '{name}': no subsystem here that can be")

    def start(self) -> None:
        """First of all: what KHO itself hands to its users."""
        if self._notifier is not None:
            self._notifier.boot()

    def started(self) -> None:
        """After the subsystems have booted."""
        if PSTORE in self.reserved.regions:
            self.pstore = Pstore(self.reserved)

    def leave(self, messages: Sequence[str]) -> None:
        """The kernel is left, with these messages in its log."""
        if self.ftrace is not None:
            self.ftrace.event("kexec")
        if self.pstore is not None:
            self.pstore.dump((*messages, LAST_WORDS))
