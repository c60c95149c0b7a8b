"""Kexec HandOver beneath LUO: a tree and the memory that it points to, final or not.

Rules
1. A tree is handed over by a kexec only if it is finalized; what subsystems keep by themselves
   (`automatic`) is handed over whatever the state.
2. finalize() calls the notifier chain in the order of registration; a failure aborts those that were called,
   last first, and leaves KHO as it was. Twice is EEXIST.
3. abort() calls the chain, last first; who refuses stops it, and KHO stays finalized. Without a finalize it
   is ENOENT. Where LUO alone drives KHO, nobody is on the chain, and neither can fail.
4. A next kernel of another KHO version ignores the tree.
5. All that this kernel keeps crosses with a finalized tree, whoever keeps it; without one what the automatic
   subtrees point to, and nothing else.

Source: kernel/kexec_handover.c with the patches of RFC v2. There a failed finalize and an abort call the
whole chain, in the order of registration.
"""

from __future__ import annotations

import errno
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, Protocol

from node_agent.kernel.emulated.rfc2.memory import FIRST_ADDRESS, Keepable, Memory, numbers_in

FINALIZE = "kho_finalize"
ABORT = "kho_abort"
ADD_SUBTREE = "kho_add_subtree"

Tree = Mapping[str, Any]
"""A subtree: properties (str, int) and nodes (mappings)."""


class Notifier(Protocol):
    """A user of KHO that wants to be called (coupling `notifier`)."""

    name: str

    def on_finalize(self) -> None:
        """KEXEC_KHO_FINALIZE. Raises OSError."""
        ...

    def on_abort(self) -> None:
        """KEXEC_KHO_ABORT. Raises OSError."""
        ...


@dataclass(frozen=True, slots=True)
class Handed:
    """What a kernel hands to the next one. Whoever takes it owns what is kept."""

    tree: Mapping[str, Tree]
    kept: Mapping[int, Keepable]
    next_address: int = FIRST_ADDRESS
    """None from here on was ever used."""

    def drop(self) -> int:
        """Give all of it back; how many bytes it was."""
        return Memory(self.kept).drop()

    def without(self, name: str) -> tuple[Handed, int]:
        """The same without a subtree and what only it points to, which is given back; how many bytes that
        was."""
        tree = {key: node for key, node in self.tree.items() if key != name}
        memory = Memory(self.kept)
        kept = {address: memory.take(address) for address in memory.reach(numbers_in(tree))}
        return Handed(tree, kept, self.next_address), memory.drop()


def _quiet(message: str) -> None:
    """Nobody reads this kernel's log."""


@dataclass(slots=True)
class Kho:
    """One kernel's KHO.

    Args:
        memory: what is kept, of this kernel and of the one before.
        incoming: the tree that was handed over; empty if there was none.
        log: the kernel's.
    """

    memory: Memory = field(default_factory=Memory)
    incoming: Mapping[str, Tree] = field(default_factory=dict)
    chain: list[Notifier] = field(default_factory=list)
    finalized: bool = False
    tree: dict[str, Tree] = field(default_factory=dict)
    """Going out."""
    automatic: dict[str, Tree] = field(default_factory=dict)
    """Going out in any case."""
    log: Callable[[str], None] = _quiet

    def add_subtree(self, name: str, tree: Tree) -> None:
        """Raises OSError: EEXIST."""
        if name in self.tree:
            raise OSError(errno.EEXIST, ADD_SUBTREE)
        self.tree[name] = tree

    def remove_subtree(self, name: str) -> None:
        """Idempotent."""
        self.tree.pop(name, None)

    def finalize(self) -> None:
        """Raises OSError: EEXIST (it is), or a notifier's errno; then nothing has changed."""
        if self.finalized:
            raise OSError(errno.EEXIST, FINALIZE)
        called: list[Notifier] = []
        for user in self.chain:
            try:
                user.on_finalize()
            except OSError as cause:
                self.log(f"KHO: Failed to convert KHO state tree: {-(cause.errno or 0)}")
                for other in reversed(called):
                    with suppress(OSError):
                        self._abort(other)
                raise
            called.append(user)
        self.finalized = True

    def abort(self) -> None:
        """Raises OSError: ENOENT (it is not finalized), or a notifier's errno: then it stays so, and those
        after that notifier have been aborted."""
        if not self.finalized:
            raise OSError(errno.ENOENT, ABORT)
        for user in reversed(self.chain):
            self._abort(user)
        self.finalized = False

    def _abort(self, user: Notifier) -> None:
        try:
            user.on_abort()
        except OSError as cause:
            self.log(f"KHO: Failed to abort KHO finalization: {-(cause.errno or 0)}")
            raise

    def hand_over(self) -> Handed | None:
        """What crosses in a kexec now; all else that is kept is given back."""
        tree = {**self.automatic, **(self.tree if self.finalized else {})}
        if not tree:
            self.memory.drop()
            return None
        crossing = set(self.memory.reach(numbers_in(tree)))
        if self.finalized:
            crossing.update(self.memory.own())
        kept = {address: self.memory.take(address) for address in sorted(crossing)}
        self.memory.drop()
        return Handed(tree, kept, self.memory.next_address)
