"""Loading and jumping: refusals before the point of no return, and what a bad target does."""

from __future__ import annotations

import asyncio
import errno
from collections.abc import Mapping

import pytest

from node_agent.ports import KexecImage
from tests.contract.conftest import StartNode
from tests.contract.kernel_backends import Backend
from tests.contract.test_kernel_contract import refused
from tests.contract.test_kernel_lifecycle import content_of


async def test_reboot_without_an_image_is_einval_and_sessions_are_intact(node: Backend) -> None:
    session = await node.preserved()
    await refused(node.jump(), errno.EINVAL, "NO_IMAGE")
    await node.kexec()
    assert await content_of(node, "s") == b"memory"
    await session.close()


async def test_load_and_unload(node: Backend) -> None:
    assert not await node.kernel.loaded()
    await node.kernel.load(node.image())
    assert await node.kernel.loaded()
    await node.kernel.unload()
    assert not await node.kernel.loaded()
    await refused(node.jump(), errno.EINVAL, "NO_IMAGE")


async def test_load_is_enoent_for_no_file(node: Backend) -> None:
    missing = "/no/such/file"
    await refused(node.kernel.load(KexecImage(missing, "", "", "7.3")), errno.ENOENT, "IMAGE_NOT_FOUND")
    kernel = node.image().kernel_path
    await refused(node.kernel.load(KexecImage(kernel, missing, "", "7.3")), errno.ENOENT, "IMAGE_NOT_FOUND")


async def test_load_refuses_what_is_no_kernel_and_keeps_the_one_before(node: Backend) -> None:
    target = node.image()
    await node.kernel.load(target)
    *broken, empty = node.broken_images()
    for image in broken:
        await refused(node.kernel.load(image), errno.ENOEXEC, "IMAGE_INVALID")
    await refused(node.kernel.load(empty), errno.EINVAL, "IMAGE_INVALID")
    assert await node.kernel.loaded()
    await node.jump()
    assert (await node.kernel.facts()).release == target.release


async def test_load_is_eaddrnotavail_where_scratch_is_too_small(start_node: StartNode) -> None:
    node = await start_node(scratch_bytes=1 << 20)
    await refused(
        node.kernel.load(node.image(scratch_bytes=1 << 20)), errno.EADDRNOTAVAIL, "SCRATCH_TOO_SMALL"
    )
    await node.kernel.load(node.image("7.3.5"))


async def test_a_refused_freeze_changes_nothing_and_may_be_tried_again(start_node: StartNode) -> None:
    node = await start_node("refuse_freeze=ENOMEM@1")
    session, boot_id = await node.preserved(), (await node.kernel.facts()).boot_id
    await node.kernel.load(node.image())
    await refused(node.jump(), errno.ENOMEM, "FREEZE_REFUSED")
    assert (await node.kernel.facts()).boot_id == boot_id
    fd = node.memfd()
    await session.preserve_fd(fd, 2)
    node.os.close(fd)
    await node.jump()
    assert await content_of(node, "s", 2) == b"memory"
    await session.close()


@pytest.mark.parametrize(
    ("command_line", "properties"),
    [
        ("kho=on liveupdate=on", {"kho": False}),
        ("kho=on liveupdate=on", {"liveupdate": False}),
        ("kho=on", {}),
        ("liveupdate=on", {}),
        ("kho=on liveupdate=on kho=off", {}),
    ],
)
async def test_a_target_without_luo_boots_and_loses_all(
    node: Backend, command_line: str, properties: Mapping[str, object]
) -> None:
    session = await node.preserved()
    target = node.image("", command_line, **properties)
    await node.kexec(target)
    facts = await node.kernel.facts()
    assert facts.release == target.release
    assert not facts.luo
    await refused(node.kernel.retrieve_session("s"), errno.ENOENT, "LUO_OFF")
    await node.kernel.load(node.image(node.releases[1]))
    await node.jump()
    await refused(node.kernel.retrieve_session("s"), errno.ENOENT, "SESSION_NOT_FOUND")
    await session.close()


async def test_a_target_with_another_abi_panics_into_a_cold_boot(node: Backend) -> None:
    first = await node.kernel.facts()
    await node.kexec(node.image(abi="luo-v4"))
    facts = await node.kernel.facts()
    assert facts.release == first.release
    assert facts.boot_id != first.boot_id
    assert facts.kexec_count == 0


async def test_a_target_without_the_memfd_handler_and_nothing_preserved_is_fine(node: Backend) -> None:
    await node.kexec(node.image(handlers=[]))
    session, fd = await node.kernel.create_session("s"), node.memfd()
    await refused(session.preserve_fd(fd, 1), errno.ENOENT, "FILE_UNPRESERVABLE")
    node.os.close(fd)
    await session.close()


@pytest.mark.parametrize("fault", ["panic@1", "power_loss@1", ""])
async def test_a_panic_or_power_loss_ends_in_a_cold_boot(start_node: StartNode, fault: str) -> None:
    node = await start_node(fault)
    first, session = await node.kernel.facts(), await node.preserved()
    await node.kexec(node.image() if fault else node.image(panics=True))
    facts = await node.kernel.facts()
    assert facts.release == first.release
    assert facts.boot_id != first.boot_id
    await refused(node.kernel.retrieve_session("s"), errno.ENOENT, "SESSION_NOT_FOUND")
    await session.close()


async def test_a_wrong_kernel_boots_with_the_state(start_node: StartNode) -> None:
    node = await start_node("wrong_kernel=6.1.0@1")
    session = await node.preserved()
    await node.kexec()
    assert (await node.kernel.facts()).release == "6.1.0"
    assert await content_of(node, "s") == b"memory"
    await session.close()


async def test_one_session_or_all_are_lost_by_fault(start_node: StartNode) -> None:
    node = await start_node("session_lost=b@1,session_lost@2")
    held = [await node.preserved("a"), await node.preserved("b")]
    await node.kexec()
    assert await content_of(node, "a") == b"memory"
    await refused(node.kernel.retrieve_session("b"), errno.ENOENT)
    held.append(await node.preserved("a"))
    await node.kexec()
    await refused(node.kernel.retrieve_session("a"), errno.ENOENT)
    for session in held:
        await session.close()


async def test_a_node_that_never_comes_back_waits_for_its_power_button(start_node: StartNode) -> None:
    node = await start_node("never_back@1")
    session = await node.preserved()
    release = (await node.kernel.facts()).release
    await node.kernel.load(node.image())
    await node.vanish()
    await node.press_power()
    assert (await node.kernel.facts()).release == release
    await refused(node.kernel.retrieve_session("s"), errno.ENOENT)
    await session.close()


@pytest.mark.parametrize("call", ["reboot", "retrieve_session", "open_device"])
async def test_a_call_that_hangs_answers_nobody_and_others_go_on(start_node: StartNode, call: str) -> None:
    node = await start_node(f"hang={call}@1")
    hung = asyncio.ensure_future(
        node.kernel.reboot_kexec() if call == "reboot" else node.kernel.retrieve_session("s")
    )
    done, _ = await asyncio.wait(
        [hung, asyncio.ensure_future(node.kernel.facts())], return_when="FIRST_COMPLETED"
    )
    assert hung not in done
    await node.kernel.load(node.image())
    assert await node.kernel.loaded()
    assert not hung.done()
    hung.cancel()
    await asyncio.wait([hung])
    assert hung.cancelled()


async def test_slow_phases_still_arrive(start_node: StartNode) -> None:
    node = await start_node("slow=0.01@1,slow_boot=0.01@1")
    session = await node.preserved()
    await node.kexec()
    assert await content_of(node, "s") == b"memory"
    await session.close()
