"""Guest memory that can prove itself: a memfd whose every byte follows from its header.

Page 0 is the header: seed, size, tick counter, running state, the clocks at the last tick, all
under a checksum. Each later page begins with its index and the last tick that touched it;
the rest is a slice of a pattern drawn from the seed, another one for each page of a block. Tick n
touches body page n mod pages.
So a later kernel needs nothing but the memfd to say whether memory came through bit-identical,
and a lost tick shows as surely as a flipped bit.

Reads and writes go through pread and pwrite: a thousand nodes in one process cost no mappings. A
block's expected bytes are a copy of one template with its pages' heads put in, so that filling and
comparing run at about the speed of memory.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass

from node_agent.errors import BrokerError, Retry
from node_agent.workloads import memory_head
from node_agent.workloads.memory_head import INCREMENT, MASK, MULTIPLIER, PAGE, PAGE_HEAD
from node_agent.workloads.pause import Stamp

MEMORY_TOKEN = 1
"""The token of guest memory in a workload's session; 0 is left for descriptors."""

_BLOCK_PAGES = 16
"""64 KiB: the template and its copies stay in a core's cache, and below the size from which malloc
takes each anew from the kernel."""


@dataclass(frozen=True, slots=True)
class Verified:
    """What a comparison of all memory gave. difference says where it first departs, if it does."""

    intact: bool
    bytes_checked: int
    difference: str = ""


@dataclass(slots=True)
class GuestMemory:
    """One workload's memory. Owns `fd`.

    ticks, stamp and suspended mirror the header, which is written last in each change.
    """

    fd: int
    seed: int
    pages: int
    ticks: int
    stamp: Stamp
    suspended: bool

    @classmethod
    def create(cls, size_bytes: int, seed: int, stamp: Stamp) -> GuestMemory:
        """A fresh memfd of size_bytes, rounded up to whole pages, at least two."""
        pages = max(2, -(-size_bytes // PAGE)) - 1
        fd = os.memfd_create("liveroll-guest", os.MFD_CLOEXEC)
        memory = cls(fd, seed, pages, 0, stamp, False)
        try:
            os.ftruncate(fd, (pages + 1) * PAGE)
            for first, chunk in memory._expected():
                _write(fd, chunk, (first + 1) * PAGE)
            memory._write_header()
        except BaseException:
            os.close(fd)
            raise
        return memory

    @classmethod
    def attach(cls, fd: int) -> GuestMemory:
        """Memory that came through a kexec. Takes `fd` over; on failure it stays the caller's.

        Raises BrokerError (MEMORY_DAMAGED) if the header does not hold.
        """
        fields = memory_head.unpack(os.pread(fd, memory_head.SIZE, 0))
        if fields is None:
            raise _damaged("its header's checksum differs")
        _, seed, pages, ticks, state, realtime, boottime, tsc, hz, boot_id, suspended = fields
        if os.fstat(fd).st_size != (pages + 1) * PAGE or state != _state(seed, ticks):
            raise _damaged("its header contradicts itself")
        stamp = Stamp(realtime, boottime, tsc, hz, boot_id.rstrip(b"\0").decode("ascii", "replace"))
        return cls(fd, seed, pages, ticks, stamp, bool(suspended))

    @property
    def size_bytes(self) -> int:
        return (self.pages + 1) * PAGE

    def advance(self, ticks: int, stamp: Stamp) -> None:
        """Tick `ticks` times, the last of them at `stamp`. At most one write a page."""
        first = max(self.ticks, self.ticks + ticks - self.pages) + 1
        for tick in range(first, self.ticks + ticks + 1):
            page = tick % self.pages
            _write(self.fd, PAGE_HEAD.pack(page, tick), (page + 1) * PAGE)
        self.ticks += ticks
        self.stamp = stamp
        self._write_header()

    def suspend(self) -> None:
        """From here on no tick until resume(); the stamp stays that of the last tick."""
        self.suspended = True
        self._write_header()

    def resume(self, stamp: Stamp) -> None:
        """The first instant of running again."""
        self.suspended = False
        self.stamp = stamp
        self._write_header()

    def verify(self) -> Verified:
        """Compare every byte with what seed and ticks say."""
        try:
            GuestMemory.attach(self.fd)
        except BrokerError as error:
            return Verified(False, 0, error.message)
        checked = PAGE
        for first, expected in self._expected():
            found = os.pread(self.fd, len(expected), (first + 1) * PAGE)
            checked += len(found)
            if found != expected:
                at = next(
                    (i for i, (a, b) in enumerate(zip(found, expected, strict=False)) if a != b), len(found)
                )
                return Verified(False, checked, f"byte {(first + 1) * PAGE + at} differs")
        return Verified(True, checked)

    def close(self) -> None:
        """Idempotent."""
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1

    def _write_header(self) -> None:
        s = self.stamp
        head = memory_head.pack(
            (
                memory_head.MAGIC,
                self.seed,
                self.pages,
                self.ticks,
                _state(self.seed, self.ticks),
                s.realtime_ns,
                s.boottime_ns,
                s.tsc,
                s.tsc_hz,
                s.boot_id.encode("ascii", "replace"),
                self.suspended,
            )
        )
        _write(self.fd, head, 0)

    def _expected(self) -> Iterator[tuple[int, bytearray]]:
        """(first body page, bytes) in blocks, as they must be after self.ticks ticks."""
        template = _template(self.seed)
        put = PAGE_HEAD.pack_into
        for first in range(0, self.pages, _BLOCK_PAGES):
            pages = min(_BLOCK_PAGES, self.pages - first)
            block = bytearray(template) if pages == _BLOCK_PAGES else bytearray(template[: pages * PAGE])
            at = 0
            for page in range(first, first + pages):
                touched = self.ticks - (self.ticks - page) % self.pages
                put(block, at, page, touched if touched > 0 else 0)
                at += PAGE
            yield first, block


def _template(seed: int) -> bytes:
    """A block without its pages' heads: from page to page the pattern is shifted."""
    state, pattern = seed & MASK, bytearray()
    for _ in range(2 * PAGE // 8):
        state = (state * MULTIPLIER + INCREMENT) & MASK
        # The low bits of a linear congruence have short periods: the high ones are folded in.
        pattern += (state ^ state >> 32).to_bytes(8, "little")
    return b"".join(pattern[start : start + PAGE] for start in range(0, _BLOCK_PAGES * 61, 61))


def _state(seed: int, ticks: int) -> int:
    """The running state after `ticks` steps, by repeated squaring of the affine step."""
    factor, offset, step_factor, step_offset = 1, 0, MULTIPLIER, INCREMENT
    while ticks:
        if ticks & 1:
            factor, offset = factor * step_factor & MASK, (offset * step_factor + step_offset) & MASK
        step_factor, step_offset = (
            step_factor * step_factor & MASK,
            (step_offset * step_factor + step_offset) & MASK,
        )
        ticks >>= 1
    return (seed * factor + offset) & MASK


def _write(fd: int, data: bytes | bytearray, offset: int) -> None:
    view = memoryview(data)
    while view:
        written = os.pwrite(fd, view, offset)
        view, offset = view[written:], offset + written


def _damaged(why: str) -> BrokerError:
    return BrokerError(f"guest memory is damaged: {why}", reason="MEMORY_DAMAGED", retry=Retry.NEVER)
