"""The journal's bytes: torn, corrupt, and in between."""

from __future__ import annotations

import struct
import zlib

import pytest

from node_agent.ports import JournalRecord
from node_agent.runtime.journal_format import MAGIC, MAX_PAYLOAD_BYTES, decode_file, encode_record

RECORDS = tuple(JournalRecord(seq, "event", {"n": seq}) for seq in (1, 2, 5))
PARTS = [MAGIC, *(encode_record(record) for record in RECORDS)]
DATA = b"".join(PARTS)
LAST = len(DATA) - len(PARTS[-1])


def raw(payload: bytes) -> bytes:
    return struct.pack("<II", len(payload), zlib.crc32(payload)) + payload


def test_what_was_written_is_read_and_gaps_are_normal() -> None:
    decoded = decode_file(DATA)
    assert (decoded.records, decoded.good_bytes, decoded.corrupt) == (RECORDS, len(DATA), None)


@pytest.mark.parametrize("cut", range(LAST + 1, len(DATA)))
def test_a_file_cut_anywhere_in_its_last_record_is_torn(cut: int) -> None:
    decoded = decode_file(DATA[:cut])
    assert (decoded.records, decoded.good_bytes, decoded.corrupt) == (RECORDS[:2], LAST, None)


@pytest.mark.parametrize("cut", range(LAST + 1, len(DATA)))
@pytest.mark.parametrize("more", [0, 4096])
def test_zeros_in_place_of_the_end_are_torn(cut: int, more: int) -> None:
    decoded = decode_file(DATA[:cut].ljust(len(DATA) + more, b"\0"))
    assert (decoded.records, decoded.corrupt) == (RECORDS[:2], None)


def test_zeros_after_the_end_are_cut() -> None:
    decoded = decode_file(DATA + bytes(100))
    assert (decoded.records, decoded.good_bytes) == (RECORDS, len(DATA))


@pytest.mark.parametrize("cut", range(len(MAGIC) + 1))
def test_a_file_that_was_being_made(cut: int) -> None:
    assert decode_file(MAGIC[:cut]).records == ()
    assert decode_file(MAGIC[:cut]).corrupt is None
    assert decode_file(MAGIC[:cut].ljust(64, b"\0")).corrupt is None


@pytest.mark.parametrize("offset", range(LAST))
def test_a_flipped_bit_before_the_last_record_is_never_taken_for_torn(offset: int) -> None:
    damaged = bytearray(DATA)
    damaged[offset] ^= 1
    decoded = decode_file(bytes(damaged))
    assert decoded.corrupt is not None
    assert decoded.corrupt.reason == "JOURNAL_CORRUPT"
    assert decoded.corrupt.remedy


@pytest.mark.parametrize("bit", range(20))
@pytest.mark.parametrize("record", [1, 2])
def test_a_length_that_reaches_beyond_the_file_hides_no_whole_record(record: int, bit: int) -> None:
    """Cut there, what was promised later (a floor, a JumpIntent) would be forgotten in silence."""
    offset = sum(len(part) for part in PARTS[:record])
    (length,) = struct.unpack_from("<I", DATA, offset)
    damaged = bytearray(DATA)
    struct.pack_into("<I", damaged, offset, length ^ 1 << bit)
    decoded = decode_file(bytes(damaged))
    assert decoded.corrupt is not None
    assert decoded.good_bytes == offset


def test_half_a_surrogate_pair_keeps_no_record_from_the_disk() -> None:
    data = MAGIC + encode_record(JournalRecord(1, "event", {"why": "a\ud800b"}))
    assert decode_file(data).records == (JournalRecord(1, "event", {"why": "a?b"}),)


def test_a_full_length_last_record_with_a_wrong_checksum_is_corrupt() -> None:
    damaged = bytearray(DATA)
    damaged[-1] ^= 1
    decoded = decode_file(bytes(damaged))
    assert (decoded.records, decoded.good_bytes) == (RECORDS[:2], LAST)
    assert decoded.corrupt is not None
    assert decoded.corrupt.fields == {"offset": str(LAST), "records": "2"}


@pytest.mark.parametrize(
    "tail",
    [
        raw(b"not json"),
        raw(b"[]"),
        raw(b'{"seq": 6}'),
        raw(b'{"seq": "6", "kind": "event", "body": {}}'),
        raw(b'{"seq": 6, "kind": "event", "body": []}'),
        raw(b'{"seq": 5, "kind": "event", "body": {}}'),
        struct.pack("<II", MAX_PAYLOAD_BYTES + 1, 0),
        bytes(8) + b"x",
    ],
)
def test_what_makes_no_sense_is_corrupt(tail: bytes) -> None:
    decoded = decode_file(DATA + tail)
    assert decoded.records == RECORDS
    assert decoded.corrupt is not None


def test_a_record_has_a_bound() -> None:
    with pytest.raises(ValueError, match="too large"):
        encode_record(JournalRecord(1, "event", {"x": "y" * MAX_PAYLOAD_BYTES}))
