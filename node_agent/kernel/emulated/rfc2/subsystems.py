"""Kernel subsystems that take part in a live update, called in order and undone in reverse.

Rules
1. prepare and freeze may fail: then those before are cancelled, last first, and none is prepared.
2. cancel, finish and boot cannot fail: what one raises is logged, and the others are called.
3. One that is `automatic` is carried by every kexec, whatever LUO's state and whether there is a LUO: what it
   keeps stands in a subtree of KHO's of its own.
4. What a subsystem kept is given back when it fails, after its cancel, and after its finish, unless it did so
   itself or took it for its own; what came automatically, after its boot, because no FINISH need follow.
   What arrives for a subsystem that this kernel has not is given back with the rest.
5. Registering is for NORMAL and UPDATED (else EBUSY), and for where LUO is off; one name once (EEXIST).

RFC v2 itself undoes in the order of registration, leaves out the one whose freeze failed, and panics where
the tree lacks a subsystem that this kernel has; the order here is the reverse, which a subsystem that builds
on an earlier one needs.

Source: luo_subsystems.c of RFC v2; `boot` came later; "auto-preserve" is the seed thread's.
"""

from __future__ import annotations

import errno
from collections.abc import Callable, Iterable, Sequence
from typing import Protocol

from node_agent.kernel.emulated.rfc2.kho import Tree
from node_agent.kernel.emulated.rfc2.memory import Memory
from node_agent.kernel.emulated.rfc2.states import LuoState

REGISTER = "liveupdate_register_subsystem"
UNREGISTER = "liveupdate_unregister_subsystem"


class Subsystem(Protocol):
    """One user of LUO within the kernel. What a callback raises is OSError."""

    name: str
    automatic: bool

    def prepare(self) -> int:
        """Keep state; its address, or 0 for none."""
        ...

    def freeze(self, data: int) -> int:
        """Last changes, within reboot. The address, which may be a new one."""
        ...

    def cancel(self, data: int) -> None:
        """Undo prepare."""
        ...

    def boot(self, data: int | None) -> None:
        """In every kernel, before userspace. None: nothing of it was handed over."""
        ...

    def finish(self, data: int | None) -> None:
        """FINISH, in the next kernel."""
        ...


class Subsystems:
    """All of one boot, in the order of registration.

    Args:
        log: gets what went wrong.
        memory: what is kept, of this kernel and of the one before.
    """

    def __init__(self, subsystems: Sequence[Subsystem], log: Callable[[str], None], memory: Memory) -> None:
        self.all = list(subsystems)
        self._log, self._memory = log, memory
        self.outgoing: dict[str, int] = {}
        self.incoming: dict[str, int] = {}
        """Of LUO's subtree, until FINISH."""
        self._kept: dict[str, set[int]] = {}
        """All that each has kept since its prepare."""

    def register(self, subsystem: Subsystem, state: LuoState | None) -> None:
        """One that comes late, as a module's; it boots now. Raises OSError: EBUSY, EEXIST."""
        _only_at_rest(state, REGISTER)
        if any(other.name == subsystem.name for other in self.all):
            self._log(f"luo_subsystems: Subsystem with name '{subsystem.name}' already registered.")
            raise OSError(errno.EEXIST, REGISTER)
        self.all.append(subsystem)
        self._boot(subsystem, self.incoming.get(subsystem.name))

    def unregister(self, subsystem: Subsystem, state: LuoState | None) -> None:
        """Raises OSError: EBUSY, ENOENT (it is not registered)."""
        _only_at_rest(state, UNREGISTER)
        if subsystem not in self.all:
            raise OSError(errno.ENOENT, UNREGISTER)
        self.all.remove(subsystem)

    # --- before the kexec

    def prepare(self) -> None:
        """Raises OSError; nothing is prepared then."""
        for subsystem in self.all:
            if not subsystem.automatic:
                self._refusable("prepare", subsystem, subsystem.prepare)

    def freeze(self) -> None:
        """Raises OSError; nothing is prepared any more then."""
        for subsystem in self.all:
            data = self.outgoing.get(subsystem.name)
            if data is not None:
                self._refusable("freeze", subsystem, lambda s=subsystem, d=data: s.freeze(d))  # type: ignore[misc]

    def cancel(self) -> None:
        """Undo prepare, last first."""
        for subsystem in reversed(self.all):
            data = self.outgoing.pop(subsystem.name, None)
            if data is not None:
                self._safely("cancel", subsystem, lambda s=subsystem, d=data: s.cancel(d))  # type: ignore[misc]
                self._memory.discard(self._kept.pop(subsystem.name))

    def keep_automatic(self) -> dict[str, int]:
        """At the kexec: what every one carries, by name. One that fails is left behind."""
        found: dict[str, int] = {}
        for subsystem in self.all:
            if subsystem.automatic:
                try:
                    found[subsystem.name] = self._keep(subsystem.name, subsystem.prepare)
                except OSError as error:
                    self._complain("prepare", subsystem, error)
        return found

    # --- after it

    def boot(self, handed: Tree, automatic: Tree) -> None:
        """In order, before userspace.

        Args:
            handed, automatic: name → address, of LUO's subtree and of what every kexec carries.
        """
        self.incoming = dict(handed)
        for subsystem in self.all:
            self._boot(subsystem, automatic.get(subsystem.name, handed.get(subsystem.name)))
        for name in sorted(automatic.keys() - {subsystem.name for subsystem in self.all}):
            self._log(f"luo_subsystems: nothing here takes what '{name}' kept")
        self._give_back(automatic.values())

    def finish(self) -> None:
        """In order; what was handed over is no longer needed."""
        for subsystem in self.all:
            if not subsystem.automatic:
                data = self.incoming.get(subsystem.name)
                self._safely("finish", subsystem, lambda s=subsystem, d=data: s.finish(d))  # type: ignore[misc]
        self._give_back(self.incoming.values())
        self.incoming = {}

    # --- one call

    def _boot(self, subsystem: Subsystem, data: int | None) -> None:
        self._safely("boot", subsystem, lambda: subsystem.boot(data))

    def _refusable(self, what: str, subsystem: Subsystem, call: Callable[[], int]) -> None:
        try:
            self.outgoing[subsystem.name] = self._keep(subsystem.name, call)
        except OSError as error:
            self._complain(what, subsystem, error)
            self.cancel()
            raise

    def _keep(self, name: str, call: Callable[[], int]) -> int:
        """A prepare or a freeze. What it no longer points to, or kept before it failed, is given back."""
        before = set(self._memory.addresses())
        try:
            data = call()
        except OSError:
            self._memory.discard(set(self._memory.addresses()) - before)
            raise
        kept = self._kept.get(name, set()) | (set(self._memory.addresses()) - before)
        self._kept[name] = kept & set(self._memory.reach([data]))
        self._memory.discard(kept - self._kept[name])
        return data

    def _safely(self, what: str, subsystem: Subsystem, call: Callable[[], None]) -> None:
        try:
            call()
        except OSError as error:
            self._complain(what, subsystem, error)

    def _give_back(self, arrived: Iterable[int]) -> None:
        self._memory.discard(self._memory.reach(arrived))

    def _complain(self, what: str, subsystem: Subsystem, error: OSError) -> None:
        self._log(
            f"luo_subsystems: Subsystem '{subsystem.name}' {what} callback failed [{-(error.errno or 0)}]"
        )


def _only_at_rest(state: LuoState | None, call: str) -> None:
    if state in (LuoState.PREPARED, LuoState.FROZEN):
        raise OSError(errno.EBUSY, call)
