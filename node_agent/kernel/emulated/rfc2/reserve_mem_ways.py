"""The two ways in which reserve_mem's regions cross a kexec, of which a kernel image has one.

`kho`  a user of KHO's own, called by the notifier chain: whoever finalizes KHO carries it, LUO's PREPARE or
       a hand in debugfs. Where LUO alone drives KHO there is no chain, and it never crosses.
`luo`  a subsystem of LUO: PREPARE carries it; or every kexec, where it is automatic.

Source: the seed thread, "So, it should either be removed or modified to be handled by LUO"; mm/memblock.c.
"""

from __future__ import annotations

from node_agent.kernel.emulated.rfc2.kho import Kho
from node_agent.kernel.emulated.rfc2.memory import Blob, Memory
from node_agent.kernel.emulated.rfc2.reserve_mem import Nodes, Reserved, release

LUO_WAY = "luo"
"""Of EmulatedImage.reserve_mem; the other one is `kho`."""

SUBTREE = "memblock"
COMPATIBLE = "memblock-v1"


class ReserveMemNotifier:
    """The way `kho` (kho.Notifier)."""

    name = SUBTREE

    def __init__(self, reserved: Reserved, kho: Kho) -> None:
        self._reserved, self._kho = reserved, kho
        self._nodes: Nodes = {}

    def on_finalize(self) -> None:
        """Raises OSError: ENOMEM, EEXIST; nothing is preserved then."""
        memory = self._kho.memory
        self._nodes = self._reserved.preserve(memory)
        try:
            self._kho.add_subtree(SUBTREE, {"compatible": COMPATIBLE, **self._nodes})
        except OSError:
            release(self._nodes, memory)
            raise

    def on_abort(self) -> None:
        self._kho.remove_subtree(SUBTREE)
        release(self._nodes, self._kho.memory)

    def boot(self) -> None:
        """Before userspace: revive what came in."""
        tree = self._kho.incoming.get(SUBTREE)
        if tree is not None:
            nodes = {label: node for label, node in tree.items() if label != "compatible"}
            self._reserved.revive(nodes, self._kho.memory)


class ReserveMemSubsystem:
    """The way `luo` (subsystems.Subsystem).

    Args:
        automatic: every kexec carries it.
    """

    name = "reserve_mem"

    def __init__(self, reserved: Reserved, memory: Memory, *, automatic: bool) -> None:
        self._reserved, self._memory = reserved, memory
        self.automatic = automatic

    def prepare(self) -> int:
        nodes = self._reserved.preserve(self._memory)
        return self._memory.keep(Blob(nodes, points_to=(node["start"] for node in nodes.values())))

    def freeze(self, data: int) -> int:
        return data

    def cancel(self, data: int) -> None:
        """What was kept is given back for it; the regions stay."""

    def boot(self, data: int | None) -> None:
        if data is not None:
            self._reserved.revive(self._memory.blob(data), self._memory)

    def finish(self, data: int | None) -> None:
        """The regions were taken at boot."""
