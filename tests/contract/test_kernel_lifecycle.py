"""What crosses a kexec and what does not, one test a rule."""

from __future__ import annotations

import errno
import fcntl
import os

import pytest

from node_agent.errors import KernelError
from tests.contract.kernel_backends import Backend
from tests.contract.test_kernel_contract import refused

EMULATED = pytest.mark.emulated(
    "on a real kernel the change itself is refused, and who lived before a kexec is gone"
)


async def content_of(node: Backend, name: str, token: int = 1) -> bytes:
    """Retrieve a session's memfd, read it, and finish."""
    session = await node.kernel.retrieve_session(name)
    fd = await session.retrieve_fd(token)
    await session.finish()
    await session.close()
    try:
        return node.os.pread(fd, 1 << 20, 0)
    finally:
        node.os.close(fd)


async def test_content_size_position_and_seals_cross(node: Backend) -> None:
    session = await node.kernel.create_session("s")
    fd = node.memfd(b"0123456789", os.MFD_ALLOW_SEALING)
    node.os.ftruncate(fd, 1 << 20)
    node.os.lseek(fd, 5, os.SEEK_SET)
    node.fcntl.fcntl(fd, fcntl.F_ADD_SEALS, fcntl.F_SEAL_GROW | fcntl.F_SEAL_SHRINK)
    await session.preserve_fd(fd, 1)
    node.os.close(fd)
    await node.kexec()
    await session.close()
    came = await node.kernel.retrieve_session("s")
    fd = await came.retrieve_fd(1)
    assert node.os.fstat(fd).st_size == 1 << 20
    assert node.os.lseek(fd, 0, os.SEEK_CUR) == 5
    assert node.os.read(fd, 6) == b"56789\0"
    assert node.fcntl.fcntl(fd, fcntl.F_GET_SEALS) == fcntl.F_SEAL_GROW | fcntl.F_SEAL_SHRINK
    assert node.fcntl.fcntl(fd, fcntl.F_GETFD) & fcntl.FD_CLOEXEC
    await came.finish()
    await came.close()
    node.os.pwrite(fd, b"still mine", 0)
    assert node.os.pread(fd, 10, 0) == b"still mine"
    node.os.close(fd)


async def test_writes_after_preserve_are_carried_over(node: Backend) -> None:
    session, fd = await node.kernel.create_session("s"), node.memfd(b"before")
    await session.preserve_fd(fd, 1)
    node.os.pwrite(fd, b"behind", 0)
    node.os.close(fd)
    await node.kexec()
    assert await content_of(node, "s") == b"behind"
    await session.close()


async def test_many_sessions_and_files_cross(node: Backend) -> None:
    sessions = [await node.kernel.create_session(f"s{n}") for n in range(8)]
    for n, session in enumerate(sessions):
        for token in range(16):
            fd = node.memfd(f"{n} {token}".encode())
            await session.preserve_fd(fd, token)
            node.os.close(fd)
    await node.kexec()
    for n, session in enumerate(sessions):
        await session.close()
        assert await content_of(node, f"s{n}", 15 - n) == f"{n} {15 - n}".encode()


async def test_the_last_close_before_the_kexec_unpreserves(node: Backend) -> None:
    session, fd = await node.kernel.create_session("s"), node.memfd()
    await session.preserve_fd(fd, 1)
    await session.close()
    other = await node.kernel.create_session("other")
    await other.preserve_fd(fd, 1)
    node.os.close(fd)
    await node.kexec()
    await refused(node.kernel.retrieve_session("s"), errno.ENOENT)
    assert await content_of(node, "other") == b"memory"
    await other.close()


async def test_a_holders_death_before_the_kexec_loses_its_session(node: Backend) -> None:
    session = await node.preserved()
    holder = await node.hold(session)
    await session.close()
    await holder.end()
    await node.kexec()
    await refused(node.kernel.retrieve_session("s"), errno.ENOENT)


async def test_a_holder_elsewhere_keeps_its_session_through_the_kexec(node: Backend) -> None:
    session = await node.preserved()
    holder = await node.hold(session)
    await session.close()
    await node.kexec()
    assert await content_of(node, "s") == b"memory"
    await holder.end()


async def test_preserving_after_loading_works_too(node: Backend) -> None:
    await node.kernel.load(node.image())
    session = await node.preserved()
    await node.jump()
    assert await content_of(node, "s") == b"memory"
    await session.close()


async def test_closing_a_retrieved_session_finishes_it(node: Backend) -> None:
    session, first, second = (
        await node.kernel.create_session("s"),
        node.memfd(b"first"),
        node.memfd(b"second"),
    )
    await session.preserve_fd(first, 1)
    await session.preserve_fd(second, 2)
    node.os.close(first)
    node.os.close(second)
    await node.kexec()
    await session.close()
    came = await node.kernel.retrieve_session("s")
    fd = await came.retrieve_fd(1)
    await came.close()
    await refused(node.kernel.retrieve_session("s"), errno.ENOENT)
    assert node.os.pread(fd, 9, 0) == b"first"
    node.os.close(fd)


async def test_the_holders_death_after_the_kexec_finishes_its_session(node: Backend) -> None:
    old = await node.preserved()
    await node.kexec()
    session = await node.kernel.retrieve_session("s")
    holder = await node.hold(session)
    await session.close()
    await refused(node.kernel.retrieve_session("s"), errno.EINVAL)
    await holder.end()
    await refused(node.kernel.retrieve_session("s"), errno.ENOENT)
    await old.close()


async def test_an_unretrieved_session_stays_for_whoever_comes(node: Backend) -> None:
    old = await node.preserved()
    await node.kexec()
    await (await node.kernel.create_session("of an agent that died")).close()
    assert await content_of(node, "s") == b"memory"
    await old.close()


@pytest.mark.parametrize("retrieved", [False, True])
async def test_an_unfinished_session_is_gone_after_one_more_kexec(node: Backend, retrieved: bool) -> None:
    held = [await node.preserved()]
    await node.kexec()
    if retrieved:
        held.append(await node.kernel.retrieve_session("s"))
    await node.kexec()
    await refused(node.kernel.retrieve_session("s"), errno.ENOENT)
    for session in held:
        await session.close()


async def test_there_and_back_again(node: Backend) -> None:
    started = await node.kernel.facts()
    fd = node.memfd(b"hop 0")
    for hop, release in enumerate((node.releases[0], started.release, node.releases[0]), start=1):
        session = await node.kernel.create_session(f"hop-{hop}")
        await session.preserve_fd(fd, 1)
        node.os.close(fd)
        await node.kexec(node.image(release))
        await session.close()
        assert (await node.kernel.facts()).release == release
        came = await node.kernel.retrieve_session(f"hop-{hop}")
        fd = await came.retrieve_fd(1)
        assert node.os.pread(fd, 5, 0) == f"hop {hop - 1}".encode()
        node.os.pwrite(fd, f"hop {hop}".encode(), 0)
        await came.finish()
        await came.close()
    node.os.close(fd)


async def test_names_are_free_again_after_finish_and_close(node: Backend) -> None:
    for _ in range(2):
        session = await node.preserved()
        await node.kexec()
        await session.close()
        assert await content_of(node, "s") == b"memory"
        await refused(node.kernel.retrieve_session("s"), errno.ENOENT)


@EMULATED
async def test_a_resized_file_refuses_the_freeze(node: Backend) -> None:
    """Stands in for EPERM on the resize itself, which a process cannot forbid."""
    session, fd = await node.kernel.create_session("s"), node.memfd(b"memory")
    await session.preserve_fd(fd, 1)
    node.os.ftruncate(fd, 100)
    await node.kernel.load(node.image())
    await refused(node.jump(), errno.EPERM, "FREEZE_REFUSED")
    node.os.ftruncate(fd, 6)
    await node.jump()
    assert await content_of(node, "s") == b"memory"
    node.os.close(fd)
    await session.close()


@EMULATED
async def test_a_write_seal_added_later_refuses_the_freeze(node: Backend) -> None:
    """Stands in for EBUSY on F_ADD_SEALS itself."""
    session, fd = await node.kernel.create_session("s"), node.memfd(b"memory", os.MFD_ALLOW_SEALING)
    await session.preserve_fd(fd, 1)
    node.fcntl.fcntl(fd, fcntl.F_ADD_SEALS, fcntl.F_SEAL_WRITE)
    await node.kernel.load(node.image())
    await refused(node.jump(), errno.EBUSY, "FREEZE_REFUSED")
    node.os.close(fd)
    await session.close()


async def test_a_boot_is_told_by_its_facts(node: Backend) -> None:
    first = await node.kernel.facts()
    assert first.luo
    assert first.emulated is not node.real
    assert (first.previous_release, first.kexec_count) == ("", 0)
    target = node.image(node.releases[0], "quiet kho=on liveupdate=on")
    await node.kexec(target)
    second = await node.kernel.facts()
    assert second.boot_id != first.boot_id
    assert (second.release, second.command_line) == (target.release, target.command_line)
    assert (second.previous_release, second.kexec_count) == (first.release, 1)
    await node.kexec(node.image(node.releases[1]))
    third = await node.kernel.facts()
    assert (third.previous_release, third.kexec_count) == (target.release, 2)
    await node.power_loss()
    cold = await node.kernel.facts()
    assert cold.boot_id not in {first.boot_id, second.boot_id, third.boot_id}
    assert (cold.release, cold.command_line) == (first.release, first.command_line)
    assert (cold.previous_release, cold.kexec_count) == ("", 0)


async def test_a_cold_boot_keeps_nothing(node: Backend) -> None:
    old = await node.preserved("incoming")
    await node.kexec()
    outgoing = await node.preserved("outgoing")
    await node.power_loss()
    for name in ("incoming", "outgoing"):
        await refused(node.kernel.retrieve_session(name), errno.ENOENT)
    await old.close()
    await outgoing.close()


@EMULATED
async def test_an_earlier_boots_session_is_a_dead_end(node: Backend) -> None:
    old = await node.preserved()
    await node.kexec()
    with pytest.raises(KernelError) as caught:
        await old.preserve_fd(0, 2)
    assert caught.value.reason == "BOOT_OVER"
    await old.close()
    assert await content_of(node, "s") == b"memory"


async def test_no_descriptor_is_left_behind(node: Backend) -> None:
    before = await node.kernel_fds(), len(os.listdir("/proc/self/fd"))
    old = await node.preserved("crossing")
    lost = await node.preserved("lost")
    await lost.close()
    await node.kexec()
    await old.close()
    unfinished = await node.preserved("unfinished")
    assert await content_of(node, "crossing") == b"memory"
    await node.kexec()
    await node.kexec()
    await unfinished.close()
    assert (await node.kernel_fds(), len(os.listdir("/proc/self/fd"))) == before
