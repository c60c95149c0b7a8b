"""reserve_mem: the regions, both ways over a kexec, and the buffers that live in them."""

from __future__ import annotations

import errno
import os

import pytest

from node_agent.kernel.emulated.image import EmulatedImage
from node_agent.kernel.emulated.model import LuoModel
from node_agent.kernel.emulated.rfc2.debugfs import FINALIZE_PATH
from node_agent.kernel.emulated.rfc2.memory import PAGE_BYTES
from node_agent.kernel.emulated.rfc2.reserve_mem import MALFORMED, Region, Reserved, memparse
from node_agent.kernel.emulated.rfc2.states import LuoState
from tests.unit.kernel.rfc2.subsystem_boots import KHO_ONLY, ON, boot, kexec, luo, raises, rfc2

REGIONS = "reserve_mem=1M:4096:cache reserve_mem=64K:64:small"
BOTH = ("notifier", "luo-driven")


def fill(model: LuoModel) -> None:
    model.reserved.region("cache").write(PAGE_BYTES - 2, b"kept")
    model.reserved.region("small").write(0, b"too")


def content(model: LuoModel) -> tuple[bytes, bytes]:
    regions = model.reserved
    return regions.region("cache").read(PAGE_BYTES - 2, 4), regions.region("small").read(0, 3)


CARRIED, ZEROS = (b"kept", b"too"), (bytes(4), bytes(3))


# --- the command line


@pytest.mark.parametrize(
    ("text", "number", "rest"),
    [
        ("12M:4096:trace", 12 << 20, ":4096:trace"),
        ("4k", 4096, ""),
        ("1G", 1 << 30, ""),
        ("2T", 2 << 40, ""),
        ("0x1000:", 4096, ":"),
        ("010", 8, ""),
        ("7", 7, ""),
        ("0", 0, ""),
        ("", 0, ""),
        ("M", 0, "M"),
        ("12X", 12, "X"),
    ],
)
def test_memparse(text: str, number: int, rest: str) -> None:
    assert memparse(text) == (number, rest)


def test_several_regions() -> None:
    log: list[str] = []
    reserved = Reserved(f"quiet {REGIONS} reserve_mem=0x2000:0:hex panic=1", log.append)
    assert list(reserved.regions.values()) == [
        Region("cache", 1 << 20, 4096),
        Region("small", 64 << 10, 64),
        Region("hex", 0x2000, 64),
    ]
    assert log == []


@pytest.mark.parametrize(
    "value",
    ["", "4096", "4096:64", "4096:64:", ":64:x", "0:64:x", "4096:64x:y", "4096:64:sixteen-letters-", "M:0:x"],
)
def test_a_malformed_word_is_logged_and_left_out(value: str) -> None:
    log: list[str] = []
    assert Reserved(f"reserve_mem={value}", log.append).regions == {}
    assert log == [MALFORMED]


def test_a_label_is_reserved_once_and_there_is_room_for_eight() -> None:
    log: list[str] = []
    words = [f"reserve_mem=4K:4K:{label}" for label in "aabcdefghi"]
    assert "".join(Reserved(" ".join(words), log.append).regions) == "abcdefgh"
    assert log == ["reserve_mem: 'a' is reserved already", "reserve_mem: no more room for reserved memory"]


def test_each_boot_has_the_memory_of_its_own_command_line() -> None:
    model = boot(f"{ON} {REGIONS}")
    assert model.reserved.region("cache").size_bytes == 1 << 20
    kexec(model, f"{ON} reserve_mem=4K:4K:other")
    assert model.reserved.region("other").read() == bytes(4096)
    with raises(errno.ENOENT):
        model.reserved.region("cache")


def test_there_is_memory_without_kho_too() -> None:
    model = boot(f"kho=off {REGIONS}")
    fill(model)
    assert content(model) == CARRIED
    kexec(model)
    assert content(model) == ZEROS


def test_reading_and_writing_stay_within_the_region() -> None:
    region = Region("r", 2 * PAGE_BYTES + 10, 64)
    region.write(PAGE_BYTES - 1, b"abc")
    region.write(2 * PAGE_BYTES + 7, b"end")
    assert region.read(PAGE_BYTES - 2, 5) == b"\0abc\0"
    assert region.read(2 * PAGE_BYTES) == b"\0" * 7 + b"end"
    assert len(region.read()) == region.size_bytes
    for act in (lambda: region.write(2 * PAGE_BYTES + 8, b"end"), lambda: region.read(-1, 2)):
        with raises(errno.EINVAL):
            act()


# --- the way `luo`: a subsystem


@pytest.mark.parametrize("coupling", BOTH)
def test_as_a_subsystem_prepare_is_enough(coupling: str) -> None:
    """The seed thread: "You can make reservemem a LUO subsystem instead"; "Presumably, `luoctl prepare` would
    work for whoever plans to use just `reserve_mem`.\""""
    model = boot(f"{ON} {REGIONS}", reserve_mem="luo", coupling=coupling)
    fill(model)
    luo(model).prepare()
    kexec(model)
    assert content(model) == CARRIED
    assert luo(model).state is LuoState.UPDATED
    assert "reserve_mem: Revived memory reservation 'cache' from KHO" in model.log
    luo(model).finish()
    assert content(model) == CARRIED
    assert len(rfc2(model).memory) == 0


@pytest.mark.parametrize("way", ["luo", "kho"])
@pytest.mark.parametrize("coupling", BOTH)
def test_a_plain_kexec_leaves_zeros(coupling: str, way: str) -> None:
    """The seed thread: "It still depends on kho_finalize() being called, so it still needs something to
    trigger its serialization. It is not automatic.\""""
    model = boot(f"{ON} {REGIONS}", reserve_mem=way, coupling=coupling)
    fill(model)
    kexec(model)
    assert content(model) == ZEROS


@pytest.mark.parametrize("way", ["luo", "kho"])
def test_a_cold_boot_leaves_zeros(way: str) -> None:
    model = boot(f"{ON} {REGIONS}", reserve_mem=way, coupling="notifier", auto_preserve=("reserve_mem",))
    fill(model)
    luo(model).prepare()
    model.cold_boot()
    assert content(model) == ZEROS


@pytest.mark.parametrize("way", ["luo", "kho"])
def test_what_is_written_after_prepare_crosses_too(way: str) -> None:
    model = boot(f"{ON} {REGIONS}", reserve_mem=way, coupling="notifier")
    luo(model).prepare()
    fill(model)
    kexec(model)
    assert content(model) == CARRIED


@pytest.mark.parametrize("way", ["luo", "kho"])
@pytest.mark.parametrize("coupling", BOTH)
def test_after_a_cancel_it_does_not_cross_and_stays_as_it_was(coupling: str, way: str) -> None:
    model = boot(f"{ON} {REGIONS}", reserve_mem=way, coupling=coupling)
    fill(model)
    luo(model).prepare()
    luo(model).cancel()
    assert content(model) == CARRIED
    assert len(rfc2(model).memory) == 0
    kexec(model)
    assert content(model) == ZEROS


@pytest.mark.parametrize("way", ["luo", "kho"])
def test_from_updated_the_next_plain_kexec_loses_it(way: str) -> None:
    model = boot(f"{ON} {REGIONS}", reserve_mem=way, coupling="notifier")
    fill(model)
    luo(model).prepare()
    kexec(model)
    kexec(model)
    assert content(model) == ZEROS
    assert luo(model).state is LuoState.NORMAL


# --- the way `kho`: a user of KHO's own


def test_as_a_user_of_kho_prepare_carries_it_by_the_chain() -> None:
    """The seed thread: "At least for now, it can still be used via LUO going into prepare state, since LUO
    changes KHO into finalized state and reserve_mem is registered to be called back from KHO.\""""
    model = boot(f"{ON} {REGIONS}", reserve_mem="kho", coupling="notifier")
    fill(model)
    luo(model).prepare()
    assert rfc2(model).kho.tree.keys() == {"memblock", "LUO"}
    kexec(model)
    assert content(model) == CARRIED
    luo(model).finish()
    assert len(rfc2(model).memory) == 0


def test_a_finalize_by_hand_carries_it() -> None:
    """The seed thread: "if debugfs is enabled, KHO can be finalized manually"; with LUO off, or on."""
    model = boot(f"{KHO_ONLY} {REGIONS}", reserve_mem="kho", coupling="notifier")
    fill(model)
    rfc2(model).debugfs_write(FINALIZE_PATH, "1")
    kexec(model)
    assert content(model) == CARRIED
    assert len(rfc2(model).memory) == 0


def test_without_debugfs_and_luo_nothing_can_trigger_it() -> None:
    """The seed thread: "And with your proposed patch to make debugfs interface optional, it can't even be
    used with the config disabled.\""""
    model = boot(f"{KHO_ONLY} {REGIONS}", reserve_mem="kho", coupling="notifier", kho_debugfs=False)
    fill(model)
    with raises(errno.ENOENT):
        rfc2(model).debugfs_write(FINALIZE_PATH, "1")
    kexec(model)
    assert content(model) == ZEROS


@pytest.mark.parametrize("auto", [(), ("reserve_mem",)], ids=["", "auto"])
def test_where_luo_alone_drives_kho_a_user_of_kho_is_never_carried(auto: tuple[str, ...]) -> None:
    """The seed thread: "there is one example KHO user `reserve_mem`, that is also not liveupdate related. So,
    it should either be removed or modified to be handled by LUO.\""""
    model = boot(f"{ON} {REGIONS}", reserve_mem="kho", coupling="luo-driven", auto_preserve=auto)
    assert "reserve_mem: KHO calls nobody here, so nothing of it is preserved" in model.log
    fill(model)
    luo(model).prepare()
    kexec(model)
    assert luo(model).state is LuoState.UPDATED, "a live update, but for reserve_mem"
    assert content(model) == ZEROS


def test_a_refused_prepare_of_luos_gives_the_regions_back() -> None:
    model = boot(f"{ON} {REGIONS}", reserve_mem="kho", coupling="notifier", faults="refuse_prepare=EIO@1")
    with raises(errno.EIO):
        luo(model).prepare()
    assert len(rfc2(model).memory) == 0
    assert rfc2(model).kho.tree == {}


@pytest.mark.parametrize("way", ["luo", "kho"])
def test_no_room_for_it_refuses_prepare(way: str) -> None:
    model = boot(f"{ON} {REGIONS}", reserve_mem=way, coupling="notifier", memory_bytes=(1 << 20) + 4096)
    with raises(errno.ENOMEM):
        luo(model).prepare()
    assert len(rfc2(model).memory) == 0
    assert luo(model).state is LuoState.NORMAL


def test_a_subtree_of_that_name_refuses_finalize() -> None:
    model = boot(f"{ON} {REGIONS}", reserve_mem="kho", coupling="notifier")
    rfc2(model).kho.add_subtree("memblock", {})
    with raises(errno.EEXIST):
        luo(model).prepare()
    assert len(rfc2(model).memory) == 0


# --- what the next kernel makes of it


@pytest.mark.parametrize("way", ["luo", "kho"])
@pytest.mark.parametrize(
    ("word", "complaint"),
    [
        ("reserve_mem=2M:4096:cache", "KHO reserve-mem 'cache' has wrong size (0x100000 != 0x200000)"),
        ("reserve_mem=1M:8192:cache", "KHO reserve-mem 'cache' has wrong alignment (0x1000, 0x2000)"),
    ],
    ids=["size", "alignment"],
)
def test_another_size_or_alignment_is_not_revived(way: str, word: str, complaint: str) -> None:
    model = boot(f"{ON} {REGIONS}", reserve_mem=way, coupling="notifier")
    fill(model)
    luo(model).prepare()
    kexec(model, f"{ON} {word} reserve_mem=64K:64:small reserve_mem=4K:64:new")
    assert content(model) == (bytes(4), b"too")
    assert f"reserve_mem: {complaint}" in model.log
    assert "reserve_mem: FDT has no child 'new'" in model.log
    luo(model).finish()
    assert len(rfc2(model).memory) == 0


def test_a_smaller_alignment_does() -> None:
    model = boot(f"{ON} {REGIONS}")
    fill(model)
    luo(model).prepare()
    kexec(model, f"{ON} reserve_mem=1M:64:cache reserve_mem=64K:64:small")
    assert content(model) == CARRIED


def test_an_incompatible_node_is_not_revived() -> None:
    model = boot(f"{ON} {REGIONS}")
    reserved, memory = model.reserved, rfc2(model).memory
    nodes = reserved.preserve(memory)
    nodes["cache"]["compatible"] = "reserve-mem-v2"
    log: list[str] = []
    following = Reserved(REGIONS, log.append)
    following.revive(nodes, memory)
    assert log[0] == "reserve_mem: Node 'cache' is incompatible with 'reserve-mem-v1'"
    assert len(memory) == 0


@pytest.mark.parametrize("ways", [("kho", "luo"), ("luo", "kho")])
def test_a_kernel_of_the_other_way_does_not_find_it(ways: tuple[str, str]) -> None:
    """What LUO handed over goes with FINISH; what KHO did, which nobody asks for, with the next kexec."""
    other = EmulatedImage.rfc2("6.18", reserve_mem=ways[1], coupling="notifier")
    model = boot(f"{ON} {REGIONS}", reserve_mem=ways[0], coupling="notifier", others=(other,))
    fill(model)
    luo(model).prepare()
    kexec(model, release="6.18")
    assert luo(model).state is LuoState.UPDATED
    assert content(model) == ZEROS
    luo(model).finish()
    assert len(rfc2(model).memory) == (2 if ways[0] == "kho" else 0)
    kexec(model)
    assert len(rfc2(model).memory) == 0


# --- what goes wrong beside it


def test_what_nobody_claimed_does_not_cross_a_second_time() -> None:
    """A kernel without LUO never learns what LUO's subtree pointed to: the loss of this boot alone."""
    model = boot(f"{ON} {REGIONS}", reserve_mem="kho", coupling="notifier")
    fd = os.memfd_create("memory")
    luo(model).fd_preserve(fd)
    os.close(fd)
    luo(model).prepare()
    kexec(model, f"{KHO_ONLY} {REGIONS}")
    assert len(rfc2(model).memory) == 1
    rfc2(model).debugfs_write(FINALIZE_PATH, "1")
    kexec(model)
    assert len(rfc2(model).memory) == 0


def test_a_refused_freeze_of_luos_leaves_kho_finalized_and_reserve_mem_crosses() -> None:
    """A failed freeze leaves KHO finalized in this coupling. Then a plain kexec carries what KHO's own users
    kept, and LUO's subtree points to nothing."""
    model = boot(f"{ON} {REGIONS}", reserve_mem="kho", coupling="notifier", faults="refuse_freeze=EIO@1")
    fill(model)
    luo(model).prepare()
    with raises(errno.EIO):
        kexec(model)
    assert (luo(model).state, rfc2(model).kho.finalized) == (LuoState.NORMAL, True)
    kexec(model)
    assert content(model) == CARRIED


def test_a_subtree_that_points_to_nothing_boots_with_zeros() -> None:
    model = boot(f"{ON} {REGIONS}", coupling="notifier", faults="refuse_freeze=EIO@1")
    fill(model)
    luo(model).prepare()
    with raises(errno.EIO):
        kexec(model)
    kexec(model)
    assert content(model) == ZEROS
    assert "luo_subsystems: Subsystem 'reserve_mem' boot callback failed [-14]" in model.log
    assert luo(model).state is LuoState.UPDATED
    luo(model).finish()
    assert len(rfc2(model).memory) == 0


def test_lost_with_all_of_luos() -> None:
    model = boot(f"{ON} {REGIONS}", faults="session_lost@1")
    fill(model)
    luo(model).prepare()
    kexec(model)
    assert content(model) == ZEROS
    assert luo(model).state is LuoState.NORMAL
    assert len(rfc2(model).memory) == 0
