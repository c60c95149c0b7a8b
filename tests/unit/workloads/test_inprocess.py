"""In-process workloads over the emulated kernel: real memory through a real saga's calls."""

from __future__ import annotations

import os

import pytest

from node_agent.errors import BrokerError, KernelError
from node_agent.kernel.emulated.node import Boot, EmulatedNode
from node_agent.kernel.emulated.phases import PhaseTimes
from node_agent.ports import KexecImage, WorkloadPause
from node_agent.workloads.inprocess import InProcessWorkloads, WorkloadFaults


class StepClock:
    """A base clock that only waits move."""

    def __init__(self) -> None:
        self.at = 100.0

    def now(self) -> float:
        return self.at

    async def sleep(self, seconds: float, /) -> None:
        self.at += seconds


def image() -> KexecImage:
    return KexecImage("/k", "", "kho=on liveupdate=on", "7.3.4")


def node() -> EmulatedNode:
    return EmulatedNode(base=StepClock(), phases=PhaseTimes(shutdown_s=0.25, purgatory_s=0.5, boot_s=1.0))


def open_fds() -> int:
    return len(os.listdir("/proc/self/fd"))


async def test_memory_comes_through_and_the_pause_is_the_phases() -> None:
    fds = open_fds()
    pauses: list[WorkloadPause] = []
    sessions: dict[str, str] = {}

    async def userspace(boot: Boot) -> None:
        workloads = InProcessWorkloads(boot.clock, count=3)
        try:
            if boot.boots == 1:
                assert await workloads.subscribers() == ("vm-0", "vm-1", "vm-2")
                await boot.clock.sleep(7)
                sessions.update(await workloads.preserve(boot.kernel, "1.abc"))
                await boot.clock.sleep(1)
                await workloads.suspend()
                await boot.kernel.load(image())
                await boot.kernel.reboot_kexec()
            await workloads.retrieve(boot.kernel, sessions)
            pauses.extend(await workloads.resume())
            assert await workloads.resume() == tuple(pauses)
            await workloads.finish()
            assert await workloads.subscribers() == ("vm-0", "vm-1", "vm-2")
        finally:
            workloads.node_died()

    await node().run(userspace)
    assert sessions == {f"vm-{n}": f"lr.1.abc.vm-{n}" for n in range(3)}
    assert [p.workload for p in pauses] == ["vm-0", "vm-1", "vm-2"]
    for pause in pauses:
        assert pause.duration_s == pytest.approx(1.75)
        assert pause.memory_intact is True
        assert pause.bytes_checked == 256 * 1024
        assert (pause.clock, pause.rejected) == ("emulated", "")
    assert open_fds() == fds


async def test_ticks_cross_and_go_on() -> None:
    ticks: list[int] = []

    async def userspace(boot: Boot) -> None:
        workloads = InProcessWorkloads(boot.clock, tick_s=0.5)
        if boot.boots == 1:
            await workloads.subscribers()
            await boot.clock.sleep(10)
            await workloads.preserve(boot.kernel, "a")
            await boot.clock.sleep(5)
            await workloads.suspend()
            await boot.kernel.load(image())
            try:
                await boot.kernel.reboot_kexec()
            finally:
                workloads.node_died()
        await workloads.retrieve(boot.kernel, {"vm-0": "lr.a.vm-0"})
        ticks.append(workloads._workloads["vm-0"].memory.ticks)
        await workloads.resume()
        await workloads.finish()
        await boot.clock.sleep(2)
        await workloads.preserve(boot.kernel, "b")
        ticks.append(workloads._workloads["vm-0"].memory.ticks)
        workloads.node_died()

    await node().run(userspace)
    assert ticks == [30, 34]


async def test_unwinding_resumes_and_unpreserves() -> None:
    async def userspace(boot: Boot) -> None:
        workloads = InProcessWorkloads(boot.clock)
        await workloads.preserve(boot.kernel, "a")
        await workloads.suspend()
        await boot.clock.sleep(0.5)
        (pause,) = await workloads.resume()
        assert pause.duration_s == pytest.approx(0.5)
        assert pause.memory_intact
        await workloads.release()
        await workloads.release()
        await workloads.preserve(boot.kernel, "a")
        await workloads.agent_died()
        await workloads.preserve(boot.kernel, "a")
        workloads.node_died()

    await node().run(userspace)


@pytest.mark.parametrize(
    ("fault", "reason"),
    [
        (WorkloadFaults(refuse_ready=1), "WORKLOAD_REFUSED"),
        (WorkloadFaults(hang_suspend=1), "WORKLOAD_TIMEOUT"),
        (WorkloadFaults(hang_resume=1), "WORKLOAD_TIMEOUT"),
        (WorkloadFaults(keep_session=1), "SESSION_STILL_HELD"),
    ],
)
async def test_a_fault_names_its_workload_and_the_retry_succeeds(fault: WorkloadFaults, reason: str) -> None:
    async def userspace(boot: Boot) -> None:
        workloads = InProcessWorkloads(boot.clock, count=2, faults={"vm-1": fault})

        async def attempt(name: str) -> None:
            await workloads.preserve(boot.kernel, name)
            await workloads.suspend()
            await workloads.resume()
            await workloads.release()

        with pytest.raises(BrokerError) as caught:
            await attempt("1.a")
        assert (caught.value.reason, caught.value.fields["workload"]) == (reason, "vm-1")
        assert caught.value.remedy
        await workloads.resume()
        await workloads.release()
        await attempt("2.b")
        workloads.node_died()

    await node().run(userspace)


async def test_several_failures_are_all_named() -> None:
    async def userspace(boot: Boot) -> None:
        keep = {f"vm-{n}": WorkloadFaults(keep_session=1) for n in range(2)}
        workloads = InProcessWorkloads(boot.clock, count=3, faults=keep)
        await workloads.preserve(boot.kernel, "a")
        with pytest.raises(BrokerError) as caught:
            await workloads.release()
        assert caught.value.reason == "WORKLOADS_FAILED"
        assert set(caught.value.fields) == {"workload_vm-0", "workload_vm-1"}
        workloads.node_died()

    await node().run(userspace)


async def test_damaged_memory_is_seen_and_leaks_nothing() -> None:
    async def userspace(boot: Boot) -> None:
        workloads = InProcessWorkloads(boot.clock)
        if boot.boots == 1:
            await workloads.preserve(boot.kernel, "a")
            await workloads.suspend()
            memory = workloads._workloads["vm-0"].memory
            os.pwrite(memory.fd, b"?", 8192)
            await boot.kernel.load(image())
            try:
                await boot.kernel.reboot_kexec()
            finally:
                workloads.node_died()
        await workloads.retrieve(boot.kernel, {"vm-0": "lr.a.vm-0"})
        (pause,) = await workloads.resume()
        assert pause.memory_intact is False
        workloads.node_died()

    fds = open_fds()
    await node().run(userspace)
    assert open_fds() == fds


async def test_an_agent_that_dies_after_retrieving_loses_its_session_and_not_the_memory() -> None:
    async def userspace(boot: Boot) -> None:
        workloads = InProcessWorkloads(boot.clock)
        sessions = {"vm-0": "lr.a.vm-0"}
        if boot.boots == 1:
            await workloads.preserve(boot.kernel, "a")
            await workloads.suspend()
            await boot.kernel.load(image())
            try:
                await boot.kernel.reboot_kexec()
            finally:
                workloads.node_died()
        with pytest.raises(KernelError) as caught:
            await workloads.retrieve(boot.kernel, {"vm-9": "lr.a.vm-9"})
        assert caught.value.reason == "SESSION_NOT_FOUND"
        await workloads.retrieve(boot.kernel, sessions)
        await workloads.agent_died()
        await workloads.retrieve(boot.kernel, sessions)
        (pause,) = await workloads.resume()
        assert pause.memory_intact
        await workloads.finish()
        workloads.node_died()

    await node().run(userspace)
