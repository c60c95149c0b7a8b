"""What only a real kernel does: the rules for which the emulation has a stand-in or nothing at all."""

from __future__ import annotations

import errno
import fcntl
import os
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from node_agent.ports import KhoFacts
from tests.contract.test_kernel_contract import refused
from tests.contract.test_kernel_lifecycle import content_of

pytestmark = pytest.mark.lab

FALLOC_PUNCH = 0x03
"""FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE. Source: include/uapi/linux/falloc.h."""

Boot = Callable[..., Awaitable[Any]]


@pytest.fixture
async def boot(guests: Any, tmp_path: Path) -> AsyncIterator[Boot]:
    """Boots a real kernel: boot(kernel="a", words="kho=on liveupdate=on")."""
    from tests.contract.guest_backend import Guest

    started = []

    async def boot(kernel: str = "a", words: str = "kho=on liveupdate=on") -> Any:
        guest = type("Guest", (Guest,), {"guests": guests, "first_kernel": kernel, "first_words": words})(
            tmp_path
        )
        await guest.start()
        started.append(guest)
        return guest

    yield boot
    for guest in started:
        await guest.stop()


@pytest.fixture
async def node(boot: Boot) -> Any:
    return await boot()


def denied(call: Callable[..., object], *arguments: object) -> str:
    with pytest.raises(OSError) as caught:
        call(*arguments)
    return errno.errorcode[caught.value.errno or 0]


async def test_a_preserved_file_keeps_its_size_and_stays_writable(node: Any) -> None:
    session, fd = await node.kernel.create_session("s"), node.memfd(b"memory", os.MFD_ALLOW_SEALING)
    await session.preserve_fd(fd, 1)
    assert denied(node.os.ftruncate, fd, 100) == "EPERM"
    assert denied(node.os.ftruncate, fd, 1) == "EPERM"
    assert denied(node.os.fallocate, fd, FALLOC_PUNCH, 0, 4096) == "EPERM"
    assert denied(node.fcntl.fcntl, fd, fcntl.F_ADD_SEALS, fcntl.F_SEAL_WRITE) == "EBUSY"
    node.os.pwrite(fd, b"M", 0)
    await session.close()
    node.os.ftruncate(fd, 100)
    node.os.close(fd)


async def test_a_hugetlb_file_cannot_be_preserved(node: Any) -> None:
    session, fd = await node.kernel.create_session("s"), node.of_kind("hugetlb")
    await refused(session.preserve_fd(fd, 1), errno.ENOENT, "FILE_UNPRESERVABLE")
    node.os.close(fd)
    await session.close()


async def test_64_mib_come_back_to_the_bit_and_without_their_name(node: Any) -> None:
    session, fd = await node.kernel.create_session("s"), node.memfd(b"")
    before = node.machine.call("fill", fd, 7, 64)
    await session.preserve_fd(fd, 1)
    await node.kexec()
    came = await node.kernel.retrieve_session("s")
    fd = await came.retrieve_fd(1)
    assert node.machine.call("digest", fd) == before
    assert node.os.readlink(f"/proc/self/fd/{fd}") == "/ (deleted)"
    await came.finish()
    await came.close()
    assert node.machine.call("digest", fd) == before
    node.os.close(fd)


async def test_a_hole_comes_back_as_zeros(node: Any) -> None:
    session, fd = await node.kernel.create_session("s"), node.memfd(b"head")
    node.os.ftruncate(fd, 4 << 20)
    node.os.pwrite(fd, b"tail", (4 << 20) - 4)
    await session.preserve_fd(fd, 1)
    await node.kexec()
    content = await content_of(node, "s")
    assert (content[:4], content[4:].strip(b"\0")) == (b"head", b"")


async def test_kho_says_the_same_before_and_after_a_kexec(boot: Boot) -> None:
    node = await boot(words="kho=on liveupdate=on kho_scratch=16M,0M,64M")
    facts = (await node.kernel.facts()).kho
    assert facts.scratch_bytes == (16 << 20, 0, 64 << 20)
    assert facts.kho_abi.startswith("kho-v")
    assert facts.luo_abi.startswith("luo-v")
    await node.kexec(node.image("", "kho=on liveupdate=on kho_scratch=32M,0M,32M"))
    assert (await node.kernel.facts()).kho == facts


async def test_kho_says_what_is_off(boot: Boot) -> None:
    node = await boot(words="kho=on")
    facts = (await node.kernel.facts()).kho
    assert facts.debugfs
    assert (facts.kho_abi.startswith("kho-v"), facts.luo_abi) == (True, "")
    assert not (await node.kernel.facts()).luo
    node = await boot(words="liveupdate=on")
    assert (await node.kernel.facts()).kho == KhoFacts()


async def test_scratch_that_is_too_small_refuses_the_image(boot: Boot) -> None:
    node = await boot(words="kho=on liveupdate=on kho_scratch=4M,0M,4M")
    session = await node.preserved()
    await refused(node.kernel.load(node.image()), errno.EADDRNOTAVAIL, "SCRATCH_TOO_SMALL")
    assert not await node.kernel.loaded()
    await session.close()


async def test_a_refused_freeze_leaves_the_session_usable(boot: Boot) -> None:
    node = await boot("slow", "kho=on liveupdate=on luo_lab_reboot_fail=1")
    session, first = await node.preserved(), await node.kernel.facts()
    await node.kernel.load(node.image())
    for token in (2, 3):
        await refused(node.jump(), errno.EBUSY, "FREEZE_REFUSED")
        fd = node.memfd()
        await session.preserve_fd(fd, token)
        node.os.close(fd)
    assert await node.kernel.loaded()
    assert (await node.kernel.facts()).boot_id == first.boot_id


async def test_the_tsc_goes_on_and_the_boottime_does_not(node: Any) -> None:
    first, started_s = node.machine.call("clock"), time.monotonic()
    await node.kexec()
    second, elapsed_s = node.machine.call("clock"), time.monotonic() - started_s
    assert 0 < second["boottime_s"] < elapsed_s
    assert 0 < first["tsc"] < second["tsc"]


async def test_unload_without_an_image_is_no_error(node: Any) -> None:
    await node.kernel.unload()
    assert not await node.kernel.loaded()


async def test_a_kexec_without_a_session_crosses_too(node: Any) -> None:
    await node.kexec()
    await refused(node.kernel.retrieve_session("s"), errno.ENOENT, "SESSION_NOT_FOUND")
    assert (await node.kernel.facts()).kexec_count == 1
