"""Mistakes with devices that go on writing while there is no kernel."""

from __future__ import annotations

from collections.abc import Iterator
from unittest.mock import patch

from node_agent.kernel.emulated.rfc2.handlers_objects import IommufdHandler, VfioHandler
from node_agent.kernel.emulated.rfc2.hardware import PageTable
from node_agent.kernel.emulated.rfc2.object_kinds import Iommufd
from tests.sim import provocations_luo as worlds
from tests.sim.mutant import mutant


@mutant("luo", "I8", worlds.rfc2_devices)
def iommufd_keeps_a_table_that_nobody_walks() -> Iterator[None]:
    """what a device is attached to crosses with it, so that what it writes meanwhile lands"""

    def mistaken(self: IommufdHandler, space: Iommufd) -> PageTable:
        return PageTable()

    with patch.object(IommufdHandler, "table", mistaken):
        yield


@mutant("luo", "I8", worlds.rfc2_devices)
def vfiofd_forgets_to_tell_the_shutdown() -> Iterator[None]:
    """the shutdown resets no device that is preserved"""

    def mistaken(self: VfioHandler, fd: int, data: int) -> int:
        return data

    with patch.object(VfioHandler, "freeze", mistaken):
        yield
