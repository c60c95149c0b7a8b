"""What a node is built over, whichever kind it is: the difference between a real and an emulated one."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from node_agent.ports import BootFacts, Clock, DefaultKernel, Disks, Hooks, Kernel, Session


@dataclass(frozen=True, slots=True)
class Machine:
    """One boot of a node.

    capabilities: as Hello tells them.
    adopt: makes a session of a name and an fd that was retrieved already, and owns it then.
    """

    kernel: Kernel
    facts: BootFacts
    clock: Clock
    capabilities: tuple[str, ...]
    adopt: Callable[[str, int], Session]
    hooks: Hooks
    default_kernel: DefaultKernel
    disks: Disks
    know_hz: Callable[[float], None] = lambda _tsc_hz: None
    """Told the TSC frequency that the journal has, from before the kexec."""
