"""Kexec HandOver beneath LUO: a tree and the memory that it points to, final or not.

Rules
1. A tree is handed over by a kexec only if it is finalized; what subsystems keep by themselves
   (`automatic`) is handed over whatever the state.
2. finalize() calls the notifier chain, if there is one, in the order of registration; a failure aborts those
   that were called, last first, and leaves KHO as it was. Twice is EEXIST, abort() without it is ENOENT.
3. A next kernel of another KHO version ignores the tree.

Source: kernel/kexec_handover.c with the patches of RFC v2.
"""

from __future__ import annotations

import errno
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from node_agent.kernel.emulated.rfc2.memory import Keepable, Memory

KHO_ABI = "kho-v1"

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

    abi: str
    tree: Mapping[str, Tree]
    kept: Mapping[int, Keepable]

    def drop(self) -> int:
        """Give all of it back; how many bytes it was."""
        return Memory(self.kept).drop()

    def without(self, name: str) -> tuple[Handed, int]:
        """The same without a subtree and what only it points to, which is given back; how many bytes that
        was."""
        tree = {key: node for key, node in self.tree.items() if key != name}
        pointed = set(_numbers(tree))
        lost = {address: thing for address, thing in self.kept.items() if address not in pointed}
        kept = {address: thing for address, thing in self.kept.items() if address in pointed}
        return Handed(self.abi, tree, kept), Memory(lost).drop()


def _numbers(tree: Tree) -> Iterator[int]:
    for value in tree.values():
        if isinstance(value, Mapping):
            yield from _numbers(value)
        elif isinstance(value, int):
            yield value


@dataclass(slots=True)
class Kho:
    """One kernel's KHO.

    Args:
        memory: what is kept, of this kernel and of the one before.
        incoming: the tree that was handed over; empty if there was none.
    """

    memory: Memory = field(default_factory=Memory)
    incoming: Mapping[str, Tree] = field(default_factory=dict)
    chain: list[Notifier] = field(default_factory=list)
    finalized: bool = False
    tree: dict[str, Tree] = field(default_factory=dict)
    """Going out."""
    automatic: dict[str, Tree] = field(default_factory=dict)
    """Going out in any case."""

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
            except OSError:
                for other in reversed(called):
                    other.on_abort()
                raise
            called.append(user)
        self.finalized = True

    def abort(self) -> None:
        """Raises OSError: ENOENT (it is not finalized), or a notifier's errno: then it stays so."""
        if not self.finalized:
            raise OSError(errno.ENOENT, ABORT)
        for user in reversed(self.chain):
            user.on_abort()
        self.finalized = False

    def hand_over(self, addresses_of: Sequence[int]) -> Handed | None:
        """What crosses in a kexec now; all else that is kept is given back.

        Args:
            addresses_of: what the automatic subtrees point to.
        """
        tree = {**self.automatic, **(self.tree if self.finalized else {})}
        crossing = self.memory.addresses() if self.finalized else addresses_of
        kept = {address: self.memory.take(address) for address in crossing}
        self.memory.drop()
        return Handed(KHO_ABI, tree, kept) if tree else None
