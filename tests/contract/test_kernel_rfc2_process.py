"""RFC v2's LUO on a kernel that is a process: every ioctl over the wire, their errors, kexecs."""

from __future__ import annotations

import errno
import os
import socket
import sys

import pytest

from node_agent.kernel import abi, rfc2_abi
from node_agent.kernel.emulated import synctokens
from node_agent.kernel.emulated.syncclient import ioctl, open_device
from node_agent.kernel.tokens import FILES_MAX, SESSION_FILES_MAX
from tests.contract.conftest import StartRfc2
from tests.contract.rfc2_process import COMMAND_LINE, RELEASE, Node, memfd, preserved, refused


@pytest.fixture
async def node(start_rfc2: StartRfc2) -> Node:
    return await start_rfc2()


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


async def test_a_refused_freeze_leaves_luo_normal(start_rfc2: StartRfc2) -> None:
    node = await start_rfc2("--faults", "refuse_freeze@1")
    synctokens.prepare(node.device)
    node.load()
    with pytest.raises(OSError) as caught:
        await node.jump()
    assert caught.value.errno == errno.EBUSY
    assert (node.state, node.view("sys/kernel/liveupdate/state")) == ("normal", "normal\n")


async def test_reserve_mem_crosses_a_plain_kexec_where_it_is_auto_preserved(start_rfc2: StartRfc2) -> None:
    words = f"{COMMAND_LINE} reserve_mem=1M:4096:cache reserve_mem=64K:64:trace reserve_mem=64K:64:pstore"
    node = await start_rfc2("--auto-preserve", "reserve_mem", "--command-line", words)
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
async def test_bad_words_about_reserve_mem(start_rfc2: StartRfc2, words: tuple[str, ...], error: str) -> None:
    node = await start_rfc2("--command-line", f"{COMMAND_LINE} reserve_mem=4K:64:cache")
    assert refused(lambda: node.control(*words)) == error
    assert node.control("reserve_mem_read", "cache", "0", "4096") == bytes(4096).hex()


async def test_a_message_that_would_lose_its_end_is_refused(start_rfc2: StartRfc2) -> None:
    """It was cut off at 64 KiB, and nobody was told."""
    node = await start_rfc2("--command-line", f"{COMMAND_LINE} reserve_mem=1M:64:cache")
    assert len(node.control("reserve_mem_read", "cache", "0", "32766")) == 2 * 32766
    assert refused(lambda: node.control("reserve_mem_read", "cache", "0", "32767")) == "EMSGSIZE"
    assert refused(lambda: node.control("reserve_mem_write", "cache", "0", "00" * 32768)) == "EMSGSIZE"


async def test_rfc2s_words_are_refused_by_a_kernel_with_sessions(start_rfc2: StartRfc2) -> None:
    node = await start_rfc2()
    await node.kexec(model="sessions")
    assert refused(lambda: node.control("files")) == "ENOTTY"
    assert refused(lambda: node.control("debugfs_write", "kho/out/finalize", "1")) == "ENOTTY"
    assert node.kernel().luo() is None
    assert refused(lambda: synctokens.prepare(node.device)) == "EINVAL"
    assert refused(lambda: synctokens.get_state(node.device)) == "EINVAL"
    argument = bytearray(rfc2_abi.FD_STRUCT.pack(0, 0, 0))
    assert refused(lambda: synctokens.call(node.device, rfc2_abi.FD_PRESERVE, argument)) == "ENOTTY"


async def test_without_luo_there_is_no_device(start_rfc2: StartRfc2) -> None:
    node = await start_rfc2("--command-line", "kho=on")
    assert refused(lambda: node.device) == "ENOENT"
    assert (node.facts()["luo"], node.facts()["luo_state"]) == ("0", "")


async def test_the_agents_kernel_makes_sessions_of_tokens(node: Node) -> None:
    kernel = node.kernel()
    session = await kernel.create_session("s")
    memory = memfd(b"bit for bit")
    await session.preserve_fd(memory, 1)
    os.close(memory)
    told = await kernel.prepare()
    assert told == {"s": {1: 0}}
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


async def test_as_many_files_as_there_may_be(node: Node) -> None:
    """Their list is longer than a message."""
    kernel = node.kernel()
    sessions = [await kernel.create_session(f"s{number}") for number in range(4)]
    for session in sessions:
        for token in range(SESSION_FILES_MAX):
            memory = os.memfd_create("memory")
            await session.preserve_fd(memory, token)
            os.close(memory)
    await kernel.prepare()
    await kernel.ready_to_jump()
    luo = kernel.luo()
    assert luo is not None
    assert len(set(await luo.registered())) == FILES_MAX
    for session in sessions:
        await session.close()
    await kernel.cancel()
    assert not await luo.registered()


async def test_bad_input_leaks_nothing(node: Node) -> None:
    kept = preserved(node)
    before = int(node.control("descriptors"))
    fd = memfd()
    reader, writer = os.pipe()
    token = synctokens.preserve(node.device, fd)
    restore = rfc2_abi.FD_RESTORE
    for _ in range(3):
        assert refused(lambda: synctokens.preserve(node.device, fd)) == "EEXIST"
        assert refused(lambda: synctokens.preserve(node.device, reader)) == "ENOENT"
        assert refused(lambda: synctokens.restore(node.device, token)) == "EBUSY"
        assert refused(lambda: synctokens.unpreserve(node.device, 99)) == "ENOENT"
        assert refused(lambda: synctokens.freeze(node.device)) == "EINVAL"
        # A descriptor that nobody asked for, and a struct that is not there.
        synctokens.call(node.device, rfc2_abi.GET_STATE, bytearray(4), fd)
        assert refused(lambda: synctokens.call(node.device, restore, bytearray(3), fd)) == "EFAULT"
        say(node.device, rfc2_abi.PREPARE.to_bytes(4, sys.byteorder)[:3])
        say(node.device, b"x" * 70_000)
    synctokens.unpreserve(node.device, token)
    for end in (fd, reader, writer):
        os.close(end)
    assert node.state == "normal"
    assert int(node.control("descriptors")) == before
    assert node.control("files") == f"{kept} memfd registered"


async def test_what_nobody_waits_for_is_done_all_the_same(node: Node) -> None:
    say(node.device, rfc2_abi.PREPARE.to_bytes(4, sys.byteorder))
    assert node.state == "prepared"


def say(device: int, message: bytes) -> None:
    """A message with no reply socket."""
    carrier = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET, fileno=device)
    try:
        carrier.send(message)
    finally:
        carrier.detach()
