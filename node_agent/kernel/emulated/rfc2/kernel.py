"""Rfc2: what a kernel of RFC v2's time has of KHO and LUO, from its start to its end.

Made by LuoModel for a boot whose image says so. It knows nothing of the kernel before but what was handed
over (kho.Handed), and nothing of it outlives leave() or drop() but what leave() hands on.
"""

from __future__ import annotations

import errno
from collections.abc import Callable

from node_agent.kernel.emulated.image import EmulatedImage
from node_agent.kernel.emulated.rfc2.builtin import Builtin
from node_agent.kernel.emulated.rfc2.debugfs import KhoDebugfs
from node_agent.kernel.emulated.rfc2.handlers_objects import VFIOFD
from node_agent.kernel.emulated.rfc2.hardware import Hardware
from node_agent.kernel.emulated.rfc2.kho import Handed, Kho
from node_agent.kernel.emulated.rfc2.lock import BY_HAND, EVENTS, LOCKED_CALLS, StateLock
from node_agent.kernel.emulated.rfc2.luo import AUTOMATIC, SUBTREE, Luo
from node_agent.kernel.emulated.rfc2.luo_files import LuoFiles
from node_agent.kernel.emulated.rfc2.memory import Memory
from node_agent.kernel.emulated.rfc2.objects import Objects
from node_agent.kernel.emulated.rfc2.registry import handlers
from node_agent.kernel.emulated.rfc2.reserve_mem import Reserved
from node_agent.kernel.emulated.rfc2.states import Coupling, LuoEvent, LuoState
from node_agent.kernel.emulated.rfc2.subsystems import Subsystems
from node_agent.kernel.emulated.telemetry import Telemetry
from node_agent.kernel.failure import REBOOT


class Rfc2:
    """One boot.

    Args:
        handed: what the kernel before handed over, if this one can read it.
        liveupdate: LUO is switched on; KHO is.
        refuses: see refusals.Refusals.
        memory_bytes: what can be preserved; 0 is no limit.
        messages: this boot's kernel log.
        reserved: regions of memory of its command line.
        telemetry: see Builtin.
        hardware: of the machine.
    """

    def __init__(
        self,
        image: EmulatedImage,
        handed: Handed | None,
        *,
        liveupdate: bool,
        refuses: Callable[[str], int],
        memory_bytes: int,
        messages: list[str],
        reserved: Reserved,
        telemetry: Telemetry | None,
        hardware: Hardware,
    ) -> None:
        self.image = image
        self.rebooting = False
        """reboot(KEXEC) asks LUO now."""
        self._messages, log = messages, messages.append
        handed = handed or Handed({}, {})
        self.memory = Memory(handed.kept, first_address=handed.next_address, limit_bytes=memory_bytes)
        self.kho = Kho(self.memory, handed.tree, log=log)
        coupling = Coupling(image.coupling)
        self._debugfs = KhoDebugfs(self.kho, coupling, built=image.kho_debugfs)
        self.objects = Objects(hardware, self.memory, lambda: self.state)
        """Kernel objects that userspace holds by descriptor."""
        self.files = LuoFiles(handlers(self.memory, self.objects), log)
        self.builtin = Builtin(image, self.kho, reserved, telemetry, refuses, log)
        self.subsystems = Subsystems(self.builtin.subsystems, log, self.memory)
        self.builtin.start()
        self.luo: Luo | None = None
        if liveupdate:
            self.luo = Luo(
                self.kho,
                coupling,
                self.files,
                self.subsystems,
                compatible=image.abi,
                log=log,
            )
            self.luo.boot()
        else:
            self.subsystems.boot({}, self.kho.incoming.get(AUTOMATIC, {}))
        self.builtin.started()
        self.objects.claim(f.data for f in self.files.incoming.values() if f.handler.kind == VFIOFD)

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
        self.rebooting = True
        try:
            if self.luo is not None:
                self.luo.reboot()
        except OSError as cause:
            raise OSError(cause.errno, REBOOT) from cause
        finally:
            self.rebooting = False

    def lock_of(self, call: str) -> StateLock | None:
        """LUO's lock, if this call takes it; calls by the names that faults use."""
        if self.luo is None:
            return None
        by_hand = call == BY_HAND and self.luo.coupling is Coupling.NOTIFIER
        return self.luo.lock if call in LOCKED_CALLS or by_hand else None

    def wait_killed(self, call: str) -> None:
        """Who waited for LUO's lock in this call is killed."""
        lock = self.lock_of(call)
        if lock is not None:
            by_hand = LuoEvent.CANCEL if self.kho.finalized else LuoEvent.PREPARE
            lock.wait_killed(by_hand if call == BY_HAND else EVENTS.get(call, ""))

    def debugfs_read(self, path: str) -> str:
        """See KhoDebugfs.read."""
        return self._debugfs.read(path)

    def debugfs_write(self, path: str, value: str) -> None:
        """See KhoDebugfs.write."""
        self._debugfs.write(path, value)

    @property
    def hands_luo_over(self) -> bool:
        """Would a kexec now hand LUO's subtree on?"""
        return self.kho.finalized and SUBTREE in self.kho.tree

    def shutdown(self) -> None:
        """Within reboot(KEXEC), past all refusals: devices that are not preserved stop."""
        self.objects.shutdown()

    def leave(self) -> Handed | None:
        """The kexec: what the next kernel is handed. Nothing else is left."""
        self.builtin.leave(self._messages)
        found = self.subsystems.keep_automatic()
        if found:
            self.kho.automatic[AUTOMATIC] = found
        self.files.close()
        self.objects.close()
        return self.kho.hand_over()

    def drop(self) -> int:
        """The end without a kexec; how many bytes were kept."""
        self.files.close()
        self.objects.close()
        return self.memory.drop()
