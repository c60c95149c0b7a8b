"""A session made of tokens as a real fd: what a workload does with it, who holds it, how it ends."""

from __future__ import annotations

import asyncio
import errno
import os
from collections.abc import AsyncIterator, Awaitable
from typing import cast

import pytest

from node_agent.errors import KernelError
from node_agent.kernel import abi, rfc2_abi
from node_agent.kernel.emulated import syncclient
from node_agent.kernel.emulated.image import EmulatedImage, ImageTable
from node_agent.kernel.emulated.inprocess import InProcessKernel
from node_agent.kernel.emulated.model import LuoModel
from node_agent.kernel.faults import FaultPlan
from node_agent.kernel.tokens import TokenSessions
from node_agent.ports import KexecImage, Session, TokenDevice

IMAGE = KexecImage("vmlinuz", "", "kho=on liveupdate=on", "6.16.1")


def make(faults: str = "") -> LuoModel:
    return LuoModel(
        EmulatedImage.rfc2("6.16.0"),
        new_boot_id=lambda: "boot",
        images=ImageTable(otherwise=EmulatedImage.rfc2("")),
        faults=FaultPlan.parse(faults),
    )


@pytest.fixture(autouse=True)
async def _nothing_leaks() -> AsyncIterator[None]:
    before = len(os.listdir("/proc/self/fd"))
    yield
    assert len(os.listdir("/proc/self/fd")) == before


def process(model: LuoModel) -> InProcessKernel:
    return InProcessKernel(model, lambda: None, lambda: None)


def tokens_of(model: LuoModel) -> list[int]:
    assert model.rfc2 is not None
    return list(model.rfc2.files.outgoing)


async def kexec(kernel: InProcessKernel) -> InProcessKernel:
    """Prepared, jumped, and told what there was."""
    told = await kernel.prepare()
    await kernel.load(IMAGE)
    jump = asyncio.ensure_future(kernel.reboot_kexec())
    while kernel.model.reboots == 0:
        await asyncio.sleep(0)
    jump.cancel()
    await asyncio.wait((jump,))
    kernel.model.jump()
    kernel.model.arrive()
    fresh = process(kernel.model)
    await fresh.recall(told)
    return fresh


async def elsewhere(fd: int, content: bytes = b"memory", token: int = 1) -> None:
    """Somebody else preserves a memfd in a session, by its fd. Raises OSError."""

    def preserve() -> None:
        memory = os.memfd_create("memory")
        try:
            os.write(memory, content)
            syncclient.preserve_fd(fd, memory, token)
        finally:
            os.close(memory)

    await asyncio.to_thread(preserve)


async def refused(call: Awaitable[object]) -> str:
    with pytest.raises(OSError) as caught:
        await call
    return errno.errorcode[caught.value.errno or 0]


async def call(session: Session, number: int, argument: bytearray) -> None:
    await asyncio.to_thread(syncclient.ioctl, session.fileno(), number, argument)


async def test_a_workload_preserves_and_retrieves_by_the_sessions_fd() -> None:
    model = make()
    kernel = process(model)
    session = await kernel.create_session("vm-1")
    assert session.fileno() == session.fileno()
    assert await asyncio.to_thread(syncclient.session_name, session.fileno()) == "vm-1"
    await elsewhere(session.fileno(), b"bit for bit")
    assert tokens_of(model) == [0]
    kernel = await kexec(kernel)
    session = await kernel.retrieve_session("vm-1")
    for _ in range(2):
        fd = await asyncio.to_thread(syncclient.retrieve_fd, session.fileno(), 1)
        assert os.pread(fd, 100, 0) == b"bit for bit"
        os.close(fd)
    await asyncio.to_thread(syncclient.finish, session.fileno())
    assert await refused(asyncio.to_thread(syncclient.retrieve_fd, session.fileno(), 1)) == "ENOENT"
    await session.close()
    await kernel.finish()
    assert model.facts().luo_state == "normal"
    kernel.die(jumped=False)
    model.power_off()


async def test_a_sessions_errors_are_those_of_a_kernel_that_has_sessions() -> None:
    model = make()
    kernel = process(model)
    session = await kernel.create_session("s")
    fd = session.fileno()
    await elsewhere(fd)
    assert await refused(elsewhere(fd)) == "EEXIST"
    assert await refused(asyncio.to_thread(syncclient.finish, fd)) == "EINVAL"
    assert await refused(asyncio.to_thread(syncclient.retrieve_fd, fd, 1)) == "EINVAL"
    assert await refused(call(session, abi.SESSION_GET_NAME, abi.pack_name()[:-1])) == "EINVAL"
    assert await refused(call(session, rfc2_abi.PREPARE, bytearray(8))) == "EINVAL"
    with open("/dev/null", encoding="utf-8") as null:
        error = refused(asyncio.to_thread(syncclient.preserve_fd, fd, null.fileno(), 2))
        assert await error == "ENOENT"
    memory = os.memfd_create("memory")
    await session.preserve_fd(memory, 3)
    # The kernel of tokens says EEXIST for the file, which a session says of a token.
    assert await refused(asyncio.to_thread(syncclient.preserve_fd, fd, memory, 4)) == "EBUSY"
    os.close(memory)
    kernel.die(jumped=False)
    model.power_off()


async def test_a_session_is_held_until_the_last_copy_of_its_fd_is_closed() -> None:
    model = make()
    kernel = process(model)
    session = await kernel.create_session("s")
    copy = os.dup(session.fileno())
    await elsewhere(copy)
    await session.close()
    await session.close()
    assert tokens_of(model) == [0]
    assert await refused_by_kernel(kernel.create_session("s")) == "SESSION_EXISTS"
    os.close(copy)
    while tokens_of(model):
        await asyncio.sleep(0)
    await (await kernel.create_session("s")).close()
    kernel.die(jumped=False)
    model.power_off()


async def refused_by_kernel(call: Awaitable[object]) -> str:
    with pytest.raises(KernelError) as caught:
        await call
    return caught.value.reason


async def test_the_last_close_counts_at_once() -> None:
    model = make()
    kernel = process(model)
    session = await kernel.create_session("s")
    await elsewhere(session.fileno())
    await session.close()
    assert not tokens_of(model)
    with pytest.raises(KernelError, match="EBADF"):
        session.fileno()
    kernel.die(jumped=False)
    model.power_off()


async def test_a_copy_is_a_dead_end_once_the_process_that_serves_it_has_died() -> None:
    model = make()
    kernel = process(model)
    session = await kernel.create_session("s")
    copy = os.dup(session.fileno())
    kernel.die(jumped=False)
    assert await refused(elsewhere(copy)) == "ESHUTDOWN"
    os.close(copy)
    model.power_off()


async def test_a_call_that_hangs_ends_with_the_process_that_serves_it() -> None:
    model = make("hang=fd_preserve@1")
    kernel = process(model)
    session = await kernel.create_session("s")
    copy = os.dup(session.fileno())
    waiting = asyncio.ensure_future(elsewhere(copy))
    while not model.calls("fd_preserve"):
        await asyncio.sleep(0)
    kernel.die(jumped=False)
    assert await refused(waiting) == "ESHUTDOWN"
    os.close(copy)
    model.power_off()


class Slow:
    """A device whose calls wait for a word, and whose files are anything."""

    def __init__(self, state: str) -> None:
        self._state = state
        self.go_on = asyncio.Event()
        self.asked = asyncio.Event()
        self.unpreserved: list[int] = []
        self.refuses = False
        self.refused = 0

    async def state(self) -> str:
        return self._state

    async def preserve(self, fd: int) -> int:
        return await self._later(7)

    async def restore(self, token: int) -> int:
        return await self._later(os.open("/dev/null", os.O_RDWR))

    async def unpreserve(self, token: int) -> None:
        if self.refuses:
            self.refused += 1
            raise KernelError(errno.EIO, "LIVEUPDATE_IOCTL_FD_UNPRESERVE")
        self.unpreserved.append(token)

    async def _later(self, result: int) -> int:
        self.asked.set()
        await self.go_on.wait()
        return result


async def test_what_is_preserved_while_the_last_holder_goes_is_given_up_too() -> None:
    device = Slow("normal")
    sessions = TokenSessions(cast(TokenDevice, device))
    session = await sessions.create_session("s")
    late = asyncio.ensure_future(session.preserve_fd(0, 1))
    await device.asked.wait()
    await session.close()
    another = await sessions.create_session("s")
    device.go_on.set()
    await late
    assert device.unpreserved == [7]
    with pytest.raises(KernelError, match="EEXIST"):
        await sessions.create_session("s")
    await another.close()


async def test_what_is_restored_while_the_session_ends_is_closed() -> None:
    device = Slow("updated")
    sessions = TokenSessions(cast(TokenDevice, device))
    await sessions.recall({"s": {1: 7}})
    session = await sessions.retrieve_session("s")
    late = asyncio.ensure_future(session.retrieve_fd(1))
    await device.asked.wait()
    await session.close()
    device.go_on.set()
    with pytest.raises(KernelError, match="ENOENT"):
        await late


async def test_what_cannot_be_given_up_when_a_copy_is_closed_waits() -> None:
    """Nobody is there to hear of it; a later call tries again."""
    device = Slow("normal")
    device.go_on.set()
    sessions = TokenSessions(cast(TokenDevice, device))
    session = await sessions.create_session("s")
    copy = os.dup(session.fileno())
    await session.preserve_fd(0, 1)
    await session.close()
    device.refuses = True
    os.close(copy)
    while not device.refused:
        await asyncio.sleep(0)
    await asyncio.sleep(0)
    device.refuses = False
    await (await sessions.create_session("s")).preserve_fd(0, 1)
    assert device.unpreserved == [7]
