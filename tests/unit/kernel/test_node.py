"""EmulatedNode: lives of a userspace, under virtual time."""

from __future__ import annotations

import asyncio
import errno
import os
from datetime import UTC, datetime, timedelta

import pytest

from node_agent.errors import KernelError
from node_agent.kernel.emulated.model import Machine
from node_agent.kernel.emulated.node import Boot, EmulatedNode
from node_agent.kernel.emulated.phases import PhaseTimes
from node_agent.kernel.faults import FaultPlan
from node_agent.ports import KexecImage
from tests.unit.kernel.test_clock import Base

TARGET = KexecImage("", "", "kho=on liveupdate=on", "7.3.4")
PHASES = PhaseTimes(shutdown_s=1, purgatory_s=2, boot_s=4, panic_s=8, firmware_s=16)


async def jump(boot: Boot) -> None:
    await boot.kernel.load(TARGET)
    await boot.kernel.reboot_kexec()


async def test_the_phases_of_a_kexec() -> None:
    base = Base(0.0)
    times = []

    async def userspace(boot: Boot) -> None:
        times.append((base.now(), boot.clock.boottime_s(), boot.clock.tsc(), boot.boots))
        if boot.boots == 1:
            await jump(boot)

    await EmulatedNode(base=base, phases=PHASES, tsc_hz=1.0).run(userspace)
    assert times == [(4, 4, 4, 1), (11, 4, 11, 2)]


async def test_slow_faults_are_added_to_their_kexec() -> None:
    base, times = Base(0.0), []

    async def userspace(boot: Boot) -> None:
        times.append((base.now(), boot.clock.boottime_s()))
        if boot.boots <= 2:
            await jump(boot)

    faults = FaultPlan.parse("slow_boot=100@1,slow_shutdown=50@2")
    await EmulatedNode(base=base, phases=PHASES, faults=faults).run(userspace)
    assert times == [(4, 4), (111, 104), (168, 4)]


async def test_a_panic_goes_through_firmware_and_starts_the_tsc_again() -> None:
    base, times = Base(0.0), []

    async def userspace(boot: Boot) -> None:
        times.append((base.now(), boot.clock.boottime_s(), boot.clock.tsc(), boot.release))
        if boot.boots == 1:
            await jump(boot)

    node = EmulatedNode("7.2", base=base, phases=PHASES, faults=FaultPlan.parse("panic"), tsc_hz=1.0)
    await node.run(userspace)
    assert times == [(4, 4, 4, "7.2"), (4 + 1 + 2 + 8 + 16 + 4, 4, 20, "7.2")]


async def test_a_kill_starts_userspace_again_in_the_same_boot_without_its_sessions() -> None:
    node = EmulatedNode()
    boots = []

    async def userspace(boot: Boot) -> None:
        boots.append((boot.boot_id, boot.boots, boot.starts))
        session = await boot.kernel.create_session("s")
        if boot.starts == 1:
            node.kill_userspace()
            assert not node.running
            try:
                await asyncio.get_running_loop().create_future()
            finally:
                await session.close()
                with pytest.raises(KernelError) as caught:
                    await boot.kernel.create_session("from the grave")
                assert caught.value.reason == "BOOT_OVER"

    await node.run(userspace)
    assert boots == [(boots[0][0], 1, 1), (boots[0][0], 1, 2)]


async def test_a_kill_finishes_what_was_retrieved() -> None:
    node = EmulatedNode()
    lost = []

    async def userspace(boot: Boot) -> None:
        if boot.boots == 1:
            session = await boot.kernel.create_session("s")
            await jump(boot)
        elif boot.starts == 1:
            session = await boot.kernel.retrieve_session("s")
            assert session.fileno() >= 0
            node.kill_userspace()
            await asyncio.get_running_loop().create_future()
        else:
            with pytest.raises(KernelError) as caught:
                await boot.kernel.retrieve_session("s")
            lost.append(caught.value.errno)

    await node.run(userspace)
    assert lost == [errno.ENOENT]


async def test_the_dying_cannot_touch_what_crosses() -> None:
    """finally blocks run in this process; in a killed one they would not."""
    content = []

    async def userspace(boot: Boot) -> None:
        if boot.boots == 2:
            session = await boot.kernel.retrieve_session("s")
            fd = await session.retrieve_fd(1)
            content.append(os.pread(fd, 6, 0))
            os.close(fd)
            return
        session = await boot.kernel.create_session("s")
        fd = os.memfd_create("memory")
        try:
            os.write(fd, b"memory")
            await session.preserve_fd(fd, 1)
            await jump(boot)
        finally:
            os.close(fd)
            await session.close()

    await EmulatedNode().run(userspace)
    assert content == [b"memory"]


async def test_a_crash_is_raised_and_leaves_nothing() -> None:
    before = len(os.listdir("/proc/self/fd"))

    async def userspace(boot: Boot) -> None:
        session = await boot.kernel.create_session("s")
        fd = os.memfd_create("memory")
        await session.preserve_fd(fd, 1)
        assert session.fileno() >= 0
        os.close(fd)
        raise LookupError("a bug")

    with pytest.raises(LookupError, match="a bug"):
        await EmulatedNode().run(userspace)
    assert len(os.listdir("/proc/self/fd")) == before


async def test_cancelling_a_node_cancels_its_userspace_and_leaves_nothing() -> None:
    before = len(os.listdir("/proc/self/fd"))
    up, died = asyncio.Event(), []

    async def userspace(boot: Boot) -> None:
        session = await boot.kernel.create_session("s")
        fd = os.memfd_create("memory")
        await session.preserve_fd(fd, 1)
        os.close(fd)
        up.set()
        try:
            await asyncio.get_running_loop().create_future()
        except asyncio.CancelledError:
            died.append(boot.boot_id)
            raise

    running = asyncio.ensure_future(EmulatedNode().run(userspace))
    await up.wait()
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    assert len(died) == 1
    assert len(os.listdir("/proc/self/fd")) == before


async def test_out_of_memory_kills_userspace() -> None:
    starts = []

    async def userspace(boot: Boot) -> None:
        starts.append(boot.starts)
        if boot.starts == 1:
            session = await boot.kernel.create_session("s")
            fd = os.memfd_create("memory")
            try:
                os.ftruncate(fd, 4096)
                await session.preserve_fd(fd, 1)
            finally:
                os.close(fd)

    await EmulatedNode(machine=Machine(memory_bytes=1000)).run(userspace)
    assert starts == [1, 2]


async def test_power_loss_boots_the_default_kernel() -> None:
    node, releases = EmulatedNode("7.2"), []

    async def userspace(boot: Boot) -> None:
        releases.append(boot.release)
        if boot.boots == 1:
            await jump(boot)
        elif boot.boots == 2:
            node.set_default("7.9")
            node.power_loss()
            await asyncio.get_running_loop().create_future()

    await node.run(userspace)
    assert releases == ["7.2", "7.3.4", "7.9"]


async def test_a_node_may_run_again() -> None:
    node, boots = EmulatedNode(), []

    async def userspace(boot: Boot) -> None:
        boots.append((boot.boot_id, boot.starts))

    await node.run(userspace)
    await node.run(userspace)
    assert boots[0][0] != boots[1][0]
    assert [starts for _, starts in boots] == [1, 1]


async def test_boot_ids_follow_the_seed() -> None:
    async def ids(seed: int) -> list[str]:
        seen: list[str] = []

        async def userspace(boot: Boot) -> None:
            seen.append(boot.boot_id)
            if boot.boots == 1:
                await jump(boot)

        await EmulatedNode(seed=seed).run(userspace)
        return seen

    assert await ids(1) == await ids(1)
    assert not set(await ids(1)) & set(await ids(2))


async def test_realtime_follows_epoch_and_rtc() -> None:
    base, epoch, seen = Base(0.5), datetime(2026, 3, 1, tzinfo=UTC), []

    async def userspace(boot: Boot) -> None:
        seen.append(boot.clock.realtime())

    await EmulatedNode(base=base, epoch=epoch, rtc_grain_s=1.0).run(userspace)
    assert seen == [epoch]
    assert base.now() == 0.5
    assert timedelta(0) == seen[0] - epoch


async def test_a_thousand_nodes_in_one_process_leave_nothing() -> None:
    before = len(os.listdir("/proc/self/fd"))

    async def userspace(boot: Boot) -> None:
        if boot.boots == 1:
            session = await boot.kernel.create_session("s")
            fd = os.memfd_create("memory")
            await session.preserve_fd(fd, 1)
            os.close(fd)
            await jump(boot)
        await (await boot.kernel.retrieve_session("s")).finish()

    async with asyncio.TaskGroup() as nodes:
        for seed in range(1000):
            nodes.create_task(EmulatedNode(seed=seed).run(userspace))
    assert len(os.listdir("/proc/self/fd")) == before
