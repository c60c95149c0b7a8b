"""ftrace's ring and pstore's dump, which live in reserve_mem's regions."""

from __future__ import annotations

import pytest

from node_agent.kernel.emulated.model import LuoModel
from node_agent.kernel.emulated.rfc2.buffers import HEADER, Buffer, Ring
from node_agent.kernel.emulated.rfc2.builtin import LAST_WORDS
from node_agent.kernel.emulated.rfc2.reserve_mem import Region
from tests.unit.kernel.rfc2.subsystem_boots import ON, boot, kexec, luo, rfc2

WORDS = f"{ON} reserve_mem=64K:4096:trace reserve_mem=64K:4096:pstore"
AUTO = ("reserve_mem",)


def trace(model: LuoModel) -> Buffer:
    found = rfc2(model).builtin.ftrace
    assert found is not None
    assert found.buffer is not None
    return found.buffer


def test_ftraces_ring_is_readable_after_a_plain_kexec() -> None:
    """The seed thread: "reserve_mem can already be useful for ftrace and pstore folks"."""
    model = boot(WORDS, auto_preserve=AUTO)
    luo(model).prepare()
    luo(model).cancel()
    assert trace(model).lines() == ["liveupdate: boot", "liveupdate: prepare", "liveupdate: cancel"]
    kexec(model)
    assert trace(model).last_boot == [
        "liveupdate: boot",
        "liveupdate: prepare",
        "liveupdate: cancel",
        "liveupdate: kexec",
    ]
    assert trace(model).lines() == ["liveupdate: boot"]
    kexec(model)
    assert trace(model).last_boot == ["liveupdate: boot", "liveupdate: kexec"]


def test_without_auto_preserve_a_live_update_carries_it() -> None:
    model = boot(WORDS)
    luo(model).prepare()
    kexec(model)
    assert trace(model).last_boot[-2:] == ["liveupdate: freeze", "liveupdate: kexec"]
    luo(model).finish()
    assert trace(model).lines() == ["liveupdate: boot", "liveupdate: finish"]
    kexec(model)
    assert trace(model).last_boot == [], "and a plain kexec does not"


def test_pstore_shows_the_last_kernels_log() -> None:
    """The seed thread: "The pstore use case is only potential, correct? Or can it already use
    reserve_mem?\""""
    model = boot(WORDS, auto_preserve=AUTO)
    pstore = rfc2(model).builtin.pstore
    assert pstore is not None
    assert pstore.buffer.last_boot == []
    log = model.log
    kexec(model)
    pstore = rfc2(model).builtin.pstore
    assert pstore is not None
    assert pstore.buffer.last_boot == [*log, LAST_WORDS]
    assert log[0] == "Linux version 6.16 (emulated)"


def test_only_its_tail_if_there_is_no_room() -> None:
    model = boot(f"{ON} reserve_mem=132:64:pstore", auto_preserve=AUTO)
    model.log += [f"message {number}" for number in range(20)]
    kexec(model)
    pstore = rfc2(model).builtin.pstore
    assert pstore is not None
    assert pstore.buffer.last_boot == [*(f"message {number}" for number in range(13, 20)), LAST_WORDS]


def test_without_their_regions_there_are_none() -> None:
    builtin = rfc2(boot(f"{ON} reserve_mem=4K:64:other")).builtin
    assert builtin.ftrace is None
    assert builtin.pstore is None


@pytest.mark.parametrize("room", [7, 8, 9, 64])
def test_the_ring_keeps_the_newest_whole_lines(room: int) -> None:
    ring = Ring(Region("ring", HEADER.size + room, 64))
    written = []
    for number in range(30):
        line = "x" * (number % 5) + str(number)
        ring.append(line)
        written.append(line)
        found = ring.lines()
        assert found == written[len(written) - len(found) :]
        assert found == written or sum(len(line) + 1 for line in written) > room
    ring.clear()
    assert ring.lines() == []


@pytest.mark.parametrize("size", [1, HEADER.size])
def test_a_region_too_small_holds_nothing(size: int) -> None:
    ring = Ring(Region("ring", size, 64))
    ring.clear()
    ring.append("line")
    assert ring.lines() == []


def test_a_line_longer_than_the_ring_loses_its_beginning() -> None:
    ring = Ring(Region("ring", HEADER.size + 6, 64))
    ring.append("0123456789")
    assert ring.lines() == ["56789"]
