"""LUO as RFC v2 had it: one state for the machine, files and subsystems behind it, KHO beneath.

Rules
1. Events change the state as `states.TRANSITIONS` says; any other is EINVAL.
2. Registering files is for NORMAL, restoring them for UPDATED: else EBUSY.
3. Files are called before subsystems, and undone after them.
4. A prepare that fails leaves all as it was. A freeze that fails undoes everything and ends in NORMAL; with
   the coupling `notifier` KHO stays finalized, with a subtree of LUO's in it that points to nothing, and
   nothing but a reboot mends that.
5. Where LUO alone drives KHO, KHO is finalized in PREPARED and FROZEN, and in no other state.
6. All but GET_STATE take the state's lock (see lock).

Source: luo_core.c of RFC v2.
"""

from __future__ import annotations

import errno
from collections.abc import Callable

from node_agent.kernel import failure as calls
from node_agent.kernel.emulated.rfc2.kho import Kho, Tree
from node_agent.kernel.emulated.rfc2.lock import StateLock
from node_agent.kernel.emulated.rfc2.luo_files import LuoFiles
from node_agent.kernel.emulated.rfc2.states import AIMS, TRANSITIONS, Coupling, LuoEvent, LuoState
from node_agent.kernel.emulated.rfc2.subsystems import Subsystems

SUBTREE = "LUO"
AUTOMATIC = "automatic"
"""KHO's subtree of what every kexec carries."""
COMPATIBLE, FILES, SUBSYSTEMS = "compatible", "file-descriptors", "subsystems"
"""In that subtree. Source: LUO_FILES_NODE_NAME, LUO_SUBSYSTEMS_NODE_NAME."""
FILES_COMPATIBLE, SUBSYSTEMS_COMPATIBLE = "file-descriptors-v1", "subsystems-v1"

CALLS = {
    LuoEvent.PREPARE: calls.PREPARE,
    LuoEvent.FREEZE: calls.FREEZE,
    LuoEvent.CANCEL: calls.CANCEL,
    LuoEvent.FINISH: calls.LUO_FINISH,
}


class Luo:
    """LUO in one boot. Also KHO's notifier, where the coupling is that.

    Args:
        compatible: of the subtree that this kernel writes.
        log: the kernel's.
    """

    name = SUBTREE

    def __init__(
        self,
        kho: Kho,
        coupling: Coupling,
        files: LuoFiles,
        subsystems: Subsystems,
        *,
        compatible: str,
        log: Callable[[str], None],
    ) -> None:
        self.state = LuoState.NORMAL
        self.coupling = coupling
        self.files, self.subsystems = files, subsystems
        self.lock = StateLock(log)
        self._kho = kho
        self._compatible = compatible
        self._log = log
        if coupling is Coupling.NOTIFIER:
            kho.chain.append(self)

    # --- files

    def fd_preserve(self, fd: int) -> int:
        """A token. Raises OSError, the first that holds of EBADF, EBUSY, ENOENT, EEXIST."""
        inode = self.files.look_up(fd)
        self._only_in(LuoState.NORMAL, calls.FD_PRESERVE)
        return self.files.preserve(fd, inode)

    def fd_unpreserve(self, token: int) -> None:
        """Raises OSError: EBUSY, ENOENT."""
        self._only_in(LuoState.NORMAL, calls.FD_UNPRESERVE)
        self.files.unpreserve(token)

    def fd_restore(self, token: int) -> int:
        """A new descriptor, the caller's. Raises OSError: EBUSY, ENOENT, EINVAL, its handler's."""
        self._only_in(LuoState.UPDATED, calls.FD_RESTORE)
        return self.files.restore(token)

    def _only_in(self, state: LuoState, call: str) -> None:
        if self.state is not state:
            raise OSError(errno.EBUSY, call)

    # --- events

    def prepare(self) -> None:
        """NORMAL → PREPARED. Raises OSError: EINVAL, EEXIST (KHO is finalized), a callback's."""
        after = self._next(LuoEvent.PREPARE)
        if self.coupling is Coupling.NOTIFIER:
            self._named(LuoEvent.PREPARE, self._kho.finalize)
            return
        self._named(LuoEvent.PREPARE, self._prepare)
        self._kho.finalize()
        self._set(after)

    def freeze(self) -> None:
        """PREPARED → FROZEN. Raises OSError: EINVAL, a callback's (the state is NORMAL then)."""
        after = self._next(LuoEvent.FREEZE)
        try:
            self._named(LuoEvent.FREEZE, self._freeze)
        except OSError:
            if self.coupling is Coupling.LUO_DRIVEN:
                self._kho.remove_subtree(SUBTREE)
                self._kho.abort()
            self._set(LuoState.NORMAL)
            raise
        self._set(after)

    def cancel(self) -> None:
        """PREPARED or FROZEN → NORMAL. Raises OSError: EINVAL; with the coupling `notifier` also the errno of
        another user of KHO that refuses."""
        after = self._next(LuoEvent.CANCEL)
        if self.coupling is Coupling.NOTIFIER:
            self._named(LuoEvent.CANCEL, self._kho.abort)
            return
        self._undo()
        self._kho.abort()
        self._set(after)

    def finish(self) -> None:
        """UPDATED → NORMAL. Raises OSError: EINVAL."""
        after = self._next(LuoEvent.FINISH)
        self.files.finish()
        self.subsystems.finish()
        self._set(after)

    def reboot(self) -> None:
        """Within reboot(KEXEC): freeze where the state is PREPARED. Raises OSError as freeze() does."""
        if self.state is LuoState.PREPARED:
            self.freeze()

    # --- KHO's notifier

    def on_finalize(self) -> None:
        """PREPARE, whoever finalizes KHO. Raises OSError: EINVAL, a callback's."""
        after = self._next(LuoEvent.PREPARE)
        self._prepare()
        self._set(after)

    def on_abort(self) -> None:
        """CANCEL, whoever aborts. Raises OSError: EINVAL."""
        after = self._next(LuoEvent.CANCEL)
        self._undo()
        self._set(after)

    # --- what the events do

    def _prepare(self) -> None:
        self.files.prepare()
        try:
            self.subsystems.prepare()
            self._kho.add_subtree(SUBTREE, self.subtree())
        except OSError:
            self._undo_participants()
            raise

    def _freeze(self) -> None:
        try:
            self.files.freeze()
            self.subsystems.freeze()
        except OSError:
            self._undo_participants()
            raise
        self._kho.tree[SUBTREE] = self.subtree()

    def _undo(self) -> None:
        self._undo_participants()
        self._kho.remove_subtree(SUBTREE)

    def _undo_participants(self) -> None:
        self.subsystems.cancel()
        self.files.cancel()

    def subtree(self) -> Tree:
        """What the next kernel finds, as it stands."""
        return {
            COMPATIBLE: self._compatible,
            FILES: {COMPATIBLE: FILES_COMPATIBLE, **self.files.subtree()},
            SUBSYSTEMS: {COMPATIBLE: SUBSYSTEMS_COMPATIBLE, **self.subsystems.outgoing},
        }

    def boot(self) -> None:
        """Before userspace: UPDATED if the kernel before handed a subtree over. Who may not read it has
        panicked before this."""
        tree = self._kho.incoming.get(SUBTREE)
        if tree is not None:
            for complaint in self.files.arrive(_entries(tree[FILES])):
                self._log(complaint)
            self.state = LuoState.UPDATED
        handed: Tree = _entries(tree[SUBSYSTEMS]) if tree is not None else {}
        self.subsystems.boot(handed, self._kho.incoming.get(AUTOMATIC, {}))

    def _next(self, event: LuoEvent) -> LuoState:
        after = TRANSITIONS.get((self.state, event))
        if after is None:
            self._log(f"luo_core: Can't switch to [{AIMS[event]}] from [{self.state}] state")
            raise OSError(errno.EINVAL, CALLS[event])
        return after

    def _set(self, state: LuoState) -> None:
        self._log(f"luo_core: Switched from [{self.state}] to [{state}] state")
        self.state = state

    @staticmethod
    def _named(event: LuoEvent, call: Callable[[], None]) -> None:
        """Whatever a callback's error is named, the caller of the ioctl sees the ioctl's."""
        try:
            call()
        except OSError as cause:
            raise OSError(cause.errno, CALLS[event]) from cause


def _entries(node: Tree) -> Tree:
    """What a node lists, without its version."""
    return {name: value for name, value in node.items() if name != COMPATIBLE}
