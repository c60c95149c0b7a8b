"""The LUO calls, one test a rule: device, sessions, ioctls and their errnos."""

from __future__ import annotations

import errno
import os
from collections.abc import Awaitable

import pytest

from node_agent.errors import KernelError, Retry
from node_agent.kernel import abi
from node_agent.ports import Session
from tests.contract.conftest import StartNode
from tests.contract.kernel_backends import Backend


async def refused(call: Awaitable[object], number: int, reason: str = "") -> KernelError:
    """The call fails with this errno, and reason if given."""
    with pytest.raises(KernelError) as caught:
        await call
    assert errno.errorcode[caught.value.errno] == errno.errorcode[number]
    if reason:
        assert caught.value.reason == reason
    return caught.value


# --- open


async def test_open_is_ebusy_while_another_has_the_device(node: Backend) -> None:
    async with node.device_held():
        error = await refused(node.kernel.create_session("s"), errno.EBUSY, "DEVICE_BUSY")
        assert error.retry is Retry.CALL
        await refused(node.kernel.retrieve_session("s"), errno.EBUSY, "DEVICE_BUSY")
        await refused(node.kernel.is_free("s"), errno.EBUSY, "DEVICE_BUSY")
    await (await node.kernel.create_session("s")).close()


async def test_open_is_ebusy_n_times_by_fault(start_node: StartNode) -> None:
    node = await start_node("busy=2")
    await refused(node.kernel.create_session("s"), errno.EBUSY)
    await refused(node.kernel.create_session("s"), errno.EBUSY)
    await (await node.kernel.create_session("s")).close()


async def test_open_is_enoent_where_luo_is_off(node: Backend) -> None:
    await node.kexec(node.image(command_line="kho=on"))
    assert not (await node.kernel.facts()).luo
    await refused(node.kernel.create_session("s"), errno.ENOENT, "LUO_OFF")


async def test_open_is_eio_for_a_whole_boot_where_deserialisation_failed(node: Backend) -> None:
    session = await node.preserved()
    await node.kexec(node.image(handlers=[]))
    await session.close()
    for _ in range(2):
        error = await refused(node.kernel.retrieve_session("s"), errno.EIO, "POISONED")
        assert error.retry is Retry.FIX_STATE
    facts = await node.kernel.facts()
    assert facts.poisoned
    assert not facts.luo
    await node.kexec()
    facts = await node.kernel.facts()
    assert (facts.poisoned, facts.luo) == (False, True)
    await refused(node.kernel.retrieve_session("s"), errno.ENOENT, "SESSION_NOT_FOUND")


async def test_open_is_eio_by_fault_until_a_cold_boot(start_node: StartNode) -> None:
    node = await start_node("poison@1")
    session = await node.preserved()
    await node.kexec()
    await session.close()
    await refused(node.kernel.retrieve_session("s"), errno.EIO, "POISONED")
    await node.power_loss()
    assert (await node.kernel.facts()).luo


# --- CREATE_SESSION, RETRIEVE_SESSION, GET_NAME


async def test_sessions_stay_usable_after_the_device_is_closed(node: Backend) -> None:
    first = await node.kernel.create_session("first")
    second = await node.kernel.create_session("second")
    fd = node.memfd()
    await first.preserve_fd(fd, 1)
    node.os.close(fd)
    await first.close()
    await second.close()


@pytest.mark.parametrize("name", ["", "n" * 64, "n" * 65, "ü" * 32])
async def test_create_is_einval_for_a_name_that_is_empty_or_has_no_room_for_its_nul(
    node: Backend, name: str
) -> None:
    await refused(node.kernel.create_session(name), errno.EINVAL, "SESSION_NAME_INVALID")


async def test_create_is_einval_for_an_unterminated_name(node: Backend) -> None:
    argument = bytearray(abi.SESSION_STRUCT.pack(72, -1, b"n" * 64))
    with pytest.raises(OSError) as caught:
        await node.device_ioctl(abi.CREATE_SESSION, argument)
    assert caught.value.errno == errno.EINVAL


async def test_create_takes_63_bytes_and_get_name_tells_them(node: Backend) -> None:
    name = "n" * 63
    session = await node.kernel.create_session(name)
    assert session.name == name
    argument = abi.pack_name()
    await node.session_ioctl(session, abi.SESSION_GET_NAME, argument)
    assert abi.unpack_name(argument) == name.encode()
    await session.close()


async def test_get_name_works_on_an_incoming_session(node: Backend) -> None:
    old = await node.preserved("crossing")
    await node.kexec()
    session = await node.kernel.retrieve_session("crossing")
    argument = abi.pack_name()
    await node.session_ioctl(session, abi.SESSION_GET_NAME, argument)
    assert abi.unpack_name(argument) == b"crossing"
    await old.close()
    await session.close()


async def test_create_is_eexist_for_a_name_in_use(node: Backend) -> None:
    session = await node.kernel.create_session("s")
    await refused(node.kernel.create_session("s"), errno.EEXIST, "SESSION_EXISTS")
    await session.close()
    await (await node.kernel.create_session("s")).close()


async def test_create_may_use_the_name_of_an_incoming_session(node: Backend) -> None:
    old = await node.preserved()
    await node.kexec()
    new = await node.kernel.create_session("s")
    came = await node.kernel.retrieve_session("s")
    node.os.close(await came.retrieve_fd(1))
    for session in (old, new, came):
        await session.close()


async def test_retrieve_session_is_enoent_for_an_unknown_name(node: Backend) -> None:
    outgoing = await node.kernel.create_session("outgoing")
    for name in ("unknown", "outgoing"):
        await refused(node.kernel.retrieve_session(name), errno.ENOENT, "SESSION_NOT_FOUND")
    await outgoing.close()


async def test_retrieve_session_is_einval_while_it_is_held(node: Backend) -> None:
    old = await node.preserved()
    await node.kexec()
    session = await node.kernel.retrieve_session("s")
    await refused(node.kernel.retrieve_session("s"), errno.EINVAL, "SESSION_HELD")
    await session.finish()
    await refused(node.kernel.retrieve_session("s"), errno.EINVAL, "SESSION_HELD")
    await session.close()
    await refused(node.kernel.retrieve_session("s"), errno.ENOENT)
    await old.close()


# --- PRESERVE_FD


async def test_preserve_is_eexist_for_a_token_in_use_in_this_session_only(node: Backend) -> None:
    first, second = await node.preserved("first", token=7), await node.preserved("second", token=7)
    fd = node.memfd()
    await refused(first.preserve_fd(fd, 7), errno.EEXIST, "TOKEN_USED")
    await first.preserve_fd(fd, abi.TOKEN_MAX)
    node.os.close(fd)
    await first.close()
    await second.close()


async def test_preserve_is_ebusy_for_an_inode_preserved_anywhere(node: Backend) -> None:
    first, second = await node.kernel.create_session("first"), await node.kernel.create_session("second")
    fd = node.memfd()
    await first.preserve_fd(fd, 1)
    duplicate, again = node.os.dup(fd), node.os.open(f"/proc/self/fd/{fd}", os.O_RDWR | os.O_CLOEXEC)
    for session in (first, second):
        for other in (fd, duplicate, again):
            await refused(session.preserve_fd(other, 2), errno.EBUSY, "FILE_ALREADY_PRESERVED")
    await first.close()
    await second.preserve_fd(again, 2)
    await second.close()
    for other in (fd, duplicate, again):
        node.os.close(other)


async def test_preserve_is_ebusy_for_a_file_retrieved_and_not_finished(node: Backend) -> None:
    old = await node.preserved()
    await node.kexec()
    came, new = await node.kernel.retrieve_session("s"), await node.kernel.create_session("new")
    fd = await came.retrieve_fd(1)
    await refused(new.preserve_fd(fd, 1), errno.EBUSY, "FILE_ALREADY_PRESERVED")
    await came.finish()
    await new.preserve_fd(fd, 1)
    node.os.close(fd)
    for session in (old, came, new):
        await session.close()


async def test_preserve_is_ebadf_for_no_descriptor(node: Backend) -> None:
    session = await node.kernel.create_session("s")
    closed = node.memfd()
    node.os.close(closed)
    for fd in (-1, closed):
        await refused(session.preserve_fd(fd, 1), errno.EBADF)
    await session.close()


@pytest.mark.parametrize(
    "kind", ["file", "deleted file", "directory", "device", "eventfd", "epoll", "socket", "pipe"]
)
async def test_preserve_is_enoent_for_an_unsupported_type(node: Backend, kind: str) -> None:
    session = await node.kernel.create_session("s")
    fd = node.of_kind(kind)
    error = await refused(session.preserve_fd(fd, 1), errno.ENOENT, "FILE_UNPRESERVABLE")
    assert error.retry is Retry.NEVER
    node.os.close(fd)
    await session.close()


async def test_preserve_is_enoent_for_a_session_fd(node: Backend) -> None:
    session, other = await node.kernel.create_session("s"), await node.kernel.create_session("other")
    await refused(session.preserve_fd(other.fileno(), 1), errno.ENOENT)
    await session.close()
    await other.close()


async def test_preserve_takes_any_unlinked_shmem_file(node: Backend) -> None:
    session, fd = await node.kernel.create_session("s"), node.shared(unlinked=True)
    await session.preserve_fd(fd, 1)
    node.os.close(fd)
    await session.close()


async def test_preserve_is_enoent_for_a_shmem_file_that_has_a_name(node: Backend) -> None:
    session, fd = await node.kernel.create_session("s"), node.shared(unlinked=False)
    await refused(session.preserve_fd(fd, 1), errno.ENOENT)
    node.os.close(fd)
    await session.close()


async def test_preserve_is_einval_on_an_incoming_session(node: Backend) -> None:
    old = await node.preserved()
    await node.kexec()
    session, fd = await node.kernel.retrieve_session("s"), node.memfd()
    await refused(session.preserve_fd(fd, 9), errno.EINVAL, "SESSION_NOT_FINISHED")
    node.os.close(fd)
    await old.close()
    await session.close()


# --- RETRIEVE_FD, FINISH


async def test_retrieve_fd_is_einval_on_an_outgoing_session(node: Backend) -> None:
    session = await node.preserved()
    await refused(session.retrieve_fd(1), errno.EINVAL)
    await session.close()


async def test_retrieve_fd_is_enoent_for_an_unknown_token(node: Backend) -> None:
    old = await node.preserved(token=1)
    await node.kexec()
    session = await node.kernel.retrieve_session("s")
    await refused(session.retrieve_fd(2), errno.ENOENT, "TOKEN_NOT_FOUND")
    await old.close()
    await session.close()


async def test_a_failed_retrieve_fd_gives_the_same_error_for_ever(start_node: StartNode) -> None:
    node = await start_node("retrieve_error=ENOMEM@1")
    old = await node.preserved()
    await node.kexec()
    session = await node.kernel.retrieve_session("s")
    await refused(session.retrieve_fd(1), errno.ENOMEM)
    await refused(session.retrieve_fd(1), errno.ENOMEM)
    await session.finish()
    await old.close()
    await session.close()


async def test_retrieve_fd_twice_gives_two_fds_on_one_open_file(node: Backend) -> None:
    old = await node.preserved(content=b"0123456789")
    await node.kexec()
    session = await node.kernel.retrieve_session("s")
    first, second = await session.retrieve_fd(1), await session.retrieve_fd(1)
    assert first != second
    assert node.os.path.sameopenfile(first, second)
    node.os.lseek(first, 4, os.SEEK_SET)
    assert node.os.read(second, 3) == b"456"
    assert not node.os.get_inheritable(first)
    for fd in (first, second):
        node.os.close(fd)
    await old.close()
    await session.close()


async def test_finish_is_einval_on_an_outgoing_session(node: Backend) -> None:
    session = await node.preserved()
    await refused(session.finish(), errno.EINVAL)
    await session.close()


async def test_finish_is_idempotent_and_discards_what_was_not_retrieved(node: Backend) -> None:
    old = await node.preserved()
    await node.kexec()
    session = await node.kernel.retrieve_session("s")
    await session.finish()
    await session.finish()
    await refused(session.retrieve_fd(1), errno.ENOENT)
    await old.close()
    await session.close()


# --- the ioctl's own rules


@pytest.mark.parametrize(
    ("number", "told"),
    [
        (0, errno.EINVAL),
        (abi.CREATE_SESSION, errno.EINVAL),
        (0xBA3F, errno.EINVAL),
        (0xBA44, errno.EINVAL),
        (0xBB40, errno.ENOTTY),
        (0xC004BA43, errno.ENOTTY),
    ],
)
async def test_an_unknown_ioctl_on_a_session(node: Backend, number: int, told: int) -> None:
    """The low byte is looked up: beyond the table it is EINVAL, in it with other bits ENOTTY."""
    session = await node.kernel.create_session("s")
    with pytest.raises(OSError) as caught:
        await node.session_ioctl(session, number, abi.pack_session("x"))
    assert caught.value.errno == told
    await session.close()


@pytest.mark.parametrize(
    ("number", "told"),
    [
        (0, errno.ENOTTY),
        (0xBB01, errno.ENOTTY),
        (0xBA02, errno.EINVAL),
        (abi.SESSION_FINISH, errno.EINVAL),
    ],
)
async def test_an_unknown_ioctl_on_the_device(node: Backend, number: int, told: int) -> None:
    with pytest.raises(OSError) as caught:
        await node.device_ioctl(number, abi.pack_session("x"))
    assert caught.value.errno == told


def _grown(argument: bytearray, tail: bytes) -> bytearray:
    grown = argument + tail
    grown[:4] = len(grown).to_bytes(4, "little")
    return grown


async def test_size_rule_on_the_device(node: Backend) -> None:
    argument = abi.pack_session("s")
    with pytest.raises(OSError) as small:
        await node.device_ioctl(abi.CREATE_SESSION, _grown(argument[:71], b""))
    assert small.value.errno == errno.EINVAL
    with pytest.raises(OSError) as large:
        await node.device_ioctl(abi.CREATE_SESSION, _grown(argument, b"\0\0\0\1"))
    assert large.value.errno == errno.E2BIG
    await node.device_ioctl(abi.CREATE_SESSION, _grown(argument, bytes(24)))


async def test_size_rule_on_a_session(node: Backend) -> None:
    session = await node.kernel.create_session("s")
    await _sizes(node, session, abi.SESSION_GET_NAME, abi.pack_name())
    await node.session_ioctl(session, abi.SESSION_GET_NAME, _grown(abi.pack_name(), bytes(8)))
    await session.close()


async def test_size_rule_on_an_incoming_session(node: Backend) -> None:
    old = await node.preserved()
    await node.kexec()
    session = await node.kernel.retrieve_session("s")
    for number, argument in (
        (abi.SESSION_FINISH, abi.pack_finish()),
        (abi.SESSION_RETRIEVE_FD, abi.pack_fd(-1, 1)),
    ):
        await _sizes(node, session, number, argument)
    await old.close()
    await session.close()


async def _sizes(node: Backend, session: Session, number: int, argument: bytearray) -> None:
    with pytest.raises(OSError) as small:
        await node.session_ioctl(session, number, _grown(argument[:-1], b""))
    assert small.value.errno == errno.EINVAL
    with pytest.raises(OSError) as large:
        await node.session_ioctl(session, number, _grown(argument, b"\1"))
    assert large.value.errno == errno.E2BIG


async def test_what_a_session_does_not_take_is_einval_whatever_its_size(node: Backend) -> None:
    session = await node.kernel.create_session("s")
    for number, argument in (
        (abi.SESSION_FINISH, abi.pack_finish()),
        (abi.SESSION_RETRIEVE_FD, abi.pack_fd(-1, 1)),
    ):
        with pytest.raises(OSError) as caught:
            await node.session_ioctl(session, number, _grown(argument, b"\1"))
        assert caught.value.errno == errno.EINVAL
    await session.close()


async def test_a_session_fd_is_held_by_every_copy_of_it(node: Backend) -> None:
    session = await node.preserved()
    holder = await node.hold(session)
    await session.close()
    await refused(node.kernel.create_session("s"), errno.EEXIST)
    assert not await node.kernel.is_free("s")
    await holder.end()
    assert await node.kernel.is_free("s")
    await (await node.kernel.create_session("s")).close()
