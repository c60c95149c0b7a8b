"""What KHO keeps of memory over a kexec, by address.

An address stands for the u64 that a callback puts into the tree. What is kept and handed over is found
again at its address by the next kernel; what is not is gone with the kernel that kept it. A count of what
is kept is a count of leaks.
"""

from __future__ import annotations

import errno
import itertools
from collections.abc import Iterator, Mapping
from typing import Any, Protocol

FIRST_ADDRESS = 0x1_0000_0000
PAGE_BYTES = 4096


class Keepable(Protocol):
    """Something that stands for memory, or for a descriptor that holds it."""

    @property
    def size_bytes(self) -> int: ...
    def close(self) -> None: ...


class Blob:
    """Serialised state: a page or so of plain values, JSON's."""

    def __init__(self, value: Mapping[str, Any]) -> None:
        self.value = dict(value)
        self.size_bytes = PAGE_BYTES

    def close(self) -> None:
        """Nothing but memory."""


class Memory:
    """One kernel's preserved memory. What it holds is its own to close.

    Args:
        arrived: what the kernel before handed over, address → thing.
        limit_bytes: what can be kept; 0 is no limit.
    """

    def __init__(self, arrived: Mapping[int, Keepable] | None = None, *, limit_bytes: int = 0) -> None:
        self._kept: dict[int, Keepable] = dict(arrived or {})
        self._limit_bytes = limit_bytes
        self._addresses: Iterator[int] = itertools.count(
            max(self._kept, default=FIRST_ADDRESS - PAGE_BYTES) + PAGE_BYTES, PAGE_BYTES
        )

    def keep(self, thing: Keepable) -> int:
        """Preserve it; its address. Raises OSError(ENOMEM); the thing is closed then."""
        if self._limit_bytes and self.size_bytes + thing.size_bytes > self._limit_bytes:
            thing.close()
            raise OSError(errno.ENOMEM, "kho_preserve_phys")
        address = next(self._addresses)
        self._kept[address] = thing
        return address

    def at(self, address: int) -> Keepable:
        """Raises KeyError: nothing is kept there."""
        return self._kept[address]

    def free(self, address: int) -> None:
        """Give it back. Raises KeyError."""
        self._kept.pop(address).close()

    def take(self, address: int) -> Keepable:
        """No longer kept here, and the caller's. Raises KeyError."""
        return self._kept.pop(address)

    def addresses(self) -> tuple[int, ...]:
        """Where something is kept."""
        return tuple(self._kept)

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
