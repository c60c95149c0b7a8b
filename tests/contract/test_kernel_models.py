"""The kernels' contract on RFC v2's model: what holds of sessions made of tokens, and what is otherwise.

All of the contract's tests run there but for OTHERWISE; each of these differences has a test of its own here.
docs/luo-models.md lists them.
"""

from __future__ import annotations

import asyncio
import errno
import inspect
import os
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from tests.contract import test_kernel_contract, test_kernel_lifecycle, test_kernel_targets
from tests.contract.conftest import StartNode, starting
from tests.contract.kernel_backends import OF_TOKENS, Backend, OfTokens
from tests.contract.test_kernel_contract import refused
from tests.contract.test_kernel_lifecycle import content_of

MODULES: tuple[ModuleType, ...] = (test_kernel_contract, test_kernel_lifecycle, test_kernel_targets)
Test = Callable[..., Awaitable[None]]

SHARED = "the device is for as many as open it"
OTHER_CALLS = "the device has other calls, whose numbers hold their size (test_kernel_rfc2_process)"
UNREADABLE = "what cannot be read panics, or is left alone file by file: there is no device that answers EIO"
AT_PREPARE = "files are serialised at PREPARE, not when they are registered"
ONE_UPDATE = "an update is finished as a whole before anything is preserved again"
OTHERWISE: Mapping[str, str] = {
    "open_is_ebusy_while_another_has_the_device": SHARED,
    "open_is_ebusy_n_times_by_fault": f"{SHARED}; and in this process nobody opens it anew for each call",
    "create_is_einval_for_an_unterminated_name": OTHER_CALLS,
    "an_unknown_ioctl_on_the_device": OTHER_CALLS,
    "size_rule_on_the_device": OTHER_CALLS,
    "open_is_eio_for_a_whole_boot_where_deserialisation_failed": UNREADABLE,
    "open_is_eio_by_fault_until_a_cold_boot": UNREADABLE,
    "a_target_without_the_memfd_handler_and_nothing_preserved_is_fine": "handlers are built in",
    "create_may_use_the_name_of_an_incoming_session": ONE_UPDATE,
    "preserve_is_ebusy_for_a_file_retrieved_and_not_finished": ONE_UPDATE,
    "an_unretrieved_session_stays_for_whoever_comes": ONE_UPDATE,
    "an_unfinished_session_is_gone_after_one_more_kexec[True]": ONE_UPDATE,
    "there_and_back_again": ONE_UPDATE,
    "names_are_free_again_after_finish_and_close": ONE_UPDATE,
    "a_cold_boot_keeps_nothing": ONE_UPDATE,
    "no_descriptor_is_left_behind": ONE_UPDATE,
    "preserve_is_ebusy_for_an_inode_preserved_anywhere": "it is EEXIST",
    "preserve_is_enoent_for_an_unsupported_type[eventfd]": "eventfds are preserved, too",
    "a_resized_file_refuses_the_freeze": AT_PREPARE,
    "a_write_seal_added_later_refuses_the_freeze": AT_PREPARE,
    "a_refused_freeze_changes_nothing_and_may_be_tried_again": "it undoes PREPARE; KHO may stay finalized",
    "one_session_or_all_are_lost_by_fault": "all that LUO has crosses, or nothing",
    "a_call_that_hangs_answers_nobody_and_others_go_on": "the calls are others, and wait for one lock",
}
"""Test, with its parameter if it is about one, and what is otherwise on RFC v2."""


def contract() -> dict[str, Test]:
    return {
        name.removeprefix("test_"): test
        for module in MODULES
        for name, test in vars(module).items()
        if name.startswith("test_") and inspect.iscoroutinefunction(test)
    }


def every() -> Iterator[tuple[str, Test, dict[str, Any]]]:
    """Every test of the contract, with each of its parameters."""
    for name, test in contract().items():
        marks = [mark for mark in getattr(test, "pytestmark", ()) if mark.name == "parametrize"]
        sets: list[dict[str, Any]] = [{}]
        for mark in marks:
            names = mark.args[0].split(",") if isinstance(mark.args[0], str) else list(mark.args[0])
            values = [value if len(names) > 1 else (value,) for value in mark.args[1]]
            sets = [{**given, **dict(zip(names, v, strict=True))} for given in sets for v in values]
        for given in sets:
            yield f"{name}[{'-'.join(map(str, given.values()))}]" if marks else name, test, given


def is_otherwise(name: str) -> bool:
    return name in OTHERWISE or name.partition("[")[0] in OTHERWISE


def cases() -> list[Any]:
    return [pytest.param(test, given, id=name) for name, test, given in every() if not is_otherwise(name)]


@pytest.fixture(params=sorted(OF_TOKENS))
async def start(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[StartNode]:
    """Starts a node of RFC v2's model, as start_node does."""
    async with starting(OF_TOKENS[request.param], tmp_path) as start:
        yield start


@pytest.mark.parametrize(("test", "given"), cases())
async def test_it_holds_of_tokens_too(test: Test, given: Mapping[str, Any], start: StartNode) -> None:
    if "start_node" in inspect.signature(test).parameters:
        await test(start_node=start, **given)
    else:
        await test(node=await start(), **given)


def test_what_is_otherwise_is_in_the_contract() -> None:
    names = {name for name, _, _ in every()}
    assert set(OTHERWISE) <= names | {name.partition("[")[0] for name in names}


# --- what is otherwise


async def test_the_device_is_for_as_many_as_open_it(start: StartNode) -> None:
    node = await start()
    async with node.device_held(), node.device_held():
        session = await node.preserved()
    await node.kexec()
    assert await content_of(node, "s") == b"memory"
    await session.close()


async def test_what_cannot_be_read_panics(start: StartNode) -> None:
    node = await start("poison@1")
    session, first = await node.preserved(), await node.kernel.facts()
    await node.kexec()
    facts = await node.kernel.facts()
    assert (facts.release, facts.poisoned, facts.luo) == (first.release, False, True)
    await refused(node.kernel.retrieve_session("s"), errno.ENOENT, "SESSION_NOT_FOUND")
    await session.close()


async def test_nothing_is_preserved_beside_an_update_that_is_not_finished(start: StartNode) -> None:
    node = await start()
    old = await node.preserved()
    await node.kexec()
    await old.close()
    for _ in range(2):
        await refused(node.kernel.create_session("other"), errno.EBUSY, "LUO_NOT_NORMAL")
    assert await content_of(node, "s") == b"memory"
    await refused(node.kernel.create_session("s"), errno.EBUSY, "LUO_NOT_NORMAL")
    await node.kernel.finish()
    await (await node.preserved()).close()


async def test_a_session_that_is_open_and_not_finished_keeps_the_next_kexec(start: StartNode) -> None:
    """With sessions as merged it would be lost without a word."""
    node = await start()
    old = await node.preserved()
    await node.kexec()
    session = await node.kernel.retrieve_session("s")
    await node.kernel.load(node.image())
    await refused(node.kernel.finish(), errno.EBUSY, "SESSION_UNFINISHED")
    await refused(node.kernel.ready_to_jump(), errno.EINVAL, "NOT_PREPARED")
    fd = await session.retrieve_fd(1)
    assert node.os.pread(fd, 6, 0) == b"memory"
    node.os.close(fd)
    await session.finish()
    await node.jump()
    await refused(node.kernel.retrieve_session("s"), errno.ENOENT, "SESSION_NOT_FOUND")
    await old.close()
    await session.close()


async def test_there_and_back_again_with_a_finish_between(start: StartNode) -> None:
    node = await start()
    before = len(os.listdir("/proc/self/fd"))
    started = await node.kernel.facts()
    fd = node.memfd(b"hop 0")
    for hop, release in enumerate((node.releases[0], started.release, node.releases[0]), start=1):
        session = await node.kernel.create_session("s")
        await session.preserve_fd(fd, 1)
        node.os.close(fd)
        await node.kexec(node.image(release))
        await session.close()
        came = await node.kernel.retrieve_session("s")
        fd = await came.retrieve_fd(1)
        assert node.os.pread(fd, 5, 0) == f"hop {hop - 1}".encode()
        node.os.pwrite(fd, f"hop {hop}".encode(), 0)
        await came.finish()
        await came.close()
        await node.kernel.finish()
    node.os.close(fd)
    assert len(os.listdir("/proc/self/fd")) == before


async def test_a_cold_boot_keeps_nothing(start: StartNode) -> None:
    node = await start()
    session = await node.preserved()
    await node.kernel.prepare()
    await node.power_loss()
    assert (await node.kernel.facts()).luo_state == "normal"
    await node.kernel.recall({"s": {1: 0}})
    await refused(node.kernel.retrieve_session("s"), errno.ENOENT, "SESSION_NOT_FOUND")
    await session.close()


async def test_a_file_that_is_preserved_is_eexist(start: StartNode) -> None:
    node = await start()
    first, second = await node.kernel.create_session("first"), await node.kernel.create_session("second")
    fd = node.memfd()
    await first.preserve_fd(fd, 1)
    await refused(second.preserve_fd(fd, 1), errno.EEXIST, "FILE_ALREADY_PRESERVED")
    await first.close()
    await second.preserve_fd(fd, 1)
    node.os.close(fd)
    await second.close()


async def test_an_eventfd_crosses_with_its_count(start: StartNode) -> None:
    node = await start()
    session, fd = await node.kernel.create_session("s"), os.eventfd(0)
    os.eventfd_write(fd, 7)
    await session.preserve_fd(fd, 1)
    await node.kexec()
    os.close(fd)
    came = await node.kernel.retrieve_session("s")
    fd = await came.retrieve_fd(1)
    assert os.eventfd_read(fd) == 7
    os.close(fd)
    for held in (session, came):
        await held.close()


async def test_a_file_that_changes_after_prepare_refuses_the_freeze(start: StartNode) -> None:
    node = await start()
    assert isinstance(node, OfTokens)
    session, fd = await node.kernel.create_session("s"), node.memfd(b"memory")
    await session.preserve_fd(fd, 1)
    node.os.ftruncate(fd, 100)
    await node.kernel.prepare()
    node.os.ftruncate(fd, 200)
    await node.kernel.load(node.image())
    await refused(node.kernel.reboot_kexec(), errno.EPERM, "FREEZE_REFUSED")
    facts = await node.kernel.facts()
    assert (facts.luo_state, facts.kho_finalized) == ("normal", node.coupling == "notifier")
    if facts.kho_finalized:
        await refused(node.kernel.prepare(), errno.EEXIST, "KHO_FINALIZED")
    else:
        await node.jump()
        assert len(await content_of(node, "s")) == 200
    node.os.close(fd)
    await session.close()


async def test_all_that_luo_has_is_lost_or_nothing(start: StartNode) -> None:
    node = await start("session_lost=b@1")
    held = [await node.preserved("a"), await node.preserved("b")]
    await node.kexec()
    assert (await node.kernel.facts()).luo_state == "normal"
    for name in ("a", "b"):
        await refused(node.kernel.retrieve_session(name), errno.ENOENT, "SESSION_NOT_FOUND")
    for session in held:
        await session.close()


async def while_others_ask(node: Backend) -> None:
    """What was asked before is answered, or hangs, by the time that all of this is answered."""
    for _ in range(10):
        await node.kernel.facts()
        await asyncio.sleep(0)


@pytest.mark.parametrize("call", ["fd_preserve", "prepare", "reboot"])
async def test_a_call_that_hangs_keeps_the_lock_that_all_others_take(start: StartNode, call: str) -> None:
    node = await start(f"hang={call}@1")
    session, fd = await node.kernel.create_session("s"), node.memfd()
    hung: asyncio.Future[object]
    if call == "fd_preserve":
        hung = asyncio.ensure_future(session.preserve_fd(fd, 1))
    else:
        await session.preserve_fd(fd, 1)
        await node.kernel.load(node.image())
        if call == "reboot":
            await node.kernel.prepare()
        hung = asyncio.ensure_future(
            node.kernel.prepare() if call == "prepare" else node.kernel.reboot_kexec()
        )
    await while_others_ask(node)  # a kernel process is asked this and that before it hangs
    luo = node.kernel.luo()
    assert luo is not None
    # Of nobody's session: those take nothing any more once they are being prepared.
    other = asyncio.ensure_future(luo.preserve(fd))
    await while_others_ask(node)
    assert not hung.done()
    assert not other.done()
    assert (await node.kernel.facts()).luo_state in {"normal", "prepared"}, "GET_STATE never waits"
    for task in (hung, other):
        task.cancel()
        await asyncio.wait([task])
    node.os.close(fd)
