"""A node's journal, read by a stranger: its documented format, without the agent's code.

Format: magic `LRJRNL01`, then records of u32 length, u32 crc32 (little-endian) and a JSON payload
`{"seq", "kind", "body"}`. What is read here is checked as it is read: a test that reads a journal has
shown that it is whole.
"""

from __future__ import annotations

import datetime as dt
import json
import struct
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

MAGIC = b"LRJRNL01"


@dataclass(frozen=True)
class Record:
    """One record; its place in the file, for those who damage it."""

    seq: int
    kind: str
    body: dict[str, Any]
    offset: int
    """Of its header."""
    end: int

    @property
    def at(self) -> dt.datetime:
        return dt.datetime.fromisoformat(self.body["at"])

    @property
    def report(self) -> dict[str, Any]:
        return self.body.get("report") or {}

    @property
    def attempt(self) -> str:
        """GENERATION-INCARNATION, "" outside an attempt."""
        ref = self.report.get("attempt")
        return f"{ref['generation']}-{ref['incarnation'][:8]}" if ref else ""


class Damaged(AssertionError):
    """The journal does not keep its format."""


def read(path: Path, *, torn_tail: bool = False) -> list[Record]:
    """All records. torn_tail: its writer may live or have been killed; an unfinished record at the
    end is then no damage."""
    data = path.read_bytes()
    if torn_tail and not data:
        return []
    if data[:8] != MAGIC:
        raise Damaged(f"{path}: no magic")
    found: list[Record] = []
    offset = 8
    while offset < len(data):
        if offset + 8 > len(data):
            return _tail(found, torn_tail, path, offset)
        length, checksum = struct.unpack_from("<II", data, offset)
        payload = data[offset + 8 : offset + 8 + length]
        if length == 0 or len(payload) < length or zlib.crc32(payload) != checksum:
            return _tail(found, torn_tail, path, offset)
        value = json.loads(payload)
        record = Record(value["seq"], value["kind"], value["body"], offset, offset + 8 + length)
        if found and record.seq <= found[-1].seq:
            raise Damaged(f"{path}: seq {record.seq} after {found[-1].seq}")
        found.append(record)
        offset = record.end
    return found


def _tail(found: list[Record], allowed: bool, path: Path, offset: int) -> list[Record]:
    if not allowed:
        raise Damaged(f"{path}: a record at {offset} is not whole")
    return found


@dataclass(frozen=True)
class Jump:
    """One JumpIntent."""

    attempt: str
    generation: int
    boot_id: str
    """That it left."""


def jumps(records: list[Record]) -> list[Jump]:
    return [
        Jump(r.body["attempt"], r.body["generation"], r.body["boot_id"])
        for r in records
        if r.kind == "jump_intent"
    ]


def boots(records: list[Record]) -> list[str]:
    """Every boot that wrote here, in order."""
    seen: list[str] = []
    for record in records:
        boot_id = record.report.get("boot_id")
        if boot_id and boot_id not in seen:
            seen.append(boot_id)
    return seen


def story(records: list[Record]) -> list[tuple[str, str]]:
    """(event, phase) of every report."""
    return [(r.report["event"], r.report["phase"]) for r in records if r.report]


def check_node(records: list[Record]) -> None:
    """I3 from the disk: at most one JumpIntent a generation, generations only rise, every boot but
    the first was jumped to from the one before, and no attempt led to two boots."""
    intents = jumps(records)
    generations = [jump.generation for jump in intents]
    assert generations == sorted(set(generations)), f"jumps of generations {generations}"
    started = [
        r.report["attempt"]["generation"]
        for r in records
        if r.report.get("event") == "Prepared" and r.report.get("attempt")
    ]
    assert started == sorted(set(started)), f"attempts began as {started}"
    current, intent = "", None
    reboots: dict[str, int] = {}
    for record in records:
        if record.kind == "jump_intent":
            intent = record.body
        boot_id = record.report.get("boot_id", current)
        if boot_id != current and current:
            assert intent is not None, f"{boot_id} was never jumped to"
            assert intent["boot_id"] == current, f"the jump to {boot_id} left {intent['boot_id']}"
            attempt = str(intent["attempt"])
            reboots[attempt] = reboots.get(attempt, 0) + 1
            intent = None
        current = boot_id
    assert all(count == 1 for count in reboots.values()), f"reboots of attempts: {reboots}"
