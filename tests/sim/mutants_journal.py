"""Mistakes of the agent's journal: what is written when, and what a damaged file is taken for."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any
from unittest.mock import patch

from node_agent.core.history import JUMP_INTENT
from node_agent.errors import JournalCorrupt
from node_agent.ports import JournalRecord
from node_agent.runtime import journal_format, journal_memory
from node_agent.runtime.journal_format import Decoded
from node_agent.runtime.journal_memory import MemoryDisk, MemoryJournal
from node_agent.runtime.runner_ledger import Ledger
from tests.sim import provocations as worlds
from tests.sim.mutant import mutant


@mutant("journal", "I3", worlds.dying_agents)
def attempt_is_journalled_after_its_first_step() -> Iterator[None]:
    """a record is durable before its effect begins"""
    real = Ledger.commit

    async def mistaken(self: Ledger, node: Any, name: str, ref: Any, event: Any) -> None:
        if name == "Prepared":
            self.node = node
            return
        await real(self, node, name, ref, event)

    with patch.object(Ledger, "commit", mistaken):
        yield


@mutant("journal", "I10", worlds.undisturbed)
def jump_intent_is_not_synced() -> Iterator[None]:
    """the JumpIntent is on the disk before reboot is called"""
    real = MemoryJournal.append

    async def mistaken(self: MemoryJournal, kind: str, body: Mapping[str, object]) -> JournalRecord:
        synced = self._disk.synced
        record = await real(self, kind, body)
        if kind == JUMP_INTENT:
            self._disk.synced = synced
        return record

    with patch.object(MemoryJournal, "append", mistaken):
        yield


@mutant("journal", "I10", worlds.power_cuts)
def torn_record_is_taken_for_damage() -> Iterator[None]:
    """a torn last record is cut; the node goes on from the one before"""
    real = journal_format.decode_file

    def mistaken(data: bytes) -> Decoded:
        decoded = real(data)
        if decoded.corrupt is None and decoded.good_bytes < len(data):
            return replace(
                decoded, corrupt=JournalCorrupt("the last record is short", offset=decoded.good_bytes)
            )
        return decoded

    with patch.object(journal_memory, "decode_file", mistaken):
        yield


@mutant("journal", "I10", worlds.flipped_bits)
def nobody_looks_at_the_checksum() -> Iterator[None]:
    """full length with a wrong checksum quarantines; nothing is guessed"""
    real = journal_format._payload

    def mistaken(data: bytes, offset: int) -> bytes | None:
        try:
            return real(data, offset)
        except journal_format._Damage:
            begin = offset + journal_format.HEADER.size
            length, _ = journal_format.HEADER.unpack_from(data, offset)
            if not 0 < length <= len(data) - begin:
                raise
            return data[begin : begin + length]

    with patch.object(journal_format, "_payload", mistaken):
        yield


@mutant("journal", "I10", worlds.held_reboots)
def boot_is_classified_without_the_lock() -> Iterator[None]:
    """nothing is classified without the journal's lock: the old thread may still be inside reboot"""
    real = MemoryJournal.__init__

    def mistaken(self: MemoryJournal, disk: MemoryDisk, installation_id: str = "") -> None:
        disk.locked = False
        real(self, disk, installation_id)

    with patch.object(MemoryJournal, "__init__", mistaken):
        yield
