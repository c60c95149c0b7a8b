"""What KHO keeps of memory over a kexec, by address.

An address stands for the u64 that a callback puts into the tree. What is kept and handed over is found
again at its address by the next kernel; what is not is gone with the kernel that kept it. A count of what
is kept is a count of leaks.

An address is never used again, not even over kexecs: one that points to nothing stays so, and is EFAULT.
Where a real kernel would find what has come to lie there since, this one says so.
"""

from __future__ import annotations

import errno
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Protocol

FIRST_ADDRESS = 0x1_0000_0000
PAGE_BYTES = 4096

PRESERVE, RESTORE = "kho_preserve_phys", "kho_restore_folio"


class Keepable(Protocol):
    """Something that stands for memory, or for a descriptor that holds it."""

    @property
    def size_bytes(self) -> int: ...
    def close(self) -> None: ...


class Blob:
    """Serialised state: a page or so of plain values, JSON's.

    Args:
        points_to: addresses among the values, of what is kept with it.
    """

    def __init__(self, value: Mapping[str, Any], points_to: Iterable[int] = ()) -> None:
        self.value = dict(value)
        self.points_to = tuple(points_to)
        self.size_bytes = PAGE_BYTES

    def close(self) -> None:
        """Nothing but memory."""


class Memory:
    """One kernel's preserved memory. What it holds is its own to close.

    Args:
        arrived: what the kernel before handed over, address → thing.
        first_address: none from here on was ever used, but by what arrived.
        limit_bytes: what can be kept; 0 is no limit.
    """

    def __init__(
        self,
        arrived: Mapping[int, Keepable] | None = None,
        *,
        first_address: int = FIRST_ADDRESS,
        limit_bytes: int = 0,
    ) -> None:
        self._kept: dict[int, Keepable] = dict(arrived or {})
        self._arrived = frozenset(self._kept)
        self._limit_bytes = limit_bytes
        self.next_address = max([first_address, *(address + PAGE_BYTES for address in self._kept)])

    def keep(self, thing: Keepable) -> int:
        """Preserve it; its address. Raises OSError(ENOMEM); the thing is closed then."""
        if self._limit_bytes and self.size_bytes + thing.size_bytes > self._limit_bytes:
            thing.close()
            raise OSError(errno.ENOMEM, PRESERVE)
        address = self.next_address
        self.next_address += PAGE_BYTES
        self._kept[address] = thing
        return address

    def at(self, address: int) -> Keepable:
        """Raises OSError(EFAULT): nothing is kept there."""
        if address not in self._kept:
            raise OSError(errno.EFAULT, RESTORE)
        return self._kept[address]

    def blob(self, address: int) -> dict[str, Any]:
        """The values of the Blob there. Raises OSError(EFAULT): there is none."""
        kept = self.at(address)
        if not isinstance(kept, Blob):
            raise OSError(errno.EFAULT, RESTORE)
        return kept.value

    def free(self, address: int) -> None:
        """Give it back. Raises OSError(EFAULT)."""
        self.take(address).close()

    def take(self, address: int) -> Keepable:
        """No longer kept here, and the caller's. Raises OSError(EFAULT)."""
        thing = self.at(address)
        del self._kept[address]
        return thing

    def discard(self, addresses: Iterable[int]) -> None:
        """Give back what is kept there, if anything is."""
        for address in addresses:
            thing = self._kept.pop(address, None)
            if thing is not None:
                thing.close()

    def reach(self, roots: Iterable[int]) -> tuple[int, ...]:
        """Where something is kept of what these addresses point to, directly or by way of it."""
        found: dict[int, None] = {}
        waiting = list(roots)
        while waiting:
            address = waiting.pop()
            if address in self._kept and address not in found:
                found[address] = None
                waiting += getattr(self._kept[address], "points_to", ())
        return tuple(found)

    def addresses(self) -> tuple[int, ...]:
        """Where something is kept."""
        return tuple(self._kept)

    def own(self) -> tuple[int, ...]:
        """The same without what arrived: that does not cross a second time by itself."""
        return tuple(address for address in self._kept if address not in self._arrived)

    @property
    def size_bytes(self) -> int:
        """All that is kept."""
        return sum(thing.size_bytes for thing in self._kept.values())

    def __len__(self) -> int:
        return len(self._kept)

    def drop(self) -> int:
        """Give all back; how many bytes that was."""
        dropped = self.size_bytes
        while self._kept:
            self._kept.popitem()[1].close()
        return dropped


def numbers_in(tree: Mapping[str, Any]) -> Iterator[int]:
    """All numbers in a tree of KHO's: those that might be addresses."""
    for value in tree.values():
        if isinstance(value, Mapping):
            yield from numbers_in(value)
        elif isinstance(value, int):
            yield value
