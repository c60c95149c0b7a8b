"""The journal's bytes: how a record is written and how a file is read back.

A file is the magic `LRJRNL01`, then records: u32 length, u32 zlib.crc32 of the payload (both
little-endian), payload. A payload is UTF-8 JSON `{"seq": …, "kind": …, "body": {…}}`.

Rules
1. seq rises from record to record; gaps are what compaction took out.
2. A record shorter than its header says, zeros where a header should be, or a last record whose
   end is still zero, was torn by a crash: it was never acknowledged to anybody and is cut. Only the
   last record can be torn: where a whole one follows, the header lies (rule 3).
3. Full length and a wrong checksum, or sense: the disk lied. JournalCorrupt, nothing is guessed.
4. The resume path reads this format without this module: it does not change.
"""

from __future__ import annotations

import json
import struct
import zlib
from collections.abc import Mapping
from dataclasses import dataclass

from node_agent.errors import JournalCorrupt
from node_agent.ports import JournalRecord

MAGIC = b"LRJRNL01"
HEADER = struct.Struct("<II")
MAX_PAYLOAD_BYTES = 1 << 20
"""No record is near this; a larger length is a damaged header."""
_BEGIN = b'{"seq":'
"""How every payload begins."""


def encode_record(record: JournalRecord) -> bytes:
    """Header and payload.

    Raises:
        ValueError: the body is too large or not JSON.
    """
    value = {"seq": record.seq, "kind": record.kind, "body": record.body}
    text = json.dumps(value, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
    # Half a surrogate pair (a file name, somebody's message) must not keep a record from the disk.
    payload = text.encode(errors="replace")
    if len(payload) > MAX_PAYLOAD_BYTES:
        raise ValueError(f"a journal record of {len(payload)} bytes is too large")
    return HEADER.pack(len(payload), zlib.crc32(payload)) + payload


@dataclass(frozen=True, slots=True)
class Decoded:
    """A file read back: its records, how many of its bytes are good (the rest is torn and to be
    cut), and what is wrong beyond them, if it is more than a torn tail."""

    records: tuple[JournalRecord, ...]
    good_bytes: int
    corrupt: JournalCorrupt | None = None


class _Damage(Exception):
    """What is wrong at the offset."""


def decode_file(data: bytes) -> Decoded:
    """Read a file back, up to its torn tail or to the first damage."""
    if data[: len(MAGIC)] != MAGIC:
        if MAGIC.startswith(data.rstrip(b"\0")):
            return Decoded((), 0)
        return Decoded((), 0, _corrupt("the file does not begin like a journal", 0, 0))
    records: list[JournalRecord] = []
    offset = len(MAGIC)
    try:
        while (payload := _payload(data, offset)) is not None:
            record = _parse(payload)
            if records and record.seq <= records[-1].seq:
                raise _Damage("a record's number does not rise")
            records.append(record)
            offset += HEADER.size + len(payload)
    except _Damage as damage:
        return Decoded(tuple(records), offset, _corrupt(str(damage), offset, len(records)))
    return Decoded(tuple(records), offset)


def _payload(data: bytes, offset: int) -> bytes | None:
    """The payload of the record at offset; None where the file ends or is torn (rule 2)."""
    if len(data) - offset < HEADER.size:
        return None
    length, checksum = HEADER.unpack_from(data, offset)
    end = offset + HEADER.size + length
    if length == 0:
        if any(data[offset:]):
            raise _Damage("an empty record is followed by data")
        return None
    if length > MAX_PAYLOAD_BYTES:
        raise _Damage("a record's length is impossible")
    if end > len(data):
        if _whole_record_after(data, offset + HEADER.size):
            raise _Damage("a record's length is wrong")
        return None
    payload = data[offset + HEADER.size : end]
    if zlib.crc32(payload) == checksum:
        return payload
    if payload[-1] == 0 and not any(data[end:]):
        return None
    raise _Damage("a record's checksum is wrong")


def _whole_record_after(data: bytes, offset: int) -> bool:
    """Whether a record with a right checksum begins beyond offset."""
    while (start := data.find(_BEGIN, offset + 1)) >= 0:
        length, checksum = HEADER.unpack_from(data, start - HEADER.size)
        if start + length <= len(data) and zlib.crc32(data[start : start + length]) == checksum:
            return True
        offset = start
    return False


def _parse(payload: bytes) -> JournalRecord:
    try:
        value = json.loads(payload)
        seq, kind, body = value["seq"], value["kind"], value["body"]
    except (ValueError, KeyError, TypeError) as error:
        raise _Damage("a record makes no sense") from error
    if not isinstance(seq, int) or not isinstance(kind, str) or not isinstance(body, Mapping):
        raise _Damage("a record makes no sense")
    return JournalRecord(seq, kind, body)


def _corrupt(message: str, offset: int, records: int) -> JournalCorrupt:
    return JournalCorrupt(
        message,
        remedy="The journal was kept aside for inspection. Find out what damaged the disk, check the "
        "node's workloads, then retry the node by name.",
        offset=offset,
        records=records,
    )
