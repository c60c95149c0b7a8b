"""Which file handlers a kernel of RFC v2's time registers, in what order. Its subsystems: builtin."""

from __future__ import annotations

from node_agent.kernel.emulated.rfc2.handlers import Handler, MemfdHandler
from node_agent.kernel.emulated.rfc2.handlers_eventfd import EventfdHandler
from node_agent.kernel.emulated.rfc2.handlers_objects import IommufdHandler, KvmHandler, VfioHandler
from node_agent.kernel.emulated.rfc2.memory import Memory
from node_agent.kernel.emulated.rfc2.objects import Objects


def handlers(memory: Memory, objects: Objects) -> list[Handler]:
    """In the order in which they are asked whether they can preserve a file."""
    return [
        MemfdHandler(memory),
        EventfdHandler(memory),
        KvmHandler(memory, objects),
        IommufdHandler(memory, objects),
        VfioHandler(memory, objects),
    ]
