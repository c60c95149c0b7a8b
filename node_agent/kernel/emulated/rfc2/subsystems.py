"""Kernel subsystems that take part in a live update, called in order and undone in reverse.

Rules
1. prepare and freeze may fail: then those before are cancelled, last first, and none is prepared.
2. cancel, finish and boot cannot fail: what one raises is logged, and the others are called.
3. One that is `automatic` is carried by every kexec, whatever LUO's state: what it keeps stands in a
   subtree of KHO's of its own.

Source: luo_subsystems.c of RFC v2; "auto-preserve" is the seed thread's.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

from node_agent.kernel.emulated.rfc2.kho import Tree

NAME_BYTES = 32
"""A subsystem's name is a property of the tree."""


class Subsystem(Protocol):
    """One user of LUO within the kernel. What a callback raises is OSError."""

    name: str
    automatic: bool

    def prepare(self) -> int:
        """Keep state; its address."""
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
        log: gets what went wrong where nothing can be refused.
    """

    def __init__(self, subsystems: Sequence[Subsystem], log: Callable[[str], None]) -> None:
        self.all = list(subsystems)
        self._log = log
        self.outgoing: dict[str, int] = {}
        self.incoming: dict[str, int] = {}

    def prepare(self) -> None:
        """Raises OSError; nothing is prepared then."""
        for subsystem in self.all:
            if subsystem.automatic:
                continue
            try:
                self.outgoing[subsystem.name] = subsystem.prepare()
            except OSError:
                self.cancel()
                raise

    def freeze(self) -> None:
        """Raises OSError; nothing is prepared any more then."""
        for subsystem in self.all:
            if subsystem.name not in self.outgoing:
                continue
            try:
                self.outgoing[subsystem.name] = subsystem.freeze(self.outgoing[subsystem.name])
            except OSError:
                self.cancel()
                raise

    def cancel(self) -> None:
        """Undo prepare, last first."""
        for subsystem in reversed(self.all):
            data = self.outgoing.pop(subsystem.name, None)
            if data is not None:
                self._safely("cancel", subsystem, lambda s=subsystem, d=data: s.cancel(d))  # type: ignore[misc]

    def finish(self) -> None:
        """In order; what was handed over is no longer needed."""
        for subsystem in self.all:
            if subsystem.automatic:
                continue
            data = self.incoming.pop(subsystem.name, None)
            self._safely("finish", subsystem, lambda s=subsystem, d=data: s.finish(d))  # type: ignore[misc]

    def boot(self, handed: Tree, automatic: Tree) -> None:
        """In order, before userspace.

        Args:
            handed, automatic: name → address, of LUO's subtree and of what every kexec carries.
        """
        for subsystem in self.all:
            data = (automatic if subsystem.automatic else handed).get(subsystem.name)
            if data is not None:
                self.incoming[subsystem.name] = data
            self._safely("boot", subsystem, lambda s=subsystem, d=data: s.boot(d))  # type: ignore[misc]

    def keep_automatic(self) -> dict[str, int]:
        """At the kexec: what every one carries, by name."""
        found: dict[str, int] = {}
        for subsystem in self.all:
            if subsystem.automatic:
                self._safely(
                    "prepare",
                    subsystem,
                    lambda s=subsystem: found.__setitem__(s.name, s.prepare()),  # type: ignore[misc]
                )
        return found

    def _safely(self, what: str, subsystem: Subsystem, call: Callable[[], None]) -> None:
        try:
            call()
        except OSError as error:
            self._log(f"luo_subsystems: {what} of '{subsystem.name}' failed [{-(error.errno or 0)}]")
