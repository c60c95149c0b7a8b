"""Rfc2: what a kernel of RFC v2's time has of KHO and LUO, from its start to its end.

Made by LuoModel for a boot whose image says so. It knows nothing of the kernel before but what was handed
over (kho.Handed), and nothing of it outlives leave() or drop() but what leave() hands on.
"""

from __future__ import annotations

import errno
from collections.abc import Callable

from node_agent.kernel.emulated.image import EmulatedImage
from node_agent.kernel.emulated.rfc2.kho import Handed, Kho
from node_agent.kernel.emulated.rfc2.luo import AUTOMATIC, SUBTREE, Luo
from node_agent.kernel.emulated.rfc2.luo_files import LuoFiles
from node_agent.kernel.emulated.rfc2.memory import Memory
from node_agent.kernel.emulated.rfc2.registry import handlers, subsystems
from node_agent.kernel.emulated.rfc2.states import Coupling, LuoState
from node_agent.kernel.emulated.rfc2.subsystems import Subsystems

LOCKED_CALLS = frozenset(
    {"fd_preserve", "fd_unpreserve", "fd_restore", "prepare", "freeze", "cancel", "finish", "reboot"}
)
"""Calls that take LUO's state lock, by the names that faults use."""


class Rfc2:
    """One boot.

    Args:
        handed: what the kernel before handed over, if this one can read it.
        liveupdate: LUO is switched on; KHO is.
        refuses: see refusals.Refusals.
        memory_bytes: what can be preserved; 0 is no limit.
        log: this boot's kernel messages.
    """

    def __init__(
        self,
        image: EmulatedImage,
        handed: Handed | None,
        *,
        liveupdate: bool,
        refuses: Callable[[str], int],
        memory_bytes: int,
        log: Callable[[str], None],
    ) -> None:
        self.memory = Memory(handed.kept if handed is not None else None, limit_bytes=memory_bytes)
        self.kho = Kho(self.memory, handed.tree if handed is not None else {})
        self.files = LuoFiles(handlers(self.memory))
        self.subsystems = Subsystems(subsystems(image, self.memory, refuses), log)
        self.luo: Luo | None = None
        if liveupdate:
            self.luo = Luo(
                self.kho,
                Coupling(image.coupling),
                self.files,
                self.subsystems,
                compatible=image.abi,
                log=log,
            )
            self.luo.boot()

    @property
    def state(self) -> LuoState | None:
        """None: LUO is off."""
        return self.luo.state if self.luo is not None else None

    def the_luo(self, call: str) -> Luo:
        """Raises OSError: ENOENT, there is no device."""
        if self.luo is None:
            raise OSError(errno.ENOENT, call)
        return self.luo

    def reboot(self) -> None:
        """reboot(KEXEC) as far as LUO goes. Raises OSError: a refused freeze's."""
        if self.luo is not None:
            self.luo.reboot()

    @property
    def hands_luo_over(self) -> bool:
        """Would a kexec now hand LUO's subtree on?"""
        return self.kho.finalized and SUBTREE in self.kho.tree

    def leave(self) -> Handed | None:
        """The kexec: what the next kernel is handed. Nothing else is left."""
        found = self.subsystems.keep_automatic()
        if found:
            self.kho.automatic[AUTOMATIC] = found
        self.files.close()
        return self.kho.hand_over(tuple(found.values()))

    def drop(self) -> int:
        """The end without a kexec; how many bytes were kept."""
        self.files.close()
        return self.memory.drop()
