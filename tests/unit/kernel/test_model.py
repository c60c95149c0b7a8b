"""Edges of the model that no caller of the port reaches."""

from __future__ import annotations

import errno
import itertools
import os
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from node_agent.kernel.emulated import files
from node_agent.kernel.emulated.image import EmulatedImage, ImageTable
from node_agent.kernel.emulated.model import Jump, LuoModel, Machine, OutOfMemory, boot_id
from node_agent.kernel.faults import FaultPlan
from node_agent.ports import KexecImage

TARGET = KexecImage("", "", "kho=on liveupdate=on", "7.3.4")


def make(
    default: EmulatedImage | None = None,
    images: ImageTable | None = None,
    faults: FaultPlan | None = None,
    machine: Machine | None = None,
) -> LuoModel:
    numbers = itertools.count(1)
    return LuoModel(
        default or EmulatedImage("7.2.13"),
        new_boot_id=lambda: f"boot-{next(numbers)}",
        images=images or ImageTable(),
        faults=faults,
        machine=machine,
    )


@pytest.fixture
def memory() -> Iterator[int]:
    fd = os.memfd_create("memory")
    os.write(fd, b"memory")
    yield fd
    os.close(fd)


@contextmanager
def raises(number: int) -> Iterator[None]:
    with pytest.raises(OSError) as caught:
        yield
    assert caught.value.errno == number


def kexec(model: LuoModel, image: KexecImage = TARGET) -> None:
    model.load(image)
    model.freeze()
    assert model.jump() == Jump(arrived=True)
    model.arrive()


def test_the_device_is_its_owners() -> None:
    model = make(machine=Machine(owner_uid=1000))
    with raises(errno.EACCES):
        model.open_device(uid=1001)
    for uid in (0, 1000):
        model.open_device(uid)
        model.close_device()


def test_limits_of_sessions_and_files(memory: int) -> None:
    model = make(default=EmulatedImage("6.19", max_sessions=1, max_files=1))
    session = model.create_session(b"a")
    with raises(errno.ENOMEM):
        model.create_session(b"b")
    model.preserve_fd(session, memory, 1)
    with raises(errno.ENOSPC):
        model.preserve_fd(session, memory, 2)
    model.close(session)
    model.close(model.create_session(b"b"))


def test_unknown_seals_are_not_supported(memory: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files, "KNOWN_SEALS", 0)
    model = make()
    session = model.create_session(b"a")
    with raises(errno.EOPNOTSUPP):
        model.preserve_fd(session, memory, 1)


def test_a_file_of_too_many_pages_is_too_big(memory: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files, "MAX_PAGES", 1)
    model = make()
    session = model.create_session(b"a")
    os.ftruncate(memory, files.PAGE_BYTES + 1)
    with raises(errno.EFBIG):
        model.preserve_fd(session, memory, 1)
    os.ftruncate(memory, files.PAGE_BYTES)
    model.preserve_fd(session, memory, 1)
    model.power_off()


def test_a_hugetlb_memfd_is_told_by_its_block_size(memory: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files, "PAGE_BYTES", 1)
    model = make()
    session = model.create_session(b"a")
    with raises(errno.ENOENT):
        model.preserve_fd(session, memory, 1)


def test_preserving_more_than_there_is_memory_kills(memory: int) -> None:
    model = make(machine=Machine(memory_bytes=11))
    session = model.create_session(b"a")
    model.preserve_fd(session, memory, 1)
    other = os.memfd_create("other")
    os.write(other, b"memory")
    with pytest.raises(OutOfMemory):
        model.preserve_fd(session, other, 2)
    os.close(other)
    model.power_off()


def test_a_handler_may_refuse_to_finish_and_the_session_stays(memory: int) -> None:
    model = make()
    model.preserve_fd(model.create_session(b"a"), memory, 1)
    kexec(model)
    session = model.retrieve_session(b"a")
    session.finish_refused = True
    with raises(errno.EBUSY):
        session.finish()
    model.close(session)
    with raises(errno.EINVAL):
        model.retrieve_session(b"a")
    model.power_off()


def test_an_image_loaded_the_legacy_way_loses_everything(memory: int) -> None:
    model = make()
    model.preserve_fd(model.create_session(b"a"), memory, 1)
    model.load(TARGET, legacy=True)
    model.freeze()
    assert model.jump().arrived
    model.arrive()
    assert model.luo
    assert model.facts().kexec_count == 0
    assert not model.sessions()


@pytest.mark.parametrize("target", ["kho=on", "liveupdate=on"])
def test_a_target_with_luo_switched_off_leaks_until_a_cold_boot(memory: int, target: str) -> None:
    model = make()
    model.preserve_fd(model.create_session(b"a"), memory, 1)
    kexec(model, KexecImage("", "", target, "7.3.4"))
    assert model.leaked_bytes == 6
    model.cold_boot()
    assert model.leaked_bytes == 0


def test_a_target_without_kho_says_so_and_leaks_nothing(memory: int) -> None:
    model = make(images=ImageTable({"7.3.4": EmulatedImage("7.3.4", kho=False)}))
    model.preserve_fd(model.create_session(b"a"), memory, 1)
    kexec(model)
    assert model.leaked_bytes == 0
    assert "Passed KHO data, but CONFIG_KEXEC_HANDOVER not set" in model.log


def test_a_kexec_says_where_it_came_from() -> None:
    model = make()
    kexec(model)
    assert "KHO: exec from: 7.2.13 (count 1)" in model.log
    assert "luo: Retrieved live update data, liveupdate number: 1" in model.log


def test_a_session_of_an_earlier_boot_cannot_close_its_namesake() -> None:
    model = make()
    old = model.create_session(b"a")
    kexec(model)
    new = model.create_session(b"a")
    model.close(old)
    with raises(errno.EEXIST):
        model.create_session(b"a")
    model.close(new)


def test_a_jump_needs_a_freeze() -> None:
    with pytest.raises(RuntimeError, match="freeze"):
        make().jump()


def test_refused_reboots_are_counted() -> None:
    model = make(faults=FaultPlan.parse("refuse_freeze@1,never_back@3"))
    model.load(TARGET)
    with raises(errno.EBUSY):
        model.freeze()
    model.freeze()
    assert model.jump().arrived
    model.arrive()
    model.load(TARGET)
    model.freeze()
    assert model.jump() == Jump(arrived=False, back=False)


def test_the_default_kernel_may_change() -> None:
    model = make()
    model.set_default(EmulatedImage("7.3.4"))
    model.cold_boot()
    assert (model.facts().release, model.facts().boot_id) == ("7.3.4", "boot-2")
    assert "liveupdate=on" in model.facts().command_line


def test_a_boot_id_looks_like_the_kernels() -> None:
    assert boot_id(0) == "00000000-0000-4000-8000-000000000000"
    assert boot_id(2**128 - 1) == "ffffffff-ffff-4fff-bfff-ffffffffffff"
