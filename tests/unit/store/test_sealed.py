"""The seal of stored documents: white space that no turned bit gets past."""

from __future__ import annotations

import asyncio
import json
import random
from pathlib import Path

import pytest

from orchestrator.core.model import Change, NewEvent, NodeRow
from orchestrator.errors import CorruptState, LiverollError
from orchestrator.store.factory import make_store
from orchestrator.store.schema import instant
from orchestrator.store.sealed import ALPHABET, LENGTH, seal, unseal

DOCUMENT = '{"node_id":"n-1","name":"ä ☃","generation":12}'


def test_the_seal_is_white_space_that_every_reader_takes() -> None:
    sealed = seal(DOCUMENT)
    assert len(sealed) == len(DOCUMENT) + LENGTH
    assert set(sealed[-LENGTH:]) <= set(ALPHABET)
    assert json.loads(sealed) == json.loads(DOCUMENT)
    assert unseal(sealed) == DOCUMENT


def test_a_document_of_an_older_release_is_taken() -> None:
    assert unseal(DOCUMENT) == DOCUMENT


def test_every_turned_bit_is_found() -> None:
    data = seal(DOCUMENT).encode()
    for place in range(len(data) * 8):
        turned = bytearray(data)
        turned[place // 8] ^= 1 << place % 8
        try:
            text = turned.decode()
        except UnicodeDecodeError:
            continue  # no database hands that out
        with pytest.raises((CorruptState, ValueError), match=r"not what was written|Extra data"):
            json.loads(unseal(text))


def test_a_seal_cut_short_is_no_older_release() -> None:
    for length in range(1, LENGTH):
        with pytest.raises(CorruptState):
            unseal(seal(DOCUMENT)[:-length])


async def test_a_byte_turned_anywhere_in_the_file_is_told_or_changes_nothing(tmp_path: Path) -> None:
    """Seeded places all over a database of nodes and events."""
    first = tmp_path / "first.db"
    store = make_store(str(first))
    await store.open()
    for i in range(40):
        event = NewEvent("node.enrolled", f"node {i} is enrolled", node_id=f"n-{i}")
        await store.commit(None, Change((NodeRow(f"n-{i}", labels={"zone": "a" * i}),), events=(event,)))
    rows = (await store.load()).rows
    told = [event.new for event in await store.events(0, limit=100)]
    await store.close()
    data = first.read_bytes()
    rng = random.Random(7)
    found = []
    for turn in range(40):
        turned = bytearray(data)
        turned[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
        path = tmp_path / f"{turn}.db"
        path.write_bytes(turned)
        store = make_store(str(path))
        try:
            await store.open()
            assert (await store.load()).rows == rows
            assert [event.new for event in await store.events(0, limit=100)] == told
        except LiverollError as error:
            found.append(error.reason if error.remedy else "")
        finally:
            await store.close()
            await asyncio.to_thread(path.unlink)
    assert set(found) <= {"ROW_DAMAGED", "DATABASE_CORRUPT", "ROW_UNREADABLE"}, found
    assert found, "a byte that says something was among them"


def test_an_instant_beyond_all_calendars_is_damage() -> None:
    with pytest.raises(CorruptState, match="beyond all calendars"):
        instant(1 << 62)
