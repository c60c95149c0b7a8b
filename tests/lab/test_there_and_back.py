"""One node with an orchestrator: to another kernel and back, with one workload, and what was measured."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from datetime import timedelta

import pytest
import pytest_asyncio

from deploy.lab.fleet import Fleet
from deploy.lab.paths import Lab
from deploy.lab.wanted import Wanted
from tests.lab import figures, workloads
from tests.lab.hands import Hands
from tests.lab.memory import Memory, check_same, memory_of
from tests.lab.operator import Operator

pytestmark = pytest.mark.asyncio(loop_scope="module")
NODE = "node-01"
NOTHING = timedelta(0)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def fleet(lab: Lab, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Fleet]:
    wanted = Wanted(nodes=1, workloads=(workloads.line("tickd", "vm-1"),))
    async with Fleet(tmp_path_factory.mktemp("one") / "fleet", wanted, lab=lab) as fleet:
        await Operator(fleet).ready()
        yield fleet


def other_kernel(lab: Lab) -> str:
    """Of another source version, where the lab has one; else only another build."""
    return "c" if "c" in lab.kernels else "b"


@pytest.fixture(scope="module")
def first() -> dict[str, Memory]:
    """The memory as it was before anything happened."""
    return {}


async def test_there(fleet: Fleet, lab: Lab, first: dict[str, Memory]) -> None:
    node, operator = fleet[NODE], Operator(fleet)
    hands = Hands(node)
    await hands.ready("vm-1")
    boot, first["vm-1"] = await node.boot(), await memory_of(node, "vm-1")
    target = other_kernel(lab)
    await operator.create("there", target)
    rollout = await operator.until_state("there", "SUCCEEDED")
    now = await node.boot()
    assert (now.release, now.boot_id != boot.boot_id) == (lab.kernels[target].release, True)
    check_same(first["vm-1"], await memory_of(node, "vm-1"), workloads.MIB)
    log = {entry["event"]: entry for entry in await workloads.log_of(node, "vm-1")}
    assert list(log) == ["fresh", "preserved", "suspended", "claimed", "resumed"]
    # Not one tick was made, or lost, in between.
    assert log["suspended"]["ticks"] == log["claimed"]["ticks"] == log["resumed"]["ticks"]
    assert (rollout["memoryChecksPassed"], rollout["memoryChecksFailed"]) == (1, 0)
    assert not rollout["blackout"]["emulated"]
    status = await hands.luoctl("status")
    assert (status["phase"], status["verdict"]) == ("COMMITTED", "LIVE_UPDATED")
    assert (await node.status())["default"] == lab.kernels[target].release, (
        "what a cold boot starts changed at COMMIT"
    )
    assert (await node.status())["boots"] == 1


async def test_three_figures_that_agree(fleet: Fleet) -> None:
    samples = figures.stored(fleet.service.directory, NODE)
    assert set(samples) == {"workload", "host", "link"}
    for sample in samples.values():
        assert sample.clock, sample
        assert not sample.rejected, sample
        assert sample.duration > NOTHING < sample.uncertainty, sample
    workload, host, link = (samples[vantage] for vantage in ("workload", "host", "link"))
    assert (workload.clock, host.clock) == ("tsc", "tsc")
    # What happened within is not longer than what happened around it, as far as anybody can know.
    assert host.duration <= workload.duration + host.uncertainty + workload.uncertainty
    assert workload.duration <= link.duration + workload.uncertainty + link.uncertainty
    # The workload's figure is that of its own log: by the TSC alone, at the rate of the old kernel.
    log = {entry["event"]: entry for entry in await workloads.log_of(fleet[NODE], "vm-1")}
    by_tsc = (log["resumed"]["tsc"] - log["suspended"]["tsc"]) / log["suspended"]["hz"]
    assert workload.duration.total_seconds() == pytest.approx(by_tsc, abs=1e-3)
    # And an operator is shown what was measured.
    shown = figures.shown(await Operator(fleet).rollout("there"))
    for vantage, sample in samples.items():
        assert shown[vantage] == pytest.approx(sample.duration.total_seconds(), abs=1e-3), vantage


async def test_back_without_artifacts(fleet: Fleet, lab: Lab, first: dict[str, Memory]) -> None:
    node, operator = fleet[NODE], Operator(fleet)
    boot = await node.boot()
    shelf = fleet.service.artifacts
    away = shelf.rename(shelf.with_name("away"))
    try:
        told = await fleet.liveroll("rollback", "there")
        assert told.rc == 0, told.stderr
        await operator.until_state("there", "ROLLED_BACK")
    finally:
        away.rename(shelf)
    now = await node.boot()
    assert (now.release, now.boot_id != boot.boot_id) == (lab.kernels["a"].release, True)
    # A to B to A, with one workload that started once.
    check_same(first["vm-1"], await memory_of(node, "vm-1"), workloads.MIB)
    events = await workloads.events_of(node, "vm-1")
    assert events == ["fresh"] + ["preserved", "suspended", "claimed", "resumed"] * 2
    assert (await node.status())["default"] == lab.kernels["a"].release
    assert (await node.status())["boots"] == 1, "it never booted from cold"


async def test_a_proceed_past_its_validity_is_not_obeyed(fleet: Fleet) -> None:
    """The workload does not answer when it is to suspend, and meanwhile the word loses its validity."""
    node, operator = fleet[NODE], Operator(fleet)
    hands = Hands(node)
    boot, before = await node.boot(), await memory_of(node, "vm-1")
    journal = "/var/lib/liveroll-agent/journal"
    # The newest attempt's own record: the journal knows older ones that were preserved.
    script = (
        f"n=$(grep -c '\"Preserved\"' {journal}); "
        f"while [ $(grep -c '\"Preserved\"' {journal}) = $n ]; do :; done; kill -STOP {before.pid}"
    )
    watcher = asyncio.create_task(node.sh(script, timeout_s=120))
    await operator.create("late", "b", more="proceed_lease: 3s\n")
    await watcher
    await hands.until_event("LeaseExpired")
    # An expired lease spends no retry: uncancelled, the rollout would try again and succeed.
    told = await fleet.liveroll("cancel", "late", "--reason", "seen enough")
    assert told.rc == 0, told.stderr
    await node.sh(f"kill -CONT {before.pid}")
    await hands.until_phase("ABORTED")
    assert await hands.jumps() == 2, "there and back, and no more"
    assert await node.boot() == boot
    check_same(before, await memory_of(node, "vm-1"), workloads.MIB)


async def test_one_that_never_says_ready_is_timed_out_and_unwound(fleet: Fleet) -> None:
    node, operator = fleet[NODE], Operator(fleet)
    hands = Hands(node)
    await operator.until_state("late", "CANCELLED")
    boot, before = await node.boot(), await memory_of(node, "vm-1")
    line = workloads.line("tickd --fault never-ready", "odd", mib=1)
    await node.exec("/bin/sh", "-c", line, detach=True)
    await hands.ready("odd")
    await operator.create("never", "b", more="timeouts: {preserving: 5s}\n")
    await operator.until_state("never", "HALTED")
    assert await hands.phase() == "ABORTED"
    settled = await operator.until_node(NODE, "ABORTED")
    assert settled["problem"]["reason"] == "STEP_TIMEOUT", settled["problem"]
    assert (await node.boot(), await hands.jumps()) == (boot, 2)
    after = await memory_of(node, "vm-1")
    assert after.pid == before.pid
    check_same(before, after, workloads.MIB)
