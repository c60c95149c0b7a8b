"""A journal over a disk in memory, for simulation: the real format, no threads, scripted damage.

`MemoryDisk` outlives the journal as a disk outlives a process. What was written but not yet
synced may be lost, in whole or in part, by power_loss().
"""

from __future__ import annotations

import uuid
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass

from node_agent.core.history import INSTALLATION
from node_agent.errors import JournalLocked, JournalUnavailable
from node_agent.ports import JournalRecord
from node_agent.runtime.journal_format import MAGIC, decode_file, encode_record


@dataclass(slots=True)
class MemoryDisk:
    """The bytes of one journal, and what goes wrong with them.

    before_sync: awaited between write and fsync; the place to crash or to take time.
    fail_sync, full: every sync, every write raises. tight: records still fit, ballast does not.
    """

    data: bytes = b""
    synced: int = 0
    locked: bool = False
    full: bool = False
    tight: bool = False
    fail_sync: bool = False
    before_sync: Callable[[], Awaitable[None]] | None = None

    def power_loss(self, kept_bytes: int = 0) -> None:
        """Keep only what was synced and the first kept_bytes of what was not; free the lock."""
        self.data = self.data[: self.synced + kept_bytes]
        self.synced = len(self.data)
        self.locked = False

    def process_died(self) -> None:
        """The kernel lives: what was written stays, the lock is free."""
        self.synced = len(self.data)
        self.locked = False


class MemoryJournal:
    """ports.Journal over a MemoryDisk.

    Args:
        installation_id: for a new disk; a random one by default.

    Raises:
        JournalLocked, JournalCorrupt: as FileJournal.open.
    """

    def __init__(self, disk: MemoryDisk, installation_id: str = "") -> None:
        if disk.locked:
            raise JournalLocked("another process holds the journal")
        decoded = decode_file(disk.data)
        if decoded.corrupt is not None:
            raise decoded.corrupt
        self._disk = disk
        self._broken: JournalUnavailable | None = None
        self._floor = 0
        self._records = list(decoded.records)
        disk.data = disk.data[: decoded.good_bytes]
        if not self._records:
            first = JournalRecord(1, INSTALLATION, {"installation_id": installation_id or uuid.uuid4().hex})
            disk.data = MAGIC + encode_record(first)
            self._records = [first]
        disk.synced = len(disk.data)
        disk.locked = True

    @property
    def installation_id(self) -> str:
        """Made with the disk."""
        return str(self._records[0].body["installation_id"])

    @property
    def records(self) -> Sequence[JournalRecord]:
        """All of them: a disk in memory is never compacted."""
        return tuple(self._records)

    async def append(self, kind: str, body: Mapping[str, object]) -> JournalRecord:
        """See ports.Journal."""
        if self._broken is not None:
            raise self._broken
        disk = self._disk
        if disk.full:
            raise _unavailable("the disk with the journal is full", "JOURNAL_FULL")
        record = JournalRecord(max(self._records[-1].seq, self._floor) + 1, kind, dict(body))
        disk.data += encode_record(record)
        if disk.before_sync is not None:
            await disk.before_sync()
        if disk.fail_sync:
            self._broken = _unavailable("the journal cannot be written", "JOURNAL_UNAVAILABLE")
            raise self._broken
        disk.synced = len(disk.data)
        self._records.append(record)
        return record

    def number_from(self, seq: int) -> None:
        """See ports.Journal."""
        self._floor = max(self._floor, seq)

    async def ensure_room(self) -> None:
        """See ports.Journal."""
        if self._broken is not None:
            raise self._broken
        if self._disk.full or self._disk.tight:
            raise _unavailable("the disk with the journal is full", "JOURNAL_FULL")

    async def close(self) -> None:
        """See ports.Journal."""
        self._broken = self._broken or _unavailable("the journal is closed", "JOURNAL_CLOSED")
        self._disk.locked = False


def _unavailable(message: str, reason: str) -> JournalUnavailable:
    return JournalUnavailable(
        message, reason=reason, remedy="Free at least 2 MiB on the node's disk, then restart the agent."
    )
