"""In-process handles and exported session fds at their edges."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import AsyncIterator

import pytest

from node_agent.errors import KernelError
from node_agent.kernel import abi
from node_agent.kernel.emulated import syncclient
from node_agent.kernel.emulated.image import EmulatedImage, ImageTable
from node_agent.kernel.emulated.inprocess import InProcessKernel
from node_agent.kernel.emulated.model import LuoModel, Machine
from node_agent.kernel.faults import FaultPlan
from node_agent.ports import KexecImage

PRESERVE = """
import os, sys
from node_agent.kernel.emulated import syncclient
memory = os.memfd_create("m"); os.write(memory, b"memory")
syncclient.preserve_fd(int(sys.argv[1]), memory, 1)
"""


def make(faults: str = "", memory_bytes: int = 0) -> InProcessKernel:
    model = LuoModel(
        EmulatedImage("7.2"),
        new_boot_id=lambda: "boot",
        images=ImageTable({"bad": EmulatedImage("bad", bad=True)}),
        faults=FaultPlan.parse(faults),
        machine=Machine(memory_bytes=memory_bytes),
    )
    return InProcessKernel(model, lambda: None, lambda: None)


@pytest.fixture(autouse=True)
async def _nothing_leaks() -> AsyncIterator[None]:
    before = len(os.listdir("/proc/self/fd"))
    yield
    assert len(os.listdir("/proc/self/fd")) == before


async def preserve_elsewhere(fd: int) -> int:
    """Another process preserves in an exported session; its exit status."""
    process = await asyncio.create_subprocess_exec(sys.executable, "-c", PRESERVE, str(fd), pass_fds=[fd])
    return await process.wait()


async def test_a_closed_session_is_ebadf() -> None:
    session = await make().create_session("s")
    await session.close()
    await session.close()
    for call in (session.finish(), session.retrieve_fd(1), session.preserve_fd(0, 1)):
        with pytest.raises(KernelError, match="EBADF"):
            await call
    with pytest.raises(KernelError, match="EBADF"):
        session.fileno()


async def test_another_process_preserves_in_an_exported_session() -> None:
    kernel = make()
    session = await kernel.create_session("s")
    assert session.fileno() == session.fileno()
    assert await preserve_elsewhere(session.fileno()) == 0
    assert list(session.state.files) == [1]
    await session.close()
    assert not kernel.model.sessions()


async def test_a_copy_of_an_exported_fd_outlives_the_handle_until_the_loop_sees_its_end() -> None:
    kernel = make()
    session = await kernel.create_session("s")
    copy = os.dup(session.fileno())
    kernel.die(jumped=False)
    assert kernel.model.sessions() == ("s",)
    os.close(copy)
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert not kernel.model.sessions()


async def test_the_oom_killer_takes_the_process_that_called() -> None:
    kernel = make(memory_bytes=5)
    session = await kernel.create_session("s")
    assert await preserve_elsewhere(session.fileno()) == -signal.SIGKILL
    await session.close()


async def test_a_hung_exported_call_ends_with_the_boot() -> None:
    kernel = make("hang=get_name@1")
    session = await kernel.create_session("s")
    copy = os.dup(session.fileno())
    hung = asyncio.ensure_future(asyncio.to_thread(syncclient.session_name, copy))
    while not kernel.model.calls("get_name"):
        await asyncio.sleep(0)
    kernel.die(jumped=True)
    with pytest.raises(OSError, match="GET_NAME"):
        await hung
    with pytest.raises(OSError, match="GET_NAME"):
        await asyncio.to_thread(syncclient.session_name, copy)
    os.close(copy)
    kernel.model.power_off()


async def test_many_threads_share_a_session_fd() -> None:
    kernel = make()
    session = await kernel.create_session("shared")
    names = await asyncio.gather(
        *(asyncio.to_thread(syncclient.session_name, session.fileno()) for _ in range(32))
    )
    assert set(names) == {"shared"}
    await session.close()


async def test_a_bad_image_in_a_table() -> None:
    kernel = make()
    with pytest.raises(KernelError) as caught:
        await kernel.load(_image("bad"))
    assert caught.value.reason == "IMAGE_INVALID"
    await kernel.load(_image("7.3"))
    await kernel.unload()
    assert not await kernel.loaded()


async def test_a_request_without_a_struct_is_einval() -> None:
    session = await make().create_session("s")
    with pytest.raises(OSError, match="FINISH"):
        await asyncio.to_thread(syncclient.ioctl, session.fileno(), abi.SESSION_FINISH, bytearray())
    await session.close()


def _image(release: str) -> KexecImage:
    return KexecImage("", "", "kho=on liveupdate=on", release)
