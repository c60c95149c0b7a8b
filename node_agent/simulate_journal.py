"""Scripted faults of an emulated node's journal and its disk: torn_journal, corrupt_journal, full_disk.

Rules:
- a journal on disk and one in memory suffer the same, byte for byte;
- torn: a power loss in the middle of a write leaves half a record behind the last one;
- corrupt: a byte of the last record has turned;
- full: the disk takes no record from the moment in which an attempt has preserved its workloads,
  ballast and all, for the fault's seconds; once for each kexec that it names.
"""

from __future__ import annotations

from asyncio import get_running_loop
from collections.abc import Callable, Mapping

from node_agent.errors import JournalUnavailable
from node_agent.kernel.faults import FaultKind, FaultPlan
from node_agent.ports import Journal, JournalRecord
from node_agent.runtime.journal_format import encode_record
from node_agent.runtime.journal_over import JournalOver

FILLS_AT = "Preserved"
"""The last event before PROCEED: what was begun must be undone, and nothing has stopped yet."""


def damaged(data: bytes, faults: FaultPlan, kexecs: int) -> bytes:
    """A journal's bytes after what the plan does to them before the boot that follows `kexecs`."""
    if data and faults.at(FaultKind.TORN_JOURNAL, kexecs) is not None:
        data += encode_record(JournalRecord(1 << 40, "event", {"acked": 0}))[:-3]
    if data and faults.at(FaultKind.CORRUPT_JOURNAL, kexecs) is not None:
        data = data[:-1] + bytes([data[-1] ^ 0xFF])
    return data


class Disk:
    """How full one node's disk is, over all its boots.

    Args:
        kexecs: how often the node has called reboot(KEXEC) by now.
    """

    def __init__(self, faults: FaultPlan, kexecs: Callable[[], int]) -> None:
        self._faults = faults
        self._kexecs = kexecs
        self._filled_in: set[int] = set()
        self._until_s = 0.0

    def write(self, body: Mapping[str, object]) -> None:
        """Raises JournalUnavailable (JOURNAL_FULL) where the record finds no room."""
        report = body.get("report")
        n = self._kexecs()
        fault = self._faults.at(FaultKind.FULL_DISK, n)
        if (
            fault is not None
            and n not in self._filled_in
            and isinstance(report, Mapping)
            and report.get("event") == FILLS_AT
        ):
            self._filled_in.add(n)
            self._until_s = get_running_loop().time() + fault.seconds
        self.room()

    def room(self) -> None:
        """Raises JournalUnavailable (JOURNAL_FULL) while there is none."""
        if get_running_loop().time() < self._until_s:
            raise JournalUnavailable(
                "the disk with the journal is full",
                reason="JOURNAL_FULL",
                remedy="Wait: it was asked for with full_disk, and ends by itself.",
            )


class JournalOnDisk(JournalOver):
    """On a disk that may be full."""

    def __init__(self, journal: Journal, disk: Disk) -> None:
        super().__init__(journal)
        self._disk = disk

    async def append(self, kind: str, body: Mapping[str, object]) -> JournalRecord:
        """See ports.Journal."""
        self._disk.write(body)
        return await super().append(kind, body)

    async def ensure_room(self) -> None:
        """See ports.Journal."""
        self._disk.room()
        await super().ensure_room()
