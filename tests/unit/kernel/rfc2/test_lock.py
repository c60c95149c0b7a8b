"""LUO's lock: a call that hangs keeps it, others wait, and who is killed waiting has changed nothing."""

from __future__ import annotations

import asyncio
import gc
import os
from collections.abc import AsyncIterator, Awaitable, Callable

import pytest

from node_agent.kernel.emulated.image import EmulatedImage
from node_agent.kernel.emulated.inprocess import InProcessKernel
from node_agent.kernel.emulated.inprocess_caller import Caller
from node_agent.kernel.emulated.model import Hang, LuoModel
from node_agent.kernel.emulated.rfc2.debugfs import FINALIZE_PATH
from node_agent.kernel.emulated.rfc2.lock import EVENTS, LOCKED_CALLS
from node_agent.kernel.emulated.rfc2.states import Coupling
from node_agent.ports import TokenDevice
from tests.unit.kernel.rfc2 import corebench
from tests.unit.kernel.rfc2.corebench import COUPLINGS, NORMAL, PREPARED, UPDATED, luo_of, rfc2_of

CANCELED = "luo_core: [{}] event canceled by user"


def process(model: LuoModel) -> InProcessKernel:
    return InProcessKernel(model, lambda: None, lambda: None)


def caller(model: LuoModel) -> Caller:
    return Caller(model, lambda: None)


def device(kernel: InProcessKernel) -> TokenDevice:
    found = kernel.luo()
    assert found is not None
    return found


async def hung(call: Awaitable[object]) -> asyncio.Task[object]:
    """A call that is under way and has not returned."""
    task = asyncio.ensure_future(call)
    for _ in range(3):
        await asyncio.sleep(0)
    assert not task.done()
    return task


async def killed(task: asyncio.Task[object]) -> None:
    task.cancel()
    await asyncio.wait((task,))
    assert task.cancelled()


@pytest.fixture
async def node() -> AsyncIterator[LuoModel]:
    """Its first PREPARE hangs."""
    model = corebench.node(faults="hang=prepare@1")
    yield model
    model.power_off()


async def test_all_but_get_state_wait_for_a_prepare_that_hangs(node: LuoModel) -> None:
    """GET_STATE never waits."""
    one, two = device(process(node)), device(process(node))
    fd = corebench.memfd()
    holder = await hung(one.prepare())
    assert luo_of(node).lock.held_by == "prepare"
    waiting = [
        await hung(call)
        for call in (
            two.prepare(),
            two.freeze(),
            two.cancel(),
            two.finish(),
            two.preserve(fd),
            two.unpreserve(0),
            two.restore(0),
            caller(node).enter("reboot", "reboot"),
        )
    ]
    assert await two.state() == "normal"
    assert node.facts().luo_state == "normal"
    for task in waiting:
        await killed(task)
    await killed(holder)
    assert luo_of(node).state is NORMAL
    assert not rfc2_of(node).files.outgoing
    os.close(fd)


@pytest.mark.parametrize("event", sorted(EVENTS))
async def test_a_killed_wait_changes_nothing_and_the_log_says_so(node: LuoModel, event: str) -> None:
    """The log: "[prepare] event canceled by user": of reboot(KEXEC) it is the freeze within."""
    holder = await hung(device(process(node)).prepare())
    other = process(node)
    calls: dict[str, Callable[[], Awaitable[object]]] = {
        "prepare": device(other).prepare,
        "freeze": device(other).freeze,
        "cancel": device(other).cancel,
        "finish": device(other).finish,
        "reboot": lambda: caller(node).enter("reboot", "reboot"),
    }
    before = list(node.log)
    waiting = await hung(calls[event]())
    assert node.log == before
    await killed(waiting)
    assert node.log == [*before, CANCELED.format(EVENTS[event])]
    assert (luo_of(node).state, rfc2_of(node).kho.finalized) == (NORMAL, False)
    await killed(holder)


async def test_who_hangs_within_the_lock_keeps_it_when_killed(node: LuoModel) -> None:
    """It never wakes up to see the signal, so the log has nothing of it."""
    holder = await hung(device(process(node)).prepare())
    await killed(holder)
    assert luo_of(node).lock.held_by == "prepare"
    assert not any("canceled" in line for line in node.log)
    waiting = await hung(device(process(node)).prepare())
    await killed(waiting)
    assert node.log.count(CANCELED.format("prepare")) == 1


async def test_a_killed_registration_says_nothing(node: LuoModel) -> None:
    """Only events do."""
    holder = await hung(device(process(node)).prepare())
    before = list(node.log)
    await killed(await hung(device(process(node)).unpreserve(0)))
    assert node.log == before
    await killed(holder)


async def test_the_lock_is_the_boots(node: LuoModel) -> None:
    """A cold boot, or a kexec by who needs no lock, is free of it; waits of the boot before say nothing in
    the log of the next."""
    one, two = process(node), process(node)
    holder, waiting = await hung(device(one).prepare()), await hung(device(two).prepare())
    for kernel in (one, two):
        kernel.die(jumped=True)
    node.cold_boot()
    for task in (holder, waiting):
        await killed(task)
    assert not any("canceled" in line for line in node.log)
    await device(process(node)).prepare()
    assert luo_of(node).state is PREPARED


async def test_a_dead_process_that_is_forgotten_waits_no_more(node: LuoModel) -> None:
    holder = await hung(device(process(node)).prepare())
    enter = caller(node).enter("cancel", "cancel")
    enter.send(None)
    enter.close()
    gc.collect()
    assert node.log[-1] == CANCELED.format("cancel")
    await killed(holder)


@pytest.mark.parametrize("call", sorted(LOCKED_CALLS))
async def test_each_call_that_hangs_keeps_the_lock(call: str) -> None:
    model = corebench.node(faults=f"hang={call}@1")
    assert model.hangs("get_state") is Hang.NO
    assert model.hangs(call) is Hang.FOR_EVER
    for other in LOCKED_CALLS:
        assert model.hangs(other) is Hang.WAITS
    for other in ("get_state", "load", "open_device"):
        assert model.hangs(other) is Hang.NO
    assert model.calls(call) == 2
    model.power_off()


async def test_a_call_that_hangs_outside_the_lock_keeps_nothing() -> None:
    model = corebench.node(faults="hang=load@1,hang=get_state@1")
    for call in ("load", "get_state"):
        assert model.hangs(call) is Hang.FOR_EVER
    for call in LOCKED_CALLS:
        assert model.hangs(call) is Hang.NO
    model.wait_killed("prepare")
    model.power_off()


@pytest.mark.parametrize("coupling", COUPLINGS)
def test_a_finalize_by_hand_takes_the_lock_where_kho_calls_luo(coupling: Coupling) -> None:
    """LUO-driven the write is refused before it could wait. Killed, the log has the event that KHO would have
    called LUO for."""
    model = corebench.node(coupling, faults="hang=fd_preserve@1")
    waits = coupling is Coupling.NOTIFIER
    assert model.hangs("fd_preserve") is Hang.FOR_EVER
    assert model.hangs("debugfs_write") is (Hang.WAITS if waits else Hang.NO)
    model.wait_killed("debugfs_write")
    assert rfc2_of(model).debugfs_read(FINALIZE_PATH) == "0\n"
    assert luo_of(model).state is NORMAL
    assert [line for line in model.log if "canceled" in line] == [CANCELED.format("prepare")] * waits
    model.power_off()
    model = corebench.node(coupling, faults="hang=freeze@1")
    luo_of(model).prepare()
    assert model.hangs("freeze") is Hang.FOR_EVER
    model.wait_killed("debugfs_write")
    assert luo_of(model).state is PREPARED
    assert [line for line in model.log if "canceled" in line] == [CANCELED.format("cancel")] * waits
    model.power_off()


def test_no_lock_where_luo_is_off_or_of_another_model() -> None:
    off = corebench.node(command_line="kho=on liveupdate=off", faults="hang=prepare")
    sessions = LuoModel(EmulatedImage("7.2"), new_boot_id=lambda: "boot", faults=off.faults)
    for model in (off, sessions):
        assert model.hangs("prepare") is Hang.FOR_EVER
        assert model.hangs("cancel") is Hang.NO
        model.wait_killed("cancel")
        assert not any("canceled" in line for line in model.log)
        model.power_off()


def test_a_reboot_waits_in_updated_too() -> None:
    model = corebench.node(faults="hang=finish@1")
    corebench.bring(model, UPDATED)
    assert model.hangs("finish") is Hang.FOR_EVER
    assert model.hangs("reboot") is Hang.WAITS
    model.power_off()
