"""Which file handlers and subsystems a kernel of RFC v2's time registers, in what order."""

from __future__ import annotations

from collections.abc import Callable

from node_agent.kernel.emulated.image import EmulatedImage
from node_agent.kernel.emulated.rfc2.handlers import Handler, MemfdHandler
from node_agent.kernel.emulated.rfc2.memory import Memory
from node_agent.kernel.emulated.rfc2.refusals import Refusals
from node_agent.kernel.emulated.rfc2.subsystems import Subsystem


def handlers(memory: Memory) -> list[Handler]:
    """In the order in which they are asked whether they can preserve a file."""
    return [MemfdHandler(memory)]


def subsystems(image: EmulatedImage, memory: Memory, refuses: Callable[[str], int]) -> list[Subsystem]:
    """In the order in which they are called."""
    return [Refusals(refuses)]
