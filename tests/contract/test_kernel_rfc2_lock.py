"""A process that waits for LUO's lock and is killed, on a kernel process of RFC v2's model."""

from __future__ import annotations

import asyncio
import sys

import pytest

from node_agent.errors import KernelError
from node_agent.kernel.emulated.syncclient import ask_control
from tests.contract.conftest import StartRfc2
from tests.contract.rfc2_process import Node

ASK = """
import os, sys
from node_agent.kernel.emulated import synctokens
from node_agent.kernel.emulated.syncclient import open_device
device = open_device(sys.argv[1])
memory = os.memfd_create("memory")
if sys.argv[2] == "preserve":
    synctokens.preserve(device, memory)
else:
    getattr(synctokens, sys.argv[2])(device)
"""


async def asker(node: Node, call: str, model_call: str) -> asyncio.subprocess.Process:
    """A process that is within a call which never returns."""
    before = int(node.control("calls", model_call))
    process = await asyncio.create_subprocess_exec(sys.executable, "-c", ASK, node.root, call)
    while int(node.control("calls", model_call)) == before:
        await asyncio.sleep(0)
    return process


async def until_logged(node: Node, words: str) -> None:
    while not any(words in line for line in node.log):
        await asyncio.sleep(0)


@pytest.mark.parametrize("call", ["prepare", "freeze", "cancel", "finish"])
async def test_who_is_killed_while_it_waits_for_the_lock_has_changed_nothing(
    start_rfc2: StartRfc2, call: str
) -> None:
    node = await start_rfc2("--faults", "hang=fd_preserve@1")
    before = int(node.control("descriptors"))
    holder = await asker(node, "preserve", "fd_preserve")
    waiter = await asker(node, call, call)
    assert node.state == "normal"  # which takes no lock
    waiter.kill()
    await waiter.wait()
    await until_logged(node, f"[{call}] event canceled by user")
    holder.kill()
    await holder.wait()
    another = await asker(node, call, call)
    assert sum("canceled by user" in line for line in node.log) == 1
    another.kill()
    await another.wait()
    while sum("canceled by user" in line for line in node.log) < 2:
        await asyncio.sleep(0)
    node.close()
    while int(node.control("descriptors")) > before + 2:  # what the holder gave is the kernel's still
        await asyncio.sleep(0)
    await node.kernel().facts()


async def test_a_wait_for_the_lock_that_is_cancelled_is_dropped(start_rfc2: StartRfc2) -> None:
    node = await start_rfc2("--faults", "hang=prepare@1")
    kernel = node.kernel()
    luo = kernel.luo()
    assert luo is not None
    holder, waiter = asyncio.ensure_future(luo.prepare()), asyncio.ensure_future(luo.cancel())
    while int(node.control("calls", "prepare")) + int(node.control("calls", "cancel")) < 2:
        await asyncio.sleep(0)
    for call in (holder, waiter):
        call.cancel()
        await asyncio.wait((call,))
    await until_logged(node, "[cancel] event canceled by user")
    assert not any("[prepare] event" in line for line in node.log)


async def test_a_reboot_waits_for_the_lock_too(start_rfc2: StartRfc2) -> None:
    node = await start_rfc2("--faults", "hang=prepare@1")
    holder = await asker(node, "prepare", "prepare")
    node.load()
    control = ask_control(node.root, "reboot")
    while not int(node.control("calls", "reboot")):
        await asyncio.sleep(0)
    control.close()
    await until_logged(node, "[freeze] event canceled by user")
    with pytest.raises(KernelError) as caught:
        await node.kernel().ready_to_jump()
    assert caught.value.reason == "NOT_PREPARED"
    holder.kill()
    await holder.wait()
