"""RFC v2's LUO on a kernel that is a process: every ioctl over the wire, errors, locks, kexecs."""

from __future__ import annotations

import asyncio
import errno
import json
import os
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack
from pathlib import Path

import pytest

from node_agent.errors import KernelError
from node_agent.kernel import abi, rfc2_abi
from node_agent.kernel.emulated import synctokens
from node_agent.kernel.emulated.syncclient import ask_control, ioctl, open_device
from tests.contract.rfc2_process import COMMAND_LINE, RELEASE, Node, Start, running


@pytest.fixture
async def start(tmp_path: Path) -> AsyncIterator[Start]:
    async with AsyncExitStack() as stack:

        async def start(*options: str) -> Node:
            return await stack.enter_async_context(running(tmp_path / "node", *options))

        yield start


@pytest.fixture
async def node(start: Start) -> Node:
    return await start()


def memfd(content: bytes = b"memory") -> int:
    fd = os.memfd_create("memory", os.MFD_CLOEXEC)
    os.write(fd, content)
    return fd


def refused(call: Callable[[], object]) -> str:
    with pytest.raises(OSError) as caught:
        call()
    # ENOTSUP is the same number, and Python's name of it.
    return errno.errorcode[caught.value.errno or 0].replace("ENOTSUP", "EOPNOTSUPP")


def preserved(node: Node, content: bytes = b"memory") -> int:
    """A token; the file itself is closed again."""
    fd = memfd(content)
    try:
        return synctokens.preserve(node.device, fd)
    finally:
        os.close(fd)


async def test_every_ioctl_from_preserve_to_finish(node: Node) -> None:
    assert node.state == "normal"
    gone, token = preserved(node), preserved(node, b"bit for bit")
    synctokens.unpreserve(node.device, gone)
    synctokens.prepare(node.device)
    assert node.state == "prepared"
    synctokens.cancel(node.device)
    assert node.state == "normal"
    synctokens.prepare(node.device)
    synctokens.freeze(node.device)
    assert node.state == "frozen"
    await node.kexec()
    assert node.state == "updated"
    fd = synctokens.restore(node.device, token)
    assert os.pread(fd, 100, 0) == b"bit for bit"
    os.close(fd)
    synctokens.finish(node.device)
    assert node.state == "normal"


async def test_errnos_in_the_wrong_state(node: Node) -> None:
    token = preserved(node)
    for call in (synctokens.freeze, synctokens.cancel, synctokens.finish):
        assert refused(lambda call=call: call(node.device)) == "EINVAL"  # type: ignore[misc]
    assert refused(lambda: synctokens.restore(node.device, token)) == "EBUSY"
    synctokens.prepare(node.device)
    assert refused(lambda: synctokens.prepare(node.device)) == "EINVAL"
    assert refused(lambda: preserved(node)) == "EBUSY"
    assert refused(lambda: synctokens.unpreserve(node.device, token)) == "EBUSY"
    await node.kexec()
    assert refused(lambda: synctokens.prepare(node.device)) == "EINVAL"
    assert refused(lambda: preserved(node)) == "EBUSY"


async def test_errnos_of_tokens_and_files(node: Node) -> None:
    assert refused(lambda: synctokens.unpreserve(node.device, 7)) == "ENOENT"
    assert refused(lambda: synctokens.preserve(node.device, -1)) == "EBADF"
    reader, writer = os.pipe()
    assert refused(lambda: synctokens.preserve(node.device, reader)) == "ENOENT"
    os.close(reader)
    os.close(writer)
    fd = memfd()
    token = synctokens.preserve(node.device, fd)
    assert refused(lambda: synctokens.preserve(node.device, fd)) == "EEXIST"
    os.close(fd)
    synctokens.prepare(node.device)
    await node.kexec()
    assert refused(lambda: synctokens.restore(node.device, token + 1)) == "ENOENT"
    os.close(synctokens.restore(node.device, token))
    assert refused(lambda: synctokens.restore(node.device, token)) == "EINVAL"


async def test_a_preserve_without_a_descriptor_is_ebadf(node: Node) -> None:
    argument = bytearray(rfc2_abi.FD_STRUCT.pack(3, 0, 0))
    assert refused(lambda: synctokens.call(node.device, rfc2_abi.FD_PRESERVE, argument)) == "EBADF"


@pytest.mark.parametrize(
    ("number", "argument", "error"),
    [
        (abi.CREATE_SESSION, bytes(abi.pack_session("s")), "ENOTTY"),
        (abi.SESSION_PRESERVE_FD, bytes(abi.pack_fd(0, 0)), "ENOTTY"),
        (rfc2_abi.FD_PRESERVE & 0xFFFF, bytes(16), "ENOTTY"),
        (rfc2_abi.FD_PRESERVE | 0x10000, bytes(16), "ENOTTY"),
        (0xBA08, b"", "ENOTTY"),
        (rfc2_abi.FD_RESTORE, bytes(15), "EFAULT"),
        (rfc2_abi.FD_UNPRESERVE, b"", "EFAULT"),
    ],
)
async def test_a_number_is_right_in_every_part_and_its_struct_is_there(
    node: Node, number: int, argument: bytes, error: str
) -> None:
    assert refused(lambda: ioctl(node.device, number, bytearray(argument))) == error


async def test_the_device_is_not_single_open(node: Node) -> None:
    other = open_device(node.root)
    token = preserved(node)
    synctokens.unpreserve(other, token)
    os.close(other)
    assert node.state == "normal"


async def test_what_is_preserved_does_not_depend_on_who_has_the_device_open(node: Node) -> None:
    token = preserved(node)
    node.close()
    synctokens.prepare(node.device)
    node.close()
    await node.kexec()
    os.close(synctokens.restore(node.device, token))


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
async def test_who_is_killed_while_it_waits_for_the_lock_has_changed_nothing(start: Start, call: str) -> None:
    node = await start("--faults", "hang=fd_preserve@1")
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


async def test_a_wait_for_the_lock_that_is_cancelled_is_dropped(start: Start) -> None:
    node = await start("--faults", "hang=prepare@1")
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


async def test_a_reboot_waits_for_the_lock_too(start: Start) -> None:
    node = await start("--faults", "hang=prepare@1")
    holder = await asker(node, "prepare", "prepare")
    node.load()
    reboot = asyncio.ensure_future(node.kernel().reboot_kexec())
    await asyncio.wait((reboot,), timeout=0)
    control = ask_control(node.root, "reboot")
    while not int(node.control("calls", "reboot")):
        await asyncio.sleep(0)
    control.close()
    await until_logged(node, "[freeze] event canceled by user")
    with pytest.raises(KernelError) as caught:
        await reboot
    assert caught.value.reason == "NOT_PREPARED"
    holder.kill()
    await holder.wait()


async def test_kexec_there_and_back_with_a_memfd_and_an_eventfd(node: Node) -> None:
    content = os.urandom(1 << 20)
    memory, event = memfd(content), os.eventfd(41)
    for release in ("6.16.1-rfc2", RELEASE):
        tokens = [synctokens.preserve(node.device, fd) for fd in (memory, event)]
        os.close(memory)
        os.close(event)
        synctokens.prepare(node.device)
        await node.kexec(release)
        assert node.facts()["release"] == release
        memory, event = (synctokens.restore(node.device, token) for token in tokens)
        synctokens.finish(node.device)
        assert os.pread(memory, len(content) + 1, 0) == content
        os.eventfd_write(event, 1)
        assert os.eventfd_read(event) == 42
        os.eventfd_write(event, 41)
    os.close(memory)
    os.close(event)


async def test_a_plain_kexec_loses_what_was_preserved_and_says_so(node: Node) -> None:
    token = preserved(node)
    await node.kexec()
    assert node.state == "normal"
    assert refused(lambda: synctokens.restore(node.device, token)) == "EBUSY"


async def test_without_an_image_the_reboot_is_refused_and_luo_is_frozen(node: Node) -> None:
    preserved(node)
    synctokens.prepare(node.device)
    with pytest.raises(OSError) as caught:
        await node.jump()
    assert caught.value.errno == errno.EINVAL
    assert (node.state, node.view("sys/kernel/liveupdate/state")) == ("frozen", "frozen\n")


async def test_a_refused_freeze_leaves_luo_normal(start: Start) -> None:
    node = await start("--faults", "refuse_freeze@1")
    synctokens.prepare(node.device)
    node.load()
    with pytest.raises(OSError) as caught:
        await node.jump()
    assert caught.value.errno == errno.EBUSY
    assert (node.state, node.view("sys/kernel/liveupdate/state")) == ("normal", "normal\n")


async def test_telemetry_is_told_after_a_plain_kexec_too(node: Node) -> None:
    kernel = node.kernel()
    assert await kernel.telemetry() is None
    await node.kexec()
    told = await kernel.telemetry()
    assert told is not None
    phases = [told.shutdown_tsc, told.purgatory_tsc, told.kernel_tsc, told.userspace_tsc]
    assert phases == sorted(phases)
    assert node.view("sys/kernel/kexec_telemetry").splitlines()[0] == f"shutdown_tsc {told.shutdown_tsc}"


async def test_kernels_without_telemetry_tell_nothing(start: Start) -> None:
    node = await start("--telemetry", "off")
    await node.kexec(telemetry=False)
    assert await node.kernel().telemetry() is None


async def test_reserve_mem_crosses_a_plain_kexec_where_it_is_auto_preserved(start: Start) -> None:
    words = f"{COMMAND_LINE} reserve_mem=1M:4096:cache reserve_mem=64K:64:trace reserve_mem=64K:64:pstore"
    node = await start("--auto-preserve", "reserve_mem", "--command-line", words)
    node.control("reserve_mem_write", "cache", "4094", b"kept".hex())
    image = node.image(auto_preserve=["reserve_mem"])
    node.control("load", image.kernel_path, "", words, image.release)
    await node.jump()
    assert bytes.fromhex(node.control("reserve_mem_read", "cache", "4094", "4")) == b"kept"
    assert node.view("sys/fs/pstore/dmesg-ramoops-0").startswith("Linux version ")
    last = node.view("sys/kernel/tracing/instances/boot_map/last_boot_trace")
    assert last == "liveupdate: boot\nliveupdate: kexec\n"


@pytest.mark.parametrize(
    ("words", "error"),
    [
        (("reserve_mem_read", "none", "0", "1"), "ENOENT"),
        (("reserve_mem_read", "cache", "4095", "2"), "EINVAL"),
        (("reserve_mem_read", "cache", "-1", "2"), "EINVAL"),
        (("reserve_mem_read", "cache", "0", "all"), "EINVAL"),
        (("reserve_mem_write", "cache", "4095", "0000"), "EINVAL"),
        (("reserve_mem_write", "cache", "0", "text"), "EINVAL"),
        (("reserve_mem_write", "cache", "0"), "EINVAL"),
    ],
)
async def test_bad_words_about_reserve_mem(start: Start, words: tuple[str, ...], error: str) -> None:
    node = await start("--command-line", f"{COMMAND_LINE} reserve_mem=4K:64:cache")
    assert refused(lambda: node.control(*words)) == error
    assert node.control("reserve_mem_read", "cache", "0", "4096") == bytes(4096).hex()


async def test_a_message_that_would_lose_its_end_is_refused(start: Start) -> None:
    """It was cut off at 64 KiB, and nobody was told."""
    node = await start("--command-line", f"{COMMAND_LINE} reserve_mem=1M:64:cache")
    assert len(node.control("reserve_mem_read", "cache", "0", "32766")) == 2 * 32766
    assert refused(lambda: node.control("reserve_mem_read", "cache", "0", "32767")) == "EMSGSIZE"
    assert refused(lambda: node.control("reserve_mem_write", "cache", "0", "00" * 32768)) == "EMSGSIZE"


async def test_views_are_files_that_show_what_was_done_before_its_answer(node: Node) -> None:
    state, files = "sys/kernel/liveupdate/state", "sys/kernel/debug/liveupdate/files"
    assert node.view(state) == "normal\n"
    token = preserved(node)
    assert node.state == "normal"
    assert node.view(files) == f"{token} memfd registered\n"
    synctokens.prepare(node.device)
    assert node.view(state) == "prepared\n"
    assert node.view("sys/kernel/debug/kho/out/finalize") == "1\n"
    assert "memfd-v1" in node.view("sys/kernel/debug/kho/out/sub_fdts/LUO")
    assert node.control("view", "/" + state) == "prepared\n"
    assert json.loads(node.control("views"))["/" + state] == "prepared\n"
    assert refused(lambda: node.control("view", "/sys/nothing")) == "ENOENT"
    synctokens.cancel(node.device)
    assert not (node.path / "sys/kernel/debug/kho/out/sub_fdts/LUO").exists()
    synctokens.prepare(node.device)
    await node.kexec()
    assert node.view(state) == "updated\n"
    assert node.view(files) == f"{token} memfd arrived\n"
    os.close(synctokens.restore(node.device, token))
    synctokens.finish(node.device)
    assert (node.view(state), node.view(files)) == ("normal\n", "")


async def test_views_of_calls_on_files_follow_when_nothing_more_is_asked(node: Node) -> None:
    token = preserved(node)
    files = node.path / "sys/kernel/debug/liveupdate/files"
    while files.read_text() != f"{token} memfd registered\n":
        await asyncio.sleep(0)


async def test_no_view_outlives_its_kernel(start: Start, tmp_path: Path) -> None:
    old = tmp_path / "node/sys/kernel/liveupdate/state"
    old.parent.mkdir(parents=True)
    old.write_text("of a kernel process that was killed")
    node = await start()
    assert old.read_text() == "normal\n"
    await node.kexec(model="sessions")
    assert not old.exists()
    assert node.facts()["luo_model"] == "sessions"


async def test_kho_is_finalized_by_hand_where_it_calls_back(start: Start) -> None:
    node = await start("--coupling", "notifier")
    assert node.facts()["coupling"] == "notifier"
    node.control("debugfs_write", "kho/out/finalize", "1")
    assert (node.state, node.view("sys/kernel/liveupdate/state")) == ("prepared", "prepared\n")
    assert node.facts()["kho_finalized"] == "1"
    assert refused(lambda: node.control("debugfs_write", "kho/out/finalize", "1")) == "EEXIST"
    node.control("debugfs_write", "kho/out/finalize", "0")
    assert node.state == "normal"


@pytest.mark.parametrize(
    ("option", "error"), [(("--coupling", "luo-driven"), "EOPNOTSUPP"), (("--kho-debugfs", "off"), "ENOENT")]
)
async def test_kho_is_not_finalized_by_hand_elsewhere(
    start: Start, option: tuple[str, str], error: str
) -> None:
    node = await start(*option)
    assert refused(lambda: node.control("debugfs_write", "kho/out/finalize", "1")) == error
    assert node.state == "normal"


async def test_subsystems_are_chosen_by_options(start: Start) -> None:
    line = f"{COMMAND_LINE} reserve_mem=4096:4096:mine"
    node = await start("--auto-preserve", "reserve_mem", "--command-line", line)
    assert "reserve_mem auto" in node.view("sys/kernel/debug/liveupdate/subsystems")


async def test_the_default_kernel_is_of_the_same_model(node: Node) -> None:
    node.control("default", "6.16.7", COMMAND_LINE)
    with pytest.raises(OSError):
        node.control("power_loss")
    await node.boot()
    assert (node.facts()["release"], node.facts()["luo_model"], node.state) == ("6.16.7", "rfc-v2", "normal")


async def test_rfc2s_words_are_refused_by_a_kernel_with_sessions(start: Start) -> None:
    node = await start()
    await node.kexec(model="sessions")
    assert refused(lambda: node.control("files")) == "ENOTTY"
    assert refused(lambda: node.control("debugfs_write", "kho/out/finalize", "1")) == "ENOTTY"
    assert node.kernel().luo() is None
    assert refused(lambda: synctokens.prepare(node.device)) == "EINVAL"
    assert refused(lambda: synctokens.get_state(node.device)) == "EINVAL"
    argument = bytearray(rfc2_abi.FD_STRUCT.pack(0, 0, 0))
    assert refused(lambda: synctokens.call(node.device, rfc2_abi.FD_PRESERVE, argument)) == "ENOTTY"


async def test_without_luo_there_is_no_device(start: Start) -> None:
    node = await start("--command-line", "kho=on")
    assert refused(lambda: node.device) == "ENOENT"
    assert (node.facts()["luo"], node.facts()["luo_state"]) == ("0", "")


async def test_the_agents_kernel_makes_sessions_of_tokens(node: Node) -> None:
    kernel = node.kernel()
    session = await kernel.create_session("s")
    memory = memfd(b"bit for bit")
    await session.preserve_fd(memory, 1)
    os.close(memory)
    told = await kernel.prepare()
    assert told == {"s": {"1": 0}}
    assert (await kernel.facts()).luo_state == "prepared"
    await node.kexec()
    await session.close()
    kernel = node.kernel()
    await kernel.recall(told)
    session = await kernel.retrieve_session("s")
    memory = await session.retrieve_fd(1)
    assert os.pread(memory, 100, 0) == b"bit for bit"
    os.close(memory)
    await session.finish()
    await session.close()
    await kernel.finish()
    luo = kernel.luo()
    assert luo is not None
    assert (await luo.state(), list(await luo.files())) == ("normal", [])


async def test_the_agents_kernel_cancels(node: Node) -> None:
    kernel = node.kernel()
    session = await kernel.create_session("s")
    memory = memfd()
    await session.preserve_fd(memory, 1)
    os.close(memory)
    await kernel.prepare()
    await kernel.cancel()
    luo = kernel.luo()
    assert luo is not None
    assert [(file.kind, file.state) for file in await luo.files()] == [("memfd", "registered")]
    await session.close()
    assert not await luo.registered()
    await luo.prepare()
    await luo.freeze()
    await luo.cancel()
    assert await luo.state() == "normal"
